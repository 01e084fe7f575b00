"""The three formulas, row by row in plain arithmetic, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.causal.pseudo_outcomes import (
    dr_pseudo_outcome,
    r_pseudo_outcome,
    x_pseudo_outcome,
)
from metarouter.errors import DataError
from metarouter.types import BoolArray, FloatArray


def _rows(n: int = 50) -> tuple[FloatArray, BoolArray, FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    y, mu0, mu1 = rng.normal(size=(3, n))
    return y, rng.random(n) < 0.4, mu0, mu1, rng.uniform(0.1, 0.9, n)


def test_each_formula_equals_plain_arithmetic() -> None:
    """One row at a time, with if and else."""
    y, t, mu0, mu1, e = _rows()
    r = r_pseudo_outcome(y, t, m=mu0, e=e)
    dr = dr_pseudo_outcome(y, t, mu0=mu0, mu1=mu1, e=e)
    x = x_pseudo_outcome(y, t, mu0=mu0, mu1=mu1)
    for i in range(len(y)):
        if t[i]:
            expected_dr = mu1[i] - mu0[i] + (y[i] - mu1[i]) / e[i]
            expected_x, residual = y[i] - mu0[i], 1 - e[i]
        else:
            expected_dr = mu1[i] - mu0[i] - (y[i] - mu0[i]) / (1 - e[i])
            expected_x, residual = mu1[i] - y[i], -e[i]
        assert dr.value[i] == pytest.approx(expected_dr, abs=1e-12)
        assert x.value[i] == pytest.approx(expected_x, abs=1e-12)
        assert r.value[i] * residual == pytest.approx(y[i] - mu0[i], abs=1e-12)
        assert r.weight[i] == pytest.approx(residual**2, abs=1e-12)
    assert dr.weight.tolist() == x.weight.tolist() == [1.0] * len(y)


@pytest.mark.parametrize("wrong", ["none", "propensity", "outcomes"])
def test_dr_mean_is_the_effect_when_either_nuisance_is_right(wrong: str) -> None:
    """The exact expectation over t, not a simulation."""
    _, _, mu0, mu1, e = _rows()
    used_e = np.full_like(e, 0.3) if wrong == "propensity" else e
    used = (mu0 + 0.5, mu1 * 2) if wrong == "outcomes" else (mu0, mu1)
    mean = np.zeros_like(e)
    for treated, chance, outcome in ((True, e, mu1), (False, 1 - e, mu0)):
        t = np.full(len(e), treated)
        mean += chance * dr_pseudo_outcome(outcome, t, mu0=used[0], mu1=used[1], e=used_e).value
    assert np.allclose(mean, mu1 - mu0, atol=1e-12)


def test_r_weighted_mean_is_the_effect() -> None:
    """The exact expectation over t with the true m and e."""
    _, _, mu0, mu1, e = _rows()
    m = e * mu1 + (1 - e) * mu0
    top = bottom = np.zeros_like(e)
    for treated, chance, outcome in ((True, e, mu1), (False, 1 - e, mu0)):
        pseudo = r_pseudo_outcome(outcome, np.full(len(e), treated), m=m, e=e)
        top = top + chance * pseudo.weight * pseudo.value
        bottom = bottom + chance * pseudo.weight
    assert np.allclose(top / bottom, mu1 - mu0, atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, 1.0, np.nan])
def test_propensities_without_overlap_are_refused(bad: float) -> None:
    """The row and the remedy are named."""
    y, t, mu0, mu1, e = _rows()
    e[3] = bad
    with pytest.raises(DataError, match=r"row 3 is .*clip or trim"):
        r_pseudo_outcome(y, t, m=mu0, e=e)
    with pytest.raises(DataError, match=r"row 3 is .*clip or trim"):
        dr_pseudo_outcome(y, t, mu0=mu0, mu1=mu1, e=e)
