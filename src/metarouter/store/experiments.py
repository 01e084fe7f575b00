"""Splits and shadows: what the store's decisions and feedback say of them.

:func:`read_log` turns rows into arrays; everything after it is arrays to numbers.
A request counts under the model that was *chosen* for it, whoever stood in when
that one failed: failures are part of what a choice is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.records import Estimate
from metarouter.store.exporting import Claim, list_claims, read_statements
from metarouter.store.offpolicy import (
    OffPolicyValue,
    clustered_mean,
    difference_of_means,
    off_policy_value,
)
from metarouter.store.tables import decisions
from metarouter.types import BoolArray, FloatArray, IntArray

_STAYING = 0.95  # share of a key's requests in its arm
_TURNS = 1000  # texts that are looked at together

__all__ = [
    "REWARDS",
    "ArmResult",
    "CandidateResult",
    "DecisionLog",
    "arm_results",
    "candidate_result",
    "conversations_with",
    "read_log",
    "shadow_results",
]

REWARDS = ("gold", "score", "thumbs")
"""What an answer may have earned: an audit's score, a user's score, a thumb (1 up, 0 down)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionLog:
    """Decisions of policies, oldest first, n requests and m models.

    Attributes
    ----------
    models : names, in alphabetical order.
    policy, experiment : object arrays, shape (n,); experiment "" outside splits, and
        for requests that an arm of the split could not have answered.
    cost_unit : object array, shape (n,); that of `costs`, "" where unknown.
    chosen, reference : int arrays, shape (n,)
        `reference` is the model that gains are over, −1 where none were predicted.
    propensities : float array, shape (n, m); NaN rows where none were logged.
    gains, costs : float arrays, shape (n, m); NaN where not predicted.
    spent, seconds : float arrays, shape (n,); NaN where unknown.
    is_ok : bool array, shape (n,); whether the request was answered.
    unit : int array, shape (n,); equal for requests that are not independent.
    rewards : array of shape (n,) for each of :data:`REWARDS`; NaN where nobody spoke.
    audited : float array, shape (n, m); gold score of each model's answer.
    shadows : for each request, what each shadow policy would have chosen.
    prompts : texts, None where they are not kept.
    conversations : what each request was a turn of; None where unknown.
    unknown_gold : gold scores left out, because they name a model that is none of
        `models` and did not answer. The gateway refuses such names; old rows may have some.
    """

    models: tuple[str, ...]
    policy: NDArray[np.object_]
    experiment: NDArray[np.object_]
    cost_unit: NDArray[np.object_]
    chosen: IntArray
    reference: IntArray
    propensities: FloatArray
    gains: FloatArray
    costs: FloatArray
    spent: FloatArray
    seconds: FloatArray
    is_ok: BoolArray
    unit: IntArray
    rewards: Mapping[str, FloatArray]
    audited: FloatArray
    shadows: tuple[Mapping[str, str], ...]
    prompts: tuple[str | None, ...]
    conversations: tuple[str | None, ...]
    unknown_gold: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: BoolArray) -> DecisionLog:
        """The requests where `rows`, shape (n,), is true."""
        at = np.flatnonzero(rows)
        arrays = (
            "policy",
            "experiment",
            "cost_unit",
            "chosen",
            "reference",
            "propensities",
            "gains",
            "costs",
        )
        more = ("spent", "seconds", "is_ok", "unit", "audited")
        return replace(
            self,
            **{name: getattr(self, name)[at] for name in (*arrays, *more)},
            rewards={name: values[at] for name, values in self.rewards.items()},
            shadows=tuple(self.shadows[i] for i in at),
            prompts=tuple(self.prompts[i] for i in at),
            conversations=tuple(self.conversations[i] for i in at),
        )

    def of_conversations(self, names: Collection[str]) -> BoolArray:
        """Whether each request is a turn of one of some conversations."""
        return np.array([name in names for name in self.conversations], dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm of a split.

    Attributes
    ----------
    experiment, policy : names.
    requests : that the arm served.
    units : independent ones among them: keys, conversations or single requests.
    measures : means by name: ``premium_share``, ``cost`` (expected, in the
        policy's unit), ``spent`` (dollars), ``answered`` (share), ``seconds``,
        ``spoken`` (share with user feedback) and one for each of
        :data:`REWARDS`; absent where there is nothing to average.
    differences : the same minus those of the control arm, with Welch's interval;
        empty for the control.
    """

    experiment: str
    policy: str
    requests: int
    units: int
    measures: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """A policy that did not act, on requests that others served.

    Attributes
    ----------
    policy : its name.
    requests : on which its choice is known.
    measures : means by name: ``agreement`` with the model that answered,
        ``premium_share``, ``cost``.
    audit : gold score of its choice minus that of the model that answered, on
        requests whose audit scored both; needs no propensity. None without any.
    values : off-policy values by reward.
    refusals : why a reward has no value.
    """

    policy: str
    requests: int
    measures: Mapping[str, Estimate]
    audit: Estimate | None
    values: Mapping[str, OffPolicyValue]
    refusals: Mapping[str, str]


def arm_results(
    log: DecisionLog, *, control: str | None = None, level: float = 0.95
) -> list[ArmResult]:
    """What each arm of each split did, and how it differs from the control.

    Assumes that arms were drawn independently of what requests hold, which a
    split does. Intervals are for a look at a time fixed beforehand: who stops a
    split as soon as one is on one side of 0 will be wrong more often. They hold
    each for itself, not jointly for the ten or so measures of an arm. Means of
    :data:`REWARDS` are over those who spoke, after the arm had answered: who speaks
    may be another crowd in each arm, and then their difference is not the arms'.

    Parameters
    ----------
    log : DecisionLog
    control : str, optional
        The policy that others are compared with; the one with most requests by
        default.
    level : float, default 0.95

    Returns
    -------
    list of ArmResult, the control of each split first.

    Notes
    -----
    Where a split drew keys, keys are the independent units; else conversations are. Of
    decisions that do not say, a split drew keys where keys stayed with one policy each,
    and not all with the same one. Expected costs are compared within one unit of cost
    only.
    """
    found: list[ArmResult] = []
    for experiment in sorted(set(log.experiment) - {""}):
        part = log.take(log.experiment == experiment)
        names, counts = np.unique(part.policy.astype(str), return_counts=True)
        most = str(names[counts.argmax()])
        first = control if control is not None and control in names else most
        base = _measures(part.take(part.policy == first), level)
        for name in [first, *(str(name) for name in names if name != first)]:
            arm = part.take(part.policy == name)
            own = _measures(arm, level)
            is_other_unit = set(arm.cost_unit) != set(part.cost_unit[part.policy == first])
            left_out = {"cost"} if is_other_unit else set()
            found.append(
                ArmResult(
                    experiment=experiment,
                    policy=name,
                    requests=len(arm),
                    units=len(np.unique(arm.unit)),
                    measures=own,
                    differences={} if name == first else _differences(own, base, level, left_out),
                )
            )
    return found


def shadow_results(log: DecisionLog, *, level: float = 0.95) -> list[CandidateResult]:
    """What each shadow policy would have done and been worth; by name."""
    names = sorted({name for shadows in log.shadows for name in shadows})
    found = []
    for name in names:
        choices = [shadows.get(name) for shadows in log.shadows]
        found.append(candidate_result(log, name, choices, level=level))
    return found


def candidate_result(
    log: DecisionLog, policy: str, choices: Sequence[str | None], *, level: float = 0.95
) -> CandidateResult:
    """What a policy would have done and been worth on logged requests.

    Parameters
    ----------
    log : DecisionLog
    policy : str, its name.
    choices : for each request the model that it would choose; None where unknown.
    level : float, default 0.95

    Returns
    -------
    CandidateResult
        Off-policy values are about requests that a policy chose for, by logged
        propensities, not those that were pinned or stayed with a conversation's
        model; see :func:`metarouter.store.offpolicy.off_policy_value` for what
        they assume.

    Raises
    ------
    DataError
        When no choice is among the models of the log.
    """
    index = {model: i for i, model in enumerate(log.models)}
    choice = np.array([index.get(model or "", -1) for model in choices], dtype=np.int64)
    known = choice >= 0
    if not known.any():
        raise DataError(f"policy {policy}: none of its choices is about the models of the log")
    log, choice = log.take(known), choice[known]
    rows = np.arange(len(log))
    measures = {
        "agreement": (choice == log.chosen).astype(np.float64),
        "premium_share": _is_premium(choice, log.reference),
        "cost": _of_one_unit(log)[rows, choice],
    }
    values, refusals = _values(log, choice, level)
    return CandidateResult(
        policy=policy,
        requests=len(log),
        measures=_averaged(measures, log.unit, level),
        audit=_averaged(
            {"gold": log.audited[rows, choice] - log.audited[rows, log.chosen]}, log.unit, level
        ).get("gold"),
        values=values,
        refusals=refusals,
    )


def _values(
    log: DecisionLog, choice: IntArray, level: float
) -> tuple[dict[str, OffPolicyValue], dict[str, str]]:
    values, refusals = {}, {}
    target = np.eye(len(log.models))[choice]
    # what was pinned, or stayed with its conversation, was nobody's to choose: nothing was weighed
    weighed = np.isfinite(log.gains).any(axis=1)
    drawn = weighed & np.isfinite(log.propensities).all(axis=1)
    for name, reward in log.rewards.items():
        usable = drawn & np.isfinite(reward)
        if not usable.any():
            spoken = bool(np.isfinite(reward).any())
            refusals[name] = "no propensities were logged" if spoken else "no request has any"
            continue
        try:
            values[name] = off_policy_value(
                target[usable],
                log.propensities[usable],
                log.chosen[usable],
                reward[usable],
                # a request has the predictions of the policy that was drawn for it
                log.gains[usable] if len(set(log.policy[usable])) == 1 else None,
                cluster=log.unit[usable],
                level=level,
            )
        except DataError as error:
            refusals[name] = str(error)
    return values, refusals


def _measures(log: DecisionLog, level: float) -> dict[str, Estimate]:
    rows = np.arange(len(log))
    users = [np.isfinite(log.rewards[name]) for name in ("score", "thumbs")]
    values = {
        "premium_share": _is_premium(log.chosen, log.reference),
        "cost": _of_one_unit(log)[rows, log.chosen],
        "spent": log.spent,
        "answered": log.is_ok.astype(np.float64),
        "seconds": log.seconds,
        "spoken": (users[0] | users[1]).astype(np.float64),
        **log.rewards,
    }
    return _averaged(values, log.unit, level)


def _of_one_unit(log: DecisionLog) -> FloatArray:
    """Costs; all NaN where they are in several units, of which there is no mean."""
    return log.costs if len(set(log.cost_unit)) <= 1 else np.full_like(log.costs, np.nan)


def _is_premium(model: IntArray, reference: IntArray) -> FloatArray:
    """1 for another model than the reference, 0 for it, NaN where there is none."""
    return np.where(reference < 0, np.nan, (model != reference).astype(np.float64))


def _averaged(
    values: Mapping[str, FloatArray], unit: IntArray, level: float
) -> dict[str, Estimate]:
    """Means of what is known; absent where nothing is."""
    known = {name: np.isfinite(column) for name, column in values.items()}
    return {
        name: clustered_mean(values[name][rows], unit[rows], level)
        for name, rows in known.items()
        if rows.any()
    }


def _differences(
    own: Mapping[str, Estimate], base: Mapping[str, Estimate], level: float, left_out: set[str]
) -> dict[str, Estimate]:
    shared = (own.keys() & base.keys()) - left_out
    return {name: difference_of_means(own[name], base[name], level) for name in shared}


def read_log(
    engine: sa.Engine, *, since: float | None = None, with_prompts: bool = False
) -> DecisionLog:
    """Decisions of policies with their feedback, oldest first.

    Parameters
    ----------
    engine : the store's database.
    since : seconds since 1970, optional; decisions from then on.
    with_prompts : whether texts are read too, which take memory.

    Returns
    -------
    DecisionLog
        Without requests that named their model, and without bare decisions
        (``/v1/route``) that nobody said anything about.
    """
    claims = {claim.about: claim for claim in _claims(engine, since)}
    said: dict[str, list[Claim]] = {}
    for claim in claims.values():  # of each speaker the last word
        said.setdefault(claim.said.decision_id, []).append(claim)
    of = decisions.c
    names = ("decision_id", "policy", "experiment", "drawn_by", "model", "endpoint", "outcome")
    more = ("options", "propensities", "shadow", "conversation", "key_id")
    measured = ("spent", "seconds", "cost_unit")
    prompt = of.prompt if with_prompts else sa.null().label("prompt")
    query = sa.select(*(of[name] for name in (*names, *more, *measured)), prompt)
    query = query.where(of.policy.is_not(None))
    if since is not None:
        query = query.where(of.created >= since)
    with engine.connect() as connection:
        rows = [
            row
            for row in connection.execute(query.order_by(of.created, of.decision_id)).mappings()
            if row["endpoint"] != "route" or row["decision_id"] in said
        ]
    return _log(rows, [said.get(row["decision_id"], []) for row in rows])


def conversations_with(
    engine: sa.Engine, is_meant: Callable[[Sequence[str]], BoolArray]
) -> set[str]:
    """Conversations of the store with a turn whose text is meant, whenever it was asked.

    Parameters
    ----------
    engine : the store's database.
    is_meant : texts to whether each is.

    Returns
    -------
    set of str
        Turns that named their model count too, though no log has them.
    """
    of = decisions.c
    query = sa.select(of.conversation, of.prompt)
    query = query.where(of.conversation.is_not(None), of.prompt.is_not(None))
    found: set[str] = set()
    with engine.connect() as connection:
        turns = connection.execution_options(yield_per=_TURNS).execute(query)
        for rows in turns.partitions():
            meant = is_meant([row.prompt for row in rows])
            found.update(row.conversation for row, is_it in zip(rows, meant, strict=True) if is_it)
    return found


def _claims(engine: sa.Engine, since: float | None) -> list[Claim]:
    said = read_statements(engine, since=since, decided_since=since, is_brief=True)
    return list_claims(one for one in said if one.is_known)


def _log(rows: Sequence[sa.RowMapping], said: Sequence[Sequence[Claim]]) -> DecisionLog:
    models = sorted({model for row in rows for model in _models(row)})
    index = {model: i for i, model in enumerate(models)}
    options = [row["options"] or [] for row in rows]
    chosen = np.array([index[row["model"]] for row in rows], dtype=np.int64)
    audited = _table([_gold(claims) for claims in said], index)
    users = {name: [_scores(claims, name) for claims in said] for name in ("score", "thumbs")}
    return DecisionLog(
        models=tuple(models),
        policy=_objects(row["policy"] for row in rows),
        experiment=_objects(row["experiment"] or "" for row in rows),
        cost_unit=_objects(row["cost_unit"] or "" for row in rows),
        chosen=chosen,
        reference=_references(rows, index),
        propensities=_propensities([row["propensities"] for row in rows], index),
        gains=_table([{o["model"]: o["gain"] for o in one} for one in options], index),
        costs=_table([{o["model"]: o["cost"] for o in one} for one in options], index),
        spent=_floats(row["spent"] for row in rows),
        seconds=_floats(row["seconds"] for row in rows),
        is_ok=np.array([row["outcome"] in ("ok", "decided") for row in rows], dtype=np.bool_),
        unit=_units(rows),
        rewards={
            "gold": audited[np.arange(len(rows)), chosen],
            **{name: _floats(values) for name, values in users.items()},
        },
        audited=audited,
        shadows=tuple({s["policy"]: s["model"] for s in row["shadow"] or []} for row in rows),
        prompts=tuple(row["prompt"] for row in rows),
        conversations=tuple(row["conversation"] for row in rows),
        unknown_gold=sum(_is_unknown(claim, index) for claims in said for claim in claims),
    )


def _is_unknown(claim: Claim, index: Mapping[str, int]) -> bool:
    """Whether a gold score names a model that the log does not know, nor who answered."""
    model = claim.subject[0]
    return claim.kind == "gold" and model not in index and model != claim.said.answered


def _models(row: sa.RowMapping) -> Iterator[str]:
    yield row["model"]
    yield from (one["model"] for one in (*(row["options"] or ()), *(row["shadow"] or ())))
    yield from row["propensities"] or ()


def _references(rows: Sequence[sa.RowMapping], index: dict[str, int]) -> IntArray:
    """The reference of each request, by its policy's last one where nothing was weighed."""
    own = [_reference(row["options"] or ()) for row in rows]
    of_policy = {row["policy"]: name for row, name in zip(rows, own, strict=True) if name}
    names = (name or of_policy.get(row["policy"], "") for row, name in zip(rows, own, strict=True))
    return np.array([index.get(name, -1) for name in names], dtype=np.int64)


def _reference(options: Sequence[Mapping[str, Any]]) -> str:
    """The model whose gain is 0 without any doubt: gains are over it."""
    return next((o["model"] for o in options if o["gain"] == 0 and o["gain_std"] == 0), "")


def _propensities(given: Sequence[Mapping[str, float] | None], index: dict[str, int]) -> FloatArray:
    known = np.array([bool(one) for one in given], dtype=np.bool_)
    table = np.nan_to_num(_table([one or {} for one in given], index))
    table[~known] = np.nan
    return table


def _gold(claims: Sequence[Claim]) -> dict[str, float]:
    """Mean gold score of each model's answer."""
    scores: dict[str, list[float]] = {}
    for claim in claims:
        if claim.kind == "gold":
            scores.setdefault(claim.subject[0], []).append(float(claim.value))
    return {model: sum(values) / len(values) for model, values in scores.items()}


def _scores(claims: Sequence[Claim], kind: str) -> float | None:
    values = [float(claim.value) for claim in claims if claim.kind == kind]
    return sum(values) / len(values) if values else None


def _units(rows: Sequence[sa.RowMapping]) -> IntArray:
    """Keys where a split drew keys, else conversations, else requests.

    What old rows were drawn by nobody noted: those of keys tell by where their keys went.
    """
    arms: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["experiment"] and row["key_id"] and row["drawn_by"] is None:
            of_key = arms.setdefault(row["experiment"], {}).setdefault(row["key_id"], [])
            of_key.append(row["policy"])
    by_key = {name for name, keys in arms.items() if _stay(list(keys.values()))}

    def is_by_key(row: sa.RowMapping) -> bool:
        drawn_by = row["drawn_by"]
        return row["experiment"] in by_key if drawn_by is None else drawn_by == "key"

    codes: dict[str, int] = {}
    names = (
        (row["key_id"] if is_by_key(row) else None) or row["conversation"] or row["decision_id"]
        for row in rows
    )
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)


def _stay(arms: Sequence[Sequence[str]]) -> bool:
    """Whether keys stay with their arm: nearly always, and not all with the same one.

    A few requests may be elsewhere: their own arm was unable, or shares were changed.
    """
    several = [Counter(policies).most_common(1)[0] for policies in arms if len(policies) > 1]
    sizes = [len(policies) for policies in arms if len(policies) > 1]
    shares = [count / size for (_, count), size in zip(several, sizes, strict=True)]
    return len({policy for policy, _ in several}) > 1 and float(np.median(shares)) >= _STAYING


def _table(rows: Sequence[Mapping[str, float | None]], index: dict[str, int]) -> FloatArray:
    """One row each, one column a model; NaN where nothing is given."""
    table = np.full((len(rows), len(index)), np.nan)
    for i, row in enumerate(rows):
        for model, value in row.items():
            if value is not None and model in index:
                table[i, index[model]] = value
    return table


def _floats(values: Iterable[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _objects(values: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(values), dtype=np.object_)
