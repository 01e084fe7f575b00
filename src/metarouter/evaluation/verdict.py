"""The sentence that a reader takes away, and how sure it may sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from metarouter.records import Estimate

__all__ = [
    "Status",
    "Verdict",
    "judge_router",
    "percent",
    "plain",
    "signed",
    "signed_interval",
    "status_of",
]

Status = Literal["better", "unclear", "worse", "fixed"]

# A kept-quality interval wider than this is called wide: it could hide the
# whole difference between two models of neighbouring price.
_WIDE = 0.10
_NAMED = 4  # models of a pool that are told by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found, in words.

    Attributes
    ----------
    status : "better", "unclear" or "worse" than a random router that sends as
        many queries to each model, of a pool than the best fixed mixture of single
        models at the same cost; "fixed" when all go to one model.
    headline : a few words.
    sentence : quality kept and cost saved, with intervals.
    basis : what the status rests on.
    """

    status: Status
    headline: str
    sentence: str
    basis: str


_HEADLINES = {
    "better": "Better than {opponent}",
    "unclear": "Not shown to be better than {opponent}",
    "worse": "Worse than {opponent}",
    "fixed": "One model answers everything at this setting",
}
# Of a pair, of a pool: there mixtures of other models may cost less than random calls do.
_OPPONENTS = ("sending queries at random", "a fixed mixture of the models at the same cost")
_INSTEAD = ("choose at random", "take that mixture")


def judge_router(
    *,
    premium: str,
    premium_share: float,
    kept: Estimate,
    difference: Estimate,
    saving: Estimate,
    advantage: Estimate,
    is_absolute: bool,
    saved_usd_per_1k: float | None = None,
    model_shares: Mapping[str, float] | None = None,
    hull_advantage: Estimate | None = None,
) -> Verdict:
    """Put an evaluation into words.

    Parameters
    ----------
    premium : name of the premium model.
    premium_share : share of queries that go to it, in [0, 1]; of a pool that is said
        by `model_shares`.
    kept, difference, saving, advantage : see :class:`~metarouter.evaluation.evaluate.Evaluation`.
    is_absolute : whether `kept` is a share of quality or of a gain.
    saved_usd_per_1k : USD saved on 1,000 queries, where prices are known.
    model_shares : share of the queries that go to each model of a pool; None for a pair.
    hull_advantage : mean quality of the router minus that of the best fixed mixture of
        single models at its cost, for a pool; for a pair that is `advantage`.

    Examples
    --------
    >>> def about(x): return Estimate(value=x, std_error=0.01, low=x - 0.02, high=x + 0.02, n=500)
    >>> verdict = judge_router(premium="large", premium_share=0.4, kept=about(0.97),
    ...     difference=about(-0.02), saving=about(0.58), advantage=about(0.05), is_absolute=True)
    >>> verdict.sentence  # doctest: +NORMALIZE_WHITESPACE
    "At 40 % premium calls this router keeps 97 % [95, 99] of large's quality and saves
     58 % [56, 60] of its calls."
    """
    shares = model_shares or {premium: premium_share, "": 1 - premium_share}
    judged = advantage if hull_advantage is None else hull_advantage
    status = "fixed" if max(shares.values()) == 1 else status_of(judged)
    opponent = _OPPONENTS[hull_advantage is not None]
    return Verdict(
        status=status,
        headline=_HEADLINES[status].format(opponent=opponent),
        sentence=f"{_setting(premium_share, model_shares)} this router "
        f"{_quality(premium, kept, difference, is_absolute)} and "
        f"saves {percent(saving)} of its {_saved(saved_usd_per_1k)}",
        basis=_basis(status, advantage, hull_advantage) + _width(kept),
    )


def status_of(estimate: Estimate, reference: float = 0.0) -> Status:
    """Better or worse where the whole interval is above or below a reference, else unclear."""
    if estimate.low > reference:
        return "better"
    return "worse" if estimate.high < reference else "unclear"


def _setting(premium_share: float, model_shares: Mapping[str, float] | None) -> str:
    """Where the queries go."""
    if model_shares is None:
        return f"At {100 * premium_share:.0f} % premium calls"
    largest = sorted(model_shares, key=lambda model: -model_shares[model])
    used = [model for model in largest if model_shares[model] > 0]
    named = [f"{_share(model_shares[model])} of the queries to {model}" for model in used[:1]]
    named += [f"{_share(model_shares[model])} to {model}" for model in used[1:_NAMED]]
    if len(used) > _NAMED:
        rest = sum(model_shares[model] for model in used[_NAMED:])
        named.append(f"{_share(rest)} to {len(used) - _NAMED} others")
    *first, last = named
    return f"Sending {', '.join(first)} and {last}," if first else f"Sending {last},"


def _share(share: float) -> str:
    return "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _quality(premium: str, kept: Estimate, difference: Estimate, is_absolute: bool) -> str:
    """What the router does to quality, as a share where there is one."""
    if math.isnan(kept.value):
        return f"gives {signed_interval(difference)} gain units per query against always {premium}"
    what = f"{premium}'s quality" if is_absolute else f"what {premium} gains over the cheap model"
    return f"keeps {percent(kept)} of {what}"


def _saved(usd: float | None) -> str:
    """The end of the sentence: what was counted, calls or money."""
    return "calls." if usd is None else f"cost, {usd:,.2f} USD in 1,000 queries."


def _basis(status: str, advantage: Estimate, hull_advantage: Estimate | None) -> str:
    if status == "fixed":
        return "There is no choice to judge: lower or raise the threshold. "
    ends = {
        "better": "",
        "unclear": ", an interval that holds 0: these data do not show that routing pays",
        "worse": f": {_INSTEAD[hull_advantage is not None]}, or fit again with more gold labels",
    }
    judged = advantage if hull_advantage is None else hull_advantage
    found = f"{signed_interval(judged)} gain units per query, n = {judged.n:,}{ends[status]}. "
    random = "gainst a random router that sends as many queries to each model"
    if hull_advantage is None:
        return f"A{random}: {found}"
    return (
        f"Against the best fixed mixture of single models at the same cost: {found}"
        f"A{random}: {signed_interval(advantage)}. "
    )


def _width(kept: Estimate) -> str:
    if not kept.high - kept.low > _WIDE:
        return ""
    return (
        f"The interval of the quality kept is {100 * (kept.high - kept.low):.0f} points wide: "
        "label more gold queries before relying on it. "
    )


def percent(estimate: Estimate) -> str:
    """``97 % [95, 99]``; an undefined estimate is said to be unknown."""
    if estimate.value != estimate.value:
        return "an unknown share"
    digits = 0 if estimate.high - estimate.low >= 0.02 else 1
    value, low, high = (
        plain(100 * x, digits) for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} %" if low == "nan" else f"{value} % [{low}, {high}]"


def plain(x: float, digits: int = 3) -> str:
    """A number with a real minus sign where it is below 0; what rounds to 0 has none."""
    return f"{x:z.{digits}f}".replace("-", "−")


def signed(x: float, digits: int = 3) -> str:
    """A number with its sign, ``+0.031``, minus as a real minus sign; what rounds to 0 has none."""
    text = f"{x:+z.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def signed_interval(estimate: Estimate, digits: int = 3) -> str:
    """``+0.031 [+0.012, +0.050]``."""
    value, low, high = (signed(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
