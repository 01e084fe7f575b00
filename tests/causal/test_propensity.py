"""Propensities and overlap: estimated, clipped, trimmed and reported in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from metarouter.causal.crossfit import stratified_folds
from metarouter.causal.overlap import crump_threshold, effective_sample_size, estimate_auc
from metarouter.causal.propensity import Propensity
from metarouter.errors import OptionError, OverlapError
from metarouter.types import BoolArray, FloatArray, IntArray


def _world(
    n: int, strength: float, seed: int = 0
) -> tuple[FloatArray, BoolArray, FloatArray, IntArray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    e = 1 / (1 + np.exp(1 - strength * X[:, 0]))
    t = rng.random(n) < e
    return X, t, e, stratified_folds(t, 5, rng)


def test_known_propensity_is_used_as_it_is() -> None:
    """A design's number, array and function give the same values, unclipped."""
    X, t, e, _ = _world(200, 3.0)
    as_array = Propensity(known=e).estimate(X, t)
    as_function = Propensity(known=lambda rows: 1 / (1 + np.exp(1 - 3 * rows[:, 0])))
    assert np.array_equal(as_array.used, e)
    assert np.allclose(as_function.estimate(X, t).predict(X), e)
    assert (as_array.n_clipped, as_array.n_trimmed, as_array.known) == (0, 0, True)
    number = Propensity(known=0.02).estimate(X, t)
    assert set(number.predict(X[:3]).tolist()) == {0.02}
    assert number.overlap.auc.value == 0.5


def test_array_of_propensities_cannot_predict_new_rows() -> None:
    """The message says what to give instead."""
    X, t, e, _ = _world(50, 1.0)
    with pytest.raises(OptionError, match="a number or a function of X"):
        Propensity(known=e).estimate(X, t).predict(X)


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_estimated_propensity_recovers_the_truth(calibration: Any) -> None:
    """Out-of-fold and calibrated: close to e, and right on average in every fifth."""
    X, t, e, folds = _world(4000, 1.0)
    fitted = Propensity(calibration=calibration).estimate(X, t, folds)
    assert np.sqrt(np.mean((fitted.used - e) ** 2)) < 0.04
    for part in np.array_split(np.argsort(fitted.used), 5):
        assert abs(fitted.used[part].mean() - t[part].mean()) < 0.05
    assert np.sqrt(np.mean((fitted.predict(X) - e) ** 2)) < 0.04


def test_calibration_repairs_an_overconfident_classifier() -> None:
    """Without it an unpenalised fit on noise is far from the constant truth."""
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(300, 60)), np.arange(300) % 5 == 0
    folds = stratified_folds(t, 5, rng)

    def overfitting() -> Any:
        return LogisticRegression(C=1e4, max_iter=2000)

    error = {
        how: np.abs(
            Propensity(make_classifier=overfitting, calibration=how).estimate(X, t, folds).raw - 0.2
        ).mean()
        for how in ("platt", "none")
    }
    assert error["platt"] < 0.05 < 0.15 < error["none"]


def test_classifier_that_ranks_backwards_is_not_used() -> None:
    """Calibration never turns a score upside down: the share of the other folds is left."""

    class Backwards:
        def fit(self, X: Any, y: Any) -> Backwards:
            return self

        def predict_proba(self, X: Any) -> FloatArray:
            p = 1 / (1 + np.exp(X[:, 0]))
            return np.column_stack([1 - p, p])

    X, t, _, folds = _world(500, 2.0)
    fitted = Propensity(make_classifier=Backwards).estimate(X, t, folds)
    for fold in range(5):
        assert np.allclose(fitted.raw[folds == fold], t[folds != fold].mean())
    assert np.allclose(fitted.predict(X), t.mean())


def test_row_is_scored_by_a_classifier_that_did_not_see_it() -> None:
    """A classifier that remembers its rows knows nothing about those of the fold."""

    class Memory:
        def fit(self, X: Any, y: Any) -> Memory:
            self.seen = {float(x) for x in X[:, 0]}
            return self

        def predict_proba(self, X: Any) -> FloatArray:
            p = np.array([0.9 if float(x) in self.seen else 0.3 for x in X[:, 0]])
            return np.column_stack([1 - p, p])

    X, t = np.arange(40.0)[:, None], np.arange(40) % 4 == 0
    folds = stratified_folds(t, 4, np.random.default_rng(0))
    fitted = Propensity(make_classifier=Memory, calibration="none", max_weight=100).estimate(
        X, t, folds
    )
    assert np.allclose(fitted.raw, 0.3)


def test_a_far_row_of_single_precision_has_finite_odds() -> None:
    """Rows of a pool are such; a probability that rounds to 1 ended in scikit-learn's NaN."""
    rng = np.random.default_rng(0)
    t = np.arange(200) < 100
    X = (rng.normal(size=(200, 30)) + 4.0 * t[:, None]).astype(np.float32)
    X[0] *= 8
    found = Propensity().estimate(X, t, stratified_folds(t, 5, rng))
    assert 0.9 < found.raw[0] <= 1


def test_clipping_bounds_the_weights_and_is_reported() -> None:
    """No weight exceeds `max_weight` times that of random assignment."""
    X, t, e, _ = _world(2000, 3.0)
    fitted = Propensity(known=e, max_weight=4.0).estimate(X, t)
    share = t.mean()
    assert fitted.low == pytest.approx(share / 4)
    assert fitted.high == pytest.approx(1 - (1 - share) / 4)
    assert (share / fitted.used).max() <= 4 + 1e-9
    assert ((1 - share) / (1 - fitted.used)).max() <= 4 + 1e-9
    assert fitted.n_clipped == int(((e < share / 4) | (e > 1 - (1 - share) / 4)).sum()) > 0
    assert fitted.overlap.n_clipped == fitted.n_clipped
    assert any("clipped" in sentence for sentence in fitted.overlap.warnings)
    assert np.array_equal(fitted.raw, e)


def test_trimming_keeps_a_range_and_is_reported() -> None:
    """By a number or by the rule of Crump et al."""
    X, t, e, _ = _world(2000, 3.0)
    fitted = Propensity(known=e, trim=0.1).estimate(X, t)
    assert np.array_equal(fitted.kept, (e >= 0.1) & (e <= 0.9))
    assert fitted.n_trimmed == fitted.overlap.n_trimmed == int((~fitted.kept).sum())
    assert any("left out" in sentence for sentence in fitted.overlap.warnings)
    by_rule = Propensity(known=e, trim="crump").estimate(X, t)
    assert by_rule.trim_low == pytest.approx(crump_threshold(e))


def test_crump_threshold_minimises_the_variance_bound() -> None:
    """Of the mean effect over the kept rows: mean(1/(e(1-e)) | kept) / share kept."""
    e = np.random.default_rng(0).beta(0.5, 1.0, size=4000)

    def variance(alpha: float) -> float:
        kept = (e >= alpha) & (e <= 1 - alpha)
        return float(np.mean(1 / (e[kept] * (1 - e[kept]))) / kept.mean())

    best = minimize_scalar(variance, bounds=(1e-4, 0.4), method="bounded")
    alpha = crump_threshold(e)
    assert 0.02 < alpha < 0.2
    assert variance(alpha) <= best.fun * 1.001


def test_trimming_everything_of_a_source_is_an_error() -> None:
    """The message names the range."""
    t = np.arange(20) < 5
    with pytest.raises(OverlapError, match=r"\[0.4, 0.6\]"):
        Propensity(known=np.where(t, 0.9, 0.5), trim=0.4).estimate(np.zeros((20, 1)), t)


def test_almost_separable_sources_are_warned_about() -> None:
    """And sources that meet are not."""
    X, t, _, folds = _world(1500, 12.0)
    bad = Propensity().estimate(X, t, folds).overlap
    assert bad.auc.low > 0.9
    assert any("almost separable" in sentence for sentence in bad.warnings)
    X, t, _, folds = _world(1500, 0.5)
    assert Propensity().estimate(X, t, folds).overlap.warnings == ()


def test_effective_sample_size_is_reported_per_source() -> None:
    """The Kish formula on inverse propensity weights, with a warning when low."""
    X, t, e, _ = _world(3000, 2.5)
    overlap = Propensity(known=e).estimate(X, t).overlap
    w1, w0 = 1 / e[t], 1 / (1 - e[~t])
    assert overlap.ess_treated == pytest.approx(sum(w1) ** 2 / sum(w1**2))
    assert overlap.ess_control == pytest.approx(sum(w0) ** 2 / sum(w0**2))
    assert any("source 1 weigh no more than" in sentence for sentence in overlap.warnings)
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert overlap.low == e.min()
    assert dict(overlap.quantiles)[0.5] == pytest.approx(np.median(e))


def test_auc_equals_scikit_learn_with_ties() -> None:
    """Same area on rounded scores."""
    rng = np.random.default_rng(1)
    t = rng.random(300) < 0.3
    score = np.round(rng.normal(size=300) + t, 1)
    assert estimate_auc(score, t).value == pytest.approx(roc_auc_score(t, score), abs=1e-12)


def test_auc_interval_covers() -> None:
    """DeLong at 90 % over 400 samples whose true AUC is known."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        t = np.arange(120) < 40
        interval = estimate_auc(rng.normal(size=120) + t * 1.0, t, level=0.9)
        covered.append(interval.low <= 0.7602499 <= interval.high)  # Φ(1/√2)
    assert 0.86 <= np.mean(covered) <= 0.94


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"known": 0.0}, "known"),
        ({"known": np.full(3, 0.5)}, "known"),
        ({"known": 0.5, "max_weight": 1.0}, "max_weight"),
        ({"known": 0.5, "trim": 0.7}, "trim"),
        ({"known": 0.5, "trim": "no"}, "trim"),
        ({"calibration": "no"}, "calibration"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], name: str) -> None:
    """The message starts with the option."""
    X, t, _, folds = _world(60, 1.0)
    with pytest.raises(OptionError, match=f"^{name} ="):
        Propensity(**options).estimate(X, t, folds)


def test_estimation_needs_folds() -> None:
    """There is no in-sample propensity."""
    X, t, _, _ = _world(60, 1.0)
    with pytest.raises(OptionError, match="folds"):
        Propensity().estimate(X, t)
