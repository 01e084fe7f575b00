"""A new router from old labels and new feedback, proposed only where it is better."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarouter.calibration import CalibrationTarget
from metarouter.errors import DataError, OptionError
from metarouter.evaluation.equal_cost import equal_cost_w, queries_needed
from metarouter.evaluation.heldout import HeldOut, read_held_out
from metarouter.evaluation.intervals import bootstrap_interval, mean_statistic
from metarouter.evaluation.verdict import signed
from metarouter.fitting import FitOptions, fit_table
from metarouter.labels.queries import hash_queries
from metarouter.labels.read import Labels, read_gain_table
from metarouter.labels.split import take_queries
from metarouter.labels.table import GainTable
from metarouter.policy.costs import TokenCost
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import Estimate, ModelSpec, json_value
from metarouter.router import Router
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["MIN_HELD_OUT", "RefitResult", "refit"]

MIN_HELD_OUT = 20
"""Fewer independent held-out gold queries than this cannot show that a router is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitResult:
    """What a refit found.

    Attributes
    ----------
    candidate : the new router, which costs no more than the serving one does on
        the held-out queries; None where it could not be judged.
    is_proposed : whether it is better with confidence.
    reason : one plain sentence.
    rule : which gold labels counted as held out.
    n_held_out, n_train_gold : gold queries on either side.
    n_new : gold queries that the serving router was not fitted on.
    known_share : share of the serving router's training queries that are among
        the labels given; NaN where it does not know them.
    difference : mean gold quality of the candidate minus the serving router's.
    serving, new : mean gold quality of each.
    premium_share_serving, premium_share_new : shares of other models than the
        reference.
    cost_per_1k, cost_per_1k_new : of each on the held-out queries, by the serving
        router's cost model.
    needed : held-out queries that would show such a difference, or None.
    """

    candidate: Router | None
    is_proposed: bool
    reason: str
    rule: str
    n_held_out: int
    n_train_gold: int
    n_new: int
    known_share: float
    difference: Estimate | None = None
    serving: Estimate | None = None
    new: Estimate | None = None
    premium_share_serving: float | None = None
    premium_share_new: float | None = None
    cost_per_1k: float | None = None
    cost_per_1k_new: float | None = None
    needed: int | None = None

    def as_record(self) -> dict[str, Any]:
        """Flat JSON values; estimates as ``name``, ``name_low`` and ``name_high``."""
        record: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "candidate":
                record["version"] = None if value is None else value.policy.version
            elif isinstance(value, Estimate):
                record |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                record[name] = value
        return dict(json_value(record))


def refit(
    serving: Router,
    gold: Labels | None,
    preference: Labels | None = None,
    *,
    fresh: Collection[str] | None = None,
    conversations: Mapping[str, str] | None = None,
    held_out_share: float = 0.5,
    margin: float = 0.0,
    seed: int = 0,
) -> RefitResult:
    """Fit a candidate on all labels but a held-out part, and judge it on that part.

    Assumes that the gold labels that the serving router has not seen are of a
    random sample of the queries to come.

    Parameters
    ----------
    serving : Router
        Its options (corrector, gain model, embedder, costs) are the candidate's.
    gold, preference : label sources, old and new together; see
        :func:`metarouter.labels.read_gain_table`.
    fresh : collection of str, optional
        Queries that are newer than the serving router. Used only where that does
        not know what it was fitted on.
    conversations : mapping of query to a name, optional
        Equal for turns of one conversation, whose later turns hold the earlier
        ones: they judge together or not at all. Others stand for themselves.
    held_out_share : float in (0, 1), default 0.5
        Share of the new conversations that judge; the rest trains.
    margin : float, default 0
        Gain units a query that the candidate has to be better by.
    seed : int, default 0
        Of the split and of the bootstrap.

    Returns
    -------
    RefitResult

    Raises
    ------
    OptionError
        When an option is out of range.
    DataError
        When the labels are about other models, or nothing tells which are new.

    Notes
    -----
    No query that judges trained either router: new gold queries are those whose
    text the serving router was not fitted on, by its own list of hashes, and
    all labels of a drawn conversation are kept from the candidate. A conversation
    of which the serving router saw one turn, on gold or on a vote, is not new. So
    given the training labels both routers are fixed, and the held-out conversations
    are a sample that knows nothing of them. The candidate's price of cost is set on their texts,
    without their labels, to the smallest at which it spends no more than the serving
    router. It is proposed when the lower end of the 95 % interval of its mean gold
    quality minus the serving router's, a paired bootstrap over conversations, is
    above `margin`: when it is no better, that happens in at most about one look of
    forty.

    What is returned is the router that was judged, at that price. Where many of its
    scores are equal it spends less than it might, and is judged as that. It is not
    fitted again on the held-out labels: the next refit takes them in.

    Examples
    --------
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=60)
    >>> old, new = list(gold_records(world.table)), list(gold_records(world.test))
    >>> serving = fit(old, gain_model="ridge", embedder="surface", folds=0)
    >>> found = refit(serving, [*old, *new])
    >>> found.n_held_out, found.n_train_gold, found.is_proposed
    (30, 90, False)
    """
    if not 0 < held_out_share < 1:
        raise OptionError.of("held_out_share", held_out_share, "a number between 0 and 1")
    if not (np.isfinite(margin) and margin >= 0):
        raise OptionError.of("margin", margin, "gain units, at least 0")
    rng = np.random.default_rng(seed)
    table = _read(serving, gold, preference)
    whole = read_held_out(table, serving.models)
    names = conversations or {}
    groups, is_new, rule = _new_groups(serving, whole.queries, names, fresh)
    drawn = _drawn(groups, is_new, held_out_share, rng)
    held_out = whole.keep(drawn)
    judging = np.unique(groups[drawn], return_inverse=True)[1]
    train = _without(table, _of_drawn(table.queries, held_out.queries, names))
    counts: dict[str, Any] = {
        "rule": rule,
        "n_new": int(is_new.sum()),
        "n_held_out": int(drawn.sum()),
        "n_train_gold": len(np.unique(train.query[train.is_gold])),
        "known_share": _known_share(serving, table),
    }
    n_groups = int(judging.max(initial=-1)) + 1
    if n_groups < MIN_HELD_OUT:
        reason = _too_few(counts, n_groups)
        return RefitResult(candidate=None, is_proposed=False, reason=reason, **counts)
    candidate = fit_table(train, _options(serving))
    return _judged(serving, candidate, held_out, judging, margin, rng, counts)


def _judged(
    serving: Router,
    candidate: Router,
    held_out: HeldOut,
    groups: IntArray,
    margin: float,
    rng: np.random.Generator,
    counts: dict[str, Any],
) -> RefitResult:
    queries = list(held_out.queries)
    costs = serving.expected_costs(queries)
    choice = serving.policy.choose(serving.predict_gain(queries).mean, costs)
    mean, own = _in_order(candidate, serving.models, queries)
    w = equal_cost_w(mean, own, choice, costs)
    new_choice = best_model(*gains_and_costs(mean, own), w)
    old_quality, new_quality = (_chosen(held_out.quality, one) for one in (choice, new_choice))
    spent, new_spent = (float(_chosen(costs, one).mean()) for one in (choice, new_choice))
    difference = _mean(new_quality - old_quality, groups, rng)
    needed = queries_needed(difference, margin)
    if needed is not None:
        needed = -(-needed * len(queries) // difference.n)  # of groups, in queries
    is_dearer = new_spent > spent + 1e-9 * abs(spent)
    more = "more, as at any price," if is_dearer else "no more"
    reason = f"w = {w:.6g}, at which it costs {more} than the router before it"
    matched = candidate.with_policy(w=w, calibration={"w": w, "reason": reason})
    is_proposed = difference.low > margin and not is_dearer
    return RefitResult(
        candidate=matched,
        is_proposed=is_proposed,
        reason=f"{_at_cost(spent, new_spent)} the candidate adds "
        + _verdict(difference, margin, needed, len(queries), is_dearer=is_dearer),
        difference=difference,
        serving=_mean(old_quality, groups, rng),
        new=_mean(new_quality, groups, rng),
        premium_share_serving=float((choice != 0).mean()),
        premium_share_new=float((new_choice != 0).mean()),
        cost_per_1k=1000 * spent,
        cost_per_1k_new=1000 * new_spent,
        needed=None if is_proposed else needed,
        **counts,
    )


def _mean(values: FloatArray, groups: IntArray, rng: np.random.Generator) -> Estimate:
    """Mean over queries; its interval takes conversations as independent."""
    statistic, n_groups = mean_statistic(values), int(groups.max()) + 1
    return bootstrap_interval(lambda weights: statistic(weights[:, groups]), n_groups, rng)


def _read(serving: Router, gold: Labels | None, preference: Labels | None) -> GainTable:
    given = serving.facts.get("score_range")
    cheap, premium = serving.models if len(serving.models) == 2 else (None, _named_premium(serving))
    table, _ = read_gain_table(
        gold,
        preference,
        cheap=cheap,
        premium=premium,
        score_range=None if given is None else (float(given[0]), float(given[1])),
    )
    others = sorted(set(table.models) ^ set(serving.models))
    if others:
        raise DataError(
            f"the labels and the serving router differ in {', '.join(others)}: add a model with "
            "onboard or fit, and give labels of the router's models here"
        )
    return table


def _new_groups(
    serving: Router,
    queries: Sequence[str],
    conversations: Mapping[str, str],
    fresh: Collection[str] | None,
) -> tuple[IntArray, BoolArray, str]:
    """Conversation of each query, whether it is new, and how that is known.

    A conversation is known by any of its turns, whoever labelled that.
    """
    texts = [*queries, *conversations]
    groups = _groups(texts, conversations)
    is_new, rule = _is_new(serving, texts, fresh)
    is_new &= ~np.isin(groups, groups[~is_new])
    n = len(queries)
    return groups[:n], is_new[:n], rule


def _is_new(
    serving: Router, texts: Sequence[str], fresh: Collection[str] | None
) -> tuple[BoolArray, str]:
    """Texts that the serving router was not fitted on, and how that is known."""
    if serving.query_hashes is not None:
        seen = np.isin(hash_queries(texts), serving.query_hashes)
        return ~seen, "queries whose text the serving router was not fitted on, by its hashes"
    if fresh is None:
        raise DataError(
            "the serving router does not know what it was fitted on, and no query is known to be "
            "newer: fit it again with this version"
        )
    is_new = np.array([text in fresh for text in texts], dtype=np.bool_)
    return is_new, "queries first asked after the serving router was fitted, which has no hashes"


def _groups(queries: Sequence[str], conversations: Mapping[str, str]) -> IntArray:
    """Number of the conversation of each query."""
    names = [conversations.get(text, f"alone|{text}") for text in queries]
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)


def _drawn(
    groups: IntArray, is_new: BoolArray, share: float, rng: np.random.Generator
) -> BoolArray:
    """Queries of whole groups, drawn at random until they hold the share of the new ones."""
    drawn = np.zeros(len(groups), dtype=np.bool_)
    wanted = round(share * int(is_new.sum()))
    for group in rng.permutation(np.unique(groups[is_new])):
        if drawn.sum() >= wanted:
            break
        drawn |= groups == group
    return drawn


def _of_drawn(
    texts: Sequence[str], drawn: Sequence[str], conversations: Mapping[str, str]
) -> list[str]:
    """The drawn queries and every other turn of their conversations, labelled by whomever."""
    names = {conversations[text] for text in drawn if text in conversations}
    return [*drawn, *(text for text in texts if conversations.get(text) in names)]


def _without(table: GainTable, texts: Collection[str]) -> GainTable:
    """The table without any label of these queries."""
    left_out = np.isin(hash_queries(table.queries), hash_queries(sorted(texts)))
    return take_queries(table, np.flatnonzero(~left_out))


def _known_share(serving: Router, table: GainTable) -> float:
    hashes = serving.query_hashes
    if hashes is None or not len(hashes):
        return float("nan")
    return float(np.isin(hashes, hash_queries(table.queries)).mean())


def _options(serving: Router) -> FitOptions:
    """The options that the serving router was fitted with."""
    config = serving.artifact.config
    names = ("corrector", "gain_model", "embedder", "cost", "folds", "seed")
    given: dict[str, Any] = {name: config[name] for name in names if name in config}
    score_range = config.get("score_range")
    return FitOptions(
        **given,
        prices=_prices(serving),
        premium=_named_premium(serving),
        score_range=None if score_range is None else (score_range[0], score_range[1]),
        # the price of cost is set afterwards, to what the serving router spends
        target=CalibrationTarget(w=serving.policy.w),
    )


def _named_premium(serving: Router) -> str | None:
    """The model that was named premium at the fit, if the router still has it."""
    name = serving.artifact.config.get("premium")
    return name if name in serving.models else None


def _prices(serving: Router) -> Mapping[str, ModelSpec] | None:
    cost = serving.cost
    if not isinstance(cost, TokenCost):
        return None
    rates = zip(cost.input_usd_per_mtok, cost.output_usd_per_mtok, strict=True)
    return {
        model: ModelSpec(name=model, input_usd_per_mtok=inward, output_usd_per_mtok=outward)
        for model, (inward, outward) in zip(serving.models, rates, strict=True)
    }


def _in_order(
    router: Router, models: Sequence[str], queries: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    """A router's gains over ``models[0]``, (n, n_models − 1), and its costs in that order."""
    costs = router.expected_costs(queries)
    mean = router.predict_gain(queries).mean.reshape(len(costs), -1)
    places = [router.models.index(model) for model in models]
    gains = np.hstack([np.zeros((len(costs), 1)), mean])[:, places]
    return gains[:, 1:] - gains[:, :1], costs[:, places]


def _chosen(matrix: FloatArray, choice: IntArray) -> FloatArray:
    chosen: FloatArray = matrix[np.arange(len(choice)), choice]
    return chosen


def _too_few(counts: Mapping[str, Any], n_groups: int) -> str:
    n_held_out = counts["n_held_out"]
    of = "" if n_groups == n_held_out else f", of {n_groups} conversations,"
    return (
        f"{counts['n_new']} gold queries are new to the serving router, which leaves "
        f"{n_held_out}{of} to judge by; at least {MIN_HELD_OUT} independent ones are needed"
    )


def _at_cost(spent: float, new_spent: float) -> str:
    """What the candidate spends, beside what the serving router does."""
    if abs(new_spent - spent) <= 0.01 * abs(spent):
        return "at equal cost"
    why = "no price parts equal scores" if new_spent < spent else "it cannot spend less"
    return f"spending {1000 * new_spent:.4g} in place of {1000 * spent:.4g} ({why})"


def _verdict(
    difference: Estimate, margin: float, needed: int | None, n_held_out: int, *, is_dearer: bool
) -> str:
    interval = f"{signed(difference.low, 4)}, {signed(difference.high, 4)}"
    found = f"{signed(difference.value, 4)} [{interval}]"
    of = "" if difference.n == n_held_out else f" of {difference.n} conversations"
    text = f"{found} gain units a query on {n_held_out} held-out queries{of}"
    limit = f"{margin:g}"
    if difference.low > margin:
        return f"{text}: above {limit}" + (", but for more money" if is_dearer else "")
    if needed is None:
        return (
            f"{text}: not above {limit}, and more labels would not "
            "show otherwise if that is its true value"
        )
    return (
        f"{text}: not shown to be above {limit}; if that is its true value, "
        f"about {needed} held-out queries would show it"
    )
