"""From a labelled table to fitted gains: :func:`learn_gain`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from numpy.typing import NDArray

from metarouter.gain.posterior import GainPosterior
from metarouter.gain.registry import make_pool_model
from metarouter.labels.repeats import merge_repeats
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import Corrector, ModelState

__all__ = ["FittedGain", "learn_gain"]

_OWN_POSTERIOR = ("auto", "two_fidelity")


class FittedGain(Protocol):
    """Gains of every candidate over the reference model, fitted."""

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Mean and std of shape (n, n_models − 1)."""
        ...

    def state(self) -> ModelState:
        """Arrays from which the NumPy-only scorer predicts the same values."""
        ...


def learn_gain(
    table: GainTable, corrector: Corrector, *, gain_model: str = "auto", seed: int = 0
) -> FittedGain:
    """Correct a table and fit a gain model to it.

    A corrector that is itself a model of the gold gain (``auto`` and
    ``two_fidelity``) is used as the gain model when `gain_model` asks for that
    or leaves it open; any other gain model is fitted to the corrected rows. How
    precise such a corrector's rows are is said in units of a gold label of
    average weight: of the weights only ratios matter.

    Parameters
    ----------
    table : GainTable with features.
    corrector : Corrector, not fitted yet; it is fitted here.
    gain_model : str, default "auto"
        One of :data:`metarouter.gain.GAIN_MODELS`, or of
        :data:`metarouter.gain.TABLE_GAIN_MODELS`, which learn from the
        corrected table as a whole.
    seed : int, default 0

    Returns
    -------
    FittedGain
        ``predict(features)`` gives ψ̂ and its deviation, (n, n_models − 1) each.

    Examples
    --------
    >>> from metarouter.correction import make_corrector
    >>> from metarouter.testing import make_simulation
    >>> data = make_simulation(400, 4, n_gold=80, n_test=100, bias="constant")
    >>> gain = learn_gain(data.table, make_corrector("mean_shift"), gain_model="ridge")
    >>> low, high = gain.predict(data.test.features).interval(0.95)
    >>> low.shape
    (100, 1)
    """
    table = merge_repeats(table)
    corrector.fit(table)
    posterior = getattr(corrector, "gain_posterior", None)
    if posterior is not None and gain_model in _OWN_POSTERIOR:
        own: GainPosterior = posterior()
        return own
    if posterior is not None:
        table = replace(table, weight=table.weight / table.weight[table.is_gold].mean())
    model: FittedGain = make_pool_model(gain_model, seed=seed).fit(corrector.transform(table))
    return model
