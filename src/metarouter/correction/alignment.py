"""Put preference gains on the scale of gold gains: :func:`estimate_scale`."""

from __future__ import annotations

import numpy as np

from metarouter.errors import OptionError
from metarouter.types import FloatArray

__all__ = ["ALIGNMENTS", "estimate_scale"]

ALIGNMENTS = ("none", "range", "variance", "wasserstein")
_QUANTILES = 200


def estimate_scale(gold: FloatArray, preference: FloatArray, alignment: str) -> float:
    """Positive constant c that puts c · preference on the scale of gold.

    Uses the training labels of the fold it is given and nothing else.

    Parameters
    ----------
    gold, preference : arrays, shapes (n,) and (m,)
        Gains of either source; they need not share queries.
    alignment : {"none", "range", "variance", "wasserstein"}
        ``none`` is 1; ``range`` matches max − min; ``variance`` matches the
        standard deviations; ``wasserstein`` minimises the 2-Wasserstein
        distance between gold and c · preference.

    Returns
    -------
    float
        1 where a source is constant, since no scale can be seen then.

    Raises
    ------
    OptionError
        When the alignment is unknown.

    Notes
    -----
    In one dimension W₂² = ∫ (F_g⁻¹(u) − c F_p⁻¹(u))² du, so
    c = ∫ F_g⁻¹ F_p⁻¹ / ∫ (F_p⁻¹)². Zhang et al. (2025), Remark 1,
    https://arxiv.org/abs/2509.25535.

    Examples
    --------
    >>> estimate_scale(np.array([-2.0, 2.0]), np.array([-1.0, 1.0]), "variance")
    2.0
    """
    if alignment not in ALIGNMENTS:
        raise OptionError.of("alignment", alignment, ", ".join(ALIGNMENTS))
    if alignment == "none" or not len(gold) or not len(preference):
        return 1.0
    if alignment == "range":
        top, bottom = float(np.ptp(gold)), float(np.ptp(preference))
    elif alignment == "variance":
        top, bottom = float(gold.std()), float(preference.std())
    else:
        u = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        of_gold, of_preference = np.quantile(gold, u), np.quantile(preference, u)
        top, bottom = float(of_gold @ of_preference), float(of_preference @ of_preference)
    return top / bottom if top > 0 and bottom > 0 else 1.0
