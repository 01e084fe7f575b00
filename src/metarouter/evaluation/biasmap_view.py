"""The bias map as a figure, a table and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarouter.evaluation.figures import ForestPanel, ForestRow, Picture, draw_forest
from metarouter.evaluation.tables import Table
from metarouter.evaluation.verdict import signed

__all__ = ["BiasMapView", "view_bias_map"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasMapView:
    """What a report shows of a bias map."""

    sentence: str
    picture: Picture
    caption: str
    table: Table


def view_bias_map(rows: Sequence[Mapping[str, Any]], p_value: float | None) -> BiasMapView:
    """Prepare a bias map for a report.

    Parameters
    ----------
    rows : one for each slice, with `dimension`, `level`, `n_gold`,
        `n_preference`, `bias`, `low`, `high`; the intervals hold jointly.
        A bias is preference minus gold: positive where the preference labels
        flatter the premium model; None where labels are too few to tell.
    p_value : of the test that the bias is the same everywhere; None if not
        tested.
    """
    told = [row for row in rows if row["bias"] is not None]
    dimensions = list(dict.fromkeys(row["dimension"] for row in told))
    panel = ForestPanel(
        title="",
        rows=[
            ForestRow(
                label=_label(row),
                value=row["bias"],
                low=row["low"],
                high=row["high"],
                strong=_is_biased(row),
            )
            for dimension in dimensions
            for row in told
            if row["dimension"] == dimension
        ],
    )
    return BiasMapView(
        sentence=_sentence(told, p_value),
        picture=draw_forest(
            "Bias of the preference labels by slice, with simultaneous intervals",
            [panel],
            x_label="preference minus gold, gain units",
        ),
        caption=(
            "Each line is a slice: the mark is preference minus gold, the bar its interval; all "
            "intervals hold at once. Diamonds mark slices whose interval leaves out zero. Right "
            "of zero the judge flatters the premium model, left of it the cheap one."
        ),
        table=_table(rows),
    )


def _is_biased(row: Mapping[str, Any]) -> bool:
    return row["bias"] is not None and bool(row["low"] > 0 or row["high"] < 0)


def _label(row: Mapping[str, Any]) -> str:
    return "all queries" if row["dimension"] == "all" else f"{row['dimension']}: {row['level']}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{signed(row['low'])}, {signed(row['high'])}]"


def _sentence(rows: Sequence[Mapping[str, Any]], p_value: float | None) -> str:
    whole = [row for row in rows if row["dimension"] == "all"]
    slices = [row for row in rows if row["dimension"] != "all"]
    biased = sum(map(_is_biased, slices))
    found = "".join(
        f"Over all queries preference minus gold is {signed(row['bias'])} {_interval(row)}. "
        for row in whole
    )
    if slices:
        found += (
            f"The preference labels are biased in {biased} of {len(slices)} slices."
            if biased
            else f"No bias of the preference labels is shown in any of {len(slices)} slices."
        )
    found = found.strip()
    if p_value is None:
        return found
    shown = "p\u00a0<\u00a00.001" if p_value < 0.001 else f"p\u00a0=\u00a0{p_value:.3f}"
    same = (
        f" It is not the same everywhere ({shown}): subtracting one number from every "
        "preference label would not do."
        if p_value < 0.05
        else f" That it is the same everywhere is not refuted ({shown})."
    )
    return found + same


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        caption="Bias by slice: preference minus gold, simultaneous intervals.",
        columns=("slice", "gold labels", "preference labels", "bias", "interval"),
        rows=tuple(
            (
                _label(row),
                f"{row['n_gold']:,}",
                f"{row['n_preference']:,}",
                "too few" if row["bias"] is None else signed(row["bias"]),
                "" if row["bias"] is None else _interval(row),
            )
            for row in rows
        ),
        strong=frozenset(i for i, row in enumerate(rows) if _is_biased(row)),
    )
