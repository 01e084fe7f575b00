"""Worlds: labelled queries of which every truth is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarouter.errors import OptionError
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing._grammar import TOPICS
from metarouter.testing.nuisances import OracleNuisances
from metarouter.testing.queries import QuerySet, make_queries
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["WORLDS", "World", "WorldOptions", "WorldPaths", "make_world"]

Selection = Literal["random", "covariate", "weak_overlap"]
Bias = Literal["null", "constant", "topic", "length", "perverse", "noise"]

_CHEAP, _PREMIUM = 0, 1
_ETA_LIMIT = 0.95  # keeps the mean vote inside (0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldOptions:
    """What makes one world differ from another.

    Parameters
    ----------
    bias : "null", "constant", "topic", "length", "perverse" or "noise"
        How the preference labels err; the formulas are in :func:`make_world`.
    selection : "random", "covariate" or "weak_overlap"
        Which queries get a gold label.
    bias_size : float
        Size of the constant, topic or length bias in gain units.
    concentration : float above 0
        Precision of every label: a score of mean m is Beta(m·κ, (1 − m)·κ),
        with variance m(1 − m)/(κ + 1). Small is noisy.
    """

    bias: Bias = "topic"
    selection: Selection = "random"
    bias_size: float = 0.3
    concentration: float = 6.0


WORLDS: Mapping[str, WorldOptions] = {
    "random_gold": WorldOptions(),
    "covariate_gold": WorldOptions(selection="covariate"),
    "weak_overlap": WorldOptions(selection="weak_overlap"),
    "null_bias": WorldOptions(bias="null"),
    "constant_bias": WorldOptions(bias="constant"),
    "topic_bias": WorldOptions(bias="topic", bias_size=0.5),
    "length_bias": WorldOptions(bias="length"),
    "perverse_judge": WorldOptions(bias="perverse"),
    "heavy_noise": WorldOptions(concentration=0.5),
    "noise_judge": WorldOptions(bias="noise"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPaths:
    """The label files of a world; `test` is held-out gold."""

    gold: Path
    preference: Path
    test: Path


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class World:
    """Labelled queries with known truth. Arrays are about training queries.

    Attributes
    ----------
    name : str, the world's name, or "custom".
    options : WorldOptions
    texts : tuple of str, the training queries.
    topics : tuple of str; `domain` (n,) indexes them.
    difficulty, length : float arrays, shape (n,); see :class:`QuerySet`.
    psi, eta, delta : float arrays, shape (n,)
        E[gold gain], E[preference gain] and ψ − η at each query.
    annotation_propensity : float array, shape (n,); P(gold given query).
    scores : float array, shape (n, 2); gold scores of cheap and premium, as
        they would be if every query had gold labels.
    gold_gain, preference_gain : float arrays, shape (n,); as above.
    has_gold, has_preference : bool arrays, shape (n,); which labels are shown.
    table : GainTable, the labels that are shown; no features.
    test : GainTable, gold labels of other queries.
    test_psi : float array, shape (n_test,)
    """

    name: str
    options: WorldOptions
    texts: tuple[str, ...]
    topics: tuple[str, ...]
    domain: IntArray
    difficulty: FloatArray
    length: FloatArray
    psi: FloatArray
    eta: FloatArray
    delta: FloatArray
    annotation_propensity: FloatArray
    scores: FloatArray
    gold_gain: FloatArray
    preference_gain: FloatArray
    has_gold: BoolArray
    has_preference: BoolArray
    table: GainTable
    test: GainTable
    test_psi: FloatArray

    def __repr__(self) -> str:
        return f"World({self.name!r}; {self.table!r}; {len(self.test_psi)} test queries)"

    def nuisances(self) -> OracleNuisances:
        """The true nuisance values at the rows of `table`."""
        rows = self.table.query
        return OracleNuisances(
            outcome_gold=self.psi[rows],
            outcome_pref=self.eta[rows],
            annotation_propensity=self.annotation_propensity[rows],
        )

    def write(self, folder: str | Path) -> WorldPaths:
        """Write the labels in the public forms: *scores* for gold, *votes* for preferences.

        Returns
        -------
        WorldPaths
            ``gold.jsonl``, ``preference.jsonl`` and ``test.jsonl`` in `folder`,
            which is made where it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = WorldPaths(
            gold=folder / "gold.jsonl",
            preference=folder / "preference.jsonl",
            test=folder / "test.jsonl",
        )
        _write_lines(paths.gold, gold_records(self.table))
        _write_lines(paths.preference, preference_records(self.table.preference()))
        _write_lines(paths.test, gold_records(self.test))
        return paths


def make_world(
    world: str | WorldOptions = "random_gold",
    *,
    n_queries: int = 2000,
    n_gold: int = 200,
    n_preference: int | None = None,
    n_both: int = 0,
    n_test: int = 500,
    models: tuple[str, str] = ("cheap", "premium"),
    seed: int = 0,
) -> World:
    """Make labelled queries of which ψ, η, Δ and the annotation propensity are known.

    Parameters
    ----------
    world : str or WorldOptions, default "random_gold"
        A name in :data:`WORLDS`, or options of your own.
    n_queries : int, default 2000
        Training queries.
    n_gold : int, default 200
        Queries with a gold label, exactly.
    n_preference : int, optional
        Preference labels on queries without gold; default all of them.
    n_both : int, default 0
        Gold queries that carry a preference label too.
    n_test : int, default 500
        Held-out gold labels of further queries.
    models : pair of str, default ("cheap", "premium")
    seed : int, default 0

    Returns
    -------
    World

    Raises
    ------
    OptionError
        When the name is unknown or the numbers do not fit together.

    Notes
    -----
    With difficulty d, standardised log length l and the coefficients of the
    topic, mean qualities are m_premium = σ(a − b·d + 0.1·l) and
    m_cheap = σ(a′ − b′·d − 0.35·l), and ψ = m_premium − m_cheap. Scores are
    Beta with these means. A vote is p ~ Beta with mean (1 + η)/2, its gain is
    2p − 1, and before a clip to ±0.95 η is

    * null: ψ; constant: ψ + s; length: ψ + s·clip(l, −1.5, 1.5);
    * topic: ψ + s·taste(topic), the taste between −0.9 and 0.9;
    * perverse: −0.8·ψ; noise: 0.

    Gold is chosen with inclusion probabilities e(q) that sum to `n_gold`:
    constant ("random"), or in proportion to exp(θ·u(q)) capped at 0.95 with
    u = 1.2·d + 0.4·l − [topic is one of the last four]: θ = 1 ("covariate") or
    θ = 3.5 ("weak_overlap").

    Examples
    --------
    >>> world = make_world("constant_bias", n_queries=300, n_gold=30, n_test=20)
    >>> int(world.table.is_gold.sum()), len(world.table), len(world.test)
    (30, 300, 20)
    >>> bool(abs(world.delta.mean() + 0.3) < 0.1)
    True
    """
    options = _options(world)
    n_preference = n_queries - n_gold if n_preference is None else n_preference
    _check_sizes(n_queries, n_gold, n_preference, n_both, n_test)
    rng = np.random.default_rng(seed)
    queries = make_queries(n_queries + n_test, rng)
    means = mean_scores(queries)
    psi = means[:, _PREMIUM] - means[:, _CHEAP]
    eta = mean_preference(psi, queries, options)
    scores = _beta(means, options.concentration, rng)
    votes = _beta((1 + eta) / 2, options.concentration, rng)
    train = slice(0, n_queries)
    propensity = inclusion_probability(
        queries.topic[train], queries.difficulty[train], queries.length[train], n_gold, options
    )
    has_gold = systematic_sample(propensity, rng)
    has_preference = _choose_preference(has_gold, n_preference, n_both, rng)
    columns = _Columns(
        queries=queries,
        models=models,
        scores=scores,
        preference=2 * votes - 1,
        tokens=_Tokens.draw(queries, rng),
    )
    return World(
        name=world if isinstance(world, str) else "custom",
        options=options,
        psi=psi[train],
        eta=eta[train],
        delta=(psi - eta)[train],
        annotation_propensity=propensity,
        has_gold=has_gold,
        has_preference=has_preference,
        table=columns.table(0, n_queries, np.flatnonzero(has_gold), np.flatnonzero(has_preference)),
        test=columns.table(n_queries, n_queries + n_test, np.arange(n_test), np.arange(0)),
        test_psi=psi[n_queries:],
        **columns.head(n_queries),
    )


def mean_scores(queries: QuerySet) -> FloatArray:
    """Mean gold quality of the cheap and the premium model, shape (n, 2)."""
    cheap = np.array([topic.cheap for topic in TOPICS])[queries.topic]
    premium = np.array([topic.premium for topic in TOPICS])[queries.topic]
    logits = np.column_stack(
        [
            cheap[:, 0] + cheap[:, 1] * queries.difficulty - 0.35 * queries.length,
            premium[:, 0] + premium[:, 1] * queries.difficulty + 0.1 * queries.length,
        ]
    )
    means: FloatArray = 1 / (1 + np.exp(-logits))
    return means


def mean_preference(psi: FloatArray, queries: QuerySet, options: WorldOptions) -> FloatArray:
    """η at every query for the bias of `options`, shape (n,)."""
    size = options.bias_size
    taste = np.array([topic.judge_taste for topic in TOPICS])[queries.topic]
    eta = {
        "null": psi,
        "constant": psi + size,
        "topic": psi + size * taste,
        "length": psi + size * np.clip(queries.length, -1.5, 1.5),
        "perverse": -0.8 * psi,
        "noise": np.zeros_like(psi),
    }[options.bias]
    return np.asarray(np.clip(eta, -_ETA_LIMIT, _ETA_LIMIT), dtype=np.float64)


def inclusion_probability(
    topic: IntArray,
    difficulty: FloatArray,
    length: FloatArray,
    n_gold: int,
    options: WorldOptions,
) -> FloatArray:
    """P(gold given query) summing to `n_gold`, shape (n,), each at most 0.95 unless all are 1."""
    n = len(topic)
    theta = {"random": 0.0, "covariate": 1.0, "weak_overlap": 3.5}[options.selection]
    if theta == 0 or n_gold >= 0.9 * n:
        return np.full(n, n_gold / n)
    rare = topic >= len(TOPICS) - 4
    odds = np.exp(theta * (1.2 * difficulty + 0.4 * length - rare))
    low, high = 0.0, n_gold / odds.min()
    for _ in range(100):  # bisection on the factor: the capped sum grows with it
        factor = (low + high) / 2
        low, high = (
            (factor, high) if np.minimum(factor * odds, 0.95).sum() < n_gold else (low, factor)
        )
    probability: FloatArray = np.minimum(high * odds, 0.95)
    return probability


def systematic_sample(probability: FloatArray, rng: np.random.Generator) -> BoolArray:
    """Draw a sample of fixed size with the given inclusion probabilities.

    Parameters
    ----------
    probability : float array, shape (n,), in [0, 1], summing to an integer.
    rng : numpy Generator

    Returns
    -------
    bool array, shape (n,), with that many True.

    References
    ----------
    Madow (1949), On the theory of systematic sampling II,
    https://doi.org/10.1214/aoms/1177729988
    """
    order = rng.permutation(len(probability))
    edges = np.concatenate([[0.0], np.cumsum(probability[order])])
    size = round(edges[-1])
    edges[-1] = size
    ticks = np.floor(edges - rng.uniform())
    chosen = np.zeros(len(probability), dtype=np.bool_)
    chosen[order] = np.diff(ticks) > 0
    return chosen


def gold_records(table: GainTable) -> Iterable[dict[str, Any]]:
    """Gold rows as *scores* records, two for each row; other rows are left out."""
    table = table.gold()
    for i, base in enumerate(_base_records(table)):
        for model, score, tokens in (
            (table.models[table.candidate[i]], table.candidate_score[i], table.candidate_tokens[i]),
            (table.models[table.baseline[i]], table.baseline_score[i], table.baseline_tokens[i]),
        ):
            yield base | {
                "model": model,
                "score": round(float(score), 6),
                "prompt_tokens": int(table.prompt_tokens[i]),
                "completion_tokens": int(tokens),
            }


def preference_records(table: GainTable) -> Iterable[dict[str, Any]]:
    """Preference rows as *votes* records."""
    for i, base in enumerate(_base_records(table)):
        yield base | {
            "model_a": table.models[table.candidate[i]],
            "model_b": table.models[table.baseline[i]],
            "p_a": round(float((1 + table.gain[i]) / 2), 6),
            "judge": table.judges[table.judge[i]],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokens:
    prompt: FloatArray
    cheap: FloatArray
    premium: FloatArray

    @classmethod
    def draw(cls, queries: QuerySet, rng: np.random.Generator) -> _Tokens:
        words = np.array([text.count(" ") + 1 for text in queries.texts])
        mean = np.exp(4.2 + 1.3 * queries.difficulty + 0.2 * queries.length)
        noise = rng.normal(0, 0.3, (2, len(words)))
        return cls(
            prompt=np.ceil(1.35 * words),
            cheap=np.ceil(mean * np.exp(noise[0])),
            premium=np.ceil(1.4 * mean * np.exp(noise[1])),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    queries: QuerySet
    models: tuple[str, str]
    scores: FloatArray
    preference: FloatArray
    tokens: _Tokens

    def head(self, n: int) -> dict[str, Any]:
        """What a :class:`World` tells of its first `n` queries."""
        return {
            "texts": self.queries.texts[:n],
            "topics": self.queries.topics,
            "domain": self.queries.topic[:n],
            "difficulty": self.queries.difficulty[:n],
            "length": self.queries.length[:n],
            "scores": self.scores[:n],
            "gold_gain": (self.scores[:, _PREMIUM] - self.scores[:, _CHEAP])[:n],
            "preference_gain": self.preference[:n],
        }

    def table(self, first: int, end: int, gold: IntArray, preference: IntArray) -> GainTable:
        """Labels of the queries `first` to `end`; `gold` and `preference` count from `first`."""
        query = np.concatenate([gold, preference])
        at = first + query
        is_gold = np.arange(len(query)) < len(gold)
        scores = np.where(is_gold[:, None], self.scores[at], np.nan)
        return make_gain_table(
            queries=self.queries.texts[first:end],
            query_ids=[f"q{i}" for i in range(first, end)],
            query=query,
            gain=np.where(is_gold, scores[:, _PREMIUM] - scores[:, _CHEAP], self.preference[at]),
            is_gold=is_gold,
            models=self.models,
            judges=("", "simulated-judge"),
            judge=(~is_gold).astype(int),
            domains=self.queries.topics,
            domain=self.queries.topic[first:end],
            candidate_score=scores[:, _PREMIUM],
            baseline_score=scores[:, _CHEAP],
            prompt_tokens=self.tokens.prompt[at],
            candidate_tokens=self.tokens.premium[at],
            baseline_tokens=self.tokens.cheap[at],
        )


def _options(world: str | WorldOptions) -> WorldOptions:
    if isinstance(world, WorldOptions):
        return world
    if world not in WORLDS:
        raise OptionError.of("world", world, ", ".join(WORLDS))
    return WORLDS[world]


def _check_sizes(n_queries: int, n_gold: int, n_preference: int, n_both: int, n_test: int) -> None:
    if not 1 <= n_gold <= n_queries:
        raise OptionError.of("n_gold", n_gold, f"1 to n_queries = {n_queries}")
    if not 0 <= n_preference <= n_queries - n_gold:
        raise OptionError.of("n_preference", n_preference, f"0 to {n_queries - n_gold}")
    if not 0 <= n_both <= n_gold:
        raise OptionError.of("n_both", n_both, f"0 to n_gold = {n_gold}")
    if n_test < 0:
        raise OptionError.of("n_test", n_test, "0 or more")


def _beta(mean: FloatArray, concentration: float, rng: np.random.Generator) -> FloatArray:
    draws: FloatArray = rng.beta(mean * concentration, (1 - mean) * concentration)
    return draws


def _choose_preference(
    has_gold: BoolArray, n_preference: int, n_both: int, rng: np.random.Generator
) -> BoolArray:
    chosen = np.zeros(len(has_gold), dtype=np.bool_)
    chosen[rng.permutation(np.flatnonzero(~has_gold))[:n_preference]] = True
    chosen[rng.permutation(np.flatnonzero(has_gold))[:n_both]] = True
    return chosen


def _base_records(table: GainTable) -> Iterable[dict[str, Any]]:
    for query in table.query:
        yield {
            "query_id": table.query_ids[query],
            "query": table.queries[query],
            "domain": table.domains[table.domain[query]],
        }


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
