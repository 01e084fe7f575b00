"""Joint intervals and tests for many estimates on the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarouter.gain.extras import import_train
from metarouter.types import FloatArray, IntArray

__all__ = ["JointEstimates", "adjust_holm"]

_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JointEstimates:
    """k estimates with the influence of each independent unit on each of them.

    Parameters
    ----------
    value : array, shape (k,)
    influence : array, shape (n, k)
        Its sums of squares estimate variances, its cross products covariances.
    kind : int array, shape (n,); units of one kind have like variances.
    rng : numpy.random.Generator, draws the multipliers.

    References
    ----------
    Chernozhukov, Chetverikov and Kato (2013), Gaussian approximations and
    multiplier bootstrap for maxima, https://doi.org/10.1214/13-AOS1161.
    Welch (1947), https://doi.org/10.1093/biomet/34.1-2.28.
    """

    value: FloatArray
    influence: FloatArray
    kind: IntArray
    rng: np.random.Generator

    @property
    def std_error(self) -> FloatArray:
        """Standard errors, shape (k,)."""
        return np.asarray(np.sqrt((self.influence**2).sum(axis=0)))

    def freedom(self) -> FloatArray:
        """Welch's degrees of freedom of each variance, shape (k,).

        ``(Σ v)² / Σ v² / (n − 1)`` over the kinds of unit, v being the part of
        the variance that n units of a kind bring in.
        """
        squares = self.influence**2
        spread = np.zeros(len(self.value))
        for kind in np.unique(self.kind):
            part = squares[self.kind == kind]
            n = np.maximum((part > 0).sum(axis=0), 2)
            spread += part.sum(axis=0) ** 2 / (n - 1)
        total = squares.sum(axis=0)
        result: FloatArray = np.divide(
            total**2, spread, out=np.full_like(spread, np.inf), where=spread > 0
        )
        return result

    def half_widths(self, level: float) -> FloatArray:
        """Half the widths of intervals that all hold with probability `level`, shape (k,)."""
        critical = float(np.quantile(self._largest(), level))
        return _t_quantile(self.freedom(), critical) * self.std_error

    def apart_from_mean(self, columns: IntArray, share: FloatArray) -> JointEstimates:
        """Some of the estimates minus their mean with weights `share`, which sum to one."""
        value, influence = self.value[columns], self.influence[:, columns]
        return JointEstimates(
            value=value - share @ value,
            influence=influence - (influence @ share)[:, None],
            kind=self.kind,
            rng=self.rng,
        )

    def p_value(self) -> float:
        """Of the hypothesis that all k truths are zero, by the largest |value / error|."""
        error = self.std_error
        t = np.divide(np.abs(self.value), error, out=np.zeros_like(error), where=error > 0)
        as_extreme = self._largest() >= _normal_score(self.freedom(), t).max()
        return float((1 + as_extreme.sum()) / (1 + _DRAWS))

    def _largest(self) -> FloatArray:
        """Draws of the largest |studentised deviation| under normal multipliers."""
        # Normal multipliers make the deviations normal with this very covariance.
        covariance = self.influence.T @ self.influence
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        values, basis = np.linalg.eigh(covariance / np.outer(scale, scale))
        # The symmetric root is unique: rounding in the covariance cannot turn the draws.
        root = basis * np.sqrt(np.maximum(values, 0.0)) @ basis.T
        draws = self.rng.standard_normal((_DRAWS, len(scale))) @ root
        return np.asarray(np.abs(draws).max(axis=1, initial=0.0))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure,
    https://www.jstor.org/stable/4615733.

    Examples
    --------
    >>> adjust_holm([0.5, 0.01, 0.02])
    [0.5, 0.03, 0.04]
    """
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values)[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def _t_quantile(freedom: FloatArray, score: float) -> FloatArray:
    """The t quantile that is as far out as a normal score."""
    special = import_train("scipy.special", "a bias map")
    return np.asarray(special.stdtrit(freedom, special.ndtr(score)), dtype=np.float64)


def _normal_score(freedom: FloatArray, t: FloatArray) -> FloatArray:
    """The normal score that is as far out as t ≥ 0."""
    special = import_train("scipy.special", "a bias map")
    return np.asarray(-special.ndtri(special.stdtr(freedom, -t)), dtype=np.float64)
