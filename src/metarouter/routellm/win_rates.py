"""Win rates of the strong model, the score that RouteLLM's thresholds cut."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.gain.scoring import WinScorer
from metarouter.router import Router
from metarouter.types import FloatArray

__all__ = [
    "WinRater",
    "calibrate_win_rate",
    "pair_win_rater",
    "random_win_rates",
    "router_win_rates",
]

WinRater = Callable[[Sequence[str]], FloatArray]
"""Prompts to the probability that the strong model's answer is the better one, shape (n,)."""

_GAIN_OF_A_WIN = 1.0  # of a gain model without a scale of its own: right against wrong
_DIGITS = 5


def router_win_rates(
    router: Router, prompts: Sequence[str], *, strong: str | None = None, weak: str | None = None
) -> FloatArray:
    """P(strong beats weak), ties counting half, as a router predicts it.

    Parameters
    ----------
    router : Router
    prompts : sequence of str
    strong, weak : str, optional
        Two of a pool's models. A router of two models takes any pair, as
        RouteLLM's do: what is hard for one cheap model is hard for another.

    Returns
    -------
    array, shape (n,), in [0, 1]

    Raises
    ------
    OptionError
        When the router knows more than two models and not these.

    Notes
    -----
    ``P = (1 + ψ / s) / 2`` with s the gain of a certain win; see
    :mod:`metarouter.gain.table_model`.
    """
    places = _places(router, strong, weak)
    features: NDArray[Any] = router.features.transform(list(prompts))
    if places == (1, 0) and hasattr(router.scorer, "win_probability"):
        return cast("WinScorer", router.scorer).win_probability(features)[:, 0]
    mean = router.scorer.predict(features).mean.reshape(len(features), len(router.models) - 1)
    gains = np.hstack([np.zeros((len(mean), 1)), mean])
    scale = float(router.artifact.parts["gain"].config.get("scale", _GAIN_OF_A_WIN))
    rates = 0.5 + 0.5 * (gains[:, places[0]] - gains[:, places[1]]) / scale
    return np.asarray(np.clip(rates, 0.0, 1.0))


def pair_win_rater(router: Router, strong: str, weak: str) -> WinRater:
    """Win rates of one pair as a function of prompts; raises as :func:`router_win_rates`, now."""
    _places(router, strong, weak)
    return partial(router_win_rates, router, strong=strong, weak=weak)


def random_win_rates(prompts: Sequence[str], *, seed: int = 0) -> FloatArray:
    """Uniform draws that are the same whenever a prompt is asked.

    Examples
    --------
    >>> rates = random_win_rates(["a", "b", "a"])
    >>> bool(rates[0] == rates[2] != rates[1])
    True
    """
    return np.array([_draw(f"{seed} {prompt}") for prompt in prompts])


def calibrate_win_rate(rates: FloatArray, share: float) -> float:
    """RouteLLM's threshold for a share of strong calls: a quantile, to five digits.

    Parameters
    ----------
    rates : array, shape (n,), win rates on queries like the traffic.
    share : float in [0, 1], of calls to the strong model.

    Examples
    --------
    >>> calibrate_win_rate(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 0.5)
    0.3
    """
    if not 0 <= share <= 1:
        raise OptionError.of("share", share, "a share of calls in [0, 1]")
    return round(float(np.quantile(rates, 1.0 - share)), _DIGITS)


def _places(router: Router, strong: str | None, weak: str | None) -> tuple[int, int]:
    models = router.models
    if len(models) == 2:
        return (0, 1) if (strong, weak) == models else (1, 0)
    for role, name in (("strong_model", strong), ("weak_model", weak)):
        if name not in models:
            allowed = f"one of the router's models: {', '.join(models)}"
            raise OptionError.of(
                role, name, f"{allowed}; what they are called here is `{role}` of its config"
            )
    return models.index(str(strong)), models.index(str(weak))


def _draw(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56  # 56 bits: below 1 as a float
