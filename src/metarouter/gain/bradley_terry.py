"""Bradley-Terry strengths from battles: weights, ties, and a penalty where needed.

Everything rests on one sufficient statistic, the matrix of wins: ``wins[a, b]``
is the total weight of a's wins over b. A tie counts as half a win for each
side, so a battle of weight w and outcome y in [0, 1] adds ``w y`` to
``wins[a, b]`` and ``w (1 − y)`` to ``wins[b, a]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.types import FloatArray, IntArray

__all__ = [
    "BradleyTerry",
    "contrast_variance",
    "laplacian",
    "sigmoid",
    "solve_strengths",
    "win_probabilities",
]

_MAX_STEPS = 100
_SAFE_STEP = 0.5  # log-odds; over a shorter step the curvature hardly changes
_TOLERANCE = 1e-6  # log-odds, of a last step: what it leaves is about its square
_BLOCK = 65_536  # groups whose scores are held at once


@dataclass
class BradleyTerry:
    """Strengths ξ with P(a beats b) = σ(ξ_a − ξ_b), by penalised maximum likelihood.

    Assumes that outcomes depend on the two strengths alone. Outcomes between
    0 and 1 are taken as fractional responses, for which the estimate needs
    only ``E[y] = σ(ξ_a − ξ_b)``.

    Parameters
    ----------
    penalty : float >= 0, default 0.01
        Precision of a normal prior on each ξ around 0, in units of battles;
        it keeps a model that won or lost everything finite. 0 is the maximum
        likelihood estimate.

    Attributes
    ----------
    strength_ : array, shape (n_models,), log-odds with mean 0.
    covariance_ : array, shape (n_models, n_models)
        Of the strengths, robust to outcomes that vary more or less than a
        coin: H⁻¹ (M + λI) H⁻¹ without the common level, which their mean of 0 fixes.

    Notes
    -----
    Maximises ``Σ w [y log σ(d) + (1 − y) log σ(−d)] − λ/2 ‖ξ‖²`` with
    d = ξ_a − ξ_b by Newton steps. H is its negative Hessian and
    ``M = Σ s s'`` over groups of battles, ``s = Σ w (y − p) x`` within one, with x
    the contrast of a battle.

    References
    ----------
    Bradley & Terry (1952), https://doi.org/10.2307/2334029; Hunter (2004), MM
    algorithms for generalized Bradley-Terry models,
    https://doi.org/10.1214/aos/1079120141; Papke & Wooldridge (1996),
    Econometric methods for fractional response variables.

    Examples
    --------
    >>> model = BradleyTerry(penalty=0.0).fit([0, 0, 1, 0], [1, 1, 0, 1], [1.0, 1.0, 1.0, 1.0])
    >>> round(float(model.win_probability(0, 1)), 6)
    0.75
    """

    penalty: float = 0.01
    strength_: FloatArray = field(init=False, repr=False)
    covariance_: FloatArray = field(init=False, repr=False)

    def fit(
        self,
        first: Any,
        second: Any,
        outcome: Any,
        weight: Any | None = None,
        *,
        n_models: int | None = None,
        groups: Any | None = None,
    ) -> Self:
        """Learn from battles.

        Parameters
        ----------
        first, second : int arrays, shape (n,); the two models of each battle.
        outcome : array, shape (n,); 1 the first won, ½ a tie, 0 the second won.
        weight : array, shape (n,), or None for equal weights.
        n_models : int, optional; one more than the largest index by default.
        groups : array, shape (n,), optional
            Battles of one group are dependent (votes on one query), which the
            covariance takes into account. By default each is its own.

        Raises
        ------
        OptionError
            When the penalty is negative or NaN.
        DataError
            When there is no battle, an outcome is not finite or a weight not in
            [0, inf), nothing is known of a model without a penalty, or its
            strength is infinite.
        """
        if not self.penalty >= 0:
            raise OptionError.of("penalty", self.penalty, "0 or more")
        first, second = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
        outcome = np.asarray(outcome, dtype=np.float64)
        weight = np.ones(len(outcome)) if weight is None else np.asarray(weight, dtype=np.float64)
        _check_battles(outcome, weight)
        size = n_models or int(max(first.max(), second.max())) + 1
        wins = np.zeros((size, size))
        np.add.at(wins, (first, second), weight * outcome)
        np.add.at(wins, (second, first), weight * (1.0 - outcome))
        if self.penalty == 0 and np.linalg.matrix_rank(laplacian(wins + wins.T)) < size - 1:
            raise DataError("no battles link some models to the others; allowed: a penalty above 0")
        strength, inverse = solve_strengths(wins, penalty=self.penalty, centre=np.zeros(size))
        residual = weight * (outcome - sigmoid(strength[first] - strength[second]))
        group = np.arange(len(first)) if groups is None else np.asarray(groups)
        middle = _score_squares(first, second, residual, group, size)
        middle += self.penalty * np.eye(size)
        centred = inverse - inverse.mean(axis=0)
        self.strength_, self.covariance_ = strength, centred @ middle @ centred.T
        return self

    def win_probability(self, a: Any, b: Any) -> FloatArray:
        """P(a beats b), ties counting half, for indices or arrays of them."""
        strength = self._fitted()
        return np.asarray(sigmoid(strength[np.asarray(a)] - strength[np.asarray(b)]))

    @property
    def elo(self) -> FloatArray:
        """Strengths as Elo ratings: 400 points are odds of 10 to 1, the mean is 1000."""
        return 1000.0 + 400.0 / math.log(10.0) * self._fitted()

    def _fitted(self) -> FloatArray:
        if not hasattr(self, "strength_"):
            raise NotFittedError.of(self)
        return self.strength_


def solve_strengths(
    wins: FloatArray, *, penalty: float, centre: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Strengths of one or many matrices of wins at once, by Newton steps from `centre`.

    Parameters
    ----------
    wins : array, shape (..., m, m); its diagonal does not matter.
    penalty : float >= 0, pull of every strength towards `centre`.
    centre : array, shape (m,)

    Returns
    -------
    strength : array, shape (..., m), with the sum of `centre`.
    inverse : array, shape (..., m, m)
        Of the negative Hessian there. Where the penalty leaves the level open
        the Hessian has 1/m added everywhere, which no contrast can see.

    Raises
    ------
    DataError
        When the steps do not settle: a strength is infinite.
    """
    games = wins + wins.swapaxes(-1, -2)
    size = wins.shape[-1]
    gauge = np.full((size, size), 1.0 / size)
    gauge.flat[:: size + 1] += penalty
    strength = np.zeros(wins.shape[:-1]) + centre
    for _ in range(_MAX_STEPS):
        p = win_probabilities(strength)
        expected = games * p
        gradient = (wins - expected).sum(axis=-1) - penalty * (strength - centre)
        hessian = laplacian(expected * (1.0 - p)) + gauge
        try:
            inverse = np.linalg.inv(hessian)
        except np.linalg.LinAlgError:
            break  # strengths so far apart that nothing is left to learn from
        step = (inverse @ gradient[..., None])[..., 0]
        largest = np.abs(step).max(initial=0.0)
        if largest < _TOLERANCE:
            return strength + step, inverse
        if largest > _SAFE_STEP:
            step = _halved(wins, strength, step, penalty, centre)
        strength += step
    raise DataError(
        f"strengths do not settle in {_MAX_STEPS} Newton steps: a model won or lost everything; "
        "allowed: a penalty above 0"
    )


def contrast_variance(inverse: FloatArray, middle: FloatArray, contrasts: FloatArray) -> FloatArray:
    """Diagonal of C H⁻¹ M H⁻¹ C' for stacked problems.

    Parameters
    ----------
    inverse, middle : arrays H⁻¹ and M, shape (..., m, m)
    contrasts : array C, shape (k, m)

    Returns
    -------
    array, shape (..., k)
    """
    half = inverse @ contrasts.T
    variance: FloatArray = (half * (middle @ half)).sum(axis=-2)
    return np.maximum(variance, 0.0)


def laplacian(weight: FloatArray) -> FloatArray:
    """Σ w_ab (e_a − e_b)(e_a − e_b)' over pairs of symmetric weights (..., m, m)."""
    result = -weight
    np.einsum("...ii->...i", result)[...] += weight.sum(axis=-1)
    return result


def win_probabilities(strength: FloatArray) -> FloatArray:
    """P(a beats b) of all pairs, for strengths (..., m); exact where it is tiny."""
    odds = np.exp(np.minimum(strength[..., :, None] - strength[..., None, :], 0.0))
    result: FloatArray = odds / (odds + odds.swapaxes(-1, -2))
    return result


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + e^−x) without overflow."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def _check_battles(outcome: FloatArray, weight: FloatArray) -> None:
    if not len(outcome):
        raise DataError("no battles; allowed: at least one")
    if not np.isfinite(outcome).all():  # a corrected label may lie beyond a win or a loss
        raise DataError("an outcome is NaN or infinite; allowed: 1 won, ½ a tie, 0 lost")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("a weight is negative, NaN or infinite; allowed: [0, inf)")


def _score_squares(
    first: IntArray, second: IntArray, residual: FloatArray, group: Any, size: int
) -> FloatArray:
    """Σ s s' over groups, where s sums residual · (e_first − e_second) over one's battles."""
    code = np.unique(group, return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    total = np.zeros((size, size))
    for start in range(0, int(code.max()) + 1, _BLOCK):
        low, high = np.searchsorted(code[order], (start, start + _BLOCK))
        rows = order[low:high]
        score = np.zeros((_BLOCK, size))
        np.add.at(score, (code[rows] - start, first[rows]), residual[rows])
        np.add.at(score, (code[rows] - start, second[rows]), -residual[rows])
        total += score.T @ score
    return total


def _halved(
    wins: FloatArray, strength: FloatArray, step: FloatArray, penalty: float, centre: FloatArray
) -> FloatArray:
    """Each problem's step, halved until it does not lower the log posterior."""
    value = _log_posterior(wins, strength, penalty, centre)
    for _ in range(60):
        worse = _log_posterior(wins, strength + step, penalty, centre) < value
        if not worse.any():
            break
        step = np.where(worse[..., None], 0.5 * step, step)
    return step


def _log_posterior(
    wins: FloatArray, strength: FloatArray, penalty: float, centre: FloatArray
) -> FloatArray:
    difference = strength[..., :, None] - strength[..., None, :]
    likelihood = (wins * -np.logaddexp(0.0, -difference)).sum(axis=(-1, -2))
    pull = 0.5 * penalty * ((strength - centre) ** 2).sum(axis=-1)
    return np.asarray(likelihood - pull, dtype=np.float64)
