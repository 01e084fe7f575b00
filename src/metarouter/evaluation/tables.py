"""A table as a report shows it: texts only."""

from __future__ import annotations

from dataclasses import dataclass

from metarouter.evaluation.verdict import plain, signed
from metarouter.records import Estimate

__all__ = ["Table", "interval_cell", "number_cell"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells; the first `texts` columns are words, the others numbers.

    `strong` are the positions of rows to stress.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    strong: frozenset[int] = frozenset()


def number_cell(estimate: Estimate | None, digits: int = 3, *, sign: bool = False) -> str:
    """A number, or a dash where there is none."""
    if estimate is None or estimate.value != estimate.value:
        return "–"
    return signed(estimate.value, digits) if sign else plain(estimate.value, digits)


def interval_cell(estimate: Estimate | None, digits: int = 3) -> str:
    """``[low, high]``, or a dash where there is none."""
    if estimate is None or estimate.low != estimate.low:
        return "–"
    return f"[{plain(estimate.low, digits)}, {plain(estimate.high, digits)}]"
