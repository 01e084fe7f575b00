"""A trained router for a model, or a pair, that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metarouter.artifact import RouterArtifact
from metarouter.errors import DataError, OptionError
from metarouter.fitting import Prices, label_fingerprint
from metarouter.gain.onboarded import base_gains, onboarding_rows
from metarouter.gain.population import NewGain, estimate_gain, make_population
from metarouter.labels.queries import hash_queries
from metarouter.labels.read import Labels, read_gain_table
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.policy.costs import (
    DEFAULT_COMPLETION_TOKENS,
    CostModel,
    TokenCost,
    TokenPredictor,
    UnitCost,
    constant_predictor,
    fit_token_predictor,
    keep_models,
)
from metarouter.policy.prices import lookup_price, read_prices
from metarouter.records import json_value
from metarouter.router import Router, policy_state
from metarouter.types import FloatArray, ModelState

__all__ = ["onboard"]


def onboard(
    router: Router,
    labels: Labels | None = None,
    *,
    model: str,
    baseline: str | None = None,
    like: str | None = None,
    prices: Prices | None = None,
) -> Router:
    """Add a model to a fitted router, or move the router to a new pair, with few labels.

    Estimates the new model's ψ(q) = E[gold gain over the reference given q],
    taking it for another draw from the models that the router knows; see
    :mod:`metarouter.gain.population`. Without labels that prior is all there
    is, and the stated deviation is the spread of the known models. With a few
    thousand labels fit a router anew.

    Parameters
    ----------
    router : Router
    labels : gold label source, optional
        Of `model` and models that the router knows (or `baseline`); 20 to 200
        queries, like the traffic. Other rows are ignored.
    model : str, the new model's name.
    baseline : str, optional
        Also new: the router that comes back serves the pair (baseline, model),
        and its prior is that the pair's gain is like the known gains.
    like : str, optional
        A known model that the new one is expected to resemble, in gain and in
        calls that it costs; an average of the candidates when not given.
    prices : path or mapping of model to ModelSpec, optional
        Where the router counts USD.

    Returns
    -------
    Router
        The models in the order that they have in every router: the reference
        first, the others by ascending gain, so that the new one stands where
        its gain at the centre of the features puts it; one that was named premium
        at the fit stays last. The price of cost is the old one: calibrate it again.
        ``artifact.config["onboarded"]`` says what was learned.

    Raises
    ------
    OptionError
        When a name is taken or unknown, or a price is.
    DataError
        When no label is about the new model.

    Examples
    --------
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=0)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> onboard(router, model="newcomer").models
    ('cheap', 'premium', 'newcomer')
    """
    _check_names(router, model, baseline, like)
    probes = _read_probes(router, labels, model, baseline)
    alike = None if like is None else router.models.index(like)
    population = make_population(_levels(router), alike)
    size = _size(router, probes)
    gains, _ = base_gains(router.scorer, probes.features)
    rows = onboarding_rows(gains, probes.features, size)
    gain = probes.gain + _over_reference(probes, gains)
    found = estimate_gain(population, rows, gain, probes.table.weight, probes.table.query)
    place = _place(router, found) if baseline is None else None
    models = (*router.models, model) if baseline is None else (baseline, model)
    cost = _cost(router, probes, models, like, prices).state()
    if place is not None:
        order = np.insert(np.arange(len(router.models)), place, len(router.models)).tolist()
        models, cost = tuple(models[i] for i in order), keep_models(cost, order)
    parts = {
        **router.artifact.parts,
        "gain": _gain_state(router, found, size, place=place),
        "cost": cost,
        "seen": _seen(router, probes),
    }
    parts["policy"] = policy_state(parts, w=router.policy.w, cost_unit=router.policy.cost_unit)
    return Router.from_artifact(
        _artifact(router, parts, models, probes, _described(found, rows, probes, model, like))
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probes:
    """Labels of the new model, each over a known model or the new baseline."""

    table: GainTable
    gain: FloatArray  # (k,)
    other: list[int]  # place of the other model in router.models; 0 the reference
    features: Any  # (k, d)
    tokens: FloatArray  # (k, 2) completion tokens of the other model and the new one


def _check_names(router: Router, model: str, baseline: str | None, like: str | None) -> None:
    for name, value in (("model", model), ("baseline", baseline)):
        if value is not None and (not value.strip() or value in router.models):
            known = ", ".join(router.models)
            raise OptionError.of(name, value, f"a name that the router does not know yet ({known})")
    if baseline == model:
        raise OptionError.of("baseline", baseline, "another name than that of the new model")
    if like is not None and like not in router.models:
        raise OptionError.of("like", like, f"one of {', '.join(router.models)}")


def _read_probes(
    router: Router, labels: Labels | None, model: str, baseline: str | None
) -> _Probes:
    if labels is None:
        return _no_probes(router)
    given = router.artifact.config.get("score_range")
    table, _ = read_gain_table(labels, score_range=None if given is None else tuple(given))
    known = (baseline,) if baseline is not None else router.models
    names = np.array([known.index(name) if name in known else -1 for name in table.models])
    is_new = np.array([name == model for name in table.models])
    leads = is_new[table.candidate] & (names[table.baseline] >= 0)
    trails = is_new[table.baseline] & (names[table.candidate] >= 0)
    keep = (leads | trails) & (table.weight > 0)
    if not keep.any():
        raise DataError(
            f"no label compares {model} with {' or '.join(known)}; allowed: scores of both on the "
            "same queries, or gains of one over the other"
        )
    table, leads = table.rows(keep), leads[keep]
    other = np.where(leads, table.baseline, table.candidate)
    tokens = np.column_stack([table.baseline_tokens, table.candidate_tokens])
    return _Probes(
        table=table,
        gain=np.where(leads, table.gain, -table.gain),
        other=names[other].tolist(),
        features=router.features.transform([table.queries[i] for i in table.query]),
        tokens=np.where(leads[:, None], tokens, tokens[:, ::-1]),
    )


def _no_probes(router: Router) -> _Probes:
    nothing = np.zeros(0)
    return _Probes(
        table=make_gain_table(queries=[], gain=nothing, is_gold=nothing),
        gain=nothing,
        other=[],
        features=np.zeros((0, router.features.dim), dtype=np.float32),
        tokens=np.zeros((0, 2)),
    )


def _levels(router: Router) -> FloatArray:
    """Gains of the known candidates at the centre of the features."""
    centre = np.zeros((1, router.features.dim), dtype=np.float32)
    return np.asarray(base_gains(router.scorer, centre)[0][0])


def _size(router: Router, probes: _Probes) -> float:
    """Root mean square length of a row of features."""
    if not len(probes.features):
        return float(np.sqrt(router.features.dim))
    squares = (probes.features.astype(np.float64) ** 2).sum(axis=1)
    return float(np.sqrt(squares.mean())) or 1.0


def _over_reference(probes: _Probes, gains: FloatArray) -> FloatArray:
    """Predicted gain over the reference of the model that each label compares with."""
    with_reference = np.column_stack([np.zeros(len(gains)), gains])
    return np.asarray(with_reference[np.arange(len(gains)), probes.other])


def _place(router: Router, found: NewGain) -> int:
    """Place before the first better model; a premium model that was named stays the last."""
    levels = _levels(router)
    centre = onboarding_rows(levels[None], np.zeros((1, router.features.dim)), 1.0)
    is_better = levels > centre @ found.mean
    if router.artifact.config.get("premium") == router.models[-1]:
        is_better[-1] = True
    return 1 + int(np.argmax(is_better)) if is_better.any() else len(router.models)


def _gain_state(router: Router, found: NewGain, size: float, *, place: int | None) -> ModelState:
    base = router.artifact.parts["gain"]
    values, vectors = np.linalg.eigh(found.covariance)
    return ModelState(
        kind="onboarded",
        config={
            "base": {"kind": base.kind, "config": base.config},
            "keeps_base": place is not None,
            "place": 0 if place is None else place - 1,
            "size": size,
        },
        arrays={f"base.{name}": array for name, array in base.arrays.items()}
        | {"mean": found.mean, "factor": vectors * np.sqrt(np.maximum(values, 0.0))},
    )


def _cost(
    router: Router,
    probes: _Probes,
    models: tuple[str, ...],
    like: str | None,
    prices: Prices | None,
) -> CostModel:
    """The router's cost model with the new models in it."""
    old = router.cost
    is_added = len(models) > len(router.models)
    if isinstance(old, UnitCost):
        place = -1 if like is None else router.models.index(like)
        return UnitCost(units=(*old.units, old.units[place])) if is_added else UnitCost()
    if not isinstance(old, TokenCost):
        raise OptionError.of("cost", type(old).__name__, "a router that counts calls or USD")
    given = read_prices(prices) if isinstance(prices, str | Path) else prices or {}
    new = models[-1:] if is_added else models
    specs = [lookup_price(name, given) for name in new]
    rates = [[spec.input_usd_per_mtok, spec.output_usd_per_mtok] for spec in specs]
    own = np.array(rates, dtype=np.float64).T
    before = np.array([old.input_usd_per_mtok, old.output_usd_per_mtok], dtype=np.float64)
    prompt, answer = np.hstack([before, own]) if is_added else own
    tokens = fit_token_predictor(probes.features, probes.tokens[:, -len(new) :])
    return TokenCost(
        input_usd_per_mtok=prompt,
        output_usd_per_mtok=answer,
        predictor=_joined(old.predictor, tokens, len(router.models)) if is_added else tokens,
    )


def _joined(old: TokenPredictor | None, new: TokenPredictor, n_known: int) -> TokenPredictor:
    old = constant_predictor([DEFAULT_COMPLETION_TOKENS] * n_known) if old is None else old
    assert new.slope is not None  # noqa: S101 - a fitted predictor has one
    slope = np.zeros((len(new.slope), len(old.level))) if old.slope is None else old.slope
    return TokenPredictor(
        level=np.append(old.level, new.level),
        slope=np.hstack([slope, new.slope]),
        smearing=np.append(old.smearing, new.smearing),
        low=np.append(old.low, new.low),
        high=np.append(old.high, new.high),
    )


def _seen(router: Router, probes: _Probes) -> ModelState:
    """Queries that an evaluation has to leave out."""
    texts = [probes.table.queries[i] for i in np.unique(probes.table.query)]
    known = router.query_hashes
    hashes = np.sort(hash_queries(texts)) if texts else np.zeros(0, dtype=np.uint64)
    return ModelState(
        kind="query_hashes",
        arrays={"hash": hashes if known is None else np.union1d(known, hashes)},
    )


def _described(
    found: NewGain, rows: FloatArray, probes: _Probes, model: str, like: str | None
) -> dict[str, Any]:
    """What was learned of the new model, as JSON values."""
    queries, first = np.unique(probes.table.query, return_index=True)
    fact: dict[str, Any] = {
        "model": model,
        "like": like,
        "n_labels": len(queries),
        "noise_variance": found.noise_variance,
        "own_departure": found.own_share,
    }
    if len(rows):
        mean, std = found.mean_gain(rows[first])
        fact |= {"mean_gain": mean, "mean_gain_std": std}
    result: dict[str, Any] = json_value(fact)
    return result


def _artifact(
    router: Router,
    parts: dict[str, ModelState],
    models: tuple[str, ...],
    probes: _Probes,
    fact: dict[str, Any],
) -> RouterArtifact:
    old = router.artifact
    earlier = old.config.get("onboarded", [])
    data = dict(old.data)
    if len(probes.gain):
        data[f"onboarding of {fact['model']}"] = label_fingerprint(probes.table)
    return replace(
        old,
        models=models,
        parts=parts,
        config=old.config | {"onboarded": [*earlier, fact]},
        data=data,
        # What was measured at fitting is about the models of that time.
        metrics=old.metrics if len(models) > len(router.models) else {},
    )
