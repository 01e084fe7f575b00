"""Simulated judges of real gold gains: truth from the data, bias from a formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.types import FloatArray

__all__ = ["SIMULATED_JUDGES", "semi_synthetic_votes"]

SIMULATED_JUDGES: tuple[str, ...] = ("unbiased", "length", "topic", "perverse", "noise")

_NOISE = 0.5  # standard deviation of a verdict around its mean, in gain units
_LENGTH_SLOPE = 0.15  # gain units for one standard deviation of log length
_TOPIC_SPREAD = 0.4  # standard deviation of the judge's taste over topics


def semi_synthetic_votes(
    gold_gain: FloatArray,
    texts: Sequence[str],
    domain: NDArray[np.int64] | Sequence[str],
    judge: str,
    rng: np.random.Generator,
) -> FloatArray:
    """Preference gains that a simulated judge would give, from real gold gains.

    Verdicts are strengths of preference in gain units and are not bounded: a
    bounded verdict around a gold gain of ±1 cannot be unbiased.

    Parameters
    ----------
    gold_gain : float array, shape (n,)
        Gold gains r, candidate minus baseline.
    texts : sequence of str, length n
        Prompts, for the length bias.
    domain : sequence of length n
        Topic of each prompt, for the topic bias.
    judge : str
        One of :data:`SIMULATED_JUDGES`, see Notes.
    rng : numpy Generator

    Returns
    -------
    float array, shape (n,)

    Raises
    ------
    OptionError
        When the judge is unknown.

    Notes
    -----
    With noise ε ~ N(0, 0.5²), the standardised log number of characters l (at
    most ±2) and a taste t ~ N(0, 0.4²) drawn once for each topic, a verdict is

    * unbiased: r + ε;
    * length: r + 0.15·l + ε;
    * topic: r + t(topic) + ε;
    * perverse: −r + ε;
    * noise: mean(r) + N(0, var(r) + 0.5²), which knows nothing of the query.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> gain = rng.choice([-1.0, 0.0, 1.0], 500)
    >>> votes = semi_synthetic_votes(gain, ["q"] * 500, ["a"] * 500, "perverse", rng)
    >>> bool(np.corrcoef(gain, votes)[0, 1] < -0.7)
    True
    """
    if judge not in SIMULATED_JUDGES:
        raise OptionError.of("judge", judge, ", ".join(SIMULATED_JUDGES))
    gain = np.asarray(gold_gain, dtype=np.float64)
    noise = rng.normal(0, _NOISE, len(gain))
    if judge == "noise":
        votes: FloatArray = gain.mean() + np.hypot(gain.std(), _NOISE) / _NOISE * noise
    elif judge == "perverse":
        votes = noise - gain
    else:
        votes = gain + noise + _bias(judge, texts, domain, rng)
    return votes


def _bias(
    judge: str,
    texts: Sequence[str],
    domain: NDArray[np.int64] | Sequence[str],
    rng: np.random.Generator,
) -> FloatArray:
    if judge == "length":
        log = np.log([len(text) + 1 for text in texts])
        spread = log.std() if log.std() > 0 else 1.0
        slope: FloatArray = _LENGTH_SLOPE * np.clip((log - log.mean()) / spread, -2, 2)
        return slope
    if judge == "topic":
        names, index = np.unique(np.asarray(domain), return_inverse=True)
        taste: FloatArray = rng.normal(0, _TOPIC_SPREAD, len(names))[index]
        return taste
    return np.zeros(len(texts))
