"""``metarouter bench fit``: time and memory of a fit from Parquet, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from metarouter.cli.options import EmbedderName, JsonOut, Seed
from metarouter.errors import DataError

__all__ = ["bench_fit", "run_apart"]


def bench_fit(
    rows: Annotated[int, typer.Option(min=100, help="Preference rows.")] = 100_000,
    gold_rows: Annotated[int, typer.Option(min=20, help="Gold rows.")] = 10_000,
    corrector: Annotated[str, typer.Option(help="How preference bias is removed.")] = "auto",
    embedder: EmbedderName = "default",
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Write labels to Parquet, read and fit them, and report seconds and peak memory.

    Example: metarouter bench fit --rows 1000000 --json fit.json
    """
    from metarouter.cli.output import emit, print_table

    with tempfile.TemporaryDirectory() as folder:
        files = write_labels(Path(folder), rows, gold_rows, seed)
        found = run_apart("bench_fit_worker", [*files, corrector, embedder, str(seed)])
    record = {"rows": rows, "gold_rows": gold_rows, **found}
    print_table([record], list(record), json_out)
    emit(json_out, "bench fit", [record], seed=seed)


def write_labels(folder: Path, rows: int, gold_rows: int, seed: int) -> list[str]:
    """Gold scores and preference votes of a made-up world, as Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from metarouter.testing import make_world
    from metarouter.testing.worlds import gold_records, preference_records

    world = make_world(
        "topic_bias", n_queries=rows + gold_rows, n_gold=gold_rows, n_test=0, seed=seed
    )
    sources = {
        "gold": gold_records(world.table),
        "preference": preference_records(world.table.preference()),
    }
    paths = []
    for name, records in sources.items():
        paths.append(str(folder / f"{name}.parquet"))
        pq.write_table(pa.Table.from_pylist(list(records)), paths[-1])
    return paths


def run_apart(worker: str, arguments: list[str]) -> dict[str, Any]:
    """What a worker reports: in a process of its own, its time and peak memory are its alone."""
    command = [sys.executable, "-m", f"metarouter.cli.{worker}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DataError(f"the measurement failed: {told[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
