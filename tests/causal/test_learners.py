"""The learners against straight-line NumPy, known truth, and their shared contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from metarouter.causal.crossfit import stratified_folds
from metarouter.causal.learners import DRLearner, RLearner, SLearner, TLearner, XLearner
from metarouter.causal.propensity import Propensity
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.linear import Ridge
from metarouter.types import BoolArray, FloatArray, IntArray

PENALTY = 3.0
ALL = [SLearner, TLearner, XLearner, RLearner, DRLearner]
TWO_STAGE = [XLearner, RLearner, DRLearner]
World = tuple[FloatArray, FloatArray, BoolArray, FloatArray, FloatArray]


def _world(n: int, seed: int = 0, noise: float = 0.5) -> World:
    """X, y, t, e, Δ with linear μ₀ and Δ and a propensity that follows x."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    e = 0.2 + 0.6 / (1 + np.exp(-X[:, 0]))
    t = rng.random(n) < e
    shift = 0.5 + X @ np.array([1.0, -0.5, 0.0])
    y = X @ np.array([1.0, 1.0, -1.0]) + t * shift + noise * rng.normal(size=n)
    return X, y, t, e, shift


def _true_nuisances(X: FloatArray, e: FloatArray, shift: FloatArray) -> dict[str, FloatArray]:
    mu0 = X @ np.array([1.0, 1.0, -1.0])
    return {"mu0": mu0, "mu1": mu0 + shift, "m": mu0 + e * shift, "e": e}


def _make(kind: Any, e: FloatArray | float | None = None, **options: Any) -> Any:
    """A learner with fixed-penalty ridges, and the propensity where it has one."""
    options = {"make_final": partial(Ridge, penalty=PENALTY), **options}
    if kind in TWO_STAGE:
        options = {"make_nuisance": partial(Ridge, penalty=PENALTY), **options}
        if e is not None:
            options["propensity"] = Propensity(known=e)
    return kind(**options)


# The straight-line reference: nothing of metarouter below, up to the comparison.


def ridge(X: FloatArray, y: FloatArray, w: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Weighted ridge by the normal equations; weights have mean one."""
    w = w / w.mean()
    design = np.column_stack([np.ones(len(y)), X])
    penalty = PENALTY * np.eye(design.shape[1])
    penalty[0, 0] = 0
    beta = np.linalg.solve(design.T @ (w[:, None] * design) + penalty, design.T @ (w * y))
    return lambda new: np.column_stack([np.ones(len(new)), new]) @ beta


def out_of_fold(
    X: FloatArray, y: FloatArray, w: FloatArray, folds: IntArray, train: BoolArray
) -> FloatArray:
    """Each fold predicted by the ridge of the others."""
    result = np.empty(len(y))
    for fold in np.unique(folds):
        rows = (folds != fold) & train
        result[folds == fold] = ridge(X[rows], y[rows], w[rows])(X[folds == fold])
    return result


def straight_line(
    name: str,
    X: FloatArray,
    y: FloatArray,
    t: BoolArray,
    e: FloatArray,
    w: FloatArray,
    folds: IntArray,
    given: dict[str, FloatArray],
) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Fit one learner on all rows given; the result takes new x and their e."""
    one = np.ones(len(y), bool)
    if name == "SLearner":
        s = np.sqrt(X.var(axis=0).sum())
        both = ridge(np.column_stack([X, s * t, X * t[:, None]]), y, w)
        return lambda new, _: (
            both(np.column_stack([new, np.full(len(new), s), new]))
            - both(np.column_stack([new, np.zeros(len(new)), 0 * new]))
        )
    if name == "TLearner":
        f1, f0 = ridge(X[t], y[t], w[t]), ridge(X[~t], y[~t], w[~t])
        return lambda new, _: f1(new) - f0(new)
    if name == "RLearner":
        m = given["m"] if given else out_of_fold(X, y, w, folds, one)
        final = ridge(X, (y - m) / (t - e), w * (t - e) ** 2)
        return lambda new, _: final(new)
    mu0 = given["mu0"] if given else out_of_fold(X, y, w, folds, ~t)
    mu1 = given["mu1"] if given else out_of_fold(X, y, w, folds, t)
    if name == "DRLearner":
        score = mu1 - mu0 + t * (y - mu1) / e - (1 - t) * (y - mu0) / (1 - e)
        final = ridge(X, score, w)
        return lambda new, _: final(new)
    tau1 = ridge(X[t], (y - mu0)[t], w[t])
    tau0 = ridge(X[~t], (mu1 - y)[~t], w[~t])
    return lambda new, g: g * tau0(new) + (1 - g) * tau1(new)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("injected", [False, True])
def test_learner_equals_its_straight_line(kind: Any, injected: bool) -> None:
    """Δ̂ on new rows, and out of fold by literally leaving the fold out, to 1e-8."""
    X, y, t, e, shift = _world(90)
    w = np.random.default_rng(5).uniform(0.5, 2, 90)
    new, *_ = _world(7, seed=1)

    def propensity(rows: FloatArray) -> FloatArray:
        return 0.2 + 0.6 / (1 + np.exp(-rows[:, 0]))

    names = {"XLearner": ("mu0", "mu1"), "RLearner": ("m",), "DRLearner": ("mu0", "mu1")}
    truth = _true_nuisances(X, e, shift)
    given = {k: truth[k] + 0.1 * X[:, 1] for k in names.get(kind.__name__, ())} if injected else {}
    learner = _make(kind, propensity, n_folds=4, seed=3).fit(X, y, t, w, nuisances=given)  # type: ignore[arg-type]

    folds = stratified_folds(t, 4, np.random.default_rng(3).spawn(1)[0])
    name = kind.__name__
    full = straight_line(name, X, y, t, e, w, folds, given)
    assert np.allclose(learner.predict(new), full(new, propensity(new)), atol=1e-8, rtol=0)
    for fold in range(4):
        k = folds != fold
        part = {key: values[k] for key, values in given.items()}
        without = straight_line(name, X[k], y[k], t[k], e[k], w[k], folds[k], part)
        expected = without(X[~k], e[~k])
        assert np.allclose(learner.out_of_fold_[~k], expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_out_of_fold_shift_does_not_depend_on_the_rows_own_fold(kind: Any) -> None:
    """An outcome that turns absurd changes every Δ̂ but those of its own fold."""
    X, y, t, e, _ = _world(120)
    absurd = y.copy()
    absurd[17] += 1e3
    before, after = (
        _make(kind, e, seed=2).fit(X, values, t).out_of_fold_ for values in (y, absurd)
    )
    folds = stratified_folds(t, 5, np.random.default_rng(2).spawn(1)[0])
    same_fold = folds == folds[17]
    assert np.array_equal(before[same_fold], after[same_fold])
    assert (np.abs(before - after)[~same_fold] > 1e-3).all()


@pytest.mark.parametrize("kind", ALL)
def test_error_falls_with_the_root_of_n(kind: Any) -> None:
    """Sixteen times the rows, a quarter of the error (2.8 to 5.7, mean of squares of 12 runs)."""

    def rmse(n: int) -> float:
        errors = []
        for seed in range(12):
            X, y, t, _, shift = _world(n, seed=seed)
            learner = _make(
                kind,
                lambda rows: 0.2 + 0.6 / (1 + np.exp(-rows[:, 0])),  # type: ignore[arg-type]
                make_final=partial(Ridge, penalty=1e-6),
                n_folds=3,
            )
            errors.append(np.mean((learner.fit(X, y, t).out_of_fold_ - shift) ** 2))
        return float(np.sqrt(np.mean(errors)))

    assert 4 / 2**0.5 < rmse(300) / rmse(4800) < 4 * 2**0.5


@pytest.mark.parametrize("kind", TWO_STAGE)
def test_true_nuisances_give_an_unbiased_effect(kind: Any) -> None:
    """Mean of Δ̂ over 200 samples is Δ within four standard errors, at three points."""
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, -1, 1]])
    truth = 0.5 + points @ np.array([1.0, -0.5, 0.0])
    estimates = []
    for seed in range(200):
        X, y, t, e, shift = _world(80, seed=seed)
        nuisances = _true_nuisances(X, e, shift)
        learner = _make(kind, 0.5, make_final=partial(Ridge, penalty=0.0), n_folds=3)
        if kind is not XLearner:
            learner.propensity = Propensity(known=e)
        given = {k: v for k, v in nuisances.items() if k in kind.nuisance_names and k != "e"}
        estimates.append(learner.fit(X, y, t, nuisances=given).predict(points))
    mean, se = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(200)
    assert (np.abs(mean - truth) < 4 * se).all()
    assert (se < 0.05).all()


@pytest.mark.parametrize("kind", [RLearner, DRLearner])
def test_known_propensity_protects_against_wrong_outcome_models(kind: Any) -> None:
    """With outcome nuisances that are plainly wrong, Δ̂ still finds Δ (error under 0.1)."""
    X, y, t, e, shift = _world(100_000)
    wrong = {k: np.zeros(len(y)) for k in kind.nuisance_names if k != "e"}
    learner = _make(kind, e, n_folds=3).fit(X, y + X[:, 1] ** 2, t, nuisances=wrong)
    assert np.sqrt(np.mean((learner.out_of_fold_ - shift) ** 2)) < 0.1


@pytest.mark.parametrize("kind", ALL)
def test_interval_of_the_shift_covers(kind: Any) -> None:
    """95 % intervals of Δ̂ cover Δ in 92 to 99.9 % of rows, over 30 samples."""
    covered = []
    for seed in range(30):
        X, y, t, _, shift = _world(300, seed=100 + seed)
        learner = _make(kind, lambda rows: 0.2 + 0.6 / (1 + np.exp(-rows[:, 0])), make_final=Ridge)  # type: ignore[arg-type]
        learner.fit(X, y, t)
        half = 1.96 * np.sqrt(learner.predict_variance(X))
        covered.append(np.mean(np.abs(learner.predict(X) - shift) < half))
    assert 0.92 < np.mean(covered) < 0.999


@pytest.mark.parametrize(
    ("kind", "least"),
    [(SLearner, 0.85), (TLearner, 0.85), (XLearner, 0.75), (RLearner, 0.82), (DRLearner, 0.8)],
)
def test_interval_of_the_shift_in_a_hard_world(kind: Any, least: float) -> None:
    """With 100 treated rows, 30 features and tanh curves 95 % intervals fall short, by a bound."""
    covered = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, t = rng.normal(size=(1000, 30)) * np.linspace(2, 0.2, 30), np.arange(1000) % 10 == 0
        mu0, shift = (0.25 * np.tanh(X @ rng.normal(size=30) / 8) for _ in range(2))
        y = mu0 + shift * t + 0.27 * rng.normal(size=1000)
        options = {"make_final": Ridge} | ({"make_nuisance": Ridge} if kind in TWO_STAGE else {})
        learner = _make(kind, 0.1, **options).fit(X, y, t)
        half = 1.96 * np.sqrt(learner.shift_variance_)
        covered.append(np.mean(np.abs(learner.out_of_fold_ - shift) < half))
    assert least < np.mean(covered) <= 1


def test_variance_of_many_rows_is_that_of_each() -> None:
    """Rows are taken in blocks; more rows than a block change nothing."""
    X, y, t, _, _ = _world(60)
    learner = _make(XLearner, 0.5).fit(X, y, t)
    many = learner.predict_variance(np.tile(X, (1200, 1)))
    assert np.allclose(many, np.tile(learner.predict_variance(X), 1200), rtol=1e-10)


@pytest.mark.parametrize("kind", ALL)
def test_variance_without_predict_std_is_the_jackknife(kind: Any) -> None:
    """On average within a factor of two of the spread of Δ̂ over 40 samples."""
    point = np.array([[0.5, 0.5, 0.5]])
    estimates, variances = [], []
    for seed in range(40):
        X, y, t, _, _ = _world(300, seed=seed)
        learner = _make(
            kind,
            lambda rows: 0.2 + 0.6 / (1 + np.exp(-rows[:, 0])),  # type: ignore[arg-type]
            make_final=LinearRegression,
        ).fit(X, y, t)
        estimates.append(learner.predict(point)[0])
        variances.append(learner.predict_variance(point)[0])
    assert 0.5 < np.mean(variances) / np.var(estimates) < 2


@settings(max_examples=15)
@given(
    kind=st.sampled_from(ALL),
    factor=st.floats(0.01, 100),
    constant=st.floats(-10, 10),
    seed=st.integers(0, 100),
)
def test_labels_times_a_factor_plus_a_constant(
    kind: Any, factor: float, constant: float, seed: int
) -> None:
    """Δ̂ is multiplied by the factor and does not feel the constant; penalty by evidence."""
    X, y, t, _, _ = _world(60, seed=seed)
    options = {"make_final": Ridge} | ({"make_nuisance": Ridge} if kind in TWO_STAGE else {})
    base = _make(kind, 0.5, **options).fit(X, y, t)
    moved = _make(kind, 0.5, **options).fit(X, factor * y + constant, t)
    assert np.allclose(moved.out_of_fold_, factor * base.out_of_fold_, atol=1e-6 * factor)
    assert np.allclose(moved.predict(X), factor * base.predict(X), atol=1e-6 * factor)
    assert np.allclose(moved.shift_variance_, factor**2 * base.shift_variance_, rtol=1e-4)


@settings(max_examples=15)
@given(kind=st.sampled_from(ALL), seed=st.integers(0, 100))
def test_order_of_the_rows_does_not_matter(kind: Any, seed: int) -> None:
    """With given nuisances no fold enters the final fit, so Δ̂ is the same."""
    X, y, t, e, shift = _world(60, seed=seed)
    given = {k: v for k, v in _true_nuisances(X, e, shift).items() if k in kind.nuisance_names}
    if kind is XLearner:
        del given["e"]
    order = np.random.default_rng(seed).permutation(60)
    first = _make(kind, 0.5).fit(X, y, t, nuisances=given)
    second = _make(kind, 0.5).fit(
        X[order], y[order], t[order], nuisances={k: v[order] for k, v in given.items()}
    )
    assert np.allclose(first.predict(X), second.predict(X), atol=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_learner_contract(kind: Any) -> None:
    """Fitting returns self, alters no input, repeats itself, and takes float32 and 0/1."""
    X, y, t, _, _ = _world(80)
    X0, y0, t0 = X.copy(), y.copy(), t.copy()
    learner = _make(kind, 0.5, seed=4)
    assert learner.fit(X, y, t) is learner
    assert (X == X0).all()
    assert (y == y0).all()
    assert (t == t0).all()
    again = _make(kind, 0.5, seed=4).fit(X, y, t.astype(int))
    other = _make(kind, 0.5, seed=5).fit(X, y, t)
    single = _make(kind, 0.5, seed=4).fit(X.astype(np.float32), y, t)
    assert np.array_equal(learner.out_of_fold_, again.out_of_fold_)
    assert not np.array_equal(learner.out_of_fold_, other.out_of_fold_)
    assert np.allclose(learner.out_of_fold_, single.out_of_fold_, atol=1e-4)
    for values in (learner.out_of_fold_, learner.shift_variance_, learner.predict(X)):
        assert values.shape == (80,)
        assert np.isfinite(values).all()
    assert (learner.shift_variance_ > 0).all()
    assert learner.predict(X[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ALL)
def test_weights_count_as_repeated_rows(kind: Any) -> None:
    """Weight 2 is two copies; weight 0 is no row (unpenalised, nuisances given)."""
    X, y, t, e, shift = _world(60)
    given = {k: v for k, v in _true_nuisances(X, e, shift).items() if k in kind.nuisance_names}
    given.pop("e", None)
    w = np.arange(60) % 3.0
    rows = np.repeat(np.arange(60), w.astype(int))
    make = partial(_make, kind, 0.5, make_final=partial(Ridge, penalty=0.0), n_folds=3)
    weighted = make().fit(X, y, t, w, nuisances=given)
    repeated = make().fit(
        X[rows], y[rows], t[rows], groups=rows, nuisances={k: v[rows] for k, v in given.items()}
    )
    assert np.allclose(weighted.predict(X), repeated.predict(X), atol=1e-6)


def test_groups_share_a_fold() -> None:
    """Two labels of one query: neither helps to predict the other's Δ̂."""
    X, y, t, e, _ = _world(100)
    groups = np.arange(100) // 2
    absurd = y.copy()
    absurd[40] += 1e3
    before, after = (
        _make(DRLearner, e).fit(X, values, t, groups=groups).out_of_fold_ for values in (y, absurd)
    )
    assert np.array_equal(before[[40, 41]], after[[40, 41]])


class Mute:
    """A fixed-penalty ridge that does not tell its uncertainty."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Mute:
        """Fit the ridge."""
        self.model = Ridge(penalty=PENALTY).fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Predict with the ridge."""
        return self.model.predict(X)


@pytest.mark.parametrize("kind", ALL)
def test_repeated_splits_give_the_median(kind: Any) -> None:
    """Variance: the mean jackknife of the splits, plus the spread between them."""
    X, y, t, _, _ = _world(80)
    learner = _make(kind, 0.5, n_repeats=3, seed=1, make_final=Mute).fit(X, y, t)
    half, one = np.full(80, 0.5), np.ones(80)
    estimates, jackknives = [], []
    for rng in np.random.default_rng(1).spawn(3):
        folds = stratified_folds(t, 5, rng)
        without = []
        for fold in range(5):
            k = folds != fold
            args = (X[k], y[k], t[k], half[k], one[k], folds[k])
            without.append(straight_line(kind.__name__, *args, {})(X, half))
        estimates.append(np.array(without)[folds, np.arange(80)])
        jackknives.append(4 / 5 * ((without - np.mean(without, axis=0)) ** 2).sum(axis=0))
    median = np.median(estimates, axis=0)
    spread = np.median((estimates - median) ** 2, axis=0)
    assert np.allclose(learner.out_of_fold_, median, atol=1e-8)
    assert np.allclose(learner.shift_variance_, np.mean(jackknives, axis=0) + spread, atol=1e-8)
    assert learner.diagnostics_.n_repeats == 3


@pytest.mark.parametrize("kind", ALL)
def test_any_scikit_learn_regressor_serves(kind: Any) -> None:
    """Forests as nuisance and final models find the sign of a large effect."""
    X, y, t, _, shift = _world(300)
    forest = partial(RandomForestRegressor, n_estimators=10, min_samples_leaf=5, random_state=0)
    options: dict[str, Any] = {"make_final": forest, "n_folds": 3}
    if kind in TWO_STAGE:
        options["make_nuisance"] = forest
    learner = _make(kind, 0.5, **options).fit(X, y, t)
    assert np.corrcoef(learner.out_of_fold_, shift)[0, 1] > 0.4


@pytest.mark.parametrize("kind", TWO_STAGE)
def test_trimmed_rows_teach_nothing(kind: Any) -> None:
    """Outcomes outside the kept range of e do not move Δ̂, but get one."""
    X, y, t, e, shift = _world(200)
    outside = (e < 0.3) | (e > 0.7)
    given = {k: v for k, v in _true_nuisances(X, e, shift).items() if k in kind.nuisance_names}
    given.pop("e")

    def fit(values: FloatArray) -> Any:
        learner = _make(kind, lambda rows: 0.2 + 0.6 / (1 + np.exp(-rows[:, 0])))  # type: ignore[arg-type]
        learner.propensity = Propensity(known=learner.propensity.known, trim=0.3)
        return learner.fit(X, values, t, nuisances=given)

    learner, absurd = fit(y), fit(np.where(outside, 1e3, y))
    assert learner.propensity_.n_trimmed == outside.sum() > 0
    assert np.array_equal(learner.predict(X), absurd.predict(X))
    assert np.isfinite(learner.out_of_fold_).all()


def test_estimated_propensity_is_the_default_and_is_reported() -> None:
    """Overlap, nuisance fit and effect size are in the diagnostics."""
    X, y, t, e, shift = _world(1500)
    learner = DRLearner().fit(X, y, t)
    report = learner.diagnostics_
    assert report is not None
    assert learner.propensity_ is not None
    assert report.overlap is not None
    assert not learner.propensity_.known
    assert np.sqrt(np.mean((learner.propensity_.used - e) ** 2)) < 0.05
    assert report.overlap.n_treated == report.n_treated == t.sum()
    assert report.mean_shift == pytest.approx(shift.mean(), abs=0.1)
    assert report.shift_sd == pytest.approx(shift.std(), abs=0.1)
    assert all(0.7 < value < 1 for value in report.nuisance_r2.values())
    assert report.final_r2 is not None
    assert 0.2 < report.final_r2 < 1


def test_final_r2_is_not_positive_without_heterogeneity() -> None:
    """A constant shift leaves nothing to explain."""
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(1000, 5)), np.arange(1000) % 2 == 0
    learner = RLearner(propensity=Propensity(known=0.5)).fit(X, t + rng.normal(size=1000), t)
    assert learner.diagnostics_ is not None
    assert learner.diagnostics_.final_r2 is not None
    assert learner.diagnostics_.final_r2 < 0.01
    assert learner.diagnostics_.mean_shift == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros(30)}, "X must be finite floats"),
        ({"X": np.full((30, 2), np.nan)}, "X must be finite floats"),
        ({"X": np.zeros((30, 2), int)}, "X must be finite floats"),
        ({"y": np.zeros(29)}, "y must be 30 finite numbers"),
        ({"y": np.full(30, np.inf)}, "finite numbers, got shape (30,) with NaN or infinity"),
        ({"t": np.arange(30) % 3}, "t must be 30 values 0 or 1"),
        ({"t": np.arange(30) < 3}, "source 1 has 3 independent rows"),
        ({"sample_weight": np.full(30, -1.0)}, "sample_weight must be at least 0"),
    ],
)
def test_unusable_arrays_are_refused(kind: Any, change: dict[str, Any], message: str) -> None:
    """Each message names the argument and what is allowed."""
    good = {"X": np.ones((30, 2)), "y": np.zeros(30), "t": np.arange(30) % 2}
    with pytest.raises(DataError, match=re.escape(message)):
        _make(kind, 0.5).fit(**(good | change))


@pytest.mark.parametrize("kind", ALL)
def test_misuse_is_refused(kind: Any) -> None:
    """Predicting before fit, and nuisances that the learner does not use."""
    X, y, t, _, _ = _world(40)
    with pytest.raises(NotFittedError, match=kind.__name__):
        _make(kind, 0.5).predict(X)
    with pytest.raises(NotFittedError, match=kind.__name__):
        _make(kind, 0.5).predict_variance(X)
    with pytest.raises(OptionError, match="nuisances = 'mu'"):
        _make(kind, 0.5).fit(X, y, t, nuisances={"mu": y})


def test_nuisance_of_the_wrong_shape_is_refused() -> None:
    """By its name."""
    X, y, t, _, _ = _world(40)
    with pytest.raises(DataError, match="m must be 40 finite numbers"):
        _make(RLearner, 0.5).fit(X, y, t, nuisances={"m": np.zeros(39)})


def test_x_learner_needs_a_rule_for_new_rows() -> None:
    """It blends by e(x), so an array of training propensities is not enough."""
    X, y, t, e, _ = _world(60)
    learner = _make(XLearner, e).fit(X, y, t)
    assert np.isfinite(learner.out_of_fold_).all()
    with pytest.raises(OptionError, match="a number or a function of X"):
        learner.predict(X)
