"""What the two studies of onboarding share: rows, the order of probes, and the tables."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from metarouter.evaluation import efficiency_gain_area
from metarouter.types import FloatArray, IntArray
from study import markdown, over_units

SIZES = (0, 20, 50, 200)
REFERENCES = ("Llama-2-7b-hf", "Meta-Llama-3_1-8B-Instruct")
FEWEST_OF_SUBJECT = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fit; `covered` is the share of subjects whose mean gain its interval holds."""

    world: str
    model: str
    seed: int
    method: str
    k: int
    area: float
    covered: float | None = None
    level_error: float | None = None


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier run; none without one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows at the end of a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def probe_order(seed: int, model: str, queries: IntArray) -> IntArray:
    """The order in which queries are labelled for a new model, its own in every seed."""
    rng = np.random.default_rng([seed, zlib.crc32(model.encode())])
    return rng.permutation(queries)


def area(score: FloatArray, gain: FloatArray) -> float:
    """Area of the efficiency-gain curve, x 100."""
    return 100 * efficiency_gain_area(score, gain)


def report(rows: list[Row]) -> None:
    """A table for each world: means over new models with intervals, and paired differences."""
    for world in dict.fromkeys(row.world for row in rows):
        chosen = [row for row in rows if row.world == world]
        print(f"\n{world}: {len({row.model for row in chosen})} new models\n")
        print(table(chosen))


def table(rows: list[Row]) -> str:
    """The table of one world."""
    by = _areas(rows)
    refit = next(values for (method, _), values in by.items() if method == "refit")
    lines = []
    for (method, k), values in by.items():
        own = [row for row in rows if (row.method, row.k) == (method, k)]
        level = [abs(row.level_error) for row in own if row.level_error is not None]
        cover = [row.covered for row in own if row.covered is not None]
        alone = by.get(("alone", k)) if method == "onboard" else None
        lines.append([
            method, str(k), over_units(values), f"{values.mean() / refit.mean():.0%}",
            over_units(values - alone) if alone is not None else "",
            over_units(values - by["onboard", 0]) if method == "onboard" and k else "",
            f"{np.mean(cover):.2f}" if cover else "", f"{np.mean(level):.3f}" if level else "",
        ])  # fmt: skip
    head = ["method", "k", "area", "of refit", "less alone", "less k = 0"]
    return markdown([*head, "coverage", "level error"], lines)


def _areas(rows: list[Row]) -> dict[tuple[str, int], FloatArray]:
    """Area of each new model by method and k, seeds averaged."""
    models = sorted({row.model for row in rows})
    found: dict[tuple[str, int], FloatArray] = {}
    for method, k in sorted({(row.method, row.k) for row in rows}):
        chosen = [row for row in rows if (row.method, row.k) == (method, k)]
        found[method, k] = np.array(
            [np.mean([row.area for row in chosen if row.model == model]) for model in models]
        )
    return found
