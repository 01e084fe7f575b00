"""Where the preference labels are wrong, and by how much: :func:`make_bias_map`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from metarouter.causal import Nuisances, fit_nuisances, stratified_folds
from metarouter.correction.simultaneous import JointEstimates, adjust_holm
from metarouter.correction.topics import find_topics
from metarouter.correction.units import (
    SourceUnits,
    main_contrast,
    paired_table,
    source_units,
)
from metarouter.errors import DataError, OptionError
from metarouter.gain.extras import import_train, one_thread
from metarouter.labels.noise import MIN_LABELS, is_enough
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = [
    "BiasMap",
    "BiasMapRow",
    "BiasTest",
    "SliceBiasEstimate",
    "estimate_slice",
    "make_bias_map",
]

_MAX_LEVELS = 12  # domains or judges shown, the best known first
_MAX_TOPICS = 6
_GOLD_PER_TOPIC = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasMapRow:
    """The bias of the preference labels in one slice of the queries.

    Attributes
    ----------
    dimension, level : for instance "length", "over 80 characters".
    n_gold, n_preference : queries of the slice with a label of the source.
    bias : mean preference gain minus mean gold gain; positive: the judge
        overrates the candidate. None where a source has fewer than ten
        queries, or more of them but gains that are too rarely off their mean.
    low, high : its interval; those of all slices hold at once.
    std_error : of `bias`.
    """

    dimension: str
    level: str
    n_gold: int
    n_preference: int
    bias: float | None
    low: float | None
    high: float | None
    std_error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasTest:
    """Test that the bias is the same in all slices of one dimension.

    `p_value` is of this test alone, `p_adjusted` is Holm's over the dimensions.
    """

    dimension: str
    n_slices: int
    p_value: float
    p_adjusted: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasMap:
    """The bias of the preference labels by slice.

    Attributes
    ----------
    candidate, baseline : the models whose gain it is about.
    level : probability that all intervals hold at once.
    rows : all queries first, then the slices of each dimension.
    tests : one for each dimension with at least two slices that can be told.
    p_value : that the bias is the same everywhere, the smallest Holm-adjusted
        one of `tests`; None without tests.
    """

    candidate: str
    baseline: str
    level: float
    rows: tuple[BiasMapRow, ...]
    tests: tuple[BiasTest, ...]
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SliceBiasEstimate:
    """θ̂ of one slice and the influence of each unit, zero outside the slice."""

    value: float
    influence: FloatArray


def make_bias_map(
    table: GainTable, *, n_folds: int = 5, level: float = 0.95, seed: int = 0
) -> BiasMap:
    """Estimate where preference labels differ from gold ones, by slice of the queries.

    Estimates, for slices S by topic, length, domain and judge,
    E[preference gain − gold gain given the query is in S], over the labelled
    queries of S, each counted once. Doubly robust: right when who got gold depends
    on nothing but the features, and either the chance of gold or the mean gains are
    learned well. Topics are clusters of the features, which no label enters.

    In a pool the map is about one pair of models, the one that both sources
    know best. Labels of one query and source are averaged first. No more than
    20,000 queries without gold are used.

    Parameters
    ----------
    table : GainTable with features
    n_folds : int, at least 2, default 5
        Folds over queries of the cross-fitted nuisances.
    level : float in (0, 1), default 0.95
        Probability that all intervals hold at once.
    seed : int, default 0
        Draws folds, clusters and the multiplier bootstrap.

    Returns
    -------
    BiasMap

    Raises
    ------
    DataError
        When a source has fewer than ten queries on every pair of models.
    OptionError
        When `level` is not inside (0, 1).

    Notes
    -----
    A unit is a query in one source, and s is one over the units of its query. With
    out-of-fold μ₀, μ₁, e, s̄ = E[s given x] and Δ̂ = μ₁ − μ₀, weights w = s̄/e on gold
    and s̄/(1 − e) on preference units, normalised to sum to one within slice and
    source, ``θ̂ = Σ s (−Δ̂) / Σ s + Σ_preference w (y − μ₀) − Σ_gold w (y − μ₁)``. Its
    influence is summed over the units of a query, so that two labels of one query
    are compared with each other. Where gains are seldom off their mean, a few labels
    do not show how much they vary: with kurtosis κ of a source's residuals, n
    labels say no more of a variance than 3n/κ normal ones (n where κ < 3), and
    ten of these, or a hundred labels, are asked for. The simultaneous intervals use the quantile of
    the largest of the studentised deviations under normal multipliers, carried
    over to t distributions with Welch's degrees of freedom; the test that the
    bias is the same uses the largest deviation from the mean bias likewise.

    References
    ----------
    Robins, Rotnitzky and Zhao (1994), https://doi.org/10.2307/2290910.
    Chernozhukov, Chetverikov and Kato (2013), Gaussian approximations and
    multiplier bootstrap for maxima, https://doi.org/10.1214/13-AOS1161.
    Holm (1979), https://www.jstor.org/stable/4615733.

    Examples
    --------
    >>> from metarouter.testing import make_simulation
    >>> table = make_simulation(800, 5, n_gold=100, n_test=0, bias="constant").table
    >>> whole = make_bias_map(table).rows[0]
    >>> whole.low < 0.15 < whole.high
    True
    """
    if not 0 < level < 1:
        raise OptionError.of("level", level, "a number between 0 and 1")
    contrast = main_contrast(table)
    if contrast is None:
        raise DataError("a bias map needs labels of both sources; the table has no rows")
    import_train("sklearn.cluster", "a bias map")  # one_thread limits what is loaded
    with one_thread():
        return _bias_map(table, contrast, n_folds, level, np.random.default_rng(seed))


def estimate_slice(
    y: FloatArray,
    is_gold: BoolArray,
    nuisances: Nuisances,
    member: BoolArray,
    share: FloatArray | float = 1.0,
) -> SliceBiasEstimate:
    """Mean preference minus mean gold gain of a slice, doubly robust.

    Parameters
    ----------
    y, is_gold : arrays, shape (n,); gains and their sources.
    nuisances : Nuisances, each from models that did not see the unit.
    member : bool array, shape (n,); units of the slice, some of each source.
    share : array, shape (n,), or float, default 1
        One over the units of the unit's query; `nuisances` has its mean given x.

    Returns
    -------
    SliceBiasEstimate
        ``Σ influence²`` over independent units estimates the variance.

    Examples
    --------
    >>> flat = Nuisances(mu0=np.zeros(4), mu1=np.zeros(4), e=np.full(4, 0.5))
    >>> gold = np.array([True, True, False, False])
    >>> estimate_slice(np.array([0.0, 1.0, 2.0, 3.0]), gold, flat, np.ones(4, bool)).value
    2.0
    """
    part = member * share
    part = part / part.sum()
    bias = nuisances.mu0 - nuisances.mu1
    value = float(part @ bias)
    influence = part * (bias - value)
    for source, mean, chance, sign in (
        (member & is_gold, nuisances.mu1, nuisances.e, -1.0),
        (member & ~is_gold, nuisances.mu0, 1 - nuisances.e, 1.0),
    ):
        weight = source * nuisances.share / chance
        weight /= weight.sum()
        residual = y - mean
        left = float(weight @ residual)
        value += sign * left
        # Residuals about their own mean are too small by this, n / (n − 1) for equal weights.
        lost = max(1 - float(weight @ weight), 1e-12)
        influence += sign * weight * (residual - left) / np.sqrt(lost)
    return SliceBiasEstimate(value=value, influence=influence)


def _bias_map(
    table: GainTable,
    contrast: tuple[int, int],
    n_folds: int,
    level: float,
    rng: np.random.Generator,
) -> BiasMap:
    pair, _ = paired_table(table, contrast, rng)
    slices = _slices(pair, n_folds, rng)
    told = [part for part in slices if part.estimate is not None]
    joint = _joint(told, pair.n_queries, rng)
    half = joint.half_widths(level)
    tests = _tests(told, joint)
    return BiasMap(
        candidate=table.models[contrast[0]],
        baseline=table.models[contrast[1]],
        level=level,
        rows=tuple(_rows(slices, joint, half)),
        tests=tests,
        p_value=min((test.p_adjusted for test in tests), default=None),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Slice:
    dimension: str
    level: str
    units: SourceUnits
    member: BoolArray
    estimate: SliceBiasEstimate | None

    @property
    def n_gold(self) -> int:
        return int((self.member & self.units.is_gold).sum())

    @property
    def n_preference(self) -> int:
        return int(self.member.sum()) - self.n_gold


def _slices(pair: GainTable, n_folds: int, rng: np.random.Generator) -> list[_Slice]:
    """All queries, then topics, lengths, domains and judges."""
    units = source_units(pair)
    if not units.has_both():
        n_gold = int(units.is_gold.sum())
        raise DataError(
            f"{n_gold} queries with gold and {len(units.gain) - n_gold} with preference labels; "
            f"a bias map needs at least {MIN_LABELS} of each"
        )
    nuisances = _nuisances(units, n_folds, rng)
    parts = [("all", "queries", np.ones(len(units.gain), dtype=np.bool_))]
    parts += _query_parts(pair, units, rng)
    found = [_slice(*part, units, nuisances) for part in parts if part[2].any()]
    return found + list(_judge_slices(pair, n_folds, rng))


def _slice(
    dimension: str, level: str, member: BoolArray, units: SourceUnits, nuisances: Nuisances
) -> _Slice:
    residual = units.gain - np.where(units.is_gold, nuisances.mu1, nuisances.mu0)
    sources = (units.is_gold, ~units.is_gold)
    is_told = all(is_enough(int((member & source).sum()), residual[source]) for source in sources)
    return _Slice(
        dimension=dimension,
        level=level,
        units=units,
        member=member,
        estimate=estimate_slice(units.gain, units.is_gold, nuisances, member, units.share)
        if is_told
        else None,
    )


def _nuisances(units: SourceUnits, n_folds: int, rng: np.random.Generator) -> Nuisances:
    folds = stratified_folds(units.is_gold, n_folds, rng, units.query)
    return fit_nuisances(units.features, units.gain, units.is_gold, folds, share=units.share)


def _query_parts(
    pair: GainTable, units: SourceUnits, rng: np.random.Generator
) -> list[tuple[str, str, BoolArray]]:
    """Slices by what is known of a query."""
    n_gold = int(units.is_gold.sum())
    n_topics = min(n_gold, len(units.gain) - n_gold) // _GOLD_PER_TOPIC
    texts = [pair.queries[i] for i in units.query]
    parts = [
        ("topic", name, member)
        for name, member in find_topics(
            units.features, texts, min(n_topics, _MAX_TOPICS), seed=int(rng.integers(2**31))
        )
    ]
    parts += [("length", name, member) for name, member in _lengths(texts, units.query)]
    domain = pair.domain[units.query]
    known = _best_known(domain, units.is_gold)
    return parts + [("domain", pair.domains[code], domain == code) for code in known]


def _lengths(texts: Sequence[str], query: IntArray) -> list[tuple[str, BoolArray]]:
    """Thirds of the queries by length of the text in characters."""
    length = np.array([len(text) for text in texts])
    low, high = np.quantile(length[np.unique(query, return_index=True)[1]], [1 / 3, 2 / 3])
    return [
        (f"up to {low:.0f} characters", length <= low),
        (f"{low:.0f} to {high:.0f} characters", (length > low) & (length <= high)),
        (f"over {high:.0f} characters", length > high),
    ]


def _best_known(code: IntArray, is_gold: BoolArray) -> list[int]:
    """Codes of at most twelve levels, those with most of their rarer source first."""
    if len(np.unique(code)) < 2:
        return []
    size = int(code.max()) + 1
    gold = np.bincount(code[(code >= 0) & is_gold], minlength=size)
    preference = np.bincount(code[(code >= 0) & ~is_gold], minlength=size)
    present = np.flatnonzero(gold + preference)
    order = np.lexsort((-(gold + preference)[present], -np.minimum(gold, preference)[present]))
    return [int(i) for i in present[order][:_MAX_LEVELS]]


def _judge_slices(pair: GainTable, n_folds: int, rng: np.random.Generator) -> Iterator[_Slice]:
    """Each judge's votes against the gold labels of all queries."""
    codes, count = np.unique(pair.judge[~pair.is_gold], return_counts=True)
    if len(codes) < 2:
        return
    for code in codes[np.argsort(-count, kind="stable")][:_MAX_LEVELS]:
        units = source_units(pair.rows(pair.is_gold | (pair.judge == code)))
        member = np.ones(len(units.gain), dtype=np.bool_)
        name = pair.judges[code] or "(not given)"
        if units.has_both():
            yield _slice("judge", name, member, units, _nuisances(units, n_folds, rng))
        else:
            yield _Slice(dimension="judge", level=name, units=units, member=member, estimate=None)


def _joint(told: Sequence[_Slice], n_queries: int, rng: np.random.Generator) -> JointEstimates:
    """The estimates with the influence of each query on them."""
    influence = np.zeros((n_queries, len(told)))
    sources = np.zeros(n_queries, dtype=np.int64)
    value = np.zeros(len(told))
    for j, part in enumerate(told):
        assert part.estimate is not None  # noqa: S101 - the caller left the others out
        query = part.units.query
        value[j] = part.estimate.value
        influence[:, j] = np.bincount(query, part.estimate.influence, n_queries)
        sources |= np.bincount(query, 1 + part.units.is_gold, n_queries).astype(np.int64)
    return JointEstimates(value=value, influence=influence, kind=sources, rng=rng)


def _tests(told: Sequence[_Slice], joint: JointEstimates) -> tuple[BiasTest, ...]:
    """One test for each dimension of two slices or more, adjusted by Holm."""
    found: list[tuple[str, int, float]] = []
    for dimension, group in groupby(enumerate(told), key=lambda item: item[1].dimension):
        columns, parts = zip(*group, strict=True)
        if len(parts) > 1:
            size = np.array([part.member.sum() for part in parts], dtype=np.float64)
            apart = joint.apart_from_mean(np.array(columns), size / size.sum())
            found.append((dimension, len(parts), apart.p_value()))
    adjusted = adjust_holm([p for _, _, p in found])
    return tuple(
        BiasTest(dimension=dimension, n_slices=n, p_value=p, p_adjusted=q)
        for (dimension, n, p), q in zip(found, adjusted, strict=True)
    )


def _rows(
    slices: Sequence[_Slice], joint: JointEstimates, half: FloatArray
) -> Iterator[BiasMapRow]:
    told = zip(joint.value, half, joint.std_error, strict=True)
    for part in slices:
        found: dict[str, float | None] = dict.fromkeys(("bias", "low", "high", "std_error"))
        if part.estimate is not None:
            bias, width, error = map(float, next(told))
            found = {"bias": bias, "low": bias - width, "high": bias + width, "std_error": error}
        yield BiasMapRow(
            dimension=part.dimension,
            level=part.level,
            n_gold=part.n_gold,
            n_preference=part.n_preference,
            **found,
        )
