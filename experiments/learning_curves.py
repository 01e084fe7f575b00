"""What gold labels buy: APGR by number of gold labels, for every router, and the ceiling.

    ./run python experiments/learning_curves.py [--data DIR] [--sizes 100,300,1000,3000]
        [--routers ensemble,ridge,knn] [--splits 5] [--cache FILE] [--json out.json]
        [--figure out.svg]

MMLU, protocol few-gold: the labels are drawn at random, all other questions are
tested, and everything is fitted on the labelled questions alone. Mean over splits;
intervals over questions and splits, 95 %. The oracle knows every gain.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from metarouter.benchmark import load_benchmark
from metarouter.benchmark.routers import parse_router
from metarouter.benchmark.run import RunOptions, run_benchmark
from metarouter.evaluation.figures import ACCENT, INK, MUTED, QUIET, SECOND, Series, draw_lines

DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
STYLES = ((ACCENT, "-", "o"), (SECOND, "--", "s"), (INK, "-.", "^"), (QUIET, ":", "D"))
Record = dict[str, str | int | float]


def measure(arguments: argparse.Namespace) -> list[Record]:
    """One record for each size and router."""
    (benchmark,) = load_benchmark("mmlu", arguments.data)
    records: list[Record] = []
    for size in map(int, arguments.sizes.split(",")):
        started = time.perf_counter()
        options = RunOptions(
            routers=[parse_router(name) for name in arguments.routers.split(",")],
            protocol="few-gold",
            seeds=range(arguments.seed, arguments.seed + arguments.splits),
            n_gold=size,
            n_boot=200,
            cache=arguments.cache,
        )
        for result in run_benchmark(benchmark, options, arguments.data).results:
            if result.router == "random":
                continue
            records.append(
                {
                    "n_gold": size,
                    "router": result.router,
                    "splits": arguments.splits,
                    "apgr": round(result.apgr.value, 4),
                    "apgr_low": round(result.apgr.low, 4),
                    "apgr_high": round(result.apgr.high, 4),
                }
            )
            print(records[-1], flush=True)
        print(f"{size} labels: {time.perf_counter() - started:.0f} s", flush=True)
    return records


def as_markdown(records: list[Record]) -> str:
    """Sizes down, routers across."""
    routers = list(dict.fromkeys(str(r["router"]) for r in records))
    lines = ["| gold labels | " + " | ".join(f"`{name}`" for name in routers) + " |"]
    lines.append("|---" * (len(routers) + 1) + "|")
    for size in dict.fromkeys(r["n_gold"] for r in records):
        cells = [
            f"{r['apgr']:.3f} [{r['apgr_low']:.3f}, {r['apgr_high']:.3f}]"
            for r in records
            if r["n_gold"] == size
        ]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(records: list[Record], path: Path) -> None:
    """The curves above 0, where a random router is."""
    routers = list(dict.fromkeys(str(r["router"]) for r in records))
    series = []
    for place, name in enumerate(routers):
        own = [r for r in records if r["router"] == name]
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
    path.write_text(picture.wide, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="APGR by number of gold labels.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sizes", default="100,300,1000,3000")
    parser.add_argument("--routers", default="ensemble,logistic@default,ridge,knn@static")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--cache", type=Path, help="where slow vectors are kept between runs")
    parser.add_argument("--json", type=Path, help="where the records go")
    parser.add_argument("--figure", type=Path, help="where the drawing goes, an SVG")
    arguments = parser.parse_args()
    records = measure(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(records, arguments.figure)
    print(as_markdown(records))


if __name__ == "__main__":
    main()
