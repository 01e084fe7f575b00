"""Checked rows to quality gains: merging, model order, scores to contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarouter.errors import OptionError, shorten
from metarouter.labels.rows import LabelRows, group_mean, group_rows
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = [
    "Contrasts",
    "count_conflicts",
    "make_contrasts",
    "merge_measurements",
    "order_models",
    "oriented",
    "paired",
    "repeated",
    "require_models",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrasts:
    """Gains of candidates over baselines, arrays of shape (n,).

    `row` is the label row that a contrast takes its query, source and judge
    from; models are indices into the ordered models.
    """

    row: IntArray
    candidate: IntArray
    baseline: IntArray
    gain: FloatArray
    weight: FloatArray
    candidate_score: FloatArray
    baseline_score: FloatArray
    prompt_tokens: FloatArray
    candidate_tokens: FloatArray
    baseline_tokens: FloatArray


def oriented(rows: LabelRows) -> LabelRows:
    """The same labels with ``model_a > model_b``, so that equal pairs look equal."""
    swap = rows.model_a < rows.model_b
    return rows.with_columns(
        model_a=np.where(swap, rows.model_b, rows.model_a),
        model_b=np.where(swap, rows.model_a, rows.model_b),
        value=np.where(swap, -rows.value, rows.value),
        tokens_a=np.where(swap, rows.tokens_b, rows.tokens_a),
        tokens_b=np.where(swap, rows.tokens_a, rows.tokens_b),
    )


def repeated(rows: LabelRows) -> BoolArray:
    """Rows that say what an earlier row of the same source, judge and annotator said."""
    first = group_rows(*_label_of(rows), rows.value, rows.weight)[1]
    repeats = np.ones(len(rows), dtype=np.bool_)
    repeats[first] = False
    return repeats


def count_conflicts(rows: LabelRows) -> int:
    """Number of things that one judge and annotator labelled with different values."""
    group, first = group_rows(*_label_of(rows))
    _, first_value = group_rows(group, rows.value)
    n_values = np.bincount(group[first_value], minlength=len(first))
    return int((n_values > 1).sum())


def merge_measurements(rows: LabelRows) -> tuple[LabelRows, IntArray]:
    """Average repeated measurements, keep votes as they are.

    Scores and gains of the same source, query, models and judge become one
    row: the mean, weighted by `weight`. Its weight is the mean weight times the
    number of annotators, because a row without one may be the same label
    written twice.

    Returns
    -------
    rows, first : the merged rows, and the index of the row that each stands at.
    """
    # A vote is a group of its own, numbered by its position.
    own = np.where(rows.is_vote, np.arange(len(rows)) + 1, 0)
    group, first = group_rows(rows.is_gold, rows.query, rows.model_a, rows.model_b, rows.judge, own)
    if len(first) == len(rows):
        return rows, first
    size = np.bincount(group)
    # rows without an annotator are code −1: together they count as one
    annotators = np.bincount(group[group_rows(group, rows.annotator)[1]])
    # labels that all weigh nothing still have a mean
    has_weight = np.bincount(group, rows.weight)[group] > 0
    merged = rows.take(first).with_columns(
        value=group_mean(group, rows.value, np.where(has_weight, rows.weight, 1.0)),
        weight=np.bincount(group, rows.weight) / size * annotators,
        **{
            name: group_mean(group, tokens, (~np.isnan(tokens)).astype(np.float64))
            for name in ("prompt_tokens", "tokens_a", "tokens_b")
            for tokens in (getattr(rows, name),)
        },
    )
    return merged, first


def paired(rows: LabelRows) -> BoolArray:
    """Rows that hold a contrast: all but scores that stand alone."""
    group, first = group_rows(rows.is_gold, rows.query, rows.judge, rows.model_b >= 0)
    size = np.bincount(group, minlength=len(first))
    return (rows.model_b >= 0) | (size[group] > 1)


def order_models(
    rows: LabelRows, names: tuple[str, ...], *, premium: str | None, cheap: str | None
) -> IntArray:
    """Codes of the models in the order of the table, the reference first.

    Ascending mean gold score, each query's own mean taken out. A model without
    gold labels stands before the first one with them that has a larger mean
    preference gain than it has, or last; but not before the lowest, since gains are
    over that. A named `cheap` model comes first and a named `premium` model last.
    """
    present = np.unique(np.concatenate([rows.model_a, rows.model_b[rows.model_b >= 0]]))
    require_models([names[code] for code in present], premium=premium, cheap=cheap)
    # rounded, so that ties do not hang on the order of summation
    gold, preference = (
        np.round(_strength(rows.take(source), len(names)), 12)
        for source in (rows.is_gold, ~rows.is_gold)
    )
    strength = _with_preference(gold, preference)

    def place(code: int) -> tuple[bool, bool, float, bool, float, str]:
        name, has_gold = names[code], bool(np.isfinite(gold[code]))
        own = float(np.nan_to_num(preference[code]))
        return name == premium, name != cheap, float(strength[code]), has_gold, own, name

    return np.array(sorted(present.tolist(), key=place), dtype=np.int64)


def _with_preference(gold: FloatArray, preference: FloatArray) -> FloatArray:
    """Mean gold scores; where unknown, that of the lowest model with more preference gain."""
    strength, known = gold.copy(), np.isfinite(gold)
    above_lowest = known & (gold > np.min(gold[known], initial=np.inf))
    for model in np.flatnonzero(~known):
        above = gold[above_lowest & (preference > preference[model])]
        strength[model] = above.min(initial=np.inf)
    return strength


def require_models(known: Sequence[str], *, premium: str | None, cheap: str | None) -> None:
    """Raise OptionError for a named model that no label is about."""
    for option, name in (("premium", premium), ("cheap", cheap)):
        if name is not None and name not in known:
            raise OptionError(
                f"no label is about the {option} model {shorten(name)}: the labels are about "
                f"{', '.join(sorted(known))}"
            )


def make_contrasts(rows: LabelRows, order: IntArray) -> Contrasts:
    """Gains with the later model of `order` as the candidate.

    Pairs keep their label, turned round where needed. The scores of a query by
    one judge become the gains of each model over the first of them in `order`:
    the reference model if it was scored.
    """
    # rank[code] is the place of a model in `order`, −1 for models left out
    rank = np.full(int(order.max()) + 1, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    is_pair = rows.model_b >= 0
    parts = [
        _from_pairs(rows, np.flatnonzero(is_pair), rank),
        _from_scores(rows, np.flatnonzero(~is_pair), rank),
    ]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Contrasts.__dataclass_fields__
    }
    in_order = np.argsort(joined["row"], kind="stable")
    return Contrasts(**{name: values[in_order] for name, values in joined.items()})


def _from_pairs(rows: LabelRows, index: IntArray, rank: IntArray) -> Contrasts:
    pairs = rows.take(index)
    a, b = rank[pairs.model_a], rank[pairs.model_b]
    swap = a < b
    unknown = np.full(len(index), np.nan)
    return Contrasts(
        row=index,
        candidate=np.maximum(a, b),
        baseline=np.minimum(a, b),
        gain=np.where(swap, -pairs.value, pairs.value),
        weight=pairs.weight,
        candidate_score=unknown,
        baseline_score=unknown,
        prompt_tokens=pairs.prompt_tokens,
        candidate_tokens=np.where(swap, pairs.tokens_b, pairs.tokens_a),
        baseline_tokens=np.where(swap, pairs.tokens_a, pairs.tokens_b),
    )


def _from_scores(rows: LabelRows, index: IntArray, rank: IntArray) -> Contrasts:
    scores = rows.take(index)
    model = rank[scores.model_a]
    group, first = group_rows(scores.is_gold, scores.query, scores.judge)
    # sorted by group, then model: the first row of each group is its baseline
    by_rank = np.lexsort((model, group))
    starts = by_rank[np.searchsorted(group[by_rank], np.arange(len(first)))]
    base = starts[group]
    candidate = np.flatnonzero(base != np.arange(len(index)))
    base = base[candidate]
    prompt = scores.prompt_tokens[candidate]
    return Contrasts(
        row=index[candidate],
        candidate=model[candidate],
        baseline=model[base],
        gain=scores.value[candidate] - scores.value[base],
        weight=_harmonic_mean(scores.weight[candidate], scores.weight[base]),
        candidate_score=scores.value[candidate],
        baseline_score=scores.value[base],
        prompt_tokens=np.where(np.isnan(prompt), scores.prompt_tokens[base], prompt),
        candidate_tokens=scores.tokens_a[candidate],
        baseline_tokens=scores.tokens_a[base],
    )


def _label_of(rows: LabelRows) -> tuple[IntArray | BoolArray, ...]:
    """The columns that say what a label is about and who gave it."""
    about = (rows.is_gold, rows.is_vote, rows.query, rows.model_a, rows.model_b)
    return (*about, rows.judge, rows.annotator)


def _strength(rows: LabelRows, n_models: int) -> FloatArray:
    """Mean of each model above its rivals on the same query; NaN without labels.

    A query counts once for a model and its rival, however many labels say so.
    """
    is_pair = rows.model_b >= 0
    pairs, scores = rows.take(is_pair), rows.take(~is_pair)
    group = group_rows(scores.query, scores.judge)[0]
    level = group_mean(group, scores.value, np.ones(len(scores)))
    model = np.concatenate([pairs.model_a, pairs.model_b, scores.model_a])
    # half of a gain to each side, so that its two models differ by the gain
    value = np.concatenate([pairs.value / 2, -pairs.value / 2, scores.value - level[group]])
    pair, score = _shares(pairs), _shares(scores)
    weight = np.concatenate([pair, pair, score])
    total = np.bincount(model, weight, minlength=n_models)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.bincount(model, weight * value, minlength=n_models) / total
    return mean


def _shares(rows: LabelRows) -> FloatArray:
    """Part of the weight of each row in that of all labels of its query and models."""
    group = group_rows(rows.query, rows.model_a, rows.model_b)[0]
    total = np.bincount(group, rows.weight)[group]
    return np.divide(rows.weight, total, out=np.zeros(len(rows)), where=total > 0)


def _harmonic_mean(a: FloatArray, b: FloatArray) -> FloatArray:
    """The variance of a difference is 1/a + 1/b, that of two rows of this weight."""
    return np.divide(2 * a * b, a + b, out=np.zeros(len(a)), where=a + b > 0)
