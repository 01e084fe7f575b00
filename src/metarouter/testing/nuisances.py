"""True nuisance values, to test an estimator with what it would have to learn."""

from __future__ import annotations

from dataclasses import dataclass

from metarouter.types import FloatArray

__all__ = ["OracleNuisances"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OracleNuisances:
    """The true nuisance values at the rows of a table, each of shape (n_rows,).

    Attributes
    ----------
    outcome_gold : ψ(q) = μ₁, the mean gold gain.
    outcome_pref : η(q) = μ₀, the mean preference gain.
    annotation_propensity : e(q), the probability of a gold label.
    """

    outcome_gold: FloatArray
    outcome_pref: FloatArray
    annotation_propensity: FloatArray

    @property
    def outcome(self) -> FloatArray:
        """E[gain given q] over both sources: e·ψ + (1 − e)·η, which the R-learner needs."""
        e = self.annotation_propensity
        return e * self.outcome_gold + (1 - e) * self.outcome_pref

    @property
    def shift(self) -> FloatArray:
        """Δ(q) = ψ(q) − η(q)."""
        return self.outcome_gold - self.outcome_pref
