"""What people and audits say of answers: who is heard, what they say, how they differ from gold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarouter.dashboard.estimates import share_estimate
from metarouter.records import Estimate
from metarouter.store.analytics import Opinions
from metarouter.store.exporting import Claim
from metarouter.store.offpolicy import clustered_mean, mean_of_sums

__all__ = [
    "JUDGED",
    "Comparison",
    "compare_with_gold",
    "last_words",
    "named_models",
    "opinions_view",
]

JUDGED = ("preference", "gold")
"""Kinds of statements whose rows a page needs; of scores it needs those that gold meets."""

_GAIN_OF = {"model_a": 1.0, "model_b": -1.0, "tie": 0.0, "both_bad": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One thing that users and an audit both judged.

    Attributes
    ----------
    kind : "preference", on the scale [−1, 1] of gains, or "score", on [0, 1].
    subject : the pair, first minus second; or the model.
    said, gold : means over users and over audits.
    answered : the model whose answer the user got.
    prompt_tokens : None where they were not counted.
    speaker : who spoke; the first, where several did.
    """

    kind: str
    subject: tuple[str, ...]
    said: float
    gold: float
    answered: str | None
    prompt_tokens: int | None
    speaker: str = ""


def last_words(claims: Sequence[Claim]) -> list[Claim]:
    """Of each speaker on each subject the last claim; oldest first in, and out."""
    return list({claim.about: claim for claim in claims}.values())


def opinions_view(
    claims: Sequence[Claim],
    opinions: Sequence[Opinions],
    answers: Mapping[str, int],
    premium: Sequence[str] = (),
    offered: Collection[str] | None = None,
) -> dict[str, Any]:
    """Feedback about the decisions of a window.

    Parameters
    ----------
    claims : preferences, gold, and scores of what gold judged too; of each speaker the
        last, see :func:`last_words`.
    opinions : what users said of each model, thumbs and scores included.
    answers : requests that each model answered.
    premium : models that go first in a pair, so that gains are theirs.
    offered : models that there are, optional; claims that name others are left out and
        counted. The gateway refuses such names; old rows may have some.

    Returns
    -------
    dict
        `n`: statements, `gold` of them gold, without the `unknown` that name no model;
        `models`: for each model the share of its answers that a user said
        anything about, thumbs up, mean score; `pairs`: preferences as mean
        gains; `biases`: user minus gold, see :func:`compare_with_gold`.
        Intervals of shares take requests as independent.
    """
    given, claims = claims, [claim for claim in claims if _is_offered(claim, offered)]
    of = {one.model: one for one in opinions if one.model is not None}
    names = dict.fromkeys([*answers, *of, *(c.said.answered for c in claims if c.said.answered)])
    return {
        "models": [_model(name, claims, of.get(name), answers.get(name, 0)) for name in names],
        "pairs": _pairs(claims, premium),
        "biases": _biases(compare_with_gold(claims, premium)),
        "n": sum(claim.kind != "score" for claim in claims)
        + sum(one.thumbs + one.scores for one in opinions),
        "gold": sum(claim.kind == "gold" for claim in claims),
        "unknown": len(given) - len(claims),
    }


def named_models(claims: Sequence[Claim]) -> set[str]:
    """Models that speakers named themselves, in preferences and audits."""
    return {model for claim in claims if claim.kind != "score" for model in claim.subject}


def _is_offered(claim: Claim, offered: Collection[str] | None) -> bool:
    return offered is None or all(model in offered for model in named_models([claim]))


def _model(
    name: str, claims: Sequence[Claim], said: Opinions | None, answers: int
) -> dict[str, Any]:
    own = [claim for claim in claims if claim.subject == (name,)]
    gold = [float(claim.value) for claim in own if claim.kind == "gold"]
    said = said or Opinions(model=name, decisions=0, thumbs=0, thumbs_up=0)
    score = (said.scores, said.score_sum, said.score_squares)
    return {
        "model": name,
        "answers": answers,
        "spoken": share_estimate(min(said.decisions, answers), answers),
        "thumbs": share_estimate(said.thumbs_up, said.thumbs),
        "score": mean_of_sums(*score) if said.scores else None,
        "gold": clustered_mean(gold) if gold else None,
    }


def _pairs(claims: Sequence[Claim], premium: Sequence[str]) -> list[dict[str, Any]]:
    gains: defaultdict[tuple[str, ...], list[tuple[float, str]]] = defaultdict(list)
    for claim in claims:
        if claim.kind == "preference":
            pair, gain = _oriented(claim, premium)
            gains[pair].append((gain, claim.said.decision_id))
    return [
        {
            "pair": pair,
            "wins": sum(gain > 0 for gain, _ in found),
            "ties": sum(gain == 0 for gain, _ in found),
            "losses": sum(gain < 0 for gain, _ in found),
            "gain": clustered_mean([gain for gain, _ in found], [name for _, name in found]),
        }
        for pair, found in gains.items()
    ]


def _oriented(claim: Claim, premium: Sequence[str]) -> tuple[tuple[str, ...], float]:
    a, b = claim.subject
    gain = _GAIN_OF[str(claim.value)]
    return ((b, a), -gain) if b in premium and a not in premium else ((a, b), gain)


def compare_with_gold(claims: Sequence[Claim], premium: Sequence[str] = ()) -> list[Comparison]:
    """Decisions about which both users and an audit spoke.

    A preference is compared with the difference of the gold scores of its two
    models, a score with the gold score of the answer that it is about.
    """
    said: defaultdict[tuple[str, str, tuple[str, ...]], list[tuple[float, Claim]]]
    said, gold = defaultdict(list), defaultdict[tuple[str, str], list[float]](list)
    for claim in claims:
        if claim.kind == "gold":
            gold[claim.said.decision_id, claim.subject[0]].append(float(claim.value))
        elif claim.kind == "score":
            said["score", claim.said.decision_id, claim.subject].append((float(claim.value), claim))
        elif claim.kind == "preference":
            pair, gain = _oriented(claim, premium)
            said["preference", claim.said.decision_id, pair].append((gain, claim))
    found = []
    for (kind, decision, subject), values in said.items():
        scores = [gold.get((decision, model)) for model in subject]
        if all(scores):
            means = [float(np.mean(score or ())) for score in scores]
            one = values[0][1].said
            found.append(
                Comparison(
                    kind=kind,
                    subject=subject,
                    said=float(np.mean([value for value, _ in values])),
                    gold=means[0] - means[1] if len(means) == 2 else means[0],
                    answered=one.answered,
                    prompt_tokens=one.prompt_tokens,
                    speaker=_name(values[0][1]),
                )
            )
    return found


def _name(claim: Claim) -> str:
    """Who spoke; where nobody knows, somebody new each time."""
    is_known = any(part is not None for part in claim.speaker)
    return repr(claim.speaker) if is_known else claim.said.decision_id


def _biases(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """User minus gold: over all, and by slice at a level that holds for all slices at once."""
    rows = []
    for kind in ("preference", "score"):
        own = [one for one in found if one.kind == kind]
        if not own:
            continue
        rows.append({"kind": kind, "slice": "all", "bias": _bias(own, 0.95), "n": len(own)})
        slices = [(name, part) for name, part in _slices(own).items() if 0 < len(part) < len(own)]
        level = 1 - 0.05 / max(len(slices), 1)  # Bonferroni
        rows += [
            {"kind": kind, "slice": name, "bias": _bias(part, level), "n": len(part)}
            for name, part in slices
        ]
    return rows


def _bias(found: Sequence[Comparison], level: float) -> Estimate:
    """Speakers, not statements, are independent: each has a bias of its own."""
    values, speakers = [one.said - one.gold for one in found], [one.speaker for one in found]
    return clustered_mean(values, speakers, level)


def _slices(found: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons by pair, by who answered and by length, in that order."""
    slices: defaultdict[tuple[int, str], list[Comparison]] = defaultdict(list)
    tokens = [one.prompt_tokens for one in found if one.prompt_tokens is not None]
    low, high = np.floor(np.quantile(tokens, [1 / 3, 2 / 3])) if tokens else (0.0, 0.0)
    for one in found:
        if one.kind == "preference":
            slices[0, " over ".join(one.subject)].append(one)
        if one.answered is not None:
            slices[1, f"answered by {one.answered}"].append(one)
        if one.prompt_tokens is not None:
            slices[_length(one.prompt_tokens, float(low), float(high))].append(one)
    return {name: part for (_, name), part in sorted(slices.items())}


def _length(tokens: int, low: float, high: float) -> tuple[int, str]:
    if tokens <= low:
        return 2, f"prompts of at most {low:.0f} tokens"
    if tokens <= high:
        return 3, f"prompts of {low + 1:.0f} to {high:.0f} tokens"
    return 4, f"prompts of more than {high:.0f} tokens"
