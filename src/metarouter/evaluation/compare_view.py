"""What the report of a comparison shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metarouter.evaluation.comparison import CEILING, CompareResult, MethodSummary
from metarouter.evaluation.figures import (
    ACCENT,
    INK,
    MUTED,
    QUIET,
    SECOND,
    ForestPanel,
    Series,
    draw_forest,
    draw_lines,
    forest_row,
)
from metarouter.evaluation.tables import Table, interval_cell, number_cell
from metarouter.evaluation.verdict import Verdict, signed, signed_interval, status_of
from metarouter.records import Estimate

__all__ = ["compare_context", "judge_comparison"]

_HERO = "auto"
_MAX_LINES = 5
_STYLES = (
    (ACCENT, "-", "o"),
    (SECOND, "--", "s"),
    (INK, "-.", "^"),
    (QUIET, ":", "D"),
    (MUTED, "--", "v"),
)
_LIMITS = (
    (
        "Which method is best on other data: these are splits of one set of labels, and the "
        "best of many methods on it is partly luck."
    ),
    "Whether the gold labels are right: they are taken as the truth.",
    (
        "What happens when gold labels are not a random sample of the traffic: here they were "
        "drawn at random from the queries that have one."
    ),
    (
        "How sure a method's mean is beyond this data set: intervals allow for overlapping splits "
        "(Nadeau and Bengio 2003), not for another population of queries."
    ),
)


_LABELS = {"none": "none (pooled)", CEILING: f"{CEILING} (ceiling)"}


def compare_context(result: CompareResult) -> dict[str, Any]:
    """Everything that the template needs."""
    config = result.config
    summary = result.summary()
    cheap, premium = config.models
    return {
        "models": f"{premium} over {cheap}",
        "lead": (
            f"{len(config.seeds)} splits of {config.n_gold_queries:,} gold and "
            f"{config.n_preference_queries:,} preference-labelled queries; every method sees the "
            f"same splits and is judged on {config.n_test:,} held-out gold queries each."
        ),
        "verdict": judge_comparison(result),
        "tiles": _tiles(result, summary),
        "warnings": _warnings(result),
        "parts_by_model": [_part(result, summary, name) for name in config.gain_models],
        "facts": _facts(result),
        "limits": _LIMITS,
    }


def judge_comparison(result: CompareResult) -> Verdict:
    """The comparison in a sentence, at the smallest number of gold labels.

    There the choice of a method matters most. The hero is `auto` where it was
    compared, else the best method on the data.
    """
    n_gold = result.config.n_gold[0]
    hero, rival = _hero(result, n_gold), result.best_fixed()
    if rival is None or rival == hero:
        return _no_rival(result, hero, n_gold)
    gain = result.paired_difference(hero, rival, n_gold)
    status = status_of(gain)
    headline = {
        "better": f"{hero} beats the best fixed method",
        "unclear": f"{hero} and the best fixed method cannot be told apart",
        "worse": f"{hero} is worse than the best fixed method",
    }[status]
    ratio = result.paired_ratio(hero, rival, n_gold)
    return Verdict(
        status=status,
        headline=headline,
        sentence=(
            f"With {n_gold} gold labels {hero} collects {number_cell(ratio, 2)} "
            f"{interval_cell(ratio, 2)} times the efficiency gain of {rival}, the best single "
            "method to fix in advance."
        ),
        basis=(
            f"Paired difference {_signed_interval(gain)} gain units per query over {gain.n} "
            "splits, interval corrected for their overlap."
        ),
    )


def _label(corrector: str) -> str:
    return _LABELS.get(corrector, corrector)


def _hero(result: CompareResult, n_gold: int) -> str:
    names = [name for name in result.config.correctors if name != CEILING]
    if _HERO in names or not names:
        return _HERO if names else CEILING
    return max(names, key=lambda name: result.mean(name, n_gold).value)


def _no_rival(result: CompareResult, hero: str, n_gold: int) -> Verdict:
    area = result.mean(hero, n_gold)
    status = status_of(area)
    return Verdict(
        status=status,
        headline={
            "better": f"{hero} is better than random",
            "unclear": f"{hero} is not shown to be better than random",
            "worse": f"{hero} is worse than random",
        }[status],
        sentence=(
            f"With {n_gold} gold labels {hero}, the best method compared, collects "
            f"{_signed_interval(area)} gain units per query above a random router."
        ),
        basis=f"Mean over {area.n} splits, interval corrected for their overlap.",
    )


def _signed_interval(estimate: Estimate) -> str:
    if estimate.low != estimate.low:
        return f"{signed(estimate.value, 4)} (no interval: {'; '.join(estimate.warnings)})"
    return signed_interval(estimate, 4)


def _tiles(result: CompareResult, summary: Sequence[MethodSummary]) -> list[dict[str, str]]:
    n_gold = result.config.n_gold[0]
    hero = _hero(result, n_gold)
    found = [
        {
            "name": f"{hero}, {one.n_gold} gold",
            "value": signed(one.area.value, 4),
            "range": interval_cell(one.area, 4),
        }
        for one in summary
        if one.corrector == hero and one.gain_model == result.config.gain_models[0]
    ]
    seconds = np.median([r.fit_seconds for r in result.records if r.corrector == hero])
    return [*found, {"name": "time to fit", "value": f"{seconds:.2g} s", "range": "median, 1 core"}]


def _warnings(result: CompareResult) -> tuple[str, ...]:
    config, found = result.config, []
    if len(config.seeds) < 10:
        found.append(
            f"{len(config.seeds)} splits: intervals rest on few repetitions; 20 are the default."
        )
    if config.n_test < 200:
        found.append(f"{config.n_test} test queries: single splits are noisy.")
    n_without = len({record.seed for record in result.records if math.isnan(record.apgr)})
    if n_without:
        cheap, premium = config.models
        found.append(
            f"{premium} is not better than {cheap} on the test queries of {n_without} of "
            f"{len(config.seeds)} splits: there is no gap to recover, and no APGR is given."
        )
    return tuple(found)


def _part(
    result: CompareResult, summary: Sequence[MethodSummary], gain_model: str
) -> dict[str, Any]:
    rows = [one for one in summary if one.gain_model == gain_model]
    fixed = result.best_fixed(gain_model)
    many = len(result.config.gain_models) > 1
    return {
        "suffix": f", gain model {gain_model}" if many else "",
        "best_fixed": fixed,
        **_line_parts(result, rows),
        **_area_parts(result, rows),
        **(_difference_parts(result, rows, fixed) if fixed else {"differences": None}),
    }


def _line_parts(result: CompareResult, rows: Sequence[MethodSummary]) -> dict[str, Any]:
    if len(result.config.n_gold) == 1:
        return {"lines": None}
    names = _line_names(result, rows)
    series = []
    for name, (color, dash, marker) in zip(names, _STYLES, strict=False):
        own = [one for one in rows if one.corrector == name]
        with_band = name == names[0] and own[0].area.low == own[0].area.low
        series.append(
            Series(
                label=_label(name),
                x=[one.n_gold for one in own],
                y=[one.area.value for one in own],
                low=[one.area.low for one in own] if with_band else None,
                high=[one.area.high for one in own] if with_band else None,
                color=color,
                dash=dash,
                marker=marker,
            )
        )
    return {
        "lines": draw_lines(
            f"Efficiency gain by number of gold labels: {', '.join(names)}",
            series,
            x_label="gold labels",
            y_label="efficiency-gain area",
        ),
        "lines_caption": (
            f"The most telling methods only; the band is {names[0]}'s 95 % interval. all_gold is "
            "the ceiling: gold labels for every training query."
        ),
    }


def _line_names(result: CompareResult, rows: Sequence[MethodSummary]) -> list[str]:
    """The hero, the ceiling, the two plain answers, then the best of the rest."""
    n_gold = result.config.n_gold[0]
    ranked = sorted((one for one in rows if one.n_gold == n_gold), key=lambda one: -one.area.value)
    wanted = [_hero(result, n_gold), "gold_only", "none", *(one.corrector for one in ranked)]
    present = [name for name in dict.fromkeys(wanted) if name in result.config.correctors]
    kept = [name for name in present if name != CEILING][: _MAX_LINES - 1]
    return [*kept, CEILING] if CEILING in present else kept


def _area_parts(result: CompareResult, rows: Sequence[MethodSummary]) -> dict[str, Any]:
    hero = _hero(result, result.config.n_gold[0])
    return {
        "areas": draw_forest(
            "Efficiency-gain area of every method at every number of gold labels",
            _panels(result, rows, lambda one: one.area, hero),
            x_label="efficiency-gain area",
            columns=2,
        ),
        "methods_text": (
            "Mean over splits of the gain collected above a random router, averaged over all "
            "premium shares, in gain units per query."
        ),
        "areas_caption": f"Bars are 95 % intervals; the diamond is {hero}. Dashed: random.",
        "areas_table": _area_table(rows, hero),
    }


def _difference_parts(
    result: CompareResult, rows: Sequence[MethodSummary], fixed: str
) -> dict[str, Any]:
    hero = _hero(result, result.config.n_gold[0])
    others = [one for one in rows if one.corrector not in (fixed, CEILING)]
    if not others:
        return {"differences": None}
    return {
        "differences": draw_forest(
            f"Efficiency-gain area minus that of {fixed}, paired by split",
            _panels(result, others, lambda one: one.difference, hero),
            x_label=f"area minus {fixed}'s",
            columns=2,
        ),
        "differences_text": (
            f"{fixed} has the largest mean over all gold sizes among the methods that others "
            "publish or ship. Differences within a split are less noisy than the means above."
        ),
        "differences_caption": f"Right of the dashed line is better than {fixed}.",
        "differences_table": Table(
            caption=f"Paired differences to {fixed}, and ratios of means.",
            columns=("method", "gold labels", "difference", "interval", "ratio", "interval"),
            rows=tuple(
                (
                    _label(one.corrector),
                    str(one.n_gold),
                    number_cell(one.difference, 4, sign=True),
                    interval_cell(one.difference, 4),
                    number_cell(one.ratio, 2),
                    interval_cell(one.ratio, 2),
                )
                for one in others
            ),
            strong=frozenset(i for i, one in enumerate(others) if one.corrector == hero),
        ),
    }


def _panels(
    result: CompareResult, rows: Sequence[MethodSummary], value: Any, hero: str
) -> list[ForestPanel]:
    return [
        ForestPanel(
            title=f"{n_gold} gold labels",
            rows=[
                forest_row(_label(one.corrector), value(one), strong=one.corrector == hero)
                for one in rows
                if one.n_gold == n_gold
            ],
        )
        for n_gold in result.config.n_gold
    ]


def _area_table(rows: Sequence[MethodSummary], hero: str) -> Table:
    return Table(
        caption="Every method at every gold size. Shares are of all_gold's area.",
        columns=("method", "gold labels", "area", "interval", "share", "APGR", "seconds"),
        rows=tuple(
            (
                _label(one.corrector),
                str(one.n_gold),
                number_cell(one.area, 4, sign=True),
                interval_cell(one.area, 4),
                number_cell(one.ceiling_ratio, 2),
                number_cell(one.apgr),
                f"{one.fit_seconds:.2g}",
            )
            for one in rows
        ),
        strong=frozenset(i for i, one in enumerate(rows) if one.corrector == hero),
    )


def _facts(result: CompareResult) -> list[tuple[str, str]]:
    config = result.config
    return [
        ("models", f"{config.models[1]} (premium) over {config.models[0]} (cheap)"),
        ("gold queries", f"{config.n_gold_queries:,}"),
        ("preference queries", f"{config.n_preference_queries:,}"),
        ("test queries a split", f"{config.n_test:,}"),
        ("gold labels for training", ", ".join(map(str, config.n_gold))),
        ("correctors", ", ".join(config.correctors)),
        ("gain models", ", ".join(config.gain_models)),
        ("features", f"{config.embedder}, learned on each split's training prompts"),
        ("seeds", f"{len(config.seeds)}: {config.seeds[0]} to {config.seeds[-1]}"),
        ("fingerprint", config.fingerprint),
    ]
