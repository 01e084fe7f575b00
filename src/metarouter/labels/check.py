"""Statistics of labels: distributions, agreement of the sources, bias by slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from metarouter.errors import MissingDependencyError
from metarouter.labels.findings import make_findings
from metarouter.labels.noise import is_enough
from metarouter.labels.repeats import first_of_text
from metarouter.labels.report import LabelSource, ReadReport
from metarouter.labels.rows import group_mean, group_rows
from metarouter.labels.summary import (
    Agreement,
    LabelSummary,
    NameCount,
    SliceBias,
    SourceSummary,
)
from metarouter.labels.table import GainTable
from metarouter.records import Estimate
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["mean_estimate", "summarise_labels", "welch_estimate"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEVEL = 0.95


def summarise_labels(table: GainTable, report: ReadReport | None = None) -> LabelSummary:
    """Summarise labels: what is there, how the sources compare, what they can support.

    Where both sources label the same query, their gains are compared pair by
    pair. Where they do not, the mean gains of the two sources are compared
    within slices (domain, length, judge), which measures the bias only if,
    inside a slice, which queries got gold labels has nothing to do with their
    gains. Repeated labels of a query are averaged first, so that each query
    counts once and the rows behind an interval are independent. Queries of equal
    text count as one, whatever their ids.

    Parameters
    ----------
    table : GainTable
    report : ReadReport or None
        What reading found, for the findings about duplicates and bad rows.

    Returns
    -------
    LabelSummary

    Notes
    -----
    Intervals are 95 % for each slice alone. The findings name a slice only if both
    sources have labels enough in it (:func:`metarouter.labels.noise.is_enough`) and
    its interval at level 1 − 0.05 / (number of such slices) excludes 0, with gains
    taken to vary at least as much in the slice as they do in the whole. Where queries
    are in both sources and their gains go against each other, both are the wider for it.

    The interval of the correlation r is t on the arctanh scale, from its influence
    function uv − r(u² + v²)/2 with u, v the standardised gains, added up by query.
    Fisher's variance 1/(n − 3) is that for normal gains, which is far too small where
    most are ties; it is taken where it is the larger.

    References
    ----------
    Welch (1947), The generalization of "Student's" problem when several
    different population variances are involved, Biometrika 34.
    https://doi.org/10.1093/biomet/34.1-2.28; Devlin, Gnanadesikan and Kettenring
    (1975), Robust estimation and outlier detection with correlation coefficients,
    Biometrika 62. https://doi.org/10.1093/biomet/62.3.531; Wilson (1927), Probable
    Inference, JASA 22. https://doi.org/10.1080/01621459.1927.10502953; Korn and Graubard
    (1998), Confidence Intervals for Proportions With Small Expected Number of Positive
    Counts Estimated From Survey Data, Survey Methodology 24.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(
    ...     queries=["a", "b", "c"], gain=[1, 0, 0.5], is_gold=[True, False, False]
    ... )
    >>> summary = summarise_labels(table)
    >>> [(source.source, source.rows, source.mean) for source in summary.sources]
    [('gold', 1, 1.0), ('preference', 2, 0.25)]
    """
    table = replace(table, query=first_of_text(table)[table.query])
    contrast = _main_contrast(table)
    gold = _gold_by_pair(table)
    summary = LabelSummary(
        models=table.models,
        contrast=None if contrast is None else _names(table, contrast),
        gold_gain=None if contrast is None else _gold_gain(table, contrast),
        n_rows=len(table),
        n_queries=table.n_queries,
        sources=tuple(_source_summaries(table)),
        model_counts=_model_counts(table),
        judge_counts=_counts(table, table.judge, table.judges),
        domain_counts=_counts(table, table.domain[table.query], table.domains),
        agreement=_agreement(table, gold),
        slices=() if contrast is None else _slices(table, contrast, gold),
        findings=(),
        report=report,
    )
    return replace(summary, findings=make_findings(summary))


def mean_estimate(values: FloatArray, level: float = LEVEL) -> Estimate | None:
    """Mean of independent values with a t interval; None for fewer than two.

    Examples
    --------
    >>> estimate = mean_estimate(np.array([0.0, 1.0, 0.0, 1.0]))
    >>> round(estimate.low, 3), estimate.value, round(estimate.high, 3)
    (-0.419, 0.5, 1.419)
    """
    n = len(values)
    if n < 2:
        return None
    std_error = float(np.std(values, ddof=1) / np.sqrt(n))
    return _t_estimate(float(np.mean(values)), std_error, n - 1, n, level)


def welch_estimate(
    a: FloatArray, b: FloatArray, level: float = LEVEL, *, covariance: float = 0.0
) -> Estimate | None:
    """Difference of means a − b with Welch's interval; None below two values in either.

    `a` and `b` are independent samples, or `covariance`, 0 or less, is that of their
    means; where the same queries are in both and their gains go together, the
    interval is too wide.

    Examples
    --------
    >>> estimate = welch_estimate(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0]))
    >>> round(estimate.value, 3), round(estimate.std_error, 3)
    (1.5, 0.764)
    """
    if len(a) < 2 or len(b) < 2:
        return None
    return _welch(a, b, float(np.var(a, ddof=1)), float(np.var(b, ddof=1)), level, covariance)


def _welch(
    a: FloatArray, b: FloatArray, var_a: float, var_b: float, level: float, covariance: float
) -> Estimate:
    """Welch's interval of mean(a) − mean(b) with given variances of a value."""
    var_a, var_b = var_a / len(a), var_b / len(b)
    total = var_a + var_b
    # Welch-Satterthwaite degrees of freedom
    spread = var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1)
    freedom = total**2 / spread if spread > 0 else len(a) + len(b) - 2
    difference, variance = float(np.mean(a) - np.mean(b)), total - 2.0 * covariance
    return _t_estimate(difference, variance**0.5, freedom, len(a) + len(b), level)


def _t_estimate(value: float, std_error: float, freedom: float, n: int, level: float) -> Estimate:
    half = _t_quantile(0.5 + level / 2, freedom) * std_error
    return Estimate(
        value=value,
        std_error=std_error,
        low=value - half,
        high=value + half,
        n=n,
        level=level,
    )


def _t_quantile(probability: float, freedom: float) -> float:
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise MissingDependencyError.of("checking labels", "train") from error
    return float(stdtrit(freedom, probability))


def _source_masks(table: GainTable) -> dict[LabelSource, BoolArray]:
    return {"gold": table.is_gold, "preference": ~table.is_gold}


def _source_summaries(table: GainTable) -> Iterator[SourceSummary]:
    for source, mask in _source_masks(table).items():
        gain = table.gain[mask]
        if not len(gain):
            continue
        yield SourceSummary(
            source=source,
            rows=len(gain),
            queries=len(np.unique(table.query[mask])),
            mean=float(gain.mean()),
            std=float(gain.std(ddof=1)) if len(gain) > 1 else 0.0,
            share_ties=float(np.mean(gain == 0)),
            quantiles=tuple((p, float(np.quantile(gain, p))) for p in QUANTILES),
        )


def _counts(table: GainTable, code: IntArray, names: tuple[str, ...]) -> tuple[NameCount, ...]:
    """Rows of each source by name, the most frequent first; names without rows left out."""
    known = code >= 0
    gold = np.bincount(code[known & table.is_gold], minlength=len(names))
    preference = np.bincount(code[known & ~table.is_gold], minlength=len(names))
    counts = [
        NameCount(name=name, gold=int(gold[i]), preference=int(preference[i]))
        for i, name in enumerate(names)
        if gold[i] + preference[i]
    ]
    return tuple(sorted(counts, key=lambda count: -(count.gold + count.preference)))


def _model_counts(table: GainTable) -> tuple[NameCount, ...]:
    candidate = _counts(table, table.candidate, table.models)
    baseline = {count.name: count for count in _counts(table, table.baseline, table.models)}
    for count in candidate:
        other = baseline.pop(count.name, NameCount(name=count.name, gold=0, preference=0))
        baseline[count.name] = replace(
            count, gold=count.gold + other.gold, preference=count.preference + other.preference
        )
    return tuple(baseline[name] for name in table.models if name in baseline)


def _main_contrast(table: GainTable) -> tuple[int, int] | None:
    """The pair with most labels of the rarer source, then of gold, then of all."""
    if not len(table):
        return None
    group, first = group_rows(table.candidate, table.baseline)
    labels = np.bincount(group)
    gold = np.bincount(group, table.is_gold)
    best = first[int(np.lexsort((labels, gold, np.minimum(gold, labels - gold)))[-1])]
    return int(table.candidate[best]), int(table.baseline[best])


def _names(table: GainTable, contrast: tuple[int, int]) -> tuple[str, str]:
    return table.models[contrast[0]], table.models[contrast[1]]


def _is_about(table: GainTable, contrast: tuple[int, int]) -> BoolArray:
    mask: BoolArray = (table.candidate == contrast[0]) & (table.baseline == contrast[1])
    return mask


def _query_means(table: GainTable, rows: BoolArray) -> tuple[IntArray, FloatArray]:
    """Queries of some rows, and the weighted mean gain of each."""
    chosen = np.flatnonzero(rows & (table.weight > 0))
    query, group = np.unique(table.query[chosen], return_inverse=True)
    return query, group_mean(group, table.gain[chosen], table.weight[chosen])


def _gold_gain(table: GainTable, contrast: tuple[int, int]) -> Estimate | None:
    return mean_estimate(_query_means(table, _is_about(table, contrast) & table.is_gold)[1])


QueryMeans = tuple[IntArray, FloatArray]
"""Queries, and the mean gain of each."""


def _gold_by_pair(table: GainTable) -> dict[tuple[int, int], QueryMeans]:
    """Gold gains of each pair of models: as labelled, else the difference over a third model.

    Scores of three models are kept as two gains over the reference; what they say of
    the other pair is the difference of those.
    """
    labelled = {
        pair: _query_means(table, _is_about(table, pair) & table.is_gold)
        for pair in _pairs(table.gold())
    }
    found = dict(labelled)
    for (high, base), (high_query, high_gain) in labelled.items():
        for (low, other), (low_query, low_gain) in labelled.items():
            if other != base or low >= high:
                continue
            query, i, j = np.intersect1d(high_query, low_query, return_indices=True)
            known, gain = found.get((high, low), (query[:0], high_gain[:0]))
            new = ~np.isin(query, known)
            difference = (high_gain[i] - low_gain[j])[new]
            found[high, low] = (
                np.concatenate([known, query[new]]),
                np.concatenate([gain, difference]),
            )
    return found


def _agreement(table: GainTable, gold_by_pair: dict[tuple[int, int], QueryMeans]) -> Agreement:
    """Gold against preference on the (query, models) that both label."""
    columns: list[list[Any]] = [[np.zeros(0, dtype=np.int64)], [np.zeros(0)], [np.zeros(0)]]
    for pair, (gold_query, gold_gain) in gold_by_pair.items():
        query, gain = _query_means(table, _is_about(table, pair) & ~table.is_gold)
        shared, i, j = np.intersect1d(gold_query, query, return_indices=True)
        for column, values in zip(columns, (shared, gold_gain[i], gain[j]), strict=True):
            column.append(values)
    query, gold, preference = (np.concatenate(column) for column in columns)
    n_queries = len(np.unique(query))
    # several pairs of models on one query are not independent: average them first
    cluster = np.unique(query, return_inverse=True)[1]
    signed = (gold != 0) & (preference != 0)
    same = np.sign(gold[signed]) == np.sign(preference[signed])
    return Agreement(
        n=len(gold),
        n_queries=n_queries,
        correlation=_correlation(gold, preference, cluster),
        mean_difference=mean_estimate(group_mean(cluster, preference - gold, np.ones(len(gold)))),
        sign_agreement=_share(same, query[signed]),
        n_signed=len(same),
    )


def _share(values: BoolArray, query: IntArray) -> Estimate | None:
    """Share of rows that are independent between queries, with Wilson's interval; None of none."""
    if not len(values):
        return None
    n, p = len(values), float(values.mean())
    cluster, size = np.unique(query, return_inverse=True, return_counts=True)[1:]
    units, worth = len(size), n * n / float(size @ size)
    left = np.bincount(cluster, values - p)
    if 1 < units < n and 0 < p < 1 and left.any():
        worth = min(n, p * (1 - p) * (units - 1) / units * n * n / float(left @ left))
    freedom = np.inf if units == n else max(units - 1, 1)
    z = _t_quantile(0.5 + LEVEL / 2, freedom)
    centre, scale = p + z * z / (2 * worth), 1 + z * z / worth
    half = z * float(np.sqrt(p * (1 - p) / worth + z * z / (4 * worth * worth)))
    return Estimate(
        value=p,
        std_error=float(np.sqrt(p * (1 - p) / worth)),
        low=max(0.0, (centre - half) / scale),
        high=min(1.0, (centre + half) / scale),
        n=units,
        level=LEVEL,
    )


def _correlation(a: FloatArray, b: FloatArray, query: IntArray) -> Estimate | None:
    """Pearson's correlation of rows that are independent between queries.

    None where the gains are too few, or too much alike, to tell.
    """
    n = len(np.unique(query))
    if not (is_enough(n, a) and is_enough(n, b) and np.ptp(a) and np.ptp(b)):
        return None
    u, v = ((gain - gain.mean()) / gain.std() for gain in (a, b))
    value = float(np.clip((u * v).mean(), -1.0, 1.0))
    influence = np.bincount(query, u * v - value * (u * u + v * v) / 2.0)
    std_error = float(np.sqrt(n / (n - 1) * (influence @ influence))) / len(a)
    # n queries that all agree do not tell r from 1 − 1/n, nor how far off it may be
    inner = float(np.clip(value, 1 / n - 1, 1 - 1 / n))
    error = max(std_error / (1.0 - inner**2), (n - 3) ** -0.5)
    half = _t_quantile(0.5 + LEVEL / 2, n - 1) * error
    return Estimate(
        value=value,
        std_error=std_error,
        low=min(float(np.tanh(np.arctanh(inner) - half)), value),
        high=max(float(np.tanh(np.arctanh(inner) + half)), value),
        n=n,
        level=LEVEL,
    )


def _slices(
    table: GainTable,
    contrast: tuple[int, int],
    gold_by_pair: dict[tuple[int, int], QueryMeans],
) -> tuple[SliceBias, ...]:
    """The whole and each slice, for the main contrast; for a pool each pair of models."""
    about = _is_about(table, contrast)
    masks: list[tuple[str, str, BoolArray]] = [("all", "queries", about)]
    masks += [
        ("domain", name, about & (table.domain[table.query] == code))
        for code, name in enumerate(table.domains)
    ]
    masks += [("length", name, about & mask) for name, mask in _length_slices(table)]
    judges = np.unique(table.judge[about & ~table.is_gold])
    if len(judges) > 1:
        masks += [
            ("judge", table.judges[code], about & (table.is_gold | (table.judge == code)))
            for code in judges
        ]
    masked = [
        (kind, name, _query_means(table, mask & table.is_gold), mask & ~table.is_gold)
        for kind, name, mask in masks
        if mask.any()
    ]
    if not table.is_pair:
        masked += [
            (
                "models",
                " over ".join(_names(table, pair)),
                gold_by_pair.get(pair, _query_means(table, np.zeros(len(table), dtype=np.bool_))),
                _is_about(table, pair) & ~table.is_gold,
            )
            for pair in _pairs(table)
        ]
    parts = [(kind, name, gold, _query_means(table, mask)) for kind, name, gold, mask in masked]
    whole = parts[0][2:]
    wholes = [part[2:] if part[0] == "models" else whole for part in parts]
    told = [_is_told(part[2:], each) for part, each in zip(parts, wholes, strict=True)]
    # Bonferroni: all slices together are wrong with probability 0.05 at most
    level = 1 - (1 - LEVEL) / max(sum(told), 1)
    return tuple(
        _slice(*part, is_clear=is_told and _is_clear(part[2:], each, level))
        for part, each, is_told in zip(parts, wholes, told, strict=True)
    )


Means = tuple[QueryMeans, QueryMeans]
"""Of gold and of preference labels."""


def _is_told(part: Means, whole: Means) -> bool:
    """Whether both sources have labels enough; the whole shows how alike they are."""
    return all(
        is_enough(len(gain), gains) for (_, gain), (_, gains) in zip(part, whole, strict=True)
    )


def _is_clear(part: Means, whole: Means, level: float) -> bool:
    """Whether the sources differ in a part, taken to vary as much as they do in the whole."""
    # Few labels of a part that happen to be alike would make its interval too narrow.
    gold, preference = (
        max(float(np.var(gain, ddof=1)), float(np.var(gains, ddof=1)))
        for (_, gain), (_, gains) in zip(part, whole, strict=True)
    )
    covariance = _negative_covariance(part[1], part[0])
    bias = _welch(part[1][1], part[0][1], preference, gold, level, covariance)
    return bias.low > 0 or bias.high < 0


def _negative_covariance(a: QueryMeans, b: QueryMeans) -> float:
    """Of the two means, by the queries that are in both; 0 where their gains go together."""
    shared, i, j = np.intersect1d(a[0], b[0], return_indices=True)
    if len(shared) < 2:
        return 0.0
    product = float((a[1][i] - a[1].mean()) @ (b[1][j] - b[1].mean()))
    return min(product, 0.0) * len(shared) / (len(shared) - 1) / (len(a[1]) * len(b[1]))


def _pairs(table: GainTable) -> list[tuple[int, int]]:
    first = group_rows(table.candidate, table.baseline)[1]
    return [(int(table.candidate[i]), int(table.baseline[i])) for i in first]


def _length_slices(table: GainTable) -> list[tuple[str, BoolArray]]:
    """Thirds of the labelled queries by characters, as masks of rows; none where one has all."""
    characters = np.array([len(text) for text in table.queries])
    of_query, length = characters[np.unique(table.query)], characters[table.query]
    low, high = (int(limit) for limit in np.quantile(of_query, [1 / 3, 2 / 3]))
    slices = [
        (f"up to {_characters(low)}" if low > 1 else _characters(low), length <= low),
        (_between(low + 1, high), (length > low) & (length <= high)),
        (f"over {_characters(high)}", length > high),
    ]
    filled = [(name, mask) for name, mask in slices if mask.any()]
    return filled if len(filled) > 1 else []


def _between(low: int, high: int) -> str:
    return _characters(low) if low == high else f"{low} to {_characters(high)}"


def _characters(n: int) -> str:
    return f"{n} character" if n == 1 else f"{n} characters"


def _slice(
    kind: str, name: str, gold_means: QueryMeans, preference_means: QueryMeans, *, is_clear: bool
) -> SliceBias:
    gold_queries, gold = gold_means
    preference_queries, preference = preference_means
    labelled = len(np.union1d(gold_queries, preference_queries))
    return SliceBias(
        kind=kind,
        name=name,
        n_gold=len(gold),
        n_preference=len(preference),
        share_gold=len(gold) / labelled if labelled else 0.0,
        gold_mean=float(gold.mean()) if len(gold) else None,
        preference_mean=float(preference.mean()) if len(preference) else None,
        bias=welch_estimate(
            preference, gold, covariance=_negative_covariance(preference_means, gold_means)
        ),
        is_clear=is_clear,
    )
