"""The numeric simulation has the truths that it states."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import OptionError
from metarouter.testing import SIMULATED_BIASES, make_simulation


@pytest.mark.parametrize("bias", SIMULATED_BIASES)
def test_sizes_and_truth(bias: str) -> None:
    """The split is 500 test, 100 gold, 4,400 preference, and labels centre on their truth."""
    simulation = make_simulation(bias=bias)
    assert (len(simulation.test), simulation.is_gold.sum(), len(simulation.table)) == (
        500,
        100,
        4500,
    )
    np.testing.assert_allclose(simulation.delta, simulation.psi - simulation.eta)
    assert simulation.psi.std() == pytest.approx(0.157, abs=0.02)
    for label, truth in (
        (simulation.gold_gain, simulation.psi),
        (simulation.preference_gain, simulation.eta),
    ):
        assert abs((label - truth).mean()) < 4 * 0.27 / np.sqrt(4500)
        assert (label - truth).std() == pytest.approx(0.27, rel=0.05)
    shown = np.where(simulation.is_gold, simulation.gold_gain, simulation.preference_gain)
    np.testing.assert_array_equal(simulation.table.gain, shown)


def test_biases_follow_their_formulas() -> None:
    """Each named bias has the stated Δ."""
    delta = {bias: make_simulation(bias=bias).delta for bias in SIMULATED_BIASES}
    psi = make_simulation().psi
    assert (delta["none"] == 0).all()
    assert (delta["constant"] == -0.15).all()
    np.testing.assert_allclose(delta["perverse"], 2 * psi)
    np.testing.assert_allclose(delta["noise"], psi)
    assert set(delta["topic"].tolist()) == {-0.35, -0.1, 0.15}
    assert delta["linear"].std() == pytest.approx(0.155, abs=0.02)
    assert np.abs(delta["nonlinear"] + 0.1).max() <= 0.3


def test_feature_scale_decays() -> None:
    """Feature j has variance 1/j."""
    variance = make_simulation().features.var(axis=0)
    np.testing.assert_allclose(variance * np.arange(1, 51), 1, atol=0.15)


def test_all_gold_is_the_ceiling_table() -> None:
    """Every row is gold and carries its gold gain."""
    simulation = make_simulation(600, 4, n_gold=50, n_test=100)
    ceiling = simulation.all_gold()
    assert ceiling.is_gold.all()
    np.testing.assert_array_equal(ceiling.gain, simulation.gold_gain)
    assert simulation.nuisances().annotation_propensity[0] == pytest.approx(0.1)


@pytest.mark.parametrize("options", [{"bias": "lunar"}, {"n_gold": 0}, {"n_gold": 5000}])
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    """The message names the option."""
    with pytest.raises(OptionError, match=next(iter(options))):
        make_simulation(**options)  # type: ignore[arg-type]
