"""What gold labels buy: APGR by number of gold labels, for every router, and the ceiling.

    .venv-torch/bin/python experiments/learning_curves.py [--data DIR] [--sizes 100,300,1000,3000]
        [--routers ensemble,ridge,knn] [--splits 5] [--n-test 0] [--cache FILE] [--out FILE]
        [--figure out.svg]

MMLU, protocol few-gold: the labels are drawn at random, all other questions are
tested, and everything is fitted on the labelled questions alone. Mean over splits;
intervals over questions and splits, 95 %. The oracle knows every gain.

Records are added to --out as they are finished, one a line: a run goes on where the
last one stopped, and slow routers can be added with fewer splits. `--n-test` is for
those that take a second for a question (causal_lm): each size is run on that many random
questions besides those that are learned from. bert and causal_lm run on one thread, with
products in bfloat16 where the processor has it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from metarouter.benchmark import Benchmark, load_benchmark
from metarouter.benchmark.results import RouterResult
from metarouter.benchmark.routers import parse_router
from metarouter.benchmark.run import RunOptions, run_benchmark
from metarouter.evaluation.figures import ACCENT, INK, MUTED, QUIET, SECOND, Series, draw_lines
from study import markdown

DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
STYLES = ((ACCENT, "-", "o"), (SECOND, "--", "s"), (INK, "-.", "^"), (QUIET, ":", "D"))
COLOURS = {
    "accent": "#0a5cad", "second": "#a3450c", "ink": "#1a1d21",
    "quiet": "#727a83", "muted": "#555c65", "grid": "#e3e5e8",
}  # fmt: skip
Record = dict[str, str | int | float]


def measure(arguments: argparse.Namespace) -> list[Record]:
    """One record for each size and router, those in the log and those that were missing."""
    path: Path = arguments.out
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records: list[Record] = [json.loads(line) for line in lines]
    same = {"seed": arguments.seed, "splits": arguments.splits, "n_test": arguments.n_test}
    records = [r for r in records if {"n_test": 0, **r}.items() >= same.items()]
    (benchmark,) = load_benchmark("mmlu", arguments.data)
    for size in map(int, arguments.sizes.split(",")):
        done = {r["router"] for r in records if r["n_gold"] == size}
        missing = [name for name in arguments.routers.split(",") if name not in done]
        if not missing:
            continue
        started = time.process_time()
        options = RunOptions(
            routers=[parse_router(name) for name in missing],
            protocol="few-gold",
            seeds=range(arguments.seed, arguments.seed + arguments.splits),
            n_gold=size,
            n_boot=200,
            cache=arguments.cache,
        )
        asked = sample(benchmark, size + arguments.n_test) if arguments.n_test else benchmark
        run = run_benchmark(asked, options, arguments.data)
        found = [
            as_record(result, size, same)
            for result in run.results
            if result.router in missing or (result.router == "oracle" and "oracle" not in done)
        ]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in found)
        records += found
        print(f"{size} labels: {time.process_time() - started:.0f} s of processor time", flush=True)
    return records


def sample(benchmark: Benchmark, n: int) -> Benchmark:
    """So many random questions of a benchmark, always the same ones."""
    rows = np.random.default_rng(0).permutation(len(benchmark))[:n]
    return replace(
        benchmark,
        prompts=tuple(benchmark.prompts[i] for i in rows),
        quality=benchmark.quality[rows],
        subject=benchmark.subject[rows],
        cost=None if benchmark.cost is None else benchmark.cost[rows],
    )


def as_record(result: RouterResult, size: int, same: dict[str, int]) -> Record:
    return {
        "n_gold": size,
        "router": result.router,
        **same,
        "apgr": round(result.apgr.value, 4),
        "apgr_low": round(result.apgr.low, 4),
        "apgr_high": round(result.apgr.high, 4),
    }


def as_markdown(records: list[Record]) -> str:
    """Routers down, sizes across."""
    cell = {(r["router"], r["n_gold"]): shown(r) for r in records}
    sizes = sorted({int(r["n_gold"]) for r in records})
    routers = dict.fromkeys(r["router"] for r in records)
    rows = [[f"`{name}`", *(cell.get((name, size), "") for size in sizes)] for name in routers]
    return markdown(["router", *(f"{size} labels" for size in sizes)], rows)


def shown(record: Record) -> str:
    return f"{record['apgr']:.3f} [{record['apgr_low']:.3f}, {record['apgr_high']:.3f}]"


def draw(records: list[Record], path: Path) -> None:
    """The curves above 0, where a random router is."""
    routers = list(dict.fromkeys(str(r["router"]) for r in records))
    series = []
    for place, name in enumerate(routers):
        own = sorted((r for r in records if r["router"] == name), key=lambda r: int(r["n_gold"]))
        is_oracle = name == "oracle"
        color, dash, marker = (MUTED, ":", "") if is_oracle else STYLES[place % len(STYLES)]
        series.append(
            Series(
                label=name,
                x=[float(r["n_gold"]) for r in own],
                y=[float(r["apgr"]) - 0.5 for r in own],
                low=None if is_oracle else [float(r["apgr_low"]) - 0.5 for r in own],
                high=None if is_oracle else [float(r["apgr_high"]) - 0.5 for r in own],
                color=color,
                dash=dash,
                marker=marker,
            )
        )
    picture = draw_lines(
        "APGR above a random router by number of gold labels on MMLU",
        series,
        x_label="gold labels",
        y_label="APGR above random",
    )
    path.write_text(standing_alone(picture.wide), encoding="utf-8")


def standing_alone(svg: str) -> str:
    """A picture of a report as a file of its own: with namespaces, and colours by value."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = svg.replace("<svg ", f"<svg {spaces} ", 1)
    for name, colour in COLOURS.items():
        svg = svg.replace(f"var(--{name})", colour)
    return svg


def main() -> None:
    parser = argparse.ArgumentParser(description="APGR by number of gold labels.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sizes", default="100,300,1000,3000")
    parser.add_argument("--routers", default="ensemble,logistic@default,ridge,knn@static")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--n-test", type=int, default=0, help="questions to test, 0 for all")
    parser.add_argument("--cache", type=Path, help="where slow vectors are kept between runs")
    parser.add_argument("--out", type=Path, default=Path("results/learning_curves.jsonl"))
    parser.add_argument("--figure", type=Path, help="where the drawing goes, an SVG")
    arguments = parser.parse_args()
    if any(name.startswith(("bert", "causal_lm")) for name in arguments.routers.split(",")):
        import torch

        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
    records = measure(arguments)
    if arguments.figure:
        names = [*arguments.routers.split(","), "oracle"]
        draw([r for r in records if r["router"] in names], arguments.figure)
    print(as_markdown(records))


if __name__ == "__main__":
    main()
