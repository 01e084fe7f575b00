"""S-, T-, X-, R- and DR-learners of Δ(x) = E[y | t=1, x] − E[y | t=0, x].

All share one procedure (:class:`_Learner`), and a learner is mostly its
formula:

1. Draw folds, stratified by source, rows of a group together.
2. First stage (X, R, DR): cross-fit the nuisances m, μ₀, μ₁ and e.
3. Final stage: fit Δ̂ on all rows with nuisances that did not see the row; it
   answers :meth:`predict`.
4. For every fold k, repeat steps 2 and 3 without fold k, and predict fold k:
   ``out_of_fold_``. No outcome of fold k is anywhere in it, not even through
   the nuisances of other rows (see :mod:`metarouter.causal.crossfit`), so
   y + Δ̂ does not carry a row's own noise twice.

Steps 1 to 4 can be repeated over random splits; the median is taken. Rows that
the propensity trims do not teach the final stage; they still get a Δ̂, which
then extrapolates (``propensity_.kept`` says which).

The causal reading needs consistency, no unobserved cause of both t and y
given x (:mod:`metarouter.causal.sensitivity` asks how much it would take), and
overlap 0 < e(x) < 1 (``diagnostics_.overlap``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.causal.crossfit import (
    CrossFitPairs,
    cross_fit_pairs,
    fit_model,
    repeat_median,
    stratified_folds,
)
from metarouter.causal.final_stage import Blend, Difference, Direct, ShiftModel, Toggle, interact
from metarouter.causal.overlap import OverlapReport
from metarouter.causal.propensity import Propensity, PropensityFit
from metarouter.causal.pseudo_outcomes import (
    PseudoOutcome,
    dr_pseudo_outcome,
    r_pseudo_outcome,
    x_pseudo_outcome,
)
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.linear import Ridge
from metarouter.types import BoolArray, FloatArray, IntArray, Regressor

__all__ = [
    "DRLearner",
    "LearnerDiagnostics",
    "RLearner",
    "SLearner",
    "TLearner",
    "XLearner",
]

Factory = Callable[[], Regressor]
_CHUNK = 65_536  # rows a pass, so that the variance of a million rows fits in memory
_CALIBRATION_ROWS = 4096  # enough to compare two mean variances


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerDiagnostics:
    """What a fitted learner can say about itself; of the first split.

    Attributes
    ----------
    n, n_treated : rows, and rows with t = 1.
    n_folds, n_repeats : how it was cross-fitted.
    mean_shift : mean of the out-of-fold Δ̂ over the rows.
    shift_sd : standard deviation of the out-of-fold Δ̂ over the rows.
    nuisance_r2 : out-of-fold R² of each outcome nuisance on its own rows;
        negative when it predicts worse than a constant.
    final_r2 : share of the (weighted) variance of the pseudo-outcome that the
        out-of-fold Δ̂ explains beyond a constant shift; near or below 0 when no
        heterogeneity was found. None for S and T.
    overlap : OverlapReport, None for S and T.
    """

    n: int
    n_treated: int
    n_folds: int
    n_repeats: int
    mean_shift: float
    shift_sd: float
    nuisance_r2: dict[str, float]
    final_r2: float | None
    overlap: OverlapReport | None


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    X: NDArray[Any]
    y: FloatArray
    t: BoolArray
    weight: FloatArray | None

    def rows(self, mask: BoolArray) -> _Sample:
        weight = None if self.weight is None else self.weight[mask]
        return _Sample(self.X[mask], self.y[mask], self.t[mask], weight)

    def fit(self, make: Factory, y: FloatArray, precision: FloatArray | None = None) -> Any:
        """Fit on all rows, with the label weights times `precision`."""
        weight = self.weight
        if precision is not None:
            weight = precision if weight is None else weight * precision
        return fit_model(make, self.X, y, weight)


@dataclass(frozen=True, slots=True, eq=False)
class _FirstStage:
    """Cross-fitted nuisances of the outcome, and the propensity."""

    outcome: dict[str, CrossFitPairs] = field(default_factory=dict)
    propensity: PropensityFit | None = None

    def without(self, fold: int | None) -> dict[str, FloatArray]:
        values = {name: table.without(fold) for name, table in self.outcome.items()}
        if self.propensity is not None:
            values["e"] = self.propensity.used
        return values


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One random split: the final model, the models without each fold, their Δ̂."""

    model: ShiftModel
    fold_models: tuple[ShiftModel, ...]
    first_stage: _FirstStage
    out_of_fold: FloatArray
    inflation: float = 1.0

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        starts = range(0, max(len(X), 1), _CHUNK)
        blocks = [slice(start, start + _CHUNK) for start in starts]
        return np.concatenate([self._variance(X[b], None if e is None else e[b]) for b in blocks])

    def _variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        own = self.model.variance(X, e)
        return self.jackknife(X, e) if own is None else self.inflation * own

    def jackknife(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Delete-one-fold jackknife, ``(K − 1)/K · Σ_k (Δ̂₋ₖ(x) − mean)²``."""
        runs = np.stack([model.predict(X, e) for model in self.fold_models])
        result: FloatArray = (len(runs) - 1) * runs.var(axis=0)
        return result

    def calibrated(self, X: NDArray[Any], e: FloatArray | None) -> _Run:
        """With the final model's variance scaled up, never down, to the jackknife's mean."""
        some = slice(None, None, -(-len(X) // _CALIBRATION_ROWS))
        X, e = X[some], None if e is None else e[some]
        own = self.model.variance(X, e)
        if own is None:
            return self
        ratio = float(self.jackknife(X, e).mean()) / max(float(own.mean()), 1e-300)
        return replace(self, inflation=max(1.0, ratio))


@dataclass(kw_only=True)
class _Learner:
    """The shared procedure; see the module docstring for its steps."""

    make_final: Factory = Ridge
    n_folds: int = 5
    n_repeats: int = 1
    seed: int = 0

    out_of_fold_: FloatArray | None = field(default=None, init=False, repr=False)
    shift_variance_: FloatArray | None = field(default=None, init=False, repr=False)
    propensity_: PropensityFit | None = field(default=None, init=False, repr=False)
    diagnostics_: LearnerDiagnostics | None = field(default=None, init=False, repr=False)
    _runs: list[_Run] = field(default_factory=list, init=False, repr=False)

    nuisance_names: ClassVar[tuple[str, ...]] = ()

    def fit(
        self,
        X: NDArray[Any],
        y: Any,
        t: Any,
        sample_weight: Any = None,
        groups: NDArray[Any] | None = None,
        nuisances: Mapping[str, FloatArray] | None = None,
    ) -> Self:
        """Learn Δ(x) from rows of both sources.

        Parameters
        ----------
        X : array, shape (n, d), finite
        y : array, shape (n,), finite, outcomes of both sources on one scale
        t : array, shape (n,), bool or 0/1
        sample_weight : array, shape (n,), at least 0, or None
            Precision of each outcome.
        groups : array, shape (n,), or None
            Rows of one group stay in one fold.
        nuisances : mapping of name to array of shape (n,), or None
            Values for some of ``nuisance_names``, used as they are instead of
            fitted ones. They should come from models that did not see the row.

        Returns
        -------
        self

        Raises
        ------
        DataError
            When arrays do not fit together, hold NaN, or a source has fewer
            independent rows than folds.
        OptionError
            When a nuisance is given that this learner does not use.
        """
        sample = _check_sample(X, y, t, sample_weight)
        given = self._check_nuisances(nuisances or {}, len(sample.y))
        runs: list[_Run] = []

        def once(rng: np.random.Generator) -> FloatArray:
            folds = stratified_folds(sample.t, self.n_folds, rng, groups)
            runs.append(self._run(sample, folds, given))
            return runs[-1].out_of_fold

        repeated = repeat_median(once, self.n_repeats, np.random.default_rng(self.seed))
        self._runs = runs
        self.propensity_ = runs[0].first_stage.propensity
        self.out_of_fold_ = repeated.value
        e = None if self.propensity_ is None else self.propensity_.used
        within = np.mean([run.variance(sample.X, e) for run in runs], axis=0)
        self.shift_variance_ = within + repeated.split_variance
        self.diagnostics_ = self._diagnose(sample, runs[0])
        return self

    def predict(self, X: NDArray[Any]) -> FloatArray:
        """Δ̂ for rows X (n, d), shape (n,).

        For the training rows use ``out_of_fold_``: this one has seen them.
        """
        median: FloatArray = np.median(self._predict_runs(np.asarray(X)), axis=0)
        return median

    def predict_variance(self, X: NDArray[Any]) -> FloatArray:
        """Variance of Δ̂ at rows X (n, d), shape (n,); outcome noise is not in it.

        Notes
        -----
        The square of the final model's ``predict_std`` where it has one, times
        a factor of at least 1 that makes its mean no smaller than that of the
        delete-one-fold jackknife, which also sees the noise of the nuisances.
        Without ``predict_std``, the jackknife itself. The variance between
        repeated splits is added. Shrinkage bias of Δ̂ is covered only in as far
        as a Bayesian ``predict_std`` (ridge) accounts for it: with few treated
        rows and many features 95 % intervals cover less, the X-learner's least
        (``tests/causal`` holds them to their rates).
        """
        X = np.asarray(X)
        runs = self._predict_runs(X)
        e = self._propensity_at(X)
        within = np.mean([run.variance(X, e) for run in self._runs], axis=0)
        total: FloatArray = within + np.median((runs - np.median(runs, axis=0)) ** 2, axis=0)
        return total

    def _predict_runs(self, X: NDArray[Any]) -> FloatArray:
        if not self._runs:
            raise NotFittedError.of(self)
        e = self._propensity_at(X)
        return np.stack([run.model.predict(X, e) for run in self._runs])

    def _propensity_at(self, X: NDArray[Any]) -> FloatArray | None:
        return None  # only the X-learner weighs by it

    def _run(self, sample: _Sample, folds: IntArray, given: Mapping[str, FloatArray]) -> _Run:
        first_stage = self._first_stage(sample, folds, given)
        propensity = first_stage.propensity
        kept = np.ones(len(folds), dtype=bool) if propensity is None else propensity.kept
        e = None if propensity is None else propensity.used

        def fit_without(fold: int | None) -> ShiftModel:
            rows = kept if fold is None else kept & (folds != fold)
            values = first_stage.without(fold)
            return self._fit_final(sample.rows(rows), {k: v[rows] for k, v in values.items()})

        fold_models = tuple(fit_without(fold) for fold in range(self.n_folds))
        out_of_fold = np.empty(len(folds))
        for fold, model in enumerate(fold_models):
            rows = folds == fold
            out_of_fold[rows] = model.predict(sample.X[rows], None if e is None else e[rows])
        run = _Run(fit_without(None), fold_models, first_stage, out_of_fold)
        return run.calibrated(sample.X, e)

    def _first_stage(
        self, sample: _Sample, folds: IntArray, given: Mapping[str, FloatArray]
    ) -> _FirstStage:
        return _FirstStage()

    def _fit_final(self, sample: _Sample, values: dict[str, FloatArray]) -> ShiftModel:
        raise NotImplementedError

    def _pseudo_outcome(self, sample: _Sample, values: dict[str, FloatArray]) -> PseudoOutcome:
        raise NotImplementedError

    def _check_nuisances(
        self, nuisances: Mapping[str, FloatArray], n: int
    ) -> dict[str, FloatArray]:
        checked = {}
        for name, values in nuisances.items():
            if name not in self.nuisance_names:
                allowed = ", ".join(self.nuisance_names) or f"none for {type(self).__name__}"
                raise OptionError.of("nuisances", name, allowed)
            checked[name] = _check_column(name, values, n)
        return checked

    def _diagnose(self, sample: _Sample, run: _Run) -> LearnerDiagnostics:
        values = run.first_stage.without(None)
        propensity = run.first_stage.propensity
        used = {"m": np.ones_like(sample.t), "mu0": ~sample.t, "mu1": sample.t}
        outcome = [name for name in self.nuisance_names if name != "e"]
        final_r2 = None
        if propensity is not None:
            kept = propensity.kept
            pseudo = self._pseudo_outcome(sample, values)
            final_r2 = _r2(pseudo.value[kept], run.out_of_fold[kept], pseudo.weight[kept])
        return LearnerDiagnostics(
            n=len(sample.y),
            n_treated=int(sample.t.sum()),
            n_folds=self.n_folds,
            n_repeats=self.n_repeats,
            mean_shift=float(run.out_of_fold.mean()),
            shift_sd=float(run.out_of_fold.std()),
            nuisance_r2={k: _r2(sample.y[used[k]], values[k][used[k]]) for k in outcome},
            final_r2=final_r2,
            overlap=None if propensity is None else propensity.overlap,
        )


@dataclass(kw_only=True)
class _TwoStageLearner(_Learner):
    """Nuisances first, then a final model on a pseudo-outcome."""

    make_nuisance: Factory = Ridge
    propensity: Propensity = field(default_factory=Propensity)

    def _first_stage(
        self, sample: _Sample, folds: IntArray, given: Mapping[str, FloatArray]
    ) -> _FirstStage:
        train_masks = {"m": None, "mu0": ~sample.t, "mu1": sample.t}
        outcome = {}
        for name in self.nuisance_names:
            if name == "e":
                continue
            if name in given:
                table = np.broadcast_to(given[name][:, None], (len(folds), self.n_folds))
                outcome[name] = CrossFitPairs(predictions=table, folds=folds)
            else:
                outcome[name] = cross_fit_pairs(
                    self.make_nuisance,
                    sample.X,
                    sample.y,
                    folds,
                    train_mask=train_masks[name],
                    sample_weight=sample.weight,
                )
        source = replace(self.propensity, known=given["e"]) if "e" in given else self.propensity
        return _FirstStage(outcome, source.estimate(sample.X, sample.t, folds))

    def _fit_final(self, sample: _Sample, values: dict[str, FloatArray]) -> ShiftModel:
        pseudo = self._pseudo_outcome(sample, values)
        return Direct(sample.fit(self.make_final, pseudo.value, pseudo.weight))


@dataclass(kw_only=True)
class SLearner(_Learner):
    """One outcome model of (x, t); Δ̂ is its difference between t = 1 and t = 0.

    The model sees the features X, s · t and t · X. With a penalised linear model
    the effect is shrunk towards 0 together with everything else: the most
    cautious of the five, biased towards no shift. The scale s is the root of the
    summed variances of X, so that a constant shift is penalised no more than all
    of x together.

    Parameters
    ----------
    make_final : callable, default metarouter.linear.Ridge
        Makes the unfitted outcome regressor.
    n_folds : int, at least 3 for X, R and DR, else 2; default 5
    n_repeats : int, default 1
        Random splits over which the median is taken.
    seed : int, default 0
        Draws the folds.

    Attributes
    ----------
    out_of_fold_ : array, shape (n,), Δ̂ of the training rows, each honest.
    shift_variance_ : array, shape (n,), variance of Δ̂ at the training rows.
    diagnostics_ : LearnerDiagnostics

    References
    ----------
    Künzel et al. (2019), https://doi.org/10.1073/pnas.1804597116.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> t = np.arange(40) % 2 == 0
    >>> learner = SLearner(make_final=lambda: Ridge(penalty=1e-9)).fit(X, X[:, 0] * t, t)
    >>> learner.predict(np.array([[0.5]])).round(4).tolist()
    [0.5]
    """

    def _fit_final(self, sample: _Sample, values: dict[str, FloatArray]) -> ShiftModel:
        scale = float(np.sqrt(sample.X.var(axis=0, dtype=np.float64).sum())) or 1.0
        wide = replace(sample, X=interact(sample.X, sample.t, scale))
        return Toggle(wide.fit(self.make_final, sample.y), scale)


@dataclass(kw_only=True)
class TLearner(_Learner):
    """One outcome model per source; Δ̂(x) = μ̂₁(x) − μ̂₀(x).

    Simple and consistent, but the two models are regularised apart: with few
    treated rows the difference takes over the shrinkage of μ̂₁.

    Parameters, attributes and reference are those of :class:`SLearner`.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> t = np.arange(40) % 2 == 0
    >>> learner = TLearner(make_final=lambda: Ridge(penalty=1e-9)).fit(X, X[:, 0] * t, t)
    >>> learner.predict(np.array([[0.5]])).round(4).tolist()
    [0.5]
    """

    def _fit_final(self, sample: _Sample, values: dict[str, FloatArray]) -> ShiftModel:
        treated, control = sample.rows(sample.t), sample.rows(~sample.t)
        return Difference(
            treated.fit(self.make_final, treated.y), control.fit(self.make_final, control.y)
        )


@dataclass(kw_only=True)
class XLearner(_TwoStageLearner):
    """Regress the imputed effects of each source, then blend the two by e(x).

    τ̂₁ is fitted on ``y − μ̂₀(x)`` of the treated rows, τ̂₀ on ``μ̂₁(x) − y`` of the
    others, and ``Δ̂(x) = e(x) τ̂₀(x) + (1 − e(x)) τ̂₁(x)``. With few treated rows
    nearly all weight is on τ̂₁, which leans on the well-estimated μ̂₀.

    Parameters
    ----------
    make_nuisance, make_final : callable, default metarouter.linear.Ridge
        Make the unfitted regressors of the outcomes and of the effects.
    propensity : Propensity
        Estimated by default; give the design's when it is known. Known only as
        an array, new rows cannot be predicted.
    n_folds, n_repeats, seed : as in :class:`SLearner`; at least 3 folds.

    Attributes
    ----------
    out_of_fold_, shift_variance_, diagnostics_ : as in :class:`SLearner`.
    propensity_ : PropensityFit

    References
    ----------
    Künzel et al. (2019), https://doi.org/10.1073/pnas.1804597116.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> t = np.arange(40) % 2 == 0
    >>> ridge = lambda: Ridge(penalty=1e-9)
    >>> learner = XLearner(make_nuisance=ridge, make_final=ridge, propensity=Propensity(known=0.5))
    >>> learner.fit(X, X[:, 0] * t, t).predict(np.array([[0.5]])).round(4).tolist()
    [0.5]
    """

    nuisance_names: ClassVar[tuple[str, ...]] = ("mu0", "mu1", "e")

    def _pseudo_outcome(self, sample: _Sample, values: dict[str, FloatArray]) -> PseudoOutcome:
        return x_pseudo_outcome(sample.y, sample.t, mu0=values["mu0"], mu1=values["mu1"])

    def _fit_final(self, sample: _Sample, values: dict[str, FloatArray]) -> ShiftModel:
        imputed = self._pseudo_outcome(sample, values).value
        treated, control = (
            sample.rows(rows).fit(self.make_final, imputed[rows]) for rows in (sample.t, ~sample.t)
        )
        return Blend(treated, control)

    def _propensity_at(self, X: NDArray[Any]) -> FloatArray | None:
        return None if self.propensity_ is None else self.propensity_.predict(X)


@dataclass(kw_only=True)
class RLearner(_TwoStageLearner):
    """Regress outcome residuals on source residuals.

    Minimises ``Σ [(y − m̂(x)) − (t − ê(x)) Δ(x)]²`` plus the final model's
    penalty: a regression of ``(y − m̂)/(t − ê)`` with weight ``(t − ê)²``. First-order
    insensitive to errors of m̂ and ê.

    Parameters and attributes are those of :class:`XLearner`.

    References
    ----------
    Nie and Wager (2021), https://doi.org/10.1093/biomet/asaa076.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> t = np.arange(40) % 2 == 0
    >>> learner = RLearner(make_final=lambda: Ridge(penalty=1e-9), propensity=Propensity(known=0.5))
    >>> _ = learner.fit(X, X[:, 0] * t, t, nuisances={"m": X[:, 0] / 2})
    >>> learner.predict(np.array([[0.5]])).round(4).tolist()
    [0.5]
    """

    nuisance_names: ClassVar[tuple[str, ...]] = ("m", "e")

    def _pseudo_outcome(self, sample: _Sample, values: dict[str, FloatArray]) -> PseudoOutcome:
        return r_pseudo_outcome(sample.y, sample.t, m=values["m"], e=values["e"])


@dataclass(kw_only=True)
class DRLearner(_TwoStageLearner):
    """Regress the doubly robust pseudo-outcome on x.

    ``φ = μ̂₁ − μ̂₀ + (t − ê)/(ê(1 − ê)) · (y − μ̂_t)``: right when either ê or both μ̂
    are. Rows of the rarer source have large, noisy pseudo-outcomes, so the
    final model should be a cautious one.

    Parameters and attributes are those of :class:`XLearner`.

    References
    ----------
    Kennedy (2023), https://doi.org/10.1214/23-EJS2157.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> t = np.arange(40) % 2 == 0
    >>> ridge = lambda: Ridge(penalty=1e-9)
    >>> learner = DRLearner(make_nuisance=ridge, make_final=ridge, propensity=Propensity(known=0.5))
    >>> learner.fit(X, X[:, 0] * t, t).predict(np.array([[0.5]])).round(4).tolist()
    [0.5]
    """

    nuisance_names: ClassVar[tuple[str, ...]] = ("mu0", "mu1", "e")

    def _pseudo_outcome(self, sample: _Sample, values: dict[str, FloatArray]) -> PseudoOutcome:
        return dr_pseudo_outcome(
            sample.y, sample.t, mu0=values["mu0"], mu1=values["mu1"], e=values["e"]
        )


def _r2(y: FloatArray, fitted: FloatArray, weight: FloatArray | None = None) -> float:
    total = np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)
    loss = np.average((y - fitted) ** 2, weights=weight)
    return float(1 - loss / total) if total > 0 else 0.0


def _check_sample(X: NDArray[Any], y: Any, t: Any, sample_weight: Any) -> _Sample:
    X, source = np.asarray(X), np.asarray(t)
    if X.ndim != 2 or not np.issubdtype(X.dtype, np.floating) or not np.isfinite(X).all():
        raise DataError(f"X must be finite floats of shape (n, d), got {X.shape} of {X.dtype}")
    if source.shape != (len(X),) or not np.isin(source, (0, 1)).all():
        raise DataError(f"t must be {len(X)} values 0 or 1, got shape {source.shape}")
    weight = None
    if sample_weight is not None:
        weight = _check_column("sample_weight", sample_weight, len(X))
        if (weight < 0).any():
            raise DataError(f"sample_weight must be at least 0, got {float(weight.min())}")
    return _Sample(X, _check_column("y", y, len(X)), source.astype(bool), weight)


def _check_column(name: str, values: Any, n: int) -> FloatArray:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,) or not np.isfinite(column).all():
        bad = "" if column.shape != (n,) else " with NaN or infinity"
        raise DataError(f"{name} must be {n} finite numbers, got shape {column.shape}{bad}")
    return column
