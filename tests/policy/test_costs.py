"""Unit and token costs, and the tokens that they need."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import ArtifactError, DataError, OptionError
from metarouter.policy.costs import (
    TokenCost,
    UnitCost,
    estimate_tokens,
    fit_token_predictor,
    load_cost,
)
from metarouter.types import ModelState


def test_unit_costs_count_premium_calls() -> None:
    """0 for the reference and 1 for each other model."""
    assert UnitCost.for_pool(3).costs(np.zeros((2, 5))).tolist() == [[0, 1, 1]] * 2


def test_token_cost_is_price_times_tokens() -> None:
    """RouteLLM's accounting: 95 tokens in and 264 out at 10 and 30 USD are 24.7 USD a million."""
    cost = TokenCost(input_usd_per_mtok=[0.24, 10.0], output_usd_per_mtok=[0.24, 30.0])
    usd = cost.costs(np.zeros((1, 0)), np.array([95.0]))[0]
    assert usd[1] == pytest.approx((95 * 10 + 264 * 30) / 1e6)
    assert usd[1] / 359 * 1e6 == pytest.approx(24.7, abs=0.05)


def test_prompt_multiplier_is_per_model() -> None:
    """Twice the tokens of the prompt cost twice the input price, of that model only."""
    cost = TokenCost(
        input_usd_per_mtok=(1.0, 1.0),
        output_usd_per_mtok=(0.0, 0.0),
        prompt_multiplier=(1.0, 2.0),
    )
    assert cost.costs(np.zeros((1, 1)), np.array([1e6])).tolist() == [[1.0, 2.0]]


def test_predicted_tokens_are_means_not_medians() -> None:
    """With skewed lengths the prediction averages to the counts, thanks to smearing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    tokens = np.exp(4 + 0.5 * x[:, :1] + rng.normal(0, 0.8, size=(4000, 2)))
    predicted = fit_token_predictor(x, tokens).predict(x)
    assert predicted.mean(axis=0) == pytest.approx(tokens.mean(axis=0), rel=0.05)
    assert np.median(tokens) < 0.85 * predicted.mean()
    assert np.corrcoef(np.log(predicted[:, 0]), x[:, 0])[0, 1] > 0.99


def test_few_or_no_counts_give_a_mean_or_the_default() -> None:
    """Under 30 counts their mean, without any 264, whatever the features."""
    tokens = np.full((50, 2), np.nan)
    tokens[:10, 0] = np.arange(10) + 100
    predicted = fit_token_predictor(np.random.default_rng(1).normal(size=(50, 4)), tokens).predict(
        np.ones((1, 4))
    )
    assert predicted[0].tolist() == pytest.approx([104.5, 264.0])


def test_an_unusual_query_cannot_cost_a_fortune() -> None:
    """Far outside the training features the prediction stays in the range of the counts."""
    x = np.linspace(0, 1, 100)[:, None]
    predictor = fit_token_predictor(x, np.exp(3 + x))
    assert predictor.predict(np.array([[1000.0]]))[0, 0] < 1.1 * np.exp(4)


@pytest.mark.parametrize("with_predictor", [True, False])
def test_costs_survive_saving(with_predictor: bool) -> None:
    """The loaded cost model gives the same costs to the last bit."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3))
    predictor = fit_token_predictor(x, rng.uniform(1, 500, (60, 2))) if with_predictor else None
    cost = TokenCost(
        input_usd_per_mtok=(0.3, 10.0),
        output_usd_per_mtok=(0.6, 30.0),
        predictor=predictor,
        prompt_multiplier=(1.0, 1.1),
    )
    tokens = rng.integers(1, 900, 60).astype(float)
    again = load_cost(cost.state()).costs(x, tokens)
    np.testing.assert_allclose(again, cost.costs(x, tokens), rtol=1e-14)


def test_wrong_costs_are_refused() -> None:
    """Negative prices, missing token counts and unknown kinds are named."""
    with pytest.raises(OptionError, match="units"):
        UnitCost(units=(0.0, -1.0))
    with pytest.raises(OptionError, match="prices"):
        TokenCost(input_usd_per_mtok=(1.0,), output_usd_per_mtok=(1.0, 2.0))
    cost = TokenCost(input_usd_per_mtok=(1.0, 2.0), output_usd_per_mtok=(1.0, 2.0))
    with pytest.raises(DataError, match="prompt_tokens"):
        cost.costs(np.zeros((2, 1)))
    with pytest.raises(DataError, match="negative"):
        fit_token_predictor(np.zeros((2, 1)), np.array([[1.0], [-3.0]]))
    with pytest.raises(ArtifactError, match="barter"):
        load_cost(ModelState(kind="barter"))


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("The quick brown fox jumps over the lazy dog.", 9, 15),
        ("x = [i ** 2 for i in range(100)]\n", 15, 25),
        ("東京の天気はどうですか", 5, 30),
        ("123456", 6, 8),
    ],
)
def test_token_estimates_are_plausible(text: str, low: int, high: int) -> None:
    """Words, code, digits and other scripts each land in a sensible range."""
    assert low <= estimate_tokens(text) <= high


def test_lone_surrogates_are_counted() -> None:
    """Text that UTF-8 cannot encode does not stop the router."""
    assert estimate_tokens("\ud800 broken") > 0
