"""Two runs of a study of onboarding side by side, for instance under two priors.

    ./run python experiments/onboarding_compare.py results/first.jsonl results/onboarding.jsonl

Area of ``onboard`` by world and number of probes, the second run less the first, paired by new
model, seeds averaged, 95 % Student's t over models; and the shares of subjects' intervals that
hold the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from onboarding_report import Row, read_rows
from study import markdown, over_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    print(compare(read_rows(arguments.first), read_rows(arguments.second)))


def compare(first: list[Row], second: list[Row]) -> str:
    """A line for each world and number of probes."""
    old, new = by_model(first), by_model(second)
    lines = []
    for world, k in dict.fromkeys((world, k) for world, k, _ in new):
        models = [key for key in new if key[:2] == (world, k) and key in old]
        before, after = (np.array([found[key] for key in models]) for found in (old, new))
        lines.append([
            world, str(k), f"{before[:, 0].mean():.2f}", f"{after[:, 0].mean():.2f}",
            over_units(after[:, 0] - before[:, 0]),
            f"{before[:, 1].mean():.2f}", f"{after[:, 1].mean():.2f}",
        ])  # fmt: skip
    head = ["world", "k", "first", "second", "second − first", "first holds", "second holds"]
    return markdown(head, lines)


def by_model(rows: list[Row]) -> dict[tuple[str, int, str], list[float]]:
    """Mean area and coverage of ``onboard`` over the seeds of each model."""
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.method == "onboard" and row.covered is not None:
            values = found.setdefault((row.world, row.k, row.model), [])
            values.append((row.area, row.covered))
    return {key: np.mean(values, axis=0).tolist() for key, values in found.items()}


if __name__ == "__main__":
    main()
