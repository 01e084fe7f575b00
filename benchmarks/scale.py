"""Time and memory of a fit from Parquet as the number of preference rows grows.

    ./run python benchmarks/scale.py [--rows 10000,100000,1000000] [--json out.json]

Runs `metarouter bench fit` once for each size, 10,000 gold rows each, and shows
the seconds of every stage. "beyond features" is all that is not the embedding of
the prompts; the last line is the exponent of its growth between the two
largest sizes, 1 when the cost is linear in the rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("read", "features", "learn", "cross_fit", "calibrate")


def measure(rows: int, gold_rows: int) -> dict[str, Any]:
    """The record of one `metarouter bench fit`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "fit.json")
        command = [sys.executable, "-m", "metarouter", "bench", "fit"]
        command += ["--rows", str(rows), "--gold-rows", str(gold_rows), "--json", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["results"][0]
    record["seconds_beyond_features"] = record["seconds"] - record["features_seconds"]
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--gold-rows", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    for rows in sorted(int(n) for n in arguments.rows.split(",")):
        found.append(measure(rows, arguments.gold_rows))
        stages = " ".join(f"{name} {found[-1][f'{name}_seconds']:.1f}" for name in STAGES)
        print(
            f"{rows:,} rows: {found[-1]['seconds']:.1f} s ({stages}), beyond features "
            f"{found[-1]['seconds_beyond_features']:.1f} s, "
            f"peak {found[-1]['peak_rss_mb']:.0f} MiB",
            flush=True,
        )
    if len(found) > 1:
        small, large = found[-2:]
        growth = large["seconds_beyond_features"] / small["seconds_beyond_features"]
        print(f"exponent {np.log(growth) / np.log(large['rows'] / small['rows']):.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
