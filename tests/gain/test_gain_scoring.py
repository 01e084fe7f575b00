"""Scorers against straight-line formulas, and what a serving process imports."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import truncnorm

from metarouter.errors import ArtifactError, DataError
from metarouter.gain import load_gain_model
from metarouter.gain.scoring import bag_variance, gain_kernel
from metarouter.types import ModelState


def linear_state(d: int = 3) -> ModelState:
    rng = np.random.default_rng(1)
    return ModelState(
        kind="linear",
        arrays={
            "coef": rng.normal(size=d),
            "intercept": np.array(0.25),
            "factor": rng.normal(size=(d + 1, 4)),
        },
    )


def stump_state(bag_size: int = 1) -> ModelState:
    """Two units: 2 if x0 <= 0.5 else 3, and a constant 5."""
    return ModelState(
        kind="trees",
        config={
            "bag_size": bag_size,
            "variance_factor": 2.0,
            "std_floor": 0.1,
            "slope": 0.5,
            "slope_std": 0.2,
            "gain_centre": 1.0,
            "depth": 1,
            "n_features": 1,
        },
        arrays={
            "feature": np.zeros(3, dtype=np.int32),
            "threshold": np.array([0.5, 0.0, 0.0]),
            "left": np.array([1, 1, 2], dtype=np.int32),
            "right": np.array([2, 1, 2], dtype=np.int32),
            "value": np.array([0.0, 1.0, 2.0]),
            "root": np.array([0], dtype=np.int32),
            "unit": np.array([0], dtype=np.int32),
            "offset": np.array([1.0, 5.0]),
        },
    )


def test_linear_is_the_affine_map_with_its_posterior_spread() -> None:
    """Mean is intercept + x·coef, std the norm of [1, x]·factor, row by row."""
    state = linear_state()
    x = np.random.default_rng(2).normal(size=(5, 3))
    estimate = load_gain_model(state).predict(x)
    for i in range(5):
        row = np.concatenate([[1.0], x[i]])
        assert estimate.mean[i] == pytest.approx(0.25 + sum(x[i] * state.arrays["coef"]))
        assert estimate.std[i] == pytest.approx(np.linalg.norm(row @ state.arrays["factor"]))


def test_trees_go_left_at_the_threshold_and_add_up_in_units() -> None:
    """A value equal to the threshold goes left; slope and floor enter as documented."""
    estimate = load_gain_model(stump_state()).predict(np.array([[0.5], [0.51]]))
    means = np.array([(2 + 5) / 2, (3 + 5) / 2])
    between = np.array([(5 - 2) ** 2 / 2, (5 - 3) ** 2 / 2])
    np.testing.assert_allclose(estimate.mean, 1 + 0.5 * (means - 1))
    expected = 0.5**2 * 2.0 * between + (0.2 * (means - 1)) ** 2
    np.testing.assert_allclose(estimate.std, np.sqrt(expected))


def test_many_rows_score_as_few() -> None:
    """Rows beyond one chunk of memory get the predictions that they get alone."""
    x = np.linspace(0, 1, 4_000_003)[:, None].astype(np.float32)
    scorer = load_gain_model(stump_state())
    whole = scorer.predict(x).mean
    assert len(whole) == len(x)
    np.testing.assert_array_equal(whole[-5:], scorer.predict(x[-5:]).mean)


def test_no_rows_give_no_predictions() -> None:
    """An empty batch is not an error."""
    for state in (linear_state(1), stump_state()):
        assert load_gain_model(state).predict(np.zeros((0, 1))).mean.shape == (0,)


def test_bag_variance_takes_out_what_trees_differ_by_within_a_bag() -> None:
    """It is the mean of a normal truncated at 0, around between − within / bag size."""
    units = np.random.default_rng(3).normal(size=(6, 40)) + np.repeat(
        np.random.default_rng(4).normal(size=(6, 10)), 4, axis=1
    )
    for row, variance in zip(units, bag_variance(units, 4), strict=True):
        bags = row.reshape(10, 4)
        between = np.var(bags.mean(axis=1), ddof=1)
        within = np.mean([np.var(bag, ddof=1) for bag in bags]) / 4
        error = max(between, within) * np.sqrt(2 / 10)
        estimate = between - within
        expected = truncnorm(-estimate / error, np.inf, loc=estimate, scale=error).mean()
        assert variance == pytest.approx(expected)


def test_bag_variance_of_equal_bags_is_zero() -> None:
    """No difference, or a single bag, shows no variance."""
    assert bag_variance(np.ones((2, 6)), 3).tolist() == [0.0, 0.0]
    assert bag_variance(np.ones((2, 3)), 3).tolist() == [0.0, 0.0]


def test_kernel_is_level_plus_trend_plus_bump() -> None:
    """Each entry equals the formula."""
    a, b = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 1.0]])
    kernel = gain_kernel(a, b, 0.5, 0.25, 2.0, 3.0)
    expected = [0.5 + 0.25 * 1 + 2 * np.exp(-1 / 6), 0.5 + 0.25 * 2 + 2 * np.exp(-2 / 6)]
    np.testing.assert_allclose(kernel[:, 0], expected)


def test_unknown_kinds_and_missing_arrays_are_named() -> None:
    """A state from elsewhere gives an ArtifactError that says what is wrong."""
    with pytest.raises(ArtifactError, match=r"'pickle'.*allowed: .*gp, .*linear"):
        load_gain_model(ModelState(kind="pickle"))
    with pytest.raises(ArtifactError, match="lacks 'coef'"):
        load_gain_model(ModelState(kind="linear"))


def test_features_of_another_width_are_refused() -> None:
    """The message gives the width of training."""
    with pytest.raises(DataError, match=r"\(n, 3\)"):
        load_gain_model(linear_state()).predict(np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"\(n, 1\)"):
        load_gain_model(stump_state()).predict(np.zeros((2, 4)))


def test_serving_imports_no_training_library() -> None:
    """Loading and scoring a state leaves scikit-learn and SciPy alone."""
    code = (
        "import sys, numpy as np\n"
        "from metarouter.gain.scoring import load_gain_model\n"
        "from metarouter.types import ModelState\n"
        "arrays = {'coef': np.ones(2), 'intercept': np.array(0.0), 'factor': np.ones((3, 1))}\n"
        "load_gain_model(ModelState(kind='linear', arrays=arrays)).predict(np.ones((1, 2)))\n"
        "heavy = {'sklearn', 'scipy', 'pyarrow', 'pandas', 'torch'} & set(sys.modules)\n"
        "sys.exit(','.join(heavy) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
