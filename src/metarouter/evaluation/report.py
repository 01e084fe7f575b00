"""Reports: one HTML file each, offline, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from metarouter.errors import InputError
from metarouter.evaluation.biasmap_view import view_bias_map
from metarouter.evaluation.breakdown import Example
from metarouter.evaluation.compare_view import compare_context
from metarouter.evaluation.comparison import CompareResult
from metarouter.evaluation.evaluate import Evaluation
from metarouter.evaluation.figures import (
    MUTED,
    SECOND,
    ForestPanel,
    Picture,
    Series,
    band_series,
    draw_calibration,
    draw_curves,
    draw_forest,
    forest_row,
    random_series,
)
from metarouter.evaluation.tables import Table, interval_cell, number_cell
from metarouter.evaluation.verdict import percent, plain, signed, signed_interval, status_of
from metarouter.records import Estimate

__all__ = [
    "render_compare_report",
    "render_evaluation_report",
    "write_compare_report",
    "write_evaluation_report",
    "write_page",
]

MARKS = {"better": "✓", "unclear": "?", "worse": "✗", "fixed": "–"}


def write_evaluation_report(evaluation: Evaluation, path: str | Path) -> None:
    """Write the report of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
    path : path of the HTML file; an existing one is replaced.

    Raises
    ------
    InputError
        When the file cannot be written.

    Examples
    --------
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> from metarouter.evaluation.evaluate import evaluate_router
    >>> world = make_world(n_queries=60, n_gold=60, n_test=40)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> evaluation = evaluate_router(router, world.test, n_boot=200)
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_evaluation_report(evaluation, f"{folder}/report.html")
    """
    _write(render_evaluation_report(evaluation), path)


def write_compare_report(result: CompareResult, path: str | Path) -> None:
    """Write the report of a comparison.

    Parameters
    ----------
    result : CompareResult
    path : path of the HTML file; an existing one is replaced.

    Raises
    ------
    InputError
        When the file cannot be written.

    Examples
    --------
    >>> from metarouter.evaluation.experiment import compare
    >>> from metarouter.testing import make_world
    >>> labels = make_world(n_queries=80, n_gold=60, n_test=0).table
    >>> result = compare(labels, n_gold=[20], correctors=["none"], seeds=2, n_test=20,
    ...     embedder="surface", jobs=1)
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_compare_report(result, f"{folder}/report.html")
    """
    _write(render_compare_report(result), path)


def render_evaluation_report(evaluation: Evaluation) -> str:
    """The report of an evaluation as HTML."""
    return _render("evaluation.html", _evaluation_context(evaluation))


def render_compare_report(result: CompareResult) -> str:
    """The report of a comparison as HTML."""
    return _render("compare.html", compare_context(result))


def write_page(template: str, context: Mapping[str, Any], path: str | Path) -> None:
    """Write a page of another kind: a template of this package, filled in.

    Parameters
    ----------
    template : str, file name; it extends ``base.html``.
    context : mapping with at least a `verdict`.
    path : path of the HTML file; an existing one is replaced.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    _write(_render(template, context), path)


def _write(text: str, path: str | Path) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _render(template: str, context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metarouter.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(
        version=version("metarouter"),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        mark=MARKS[context["verdict"].status],
        **context,
    )
    # A line must not break between a number and its sign.
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _evaluation_context(evaluation: Evaluation) -> dict[str, Any]:
    facts = evaluation.facts
    return {
        "models": _models_title(evaluation.models),
        "lead": _lead(evaluation),
        "verdict": evaluation.verdict,
        "tiles": _tiles(evaluation),
        "warnings": evaluation.warnings,
        "policies": _policy_table(evaluation),
        "metrics": _metric_table(evaluation),
        "facts": _facts(facts),
        "diagnostics": _diagnostics(facts),
        "bias": _bias(_found(facts, "bias_map")),
        "overlap": _overlap(_found(facts, "overlap")),
        "untold": {name: _untold(_found(facts, name)) for name in ("bias_map", "overlap")},
        "sensitivity": _sensitivity(_found(facts, "sensitivity")),
        "examples": _examples(evaluation.examples),
        "limits": evaluation.limits,
        **_curve_parts(evaluation),
        **_regret_parts(evaluation),
        **_calibration_parts(evaluation),
        **_slice_parts(evaluation),
    }


def _models_title(models: Sequence[str]) -> str:
    *others, last = models[::-1]
    return f"{', '.join(others)} over {last}"


def _lead(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.n:,} held-out queries with gold labels for every model. Quality is the "
        f"mean {evaluation.quality_unit}; intervals are {_level(evaluation)}, over queries."
    )


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    router = _policy(evaluation, "router")
    rows = [
        _kept_parts(evaluation),
        (f"{_counted(evaluation)} saved", *_percent_parts(evaluation.saving)),
        ("premium calls", _percent(router.premium_share), f"of {evaluation.n:,} queries"),
        ("above random", *_signed_parts(evaluation.advantage)),
        ("APGR", number_cell(evaluation.apgr), interval_cell(evaluation.apgr)),
    ]
    if evaluation.hull_advantage is not None:
        share = evaluation.model_shares[evaluation.models.index(evaluation.premium)]
        rows[2] = (f"{evaluation.premium} calls", _percent(share), rows[2][2])
        rows[4] = ("above best fixed mixture", *_signed_parts(evaluation.hull_advantage))
    return [{"name": name, "value": value, "range": range_} for name, value, range_ in rows]


def _counted(evaluation: Evaluation) -> str:
    """What a saving is a share of: without prices, of premium calls."""
    return "calls" if evaluation.facts["cost_unit"] == "calls" else "cost"


def _is_pool(evaluation: Evaluation) -> bool:
    return len(evaluation.models) > 2


def _is_by_cost(evaluation: Evaluation) -> bool:
    """Whether the curve of quality is over the cost: a pool whose models have prices."""
    return _is_pool(evaluation) and evaluation.facts["cost_unit"] != "calls"


def _shares(evaluation: Evaluation) -> str:
    """Which model of a pool answers how often; of a pair the premium share says it."""
    if not _is_pool(evaluation):
        return ""
    shares = zip(evaluation.models, evaluation.model_shares, strict=True)
    told = ", ".join(f"{_percent(share)} to {model}" for model, share in reversed([*shares]))
    return f" It sends {told}."


def _kept_parts(evaluation: Evaluation) -> tuple[str, str, str]:
    if math.isnan(evaluation.kept.value):
        return ("above always premium", *_signed_parts(evaluation.difference))
    name = "quality kept" if evaluation.is_absolute else "gain kept"
    return (name, *_percent_parts(evaluation.kept))


def _policy(evaluation: Evaluation, name: str) -> Any:
    return next(value for value in evaluation.policies if value.policy == name)


def _percent(x: float) -> str:
    return f"{plain(100 * x, 0)} %"


def _percent_parts(estimate: Estimate) -> tuple[str, str]:
    value, _, interval = percent(estimate).partition(" [")
    return value, f"[{interval}" if interval else ""


def _signed_parts(estimate: Estimate) -> tuple[str, str]:
    value, _, interval = signed_interval(estimate).partition(" ")
    return value, interval


def _policy_table(evaluation: Evaluation) -> Table:
    is_pool, singles = _is_pool(evaluation), evaluation.singles
    names = {
        "always_premium": f"always {evaluation.premium}",
        "always_cheap": f"always {min(singles, key=lambda model: singles[model][0])}",
        "router": "this router",
        "random": "random, as often each model" if is_pool else "random, as many premium calls",
        "hull": "best fixed mixture, same cost",
        "oracle": "oracle, knows every gold label",
    }
    values = [value for value in evaluation.policies if value.policy in names]
    if _policy(evaluation, "hull").quality == _policy(evaluation, "random").quality:
        values = [value for value in values if value.policy != "hull"]
    unit = evaluation.facts["cost_unit"]
    return Table(
        caption=f"The router at its setting, and what to compare it with.{_shares(evaluation)}",
        columns=(
            "policy",
            _left_reference(evaluation),
            "quality",
            "interval",
            f"{unit} per 1,000",
            "saved",
        ),
        rows=tuple(
            (
                names[value.policy],
                _percent(value.premium_share),
                number_cell(value.quality),
                interval_cell(value.quality),
                f"{value.cost_per_1k:,.0f}" if unit == "calls" else f"{value.cost_per_1k:,.4g}",
                _percent(value.saving_share),
            )
            for value in values
        ),
        strong=frozenset(i for i, value in enumerate(values) if value.policy == "router"),
    )


def _left_reference(evaluation: Evaluation) -> str:
    """Heading of premium shares, which in a pool are of all models but the reference."""
    return f"not to {evaluation.models[0]}" if _is_pool(evaluation) else "premium calls"


def _metric_table(evaluation: Evaluation) -> Table:
    rows = (
        ("efficiency-gain area, all shares", evaluation.area, "0"),
        ("efficiency-gain area, 20 to 80 %", evaluation.area_20_80, "0"),
        ("APGR: performance gap recovered", evaluation.apgr, "0.5"),
        ("CPT 50 %: premium share for half the gap", evaluation.cpt50, "0.5"),
        ("CPT 80 %: premium share for 80 % of it", evaluation.cpt80, "0.8"),
    )
    return Table(
        caption="The ranking in numbers, whatever the setting. Areas are in gain units per query.",
        columns=("metric", "value", "interval", "random"),
        rows=tuple(
            (name, number_cell(value), interval_cell(value), random) for name, value, random in rows
        ),
    )


def _curve_parts(evaluation: Evaluation) -> dict[str, Any]:
    shares = np.linspace(0, 1, len(evaluation.efficiency.value))
    efficiency = draw_curves(
        f"Efficiency gain of the router at every premium share, with its {_level(evaluation)} band",
        [band_series("router", shares, evaluation.efficiency)],
        y_label="gain units per query above random",
        x_label=_share_label(evaluation),
        in_shares=True,
        zero=True,
    )
    return {
        "curve": _curve_picture(evaluation),
        "curve_text": _curve_text(evaluation),
        "curve_caption": (
            f"{_curve_ends(evaluation)} Dotted: an oracle that knows every gold label. The band "
            f"holds the whole curve with {_level(evaluation)} probability."
        ),
        "curve_table": _curve_table(evaluation),
        "efficiency": efficiency,
        "efficiency_text": _efficiency_text(evaluation),
        "efficiency_caption": "Where the band stays above the dashed zero line, routing pays.",
    }


def _curve_text(evaluation: Evaluation) -> str:
    if _is_by_cost(evaluation):
        return (
            "Each query goes to the model whose predicted gain, less its cost at some price, is "
            "largest. The price is a setting; this is what each setting costs and gives."
        )
    to = "model that is predicted best" if _is_pool(evaluation) else "premium model"
    return (
        f"The router ranks queries by predicted gain and sends the first of them to the {to}. How "
        "many is a setting; this is what each setting gives."
    )


def _curve_ends(evaluation: Evaluation) -> str:
    if _is_by_cost(evaluation):
        return (
            "Left end: the cheapest model. Right end: each query to the model that is predicted "
            "best. Squares: single models. Dashed: the best fixed mixture of them at that cost."
        )
    end = (
        "each query to the model that is predicted best"
        if _is_pool(evaluation)
        else "always the premium model"
    )
    return f"Left end: always the cheap model. Right end: {end}. Dashed: a random router."


def _efficiency_text(evaluation: Evaluation) -> str:
    if not _is_pool(evaluation):
        return (
            "The quality gained over a random router that makes as many premium calls. Zero at "
            "both ends: there is nothing to choose there."
        )
    return (
        f"How well the router tells which queries gain by leaving {evaluation.models[0]}, whatever "
        "that costs: in the order of predicted gain they go to the model that is predicted best. "
        "This is the quality gained over sending as many at random."
    )


def _share_label(evaluation: Evaluation) -> str | None:
    """What a share is of, where it is not of premium calls."""
    if not _is_pool(evaluation):
        return None
    return f"share of queries that leave {evaluation.models[0]}"


def _curve_picture(evaluation: Evaluation) -> Picture:
    """Quality over the premium share, or over the cost where it is in money."""
    curve, router = evaluation.curve, _policy(evaluation, "router")
    in_money = evaluation.facts["cost_unit"] != "calls"
    x, oracle_x, random_x, at = (
        (curve.cost, curve.oracle_cost, curve.random_cost, router.cost_per_1k)
        if in_money
        else (curve.share, curve.share, curve.share, router.premium_share)
    )
    return draw_curves(
        f"Quality of the router at every price: {evaluation.verdict.sentence}",
        [
            band_series(f"router, with {_level(evaluation)} band", x, curve.band),
            Series(label="oracle", x=oracle_x, y=curve.oracle, color=SECOND, dash=":"),
            replace(
                random_series(random_x, curve.random),
                label="best fixed mixture" if _is_by_cost(evaluation) else "random",
            ),
        ],
        x_label=(
            f"expected {evaluation.facts['cost_unit']} per 1,000 queries"
            if in_money
            else _share_label(evaluation)
        ),
        y_label=f"mean {evaluation.quality_unit}",
        point=(at, router.quality.value),
        marks=evaluation.singles if _is_by_cost(evaluation) else None,
        in_shares=not in_money,
    )


def _curve_table(evaluation: Evaluation) -> Table:
    curve = evaluation.curve
    band = curve.band
    unit = evaluation.facts["cost_unit"]
    digits = 0 if unit == "calls" else 3
    at = "at prices of cost" if _is_by_cost(evaluation) else "at every tenth of premium calls"
    return Table(
        caption=f"Quality {at}; simultaneous {_level(evaluation)} band.",
        columns=(
            _left_reference(evaluation),
            f"{unit} per 1,000",
            "router",
            "low",
            "high",
            "best mixture" if _is_by_cost(evaluation) else "random",
            "oracle",
        ),
        rows=tuple(
            (
                _percent(curve.share[i]),
                f"{curve.cost[i]:,.{digits}f}",
                *(
                    plain(values[i])
                    for values in (band.value, band.low, band.high, curve.random, curve.oracle)
                ),
            )
            for i in sorted({round(x) for x in np.linspace(0, len(curve.share) - 1, 11)})
        ),
    )


def _regret_parts(evaluation: Evaluation) -> dict[str, Any]:
    regret, unit = evaluation.regret, _cost_unit(evaluation)
    band = regret.band
    # The grid ends where decisions stop to change: a price beyond it has no point.
    found = np.flatnonzero(regret.w == evaluation.facts.get("w"))
    at = int(found[0]) if len(found) else None
    return {
        "regret": draw_curves(
            f"Regret of the router at every price of cost, with its {_level(evaluation)} band",
            [
                band_series(f"router, with {_level(evaluation)} band", regret.w, band),
                Series(
                    label="best single model", x=regret.w, y=regret.constant, color=MUTED, dash="--"
                ),
            ],
            x_label=f"price of {unit} in gain units",
            y_label="gain units per query below the oracle",
            point=None if at is None else (float(regret.w[at]), float(band.value[at])),
            legend="best",
        ),
        "regret_caption": (
            "Below the dashed line, routing is worth more than any one model at that price. The "
            "oracle knows the label of each query, noise included, so that nothing real reaches 0."
        ),
        "regret_table": Table(
            caption=f"Regret in gain units per query; simultaneous {_level(evaluation)} band.",
            columns=("price of cost", "router", "low", "high", "best single model"),
            rows=tuple(
                (
                    f"{regret.w[i]:.3g}".replace("-", "−"),
                    *(
                        plain(values[i])
                        for values in (band.value, band.low, band.high, regret.constant)
                    ),
                )
                for i in _spread(len(regret.w), at)
            ),
            texts=0,
        ),
    }


def _level(evaluation: Evaluation) -> str:
    """Confidence level of all intervals and bands."""
    return f"{100 * evaluation.curve.band.level:g} %"


def _cost_unit(evaluation: Evaluation) -> str:
    unit = evaluation.facts["cost_unit"]
    return "a premium call" if unit == "calls" else f"one {unit}"


def _spread(n: int, at: int | None) -> list[int]:
    """Positions spread over n, `at` among them."""
    some = {*range(0, n, max(1, (n - 1) // 8)), n - 1}
    return sorted(some if at is None else some | {at})


def _calibration_parts(evaluation: Evaluation) -> dict[str, Any]:
    bins = evaluation.calibration.bins
    rows = [forest_row(signed(one.predicted, 2), one.gold) for one in bins]
    return {
        "calibration": draw_calibration(
            "Gold gain against predicted gain, in bins of equal size",
            rows,
            [one.predicted for one in bins],
        ),
        "calibration_text": _calibration_text(evaluation.calibration.slope),
        "calibration_caption": (
            "Each point is a bin of about equally many queries; on the dashed line, what was "
            "predicted is what was found."
        ),
        "calibration_table": Table(
            caption="Predicted and gold gain by bin.",
            columns=("predicted gain", "gold gain", "interval", "queries"),
            rows=tuple(
                (
                    signed(one.predicted),
                    number_cell(one.gold, sign=True),
                    interval_cell(one.gold),
                    str(one.gold.n),
                )
                for one in bins
            ),
            texts=0,
        ),
    }


def _calibration_text(slope: Estimate) -> str:
    if slope.value != slope.value:
        return "All predicted gains are equal: there is nothing to calibrate."
    number = f"{slope.value:.2f} {interval_cell(slope, 2)}"
    start = f"One unit of predicted gain comes with {number} units of gold gain"
    if slope.low <= 1 <= slope.high and slope.low > 0:
        return f"{start}: these data give no reason to rescale the predictions."
    if slope.low <= 0:
        return f"{start}: these data do not show that predictions mean anything."
    if slope.value < 1:
        return f"{start}: predictions are too far apart; their order holds, their size does not."
    return f"{start}: predictions are too close together, which costs nothing in the order."


def _slice_parts(evaluation: Evaluation) -> dict[str, Any]:
    slices = evaluation.slices
    if not slices:
        return {"slices": None}
    panel = ForestPanel(
        title="",
        rows=[
            forest_row(
                f"{one.dimension}: {one.level}",
                one.loss,
                strong=status_of(one.loss) != "unclear",
            )
            for one in slices
        ],
    )
    return {
        "slices": draw_forest(
            "Quality given away against always the premium model, by slice",
            [panel],
            x_label=f"{evaluation.premium} minus router, {evaluation.quality_unit}",
        ),
        "slices_text": (
            f"What the router loses against always {evaluation.premium}, by kind of query. A loss "
            "is no mistake by itself: cheap calls are what it is paid for."
        ),
        "slices_caption": (
            "Right of zero the router gives quality away. Intervals hold for all slices at once; "
            "diamonds mark those that leave out zero."
        ),
        "slices_table": Table(
            caption="Slices of the held-out queries.",
            columns=(
                "slice",
                "queries",
                _left_reference(evaluation),
                "gold gain",
                "loss",
                "interval",
            ),
            rows=tuple(
                (
                    f"{one.dimension}: {one.level}",
                    f"{one.n:,}",
                    _percent(one.premium_share),
                    signed(one.gain),
                    number_cell(one.loss, sign=True),
                    interval_cell(one.loss),
                )
                for one in slices
            ),
        ),
    }


_FACTS = {
    "created": "fitted",
    "corrector": "corrector",
    "gain_model": "gain model",
    "embedder": "embedder",
    "rows": "label rows",
    "n_queries": "training queries",
    "score_range": "score range",
    "cost": "cost model",
    "w": "price of cost w",
    "policy_version": "policy version",
    "seed": "seed",
}


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [
        (name, _fact(facts[key])) for key, name in _FACTS.items() if facts.get(key) is not None
    ]
    reason = (facts.get("calibration") or {}).get("reason")
    return [*found, ("threshold", reason)] if reason else found


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(_fact, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _diagnostics(facts: Mapping[str, Any]) -> str:
    found = facts.get("diagnostics")
    return json.dumps(found, indent=2, ensure_ascii=False) if found else ""


def _found(facts: Mapping[str, Any], name: str) -> Any:
    """A fact, which the router or its corrector may tell."""
    return facts.get(name) or (facts.get("diagnostics") or {}).get(name)


def _untold(found: Any) -> str:
    """Why a router does not tell, where it says so."""
    return f"{found}." if isinstance(found, str) else ""


def _bias(bias_map: Mapping[str, Any] | str | None) -> Any:
    if not bias_map or isinstance(bias_map, str):
        return None
    return view_bias_map(bias_map["rows"], bias_map.get("p_value"))


_OVERLAP = {
    "source_auc": "how well queries tell their source, AUC (0.5: not at all)",
    "auc": "how well queries tell their source, AUC (0.5: not at all)",
    "low": "annotation propensity, smallest",
    "high": "annotation propensity, largest",
    "n_treated": "gold rows",
    "n_control": "preference rows",
    "effective_gold": "gold rows, effective after weighting",
    "ess_treated": "gold rows, effective after weighting",
    "ess_control": "preference rows, effective after weighting",
    "n_clipped": "rows with a clipped propensity",
    "n_trimmed": "rows left out for lack of overlap",
}


def _overlap(overlap: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """Flat numbers as a table; warnings as the sentence."""
    if not overlap or isinstance(overlap, str):
        return None
    warnings = overlap.get("warnings") or ()
    cells = {
        _OVERLAP.get(name, name.replace("_", " ")): _overlap_cell(overlap[name])
        for name in sorted(overlap, key=[*_OVERLAP, *sorted(overlap)].index)
    }
    return {
        "sentence": " ".join(warnings) or "Gold and preference queries cover the same ground.",
        "table": Table(
            caption="How well gold and preference queries cover each other.",
            columns=("measure", "value"),
            rows=tuple((name, cell) for name, cell in cells.items() if cell),
        ),
    }


_SENSITIVITY = {
    "mean_bias": "Mean bias of the preference labels, preference minus gold",
    "routing_value": "Gold gain of routing above as many premium calls at random",
}


def _sensitivity(found: Mapping[str, Any] | str | None) -> list[str]:
    """One sentence for each conclusion that a hidden cause could overturn."""
    if not found or isinstance(found, str):
        return []
    return [
        f"{title}: {part['sentence'] if isinstance(part, Mapping) else part}"
        for name, title in _SENSITIVITY.items()
        if (part := found.get(name))
    ]


def _overlap_cell(value: object) -> str:
    """A number, or an estimate with its interval; nothing for anything else."""
    if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.4g}" if is_number else ""


def _examples(examples: Sequence[Example]) -> list[tuple[str, list[dict[str, str]]]]:
    return [
        (kind[0].upper() + kind[1:], [_example(example) for example in group])
        for kind, group in groupby(examples, key=lambda example: example.kind)
    ]


def _example(example: Example) -> dict[str, str]:
    predicted = f"{signed(example.predicted_gain, 2)} ± {example.predicted_gain_std:.2f}"
    regret = f", {example.regret:.2f} short of the best model" if example.regret > 0 else ""
    return {
        "query": example.query,
        "note": (
            f"Sent to {example.model}: predicted gain {predicted}, gold gain "
            f"{signed(example.gain, 2)}{regret}."
        ),
    }
