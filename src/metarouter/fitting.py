"""From labels to a router: features, correction, gain model, threshold, honest numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarouter.artifact import LabelFingerprint, RouterArtifact
from metarouter.calibration import CalibrationTarget
from metarouter.correction import FittedGain, learn_gain, make_corrector
from metarouter.correction.audit import AUDITED, audit_labels
from metarouter.crossfitted import MIN_GOLD, CrossFitted, cross_fit
from metarouter.errors import DataError, OptionError
from metarouter.features.pipeline import FeaturePipeline, make_pipeline
from metarouter.features.stages import FeatureStage
from metarouter.gain.extras import one_thread
from metarouter.gain.out_of_bag import follows_rows, unseen_gains
from metarouter.gain.registry import make_pool_model
from metarouter.gain.text import stage_of
from metarouter.labels.queries import hash_queries
from metarouter.labels.read import Labels, read_gain_table
from metarouter.labels.report import ReadReport
from metarouter.labels.table import GainTable
from metarouter.policy.costs import (
    CostModel,
    TokenCost,
    UnitCost,
    fit_token_predictor,
)
from metarouter.policy.prices import lookup_price, read_prices
from metarouter.policy.rule import UtilityPolicy
from metarouter.records import ModelSpec, json_value
from metarouter.router import Router, policy_state, prompt_tokens
from metarouter.spread import draw_in, spread_ratio
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["FitOptions", "Prices", "fit", "fit_table", "label_fingerprint", "make_cost"]

Prices = str | Path | Mapping[str, ModelSpec]
"""A price file, or prices by model."""

Progress = Callable[[int, int], None]
Gains = Callable[[NDArray[np.float32]], FloatArray]

_LIBRARIES = ("metarouter", "numpy", "scikit-learn", "scipy", "safetensors", "tokenizers")
_PRICED = 200_000  # queries on which a share or a budget is calibrated, at most


def fit(
    gold: Labels | None = None,
    preference: Labels | None = None,
    *,
    premium: str | None = None,
    cheap: str | None = None,
    corrector: str = "auto",
    gain_model: str = "auto",
    embedder: str = "default",
    premium_share: float | None = None,
    budget: float | None = None,
    max_loss: float | None = None,
    confidence: float = 0.95,
    w: float | None = None,
    cost: Literal["unit", "token"] = "unit",
    prices: Prices | None = None,
    folds: int = 5,
    on_bad_row: Literal["error", "skip"] = "error",
    score_range: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Router:
    """Learn a router from gold labels, preference labels, or both.

    Learns ψ(q) = E[gold gain given q] by making preference labels comparable
    with gold ones, and the price of cost at which the premium model is worth
    calling. Assumes that the gold labels measure what matters, and that who
    got a gold label depends on nothing but the query.

    Parameters
    ----------
    gold, preference : path, list of paths, data frame or iterable of records
        Label sources, at least one; see
        :func:`metarouter.labels.read_gain_table`.
    premium, cheap : str, optional
        The two models, where the labels know more, or the order is not that of
        mean gold score.
    corrector : str, default "auto"
        How the bias of preference labels is removed; one of
        :data:`metarouter.correction.CORRECTORS`, with options where wanted:
        ``mean_shift:alignment=variance``.
    gain_model : str, default "auto"
        One of :data:`metarouter.gain.GAIN_MODELS` or
        :data:`metarouter.gain.TABLE_GAIN_MODELS`, with options of the latter
        where wanted: ``sw_ranking:gamma=100``.
    embedder : str, default "default"
        See :func:`metarouter.features.make_pipeline`.
    premium_share, budget, max_loss, w : float, optional
        What sets the threshold, at most one; a premium share of 0.5 by
        default. The share and the budget are met on the training prompts, on
        at most 200,000 of them, drawn at random, spread as new ones are
        (:mod:`metarouter.spread`, :mod:`metarouter.gain.out_of_bag`); the loss
        limit on cross-fitted gold predictions, which makes its confidence
        approximate; :func:`metarouter.calibrate` on other gold makes it exact.
    confidence : float, default 0.95, of `max_loss`.
    cost : "unit" or "token", default "unit"
        Count premium calls, or expected USD from token prices.
    prices : path or mapping of model to ModelSpec, optional
        Token prices that go before the bundled ones.
    folds : int, default 5
        Folds of the cross-fitted metrics and of the audit of the labels (bias
        map, overlap, sensitivity); 0 leaves both out.
    on_bad_row : "error" or "skip", default "error"
    score_range : (low, high), optional
        Range of the scores, which becomes 0 to 1 and divides gains. The router keeps
        it, and gold labels that it is evaluated or calibrated on are read with it.
    seed : int, default 0
    progress : callable ``(done, total)``, optional

    Returns
    -------
    Router
        Nothing is written before :meth:`Router.save`.

    Raises
    ------
    InputError
        When a row, file or option cannot be used.
    DataError
        When the labels cannot support what was asked.

    Examples
    --------
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=0)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> router.route("What is 2 times 17?").model in router.models
    True
    """
    options = FitOptions(
        corrector=corrector,
        gain_model=gain_model,
        embedder=embedder,
        target=CalibrationTarget(
            premium_share=premium_share,
            budget=budget,
            max_loss=max_loss,
            w=w,
            confidence=confidence,
        ),
        cost=cost,
        prices=prices,
        folds=folds,
        score_range=score_range,
        seed=seed,
        premium=premium,
    )
    table, report = read_gain_table(
        gold,
        preference,
        premium=premium,
        cheap=cheap,
        on_bad_row=on_bad_row,
        score_range=score_range,
    )
    return fit_table(table, options, report=report, progress=progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """Options of :func:`fit` that the router depends on beside its labels.

    `score_range` is what the labels were read with, and `premium` the model that was
    named so; they are kept for labels and models to come. `cache` is a file in which vectors
    that are slow to compute are kept, or None; a fit goes over its texts many times, so that
    those of an endpoint, which may charge, are kept for as long as it lasts at least.

    Raises
    ------
    OptionError
        When `cost` or `folds` is not allowed.
    """

    corrector: str = "auto"
    gain_model: str = "auto"
    embedder: str = "default"
    target: CalibrationTarget = field(default_factory=CalibrationTarget)
    cost: str = "unit"
    prices: Prices | None = None
    folds: int = 5
    score_range: tuple[float, float] | None = None
    seed: int = 0
    premium: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.cost not in {"unit", "token"}:
            raise OptionError.of("cost", self.cost, "unit or token")
        if self.folds != 0 and self.folds < 2:
            raise OptionError.of("folds", self.folds, "0, or at least 2")
        make_corrector(self.corrector, seed=self.seed)
        make_pool_model(self.gain_model, seed=self.seed)

    def make_features(self) -> FeaturePipeline:
        """An unfitted feature pipeline."""
        return make_pipeline(self.embedder, cache=self.cache, seed=self.seed)

    def learn(self, table: GainTable) -> FittedGain:
        """Correct a table with features and fit the gain model to it."""
        return self.learn_with_diagnostics(table)[0]

    def learn_with_diagnostics(self, table: GainTable) -> tuple[FittedGain, dict[str, Any]]:
        """The same, with what the corrector learned."""
        corrector = make_corrector(self.corrector, seed=self.seed)
        model = learn_gain(table, corrector, gain_model=self.gain_model, seed=self.seed)
        return model, corrector.diagnostics_

    def as_config(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "corrector": self.corrector,
            "gain_model": self.gain_model,
            "embedder": self.embedder,
            "cost": self.cost,
            "folds": self.folds,
            "score_range": None if self.score_range is None else [*map(float, self.score_range)],
            "seed": self.seed,
            "premium": self.premium,
        }


def fit_table(
    table: GainTable,
    options: FitOptions | None = None,
    *,
    report: ReadReport | None = None,
    progress: Progress | None = None,
) -> Router:
    """Learn a router from a table of gains; see :func:`fit`."""
    options = FitOptions() if options is None else options
    with one_thread(), _asked_once(options) as kept:
        return _fit_table(table, kept, report, progress)


@contextmanager
def _asked_once(options: FitOptions) -> Iterator[FitOptions]:
    """Options by which an endpoint is asked for the vector of a text once."""
    if options.cache is not None or "endpoint:" not in options.embedder:
        yield options
        return
    with TemporaryDirectory() as folder:
        yield replace(options, cache=Path(folder) / "vectors.sqlite")


def _fit_table(
    table: GainTable,
    options: FitOptions,
    report: ReadReport | None,
    progress: Progress | None,
) -> Router:
    tick = _Ticks(progress, total=4)
    if options.cost == "token":
        _price_specs(table.models, options.prices)  # an unknown price is found before the work
    stage: FeatureStage = options.make_features().fit(table.queries)
    table = table.with_features(stage.transform(table.queries))
    tick()
    model, diagnostics = options.learn_with_diagnostics(table)
    tick()
    crossed = _cross_fitted(table, options)
    tick()
    stage, served = _served(model, stage, table)
    cost = make_cost(served, options.cost, options.prices)
    gains = _gains_as_new(served, options, model)
    w, reason = _price_of_cost(served, options, gains, cost, crossed)
    parts = {"features": stage.state(), "gain": model.state(), "cost": cost.state()}
    parts["policy"] = policy_state(parts, w=w, cost_unit=cost.unit)
    # so that an evaluation can leave these queries out
    hashes = np.sort(hash_queries(table.queries))
    parts["seen"] = ModelState(kind="query_hashes", arrays={"hash": hashes})
    found = {
        "calibration": options.target.as_config() | {"reason": reason},
        "diagnostics": json_value(diagnostics),
        "labels": None if report is None else json_value(report.to_dict()),
        **_audit(table, options, partial(_choices, served, gains, cost, w, crossed), crossed),
    }
    artifact = RouterArtifact(
        models=table.models,
        parts=parts,
        config=options.as_config() | found,
        data=_fingerprints(table),
        metrics=_metrics(crossed, options.seed),
        libraries=_library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    tick()
    return Router.from_artifact(artifact)


def _served(
    model: FittedGain, stage: FeatureStage, table: GainTable
) -> tuple[FeatureStage, GainTable]:
    """The stage that a router serves from, and the table with what it makes of the queries.

    A model that reads texts itself leaves the stage that the corrector used behind.
    """
    own = stage_of(model)
    if own is None:
        return stage, table
    return own, table.with_features(own.transform(table.queries))


def make_cost(table: GainTable, kind: str, prices: Prices | None = None) -> CostModel:
    """The cost model of a table's models.

    Parameters
    ----------
    table : GainTable with features
        Its token counts, where it has any, teach how long answers are.
    kind : "unit" or "token"
    prices : path or mapping of model to ModelSpec, optional
        Prices that go before the bundled ones.

    Raises
    ------
    OptionError
        When the price of a model is not known.
    """
    if kind == "unit":
        return UnitCost.for_pool(len(table.models))
    specs = _price_specs(table.models, prices)
    return TokenCost(
        input_usd_per_mtok=[_rate(spec, "input_usd_per_mtok") for spec in specs],
        output_usd_per_mtok=[_rate(spec, "output_usd_per_mtok") for spec in specs],
        predictor=fit_token_predictor(_table_features(table), _completion_tokens(table)),
    )


def _price_specs(models: Sequence[str], prices: Prices | None) -> list[ModelSpec]:
    given = read_prices(prices) if isinstance(prices, str | Path) else prices or {}
    return [lookup_price(model, given) for model in models]


def label_fingerprint(table: GainTable) -> LabelFingerprint:
    """Identity of the labels' content, whatever the order of their rows.

    Hashes, for each row sorted, its query's text, models, judge, gain and
    weight; equal fingerprints mean equal training labels.
    """
    keys = [
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in table.queries
    ]
    names = [name.encode() for name in table.models]
    judges = [name.encode() for name in table.judges]
    rows = sorted(
        b"\0".join((keys[q], names[c], names[b], judges[j], values))
        for q, c, b, j, values in zip(
            table.query.tolist(),
            table.candidate.tolist(),
            table.baseline.tolist(),
            table.judge.tolist(),
            map(bytes, np.column_stack([table.gain, table.weight]).astype("<f8")),
            strict=True,
        )
    )
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row + b"\n")
    return LabelFingerprint(rows=len(rows), sha256=digest.hexdigest())


class _Ticks:
    """Counts finished steps for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _cross_fitted(table: GainTable, options: FitOptions) -> CrossFitted | None:
    """Out-of-fold gold predictions; None when not wanted or too few gold labels."""
    n_gold = len(np.unique(table.query[table.is_gold & (table.weight > 0)]))
    if options.folds == 0 or n_gold < MIN_GOLD:
        return None
    try:
        return cross_fit(
            table, options.make_features, options.learn, folds=options.folds, seed=options.seed
        )
    except DataError:  # the whole could be fitted: without a fold, a model has too few gold labels
        return None


def _price_of_cost(
    table: GainTable,
    options: FitOptions,
    gains: Gains,
    cost: CostModel,
    crossed: CrossFitted | None,
) -> tuple[float, str]:
    """The policy's w, and how it was found."""
    target = options.target
    if target.w is not None:
        return target.w, "as given"
    features = _table_features(table)
    if target.max_loss is None:
        drawn, mean = _as_new(table, options, gains, crossed)
        texts = [table.queries[i] for i in drawn]
        costs = cost.costs(features[drawn], prompt_tokens(texts, cost))
        found = target.from_queries(mean, costs)
        return found.w, found.reason
    if crossed is None or not table.is_pair:
        raise OptionError(
            f"`max_loss` at fitting needs two models, {MIN_GOLD} gold queries and folds; "
            "otherwise fit with another target and calibrate on held-out gold"
        )
    rng = np.random.default_rng(options.seed)
    gold = crossed.by_query()
    texts = [table.queries[i] for i in gold.query]
    costs = cost.costs(features[gold.query], prompt_tokens(texts, cost))
    found = target.from_gold(gold.levelled(), gold.gain, costs, rng)
    return found.w, found.reason


def _gains_as_new(table: GainTable, options: FitOptions, model: FittedGain) -> Gains:
    """What the model says of training queries, spread as what it will say of new ones.

    Only where that sets the price of cost: it takes a fit to half of the queries. A model
    that can leave out what it knows of a query needs none, and one that reads texts itself
    is not fitted once more.
    """
    plain = partial(unseen_gains, model)
    if not _asks_for_a_part(options.target) or follows_rows(model) or stage_of(model) is not None:
        return plain
    ratio = spread_ratio(table, options.make_features, options.learn, seed=options.seed)
    known = plain(_table_features(table)[_sample(table.n_queries, options.seed)])
    return lambda features: draw_in(plain(features), known, ratio)


def _asks_for_a_part(target: CalibrationTarget) -> bool:
    """Whether some queries are to be sent: none or all are the same however gains are spread."""
    if target.w is not None or target.max_loss is not None:
        return False
    return target.premium_share not in {0.0, 1.0} and target.budget != 0


def _as_new(
    table: GainTable, options: FitOptions, gains: Gains, crossed: CrossFitted | None
) -> tuple[IntArray, FloatArray]:
    """Training queries, and gains that are spread as those of new ones will be.

    Features are fitted to training queries too. Where a model that follows its rows was
    cross-fitted on all queries, each stands where its fold's model, which knew neither it nor
    its features, placed it among those that it knew.
    """
    features = _table_features(table)
    if crossed is not None and crossed.rank is not None:
        gold = crossed.by_query()
        if gold.rank is not None and gold.n_queries == table.n_queries <= _PRICED:
            return gold.query, np.quantile(gains(features), gold.rank)
    drawn = _sample(table.n_queries, options.seed)
    return drawn, gains(features[drawn])


def _sample(n: int, seed: int) -> IntArray:
    """All queries, or enough of them that a share is known to a fifth of a per cent.

    A budget is met on the same queries, as closely as their costs are alike.
    """
    if n <= _PRICED:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, _PRICED, replace=False))


def _audit(
    table: GainTable,
    options: FitOptions,
    choose: Callable[[IntArray], IntArray],
    crossed: CrossFitted | None,
) -> dict[str, Any]:
    """Bias map, overlap and sensitivity of the labels, as JSON values."""
    if options.folds == 0:
        return dict.fromkeys(AUDITED, "cannot be told: fitted with folds=0")
    honest = crossed is not None and table.is_pair
    found = audit_labels(table, choose=choose if honest else None, seed=options.seed)
    plain: dict[str, Any] = json_value(found)
    return plain


def _choices(
    table: GainTable,
    gains: Gains,
    cost: CostModel,
    w: float,
    crossed: CrossFitted | None,
    queries: IntArray,
) -> IntArray:
    """The router's choice for some queries of a pair, out of fold where there is gold."""
    texts = [table.queries[i] for i in queries]
    features = _table_features(table)[queries]
    mean = gains(features).reshape(len(queries))
    if crossed is not None:
        gold = crossed.by_query()
        unseen = dict(zip((table.queries[i] for i in gold.query), gold.levelled(), strict=True))
        mean = np.array([unseen.get(text, own) for text, own in zip(texts, mean, strict=True)])
    costs = cost.costs(features, prompt_tokens(texts, cost))
    return UtilityPolicy(models=table.models, w=w).choose(mean, costs)


def _rate(spec: ModelSpec, name: str) -> float:
    rate: float | None = getattr(spec, name)
    if rate is None:
        raise OptionError.of(f"prices[{spec.name!r}].{name}", rate, "USD per million tokens")
    return rate


def _table_features(table: GainTable) -> NDArray[np.float32]:
    if table.features is None:
        raise DataError("the table has no features: call with_features first")
    return table.features


def _completion_tokens(table: GainTable) -> FloatArray:
    """Mean tokens of each model's answer to each query, (n_queries, n_models); NaN unknown."""
    total = np.zeros((table.n_queries, len(table.models)))
    count = np.zeros_like(total)
    for model, tokens in (
        (table.candidate, table.candidate_tokens),
        (table.baseline, table.baseline_tokens),
    ):
        known = np.isfinite(tokens)
        np.add.at(total, (table.query[known], model[known]), tokens[known])
        np.add.at(count, (table.query[known], model[known]), 1.0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _fingerprints(table: GainTable) -> dict[str, LabelFingerprint]:
    sources = {"gold": table.gold(), "preference": table.preference()}
    return {name: label_fingerprint(rows) for name, rows in sources.items() if len(rows)}


def _metrics(crossed: CrossFitted | None, seed: int) -> dict[str, Any]:
    """What the router is worth on gold labels that its folds did not see.

    The area is within folds; its interval is of a bootstrap over queries, whose rows go together.
    Each query counts once, however many labels it has.
    """
    if crossed is None:
        return {}
    from metarouter.evaluation.intervals import bootstrap_interval
    from metarouter.evaluation.metrics import folded_area_statistic

    statistic = folded_area_statistic(crossed.score, crossed.gain, crossed.fold)
    _, query = np.unique(crossed.query, return_inverse=True)
    each = crossed.weight / np.bincount(query, crossed.weight)[query]
    area = bootstrap_interval(
        lambda weights: statistic(weights[:, query] * each),
        crossed.n_queries,
        np.random.default_rng(seed),
        n_boot=500,
    )
    mean_gain = float(np.average(crossed.gain, weights=each))
    metrics: dict[str, Any] = json_value(
        {"efficiency_gain_area": asdict(area), "mean_gold_gain": mean_gain}
    )
    return metrics


def _library_versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
