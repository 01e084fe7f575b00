"""Correctors without a query-dependent part: the baselines to beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from metarouter.correction.alignment import estimate_scale
from metarouter.correction.contrasts import ROUNDING, is_open, level_rows, open_levels
from metarouter.errors import DataError, NotFittedError
from metarouter.labels.noise import label_noise
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray

__all__ = ["GoldOnly", "MeanShift", "Pooled", "PreferenceOnly", "align"]


@dataclass
class Pooled:
    """Take preference gains for gold: unbiased only if the judge is.

    Parameters
    ----------
    alignment : str, default "none"
        See :func:`metarouter.correction.alignment.estimate_scale`.
    """

    alignment: Literal["none", "range", "variance", "wasserstein"] = "none"
    scale_: float = field(default=1.0, init=False, repr=False)
    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Learn the scale of the preference gains."""
        self.scale_ = _scale(table, self.alignment)
        self.diagnostics_ = {"scale": self.scale_}
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with scaled preference gains."""
        return align(table, self.scale_)


@dataclass
class GoldOnly:
    """Give preference rows no weight."""

    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Check that there are gold rows."""
        if not table.is_gold.any():
            raise DataError("gold_only needs gold labels; the table has none")
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with infinite variance on its preference rows."""
        return table.with_gains(table.gain, np.where(table.is_gold, table.variance, np.inf))


@dataclass
class PreferenceOnly:
    """Leave the gold rows out: what training on votes alone gives."""

    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Check that there are preference rows."""
        if table.is_gold.all():
            raise DataError("preference_only needs preference labels; the table has none")
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The preference rows alone."""
        return table.preference()


@dataclass
class MeanShift:
    """Add one constant for each pair of models: the judge errs by a level.

    Estimates E[gold gain] − E[preference gain], as differences of one level for
    each model, by least squares. Unbiased when both sources draw the same
    queries or the bias is the same everywhere. Each row counts once, whatever its weight:
    a label of three graders is more precise, but it is about one query, and where queries
    with more graders gain more a weighted mean would be theirs. A weight of 0 leaves a row
    out. Rows of models that a source does not link get infinite variance: nothing is known
    of their shift. Where queries are in both sources and their gains go against each other,
    the shift is the less sure for it; where they go together it is not called surer.

    Parameters
    ----------
    alignment : str, default "none"
    """

    alignment: Literal["none", "range", "variance", "wasserstein"] = "none"
    scale_: float = field(default=1.0, init=False, repr=False)
    shift_: FloatArray | None = field(default=None, init=False, repr=False)
    covariance_: FloatArray | None = field(default=None, init=False, repr=False)
    open_: FloatArray | None = field(default=None, init=False, repr=False)
    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Learn the level of each model in either source."""
        self.scale_ = _scale(table, self.alignment)
        table = align(table.rows(table.weight > 0), self.scale_)
        shared = np.intersect1d(table.gold().query, table.preference().query)
        gold, gold_error, gold_part = _levels(table.gold(), table, shared)
        preference, preference_error, preference_part = _levels(table.preference(), table, shared)
        self.shift_ = gold - preference
        self.covariance_ = gold_error + preference_error + _opposed(gold_part, preference_part)
        self.open_ = open_levels(table)
        self.diagnostics_ = {"scale": self.scale_, "shift": self.shift_.tolist()}
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with shifted preference gains and the variance of the shift."""
        if self.shift_ is None or self.covariance_ is None or self.open_ is None:
            raise NotFittedError.of(self)
        table = align(table, self.scale_)
        rows = level_rows(table)
        variance = np.einsum("ij,jk,ik->i", rows, self.covariance_, rows)
        variance[is_open(self.open_, table)] = np.inf
        return table.with_gains(
            np.where(table.is_gold, table.gain, table.gain + rows @ self.shift_),
            np.where(table.is_gold, table.variance, variance),
        )


def align(table: GainTable, scale: float) -> GainTable:
    """Multiply the preference gains by `scale`."""
    if scale == 1.0:
        return table
    return table.with_gains(np.where(table.is_gold, table.gain, scale * table.gain), table.variance)


def _scale(table: GainTable, alignment: str) -> float:
    table = table.rows(table.weight > 0)
    return estimate_scale(table.gold().gain, table.preference().gain, alignment)


def _levels(
    source: GainTable, table: GainTable, shared: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean gain of each candidate over the reference, by least squares.

    With its covariance, and the part of each shared query in its error.
    """
    if not len(source):
        raise DataError("mean_shift needs labels of both sources; one of them has none")
    rows = level_rows(source)
    gram = rows.T @ rows
    inverse = np.asarray(np.linalg.pinv(gram, rcond=ROUNDING, hermitian=True), dtype=np.float64)
    levels = inverse @ (rows.T @ source.gain)
    freedom = len(source) - round(float(np.trace(inverse @ gram)))
    residual = source.gain - rows @ levels
    part = np.zeros((len(shared), len(levels)))
    meets = np.isin(source.query, shared)
    at = np.searchsorted(shared, source.query[meets])
    np.add.at(part, at, residual[meets, None] * (rows[meets] @ inverse))
    square = float((residual**2).sum())
    # Rows too few to show their own noise, or all alike, have that of the other source.
    is_shown = freedom > 0 and square > ROUNDING**2 * float(source.gain @ source.gain)
    noise = square / freedom if is_shown else label_noise(table)
    return levels, noise * inverse, part


def _opposed(gold: FloatArray, preference: FloatArray) -> FloatArray:
    """What errors of opposite sign on the same queries add to the covariance of a difference."""
    n_shared = len(gold)
    if n_shared < 2:
        return np.zeros((gold.shape[1],) * 2)
    product = gold.T @ preference * (n_shared / (n_shared - 1))
    values, vectors = np.linalg.eigh(-(product + product.T))
    # Errors that go together would take something away: left out, as by labels check.
    found: FloatArray = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found
