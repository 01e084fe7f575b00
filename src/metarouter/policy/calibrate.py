"""Setting the price of cost: from a share of calls, a budget or a loss limit.

A threshold is learned from other data than the score it cuts. For a share and a
budget queries without labels are enough; a limit on the loss needs held-out
gold labels, and then comes with a guarantee.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from metarouter.errors import DataError, MissingDependencyError, OptionError
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = [
    "ALWAYS_PREMIUM_W",
    "Calibration",
    "calibrate_budget",
    "calibrate_max_loss",
    "calibrate_share",
    "mix_at_share",
    "share_prices",
]

# So low that cost decides: the dearest model of each query, of equally dear ones the best
# predicted. For a pair whose costs are calls that is always premium. Gains keep seven digits
# beside it.
ALWAYS_PREMIUM_W = -1e9

# Prices of cost that a loss limit is tested at, from "always premium" upwards. Fixed before any
# label is seen, as the guarantee asks; 40 a decade, so neighbours are 6 % apart, in any unit.
_W_STEPS = np.logspace(-6, 6, 481)
_W_GRID = np.concatenate([-_W_STEPS[::-1], [0.0], _W_STEPS])
_BET_CAP = 0.9  # share of the capital that one observation may take


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A calibrated price of cost, and what it will do on such queries.

    Attributes
    ----------
    w : price of cost; for a pair under unit costs the threshold on the gain.
    premium_share : share of queries that leave the reference model, with an
        interval for the share on new queries of the same kind.
    cost_per_1k : expected cost of 1,000 queries, in cost units.
    certified : False only when a loss limit could not be certified; `w` then
        chooses the dearest model for each query.
    reason : one plain sentence.
    """

    w: float
    premium_share: Estimate
    cost_per_1k: Estimate
    certified: bool
    reason: str


def calibrate_share(mean: FloatArray, costs: FloatArray, share: float) -> Calibration:
    """Price of cost at which a share of the queries leaves the reference model.

    Assumes that new queries come from where the calibration queries came from.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
        Predicted gains over the reference model on calibration queries.
    costs : array, shape (n, n_models) or (n_models,)
        Expected costs.
    share : float
        Share of non-reference calls in [0, 1]. The largest share that does not
        exceed it is used: queries with equal scores cannot be parted.

    Returns
    -------
    Calibration
        `w` is negative when the share asked for is larger than the share of
        queries with a positive predicted gain; the reason says so.

    Raises
    ------
    OptionError
        When `share` is outside [0, 1].
    DataError
        When the share cannot be reached because other models are cheaper than
        the reference, or the arrays do not fit.

    Notes
    -----
    A query leaves the reference while ``w < max_m ψ̂_m / (C_m − C_0)``, so w is a
    quantile of these switch points. The interval of the share on new queries is
    Clopper & Pearson's for k of n: with k of n switch points above w, the new
    share lies between Beta(k, n−k+1) and Beta(k+1, n−k).

    Examples
    --------
    >>> calibration = calibrate_share(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0]), 0.5)
    >>> round(calibration.w, 3), calibration.premium_share.value
    (0.25, 0.5)
    """
    gains, costs = gains_and_costs(mean, costs)
    grid, shares = _share_grid(gains, costs)
    w = float(grid[_first_within(shares, share)])
    note = "; it is negative: fewer queries have a positive predicted gain" if w < 0 else ""
    return _calibration(gains, costs, w, f"w = {w:.6g} for a premium share of {share:g}{note}")


def share_prices(mean: FloatArray, costs: FloatArray, shares: FloatArray) -> FloatArray:
    """Price of cost for each of many shares, as :func:`calibrate_share` finds it.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
    costs : array, shape (n, n_models) or (n_models,)
    shares : array, shape (k,), in [0, 1]
        One that no price keeps to gets that of the smallest share there is.

    Returns
    -------
    array, shape (k,)

    Raises
    ------
    DataError
        When no query ever changes its model with the price.

    Examples
    --------
    >>> prices = share_prices(np.array([0.1, 0.3]), np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    >>> prices.round(3).tolist()
    [0.3, 0.2]
    """
    grid, reached = _share_grid(*gains_and_costs(mean, costs))
    least = float(reached.min())
    return np.array([grid[_first_within(reached, max(share, least))] for share in shares])


def mix_at_share(mean: FloatArray, costs: FloatArray, share: float) -> FloatArray:
    """The utility rule as a policy with exactly a given share of non-reference calls.

    Where no price of cost gives the share, for instance because scores are
    tied, it tosses a coin between the two nearest prices.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
    costs : array, shape (n, n_models) or (n_models,)
    share : float, in [0, 1]

    Returns
    -------
    array, shape (n, n_models)
        Probability with which each model answers each query.

    Raises
    ------
    OptionError, DataError
        As :func:`calibrate_share`.

    Examples
    --------
    >>> mix_at_share(np.array([0.1, 0.1]), np.array([0.0, 1.0]), 0.25).tolist()
    [[0.75, 0.25], [0.75, 0.25]]
    """
    gains, costs = gains_and_costs(mean, costs)
    grid, shares = _share_grid(gains, costs)
    low = _first_within(shares, share)
    high = max(low - 1, 0)
    gap = shares[high] - shares[low]
    part = (share - shares[low]) / gap if gap > 0 else 0.0
    models = np.eye(gains.shape[1])
    below, above = (models[best_model(gains, costs, float(grid[at]))] for at in (low, high))
    return np.asarray((1 - part) * below + part * above)


def calibrate_budget(mean: FloatArray, costs: FloatArray, budget_per_1k: float) -> Calibration:
    """Smallest price of cost whose expected cost fits a budget.

    Assumes that new queries come from where the calibration queries came from,
    and that expected costs are right on average.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
        Predicted gains over the reference model on calibration queries.
    costs : array, shape (n, n_models) or (n_models,)
        Expected costs, in the unit of the budget.
    budget_per_1k : float
        Cost allowed for 1,000 queries.

    Returns
    -------
    Calibration
        With ``w >= 0``: money is not spent where no gain is predicted.

    Raises
    ------
    DataError
        When even the cheapest choice costs more than the budget.

    Notes
    -----
    The mean cost of ``argmax_m ψ̂_m − w·C_m`` falls in steps as w rises. The
    steps are where two models change places, ``(ψ̂_a − ψ̂_b)/(C_a − C_b)``; they
    are sorted and searched by bisection.

    Examples
    --------
    >>> budget = calibrate_budget(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 2.0]), 1000)
    >>> round(budget.w, 3), budget.cost_per_1k.value
    (0.125, 1000.0)
    """
    gains, costs = gains_and_costs(mean, costs)
    cheapest = 1000 * float(costs.min(axis=1).mean())
    if not budget_per_1k >= cheapest:
        raise DataError(
            f"a budget of {budget_per_1k:g} per 1,000 queries: the cheapest model for each query "
            f"already costs {cheapest:g}"
        )
    steps = _switch_points(gains, costs)
    steps = np.concatenate([[0.0], steps, [2 * steps.max(initial=0.0) + 1.0]])
    grid = np.append(0.0, (steps[:-1] + steps[1:]) / 2)
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        fits = 1000 * _chosen_cost(gains, costs, float(grid[middle])).mean() <= budget_per_1k
        low, high = (low, middle) if fits else (middle + 1, high)
    w = float(grid[low])
    reason = f"w = {w:.6g} for a budget of {budget_per_1k:g} per 1,000 queries"
    return _calibration(gains, costs, w, reason)


def calibrate_max_loss(
    mean: FloatArray,
    gold: FloatArray,
    costs: FloatArray,
    max_loss: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
    gain_bound: float = 1.0,
    premium: int = -1,
) -> Calibration:
    """Largest price of cost whose quality loss is certified to stay below a limit.

    With probability `confidence` over the gold labels, the expected quality on
    new queries is at most `max_loss` below always the premium model. Assumes
    that the labelled queries are a random sample of the new ones, and that
    neither the gain model nor its features saw them.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
        Predicted gains over the reference model on held-out gold queries.
    gold : array of the same shape
        Their gold gains over the reference model.
    costs : array, shape (n, n_models) or (n_models,)
    max_loss : float
        In gain units per query, above 0 and below `gain_bound`.
    rng : numpy.random.Generator
        Puts the rows in random order, as files are often sorted by topic.
    confidence : float, default 0.95
        In (0, 1).
    gain_bound : float, default 1
        Largest possible difference in quality between two answers.
    premium : int, default −1
        Index of the model that losses are counted against.

    Returns
    -------
    Calibration
        When nothing can be certified: the dearest model for each query, of
        equally dear ones (a pool under unit costs) the best predicted;
        `certified` False, and the reason. Where that is `premium` for every query,
        as for a pair whose costs are calls, nothing is lost; in a pool, or where
        token prices make another model dearer for some queries, something may be.

    Raises
    ------
    OptionError
        When `max_loss` or `confidence` is out of range.
    DataError
        When shapes do not fit, or a gold gain exceeds `gain_bound`.

    Notes
    -----
    Learn then test: a fixed grid of w is tested in order, from always premium
    upwards, each at level 1 − `confidence`, until the first that fails; testing
    in a fixed order needs no correction for the number of tests. Each test bets
    against ``E[loss] > max_loss`` (Waudby-Smith & Ramdas), which adapts to the
    variance of the loss and, unlike a normal approximation, is valid for any n.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan & Lei (2021), "Learn then Test",
    https://arxiv.org/abs/2110.01052; Waudby-Smith & Ramdas (2024), "Estimating
    means of bounded random variables by betting", JRSS B 86(1),
    https://arxiv.org/abs/2010.09686.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> gain = rng.uniform(-0.2, 0.4, 2000)
    >>> found = calibrate_max_loss(gain, gain, np.array([0.0, 1.0]), 0.02, rng)
    >>> found.certified, bool(gain[gain <= found.w].sum() / 2000 < 0.02)
    (True, True)
    """
    if not 0 < max_loss < gain_bound:
        raise OptionError.of("max_loss", max_loss, f"a loss above 0, below {gain_bound:g}")
    if not 0 < confidence < 1:
        raise OptionError.of("confidence", confidence, "a probability between 0 and 1")
    gains, costs = gains_and_costs(mean, costs)
    truth, _ = gains_and_costs(gold, costs)
    largest = float(np.abs(truth[:, premium, None] - truth).max())
    if largest > gain_bound:
        raise DataError(
            f"a gold gain of {largest:g} is above {gain_bound:g}, the largest that a loss limit "
            "allows for: fit with the range of the scores, `score_range`"
        )
    order = rng.permutation(len(truth))

    def loss(choice: IntArray) -> FloatArray:
        lost = truth[:, premium] - truth[np.arange(len(truth)), choice]
        return np.asarray(lost[order] / gain_bound)

    w = _last_certified(gains, costs, loss, max_loss / gain_bound, 1 - confidence)
    certified = w != ALWAYS_PREMIUM_W
    reason = (
        f"w = {w:.6g}: loss of at most {max_loss:g} a query with confidence {confidence:g}"
        if certified
        else f"{_dearest(gains, costs, premium)}: {len(truth)} gold labels cannot certify a loss "
        f"of at most {max_loss:g} with confidence {confidence:g}; label more or allow more"
    )
    return _calibration(gains, costs, w, reason, certified=certified)


def _dearest(gains: FloatArray, costs: FloatArray, premium: int) -> str:
    """What the rule does at ``ALWAYS_PREMIUM_W``."""
    choice = best_model(gains, costs, ALWAYS_PREMIUM_W)
    if gains.shape[1] == 2 and (choice == premium % 2).all():
        return "always the premium model"
    return "always the dearest model for a query, of equally dear ones the best predicted"


def _last_certified(
    gains: FloatArray,
    costs: FloatArray,
    loss: Callable[[IntArray], FloatArray],
    limit: float,
    error: float,
) -> float:
    last, before = ALWAYS_PREMIUM_W, None
    for w in _W_GRID.tolist():
        choice = best_model(gains, costs, w)
        unchanged = before is not None and np.array_equal(choice, before)
        if not unchanged and not mean_is_below(loss(choice), limit, error):
            break
        last, before = w, choice
    return last


def mean_is_below(loss: FloatArray, limit: float, error: float) -> bool:
    """Whether losses in [−1, 1] prove that their mean is at most `limit`.

    Parameters
    ----------
    loss : array, shape (n,)
        Independent, in random order, each in [−1, 1].
    limit : float
        In (−1, 1).
    error : float
        Probability of a wrong "yes" when the mean is above `limit`.

    Returns
    -------
    bool

    Notes
    -----
    A gambler who bets that losses are small grows a capital
    ``Π (1 − λ_t (L_t − limit))``, which has expectation at most 1 when the mean
    is above the limit; reaching 1/`error` therefore has probability at most
    `error` (Ville). λ_t uses only the losses before t.
    """
    unit, limit = (loss + 1) / 2, (limit + 1) / 2
    count = np.arange(1, len(unit) + 1)
    mean = (0.5 + np.cumsum(unit)) / (count + 1)
    variance = (0.25 + np.cumsum((unit - mean) ** 2)) / (count + 1)
    known = np.append(0.25, variance[:-1])
    bet = np.sqrt(2 * np.log(1 / error) / (len(unit) * known))
    bet = np.minimum(bet, _BET_CAP / (1 - limit))
    capital = np.cumsum(np.log1p(-bet * (unit - limit)))
    return bool(capital.max() >= np.log(1 / error))


def _share_grid(gains: FloatArray, costs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One price of cost between each two switch points, and the share it gives."""
    enters, leaves = _reference_range(gains, costs)
    starts = np.unique(enters[np.isfinite(enters)])
    if not len(starts):
        raise DataError("no query ever changes its model with the price of cost: check the costs")
    steps = np.append(starts[0] - 2 * max(1.0, abs(starts[0])), starts)
    end = steps[-1] + 1e-9 * max(1.0, abs(steps[-1]))
    grid = np.append((steps[:-1] + steps[1:]) / 2, end)
    return grid, _left_share(enters, leaves, grid)


def _first_within(shares: FloatArray, share: float) -> int:
    if not 0 <= share <= 1:
        raise OptionError.of("share", share, "a share of calls in [0, 1]")
    within = shares <= share
    if not within.any():
        raise DataError(
            f"a share of {share:g}: at least {shares.min():.3f} of the queries leave the reference "
            "model at any price, as another model is not dearer; put the cheapest model first"
        )
    return int(np.argmax(within))


def _reference_range(gains: FloatArray, costs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The reference model is chosen for ``enters <= w < leaves``."""
    gain, extra = gains[:, 1:], costs[:, 1:] - costs[:, :1]
    ratio = np.divide(gain, extra, out=np.where(gain > 0, np.inf, -np.inf), where=extra != 0)
    enters = np.where(extra >= 0, ratio, -np.inf).max(axis=1)
    leaves = np.where(extra < 0, ratio, np.inf).min(axis=1)
    return enters, np.maximum(enters, leaves)


def _left_share(enters: FloatArray, leaves: FloatArray, w: FloatArray) -> FloatArray:
    at_reference = np.searchsorted(np.sort(enters), w, side="right")
    gone_again = np.searchsorted(np.sort(leaves), w, side="right")
    n = len(enters)
    # counts are subtracted before they are divided: 1 − 2/3 is above 1/3 by rounding
    return np.asarray((n - (at_reference - gone_again)) / n)


def _switch_points(gains: FloatArray, costs: FloatArray) -> FloatArray:
    points = []
    for a, b in combinations(range(gains.shape[1]), 2):
        extra = costs[:, a] - costs[:, b]
        dearer = extra != 0
        points.append((gains[dearer, a] - gains[dearer, b]) / extra[dearer])
    every = np.concatenate(points)
    return np.unique(every[every > 0])


def _chosen_cost(gains: FloatArray, costs: FloatArray, w: float) -> FloatArray:
    choice = best_model(gains, costs, w)
    return np.take_along_axis(costs, choice[:, None], axis=1)[:, 0]


def _calibration(
    gains: FloatArray, costs: FloatArray, w: float, reason: str, *, certified: bool = True
) -> Calibration:
    return Calibration(
        w=w,
        premium_share=_share_estimate(best_model(gains, costs, w)),
        cost_per_1k=_mean_estimate(1000 * _chosen_cost(gains, costs, w)),
        certified=certified,
        reason=reason,
    )


def _share_estimate(choice: IntArray) -> Estimate:
    n, k = len(choice), int((choice != 0).sum())
    share = k / n
    return Estimate(
        value=share,
        std_error=float(np.sqrt(share * (1 - share) / n)),
        low=0.0 if k == 0 else _beta_quantile(k, n - k + 1, 0.025),
        high=1.0 if k == n else _beta_quantile(k + 1, n - k, 0.975),
        n=n,
    )


def _mean_estimate(values: FloatArray) -> Estimate:
    mean, n = float(values.mean()), len(values)
    error = half = float("nan")
    warnings = ("one query has no interval",) if n == 1 else ()
    if n > 1:
        error = float(values.std(ddof=1) / np.sqrt(n))
        half = error * float(_special().stdtrit(n - 1, 0.975))
    low, high = mean - half, mean + half
    return Estimate(value=mean, std_error=error, low=low, high=high, n=n, warnings=warnings)


def _beta_quantile(a: float, b: float, p: float) -> float:
    return float(_special().betaincinv(a, b, p))


def _special() -> Any:
    try:
        from scipy import special
    except ImportError as error:
        raise MissingDependencyError.of("calibration", "train") from error
    return special
