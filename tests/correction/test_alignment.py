"""The constant that puts preference gains on the scale of gold gains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.correction import make_corrector
from metarouter.correction.alignment import ALIGNMENTS, estimate_scale
from metarouter.errors import OptionError
from metarouter.labels.table import make_gain_table

RNG = np.random.default_rng(0)
GOLD, PREFERENCE = 0.6 * RNG.normal(size=150) + 0.1, 0.2 * RNG.normal(size=700)


def test_constants_are_those_of_the_formulas() -> None:
    assert estimate_scale(GOLD, PREFERENCE, "none") == 1.0
    assert estimate_scale(GOLD, PREFERENCE, "range") == pytest.approx(
        (GOLD.max() - GOLD.min()) / (PREFERENCE.max() - PREFERENCE.min())
    )
    assert estimate_scale(GOLD, PREFERENCE, "variance") == pytest.approx(
        np.sqrt(np.var(GOLD) / np.var(PREFERENCE))
    )


def test_wasserstein_minimises_the_distance_of_sorted_samples() -> None:
    """For samples of one size W₂² is the mean squared difference of order statistics."""
    gold, preference = GOLD, PREFERENCE[:150]
    candidates = np.linspace(0.5, 6.0, 2_001)
    distance = [np.mean((np.sort(gold) - c * np.sort(preference)) ** 2) for c in candidates]
    found = estimate_scale(gold, preference, "wasserstein")
    assert found == pytest.approx(candidates[np.argmin(distance)], rel=0.02)


@pytest.mark.parametrize("alignment", [name for name in ALIGNMENTS if name != "none"])
@given(unit=st.floats(0.01, 100))
def test_the_constant_undoes_a_unit(alignment: str, unit: float) -> None:
    """The judge's labels in another unit are aligned to the same gains."""
    one = estimate_scale(GOLD, PREFERENCE, alignment)
    other = estimate_scale(GOLD, unit * PREFERENCE, alignment)
    assert other * unit == pytest.approx(one)
    assert estimate_scale(unit * GOLD, PREFERENCE, alignment) == pytest.approx(unit * one)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_nothing_to_see_leaves_gains_alone(alignment: str) -> None:
    constant, nothing = np.full(5, 0.3), np.zeros(0)
    for gold, preference in (
        (constant, PREFERENCE),
        (GOLD, 0 * constant),
        (GOLD, nothing),
        (nothing, PREFERENCE),
    ):
        assert 0 < estimate_scale(gold, preference, alignment) < np.inf
    assert estimate_scale(GOLD, nothing, alignment) == 1.0


def test_unknown_alignments_are_refused() -> None:
    with pytest.raises(OptionError, match="wasserstein"):
        estimate_scale(GOLD, PREFERENCE, "minmax")


def test_pooled_labels_are_scaled_and_mean_shift_shifts_after_scaling() -> None:
    """Against sample moments: c y, then c y plus the difference of means."""
    n, m = len(GOLD), len(PREFERENCE)
    table = make_gain_table(
        queries=[str(i) for i in range(n + m)],
        gain=np.concatenate([GOLD, PREFERENCE]),
        is_gold=np.arange(n + m) < n,
    )
    c = GOLD.std() / PREFERENCE.std()
    for name, expected in (
        ("none", c * PREFERENCE),
        ("mean_shift", c * PREFERENCE + GOLD.mean() - c * PREFERENCE.mean()),
    ):
        corrector = make_corrector(name, alignment="variance").fit(table)
        np.testing.assert_allclose(corrector.transform(table).gain[n:], expected)
