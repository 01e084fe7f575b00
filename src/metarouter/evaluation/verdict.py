"""The sentence that a reader takes away, and how sure it may sound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metarouter.records import Estimate

__all__ = ["Status", "Verdict", "judge_router", "percent", "signed", "signed_interval", "status_of"]

Status = Literal["better", "unclear", "worse", "fixed"]

# A kept-quality interval wider than this is called wide: it could hide the
# whole difference between two models of neighbouring price.
_WIDE = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found, in words.

    Attributes
    ----------
    status : "better", "unclear" or "worse" than a random router that sends as
        many queries to each model; "fixed" when all go to one model.
    headline : a few words.
    sentence : quality kept and cost saved, with intervals.
    basis : what the status rests on.
    """

    status: Status
    headline: str
    sentence: str
    basis: str


_HEADLINES = {
    "better": "Better than sending queries at random",
    "unclear": "Not shown to be better than sending queries at random",
    "worse": "Worse than sending queries at random",
    "fixed": "One model answers everything at this setting",
}


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
    reference: str | None = None,
) -> Verdict:
    """Put an evaluation into words.

    Parameters
    ----------
    premium : name of the premium model.
    premium_share : share of queries that go to it (or to any model but the
        reference model), in [0, 1].
    kept, difference, saving, advantage : see :class:`~metarouter.evaluation.evaluate.Evaluation`.
    is_absolute : whether `kept` is a share of quality or of a gain.
    saved_usd_per_1k : USD saved on 1,000 queries, where prices are known.
    reference : name of the reference model of a pool, where `premium_share` is
        the share of all other models together; None for a pair.

    Examples
    --------
    >>> def about(x): return Estimate(value=x, std_error=0.01, low=x - 0.02, high=x + 0.02, n=500)
    >>> verdict = judge_router(premium="large", premium_share=0.4, kept=about(0.97),
    ...     difference=about(-0.02), saving=about(0.58), advantage=about(0.05), is_absolute=True)
    >>> verdict.sentence  # doctest: +NORMALIZE_WHITESPACE
    "At 40 % premium calls this router keeps 97 % [95, 99] of large's quality and saves
     58 % [56, 60] of its calls."
    """
    status = "fixed" if premium_share in (0.0, 1.0) else status_of(advantage)
    return Verdict(
        status=status,
        headline=_HEADLINES[status],
        sentence=f"{_setting(premium_share, reference)} this router "
        f"{_quality(premium, kept, difference, is_absolute)} and "
        f"saves {percent(saving)} of its {_saved(saved_usd_per_1k)}",
        basis=_basis(status, advantage) + _width(kept),
    )


def status_of(estimate: Estimate, reference: float = 0.0) -> Status:
    """Better or worse where the whole interval is above or below a reference, else unclear."""
    if estimate.low > reference:
        return "better"
    return "worse" if estimate.high < reference else "unclear"


def _setting(premium_share: float, reference: str | None) -> str:
    """How often the router leaves the reference model."""
    share = f"{100 * premium_share:.0f} %"
    if reference is None:
        return f"At {share} premium calls"
    return f"With {share} of the queries going to other models than {reference}"


def _quality(premium: str, kept: Estimate, difference: Estimate, is_absolute: bool) -> str:
    """What the router does to quality, as a share where there is one."""
    if math.isnan(kept.value):
        return f"gives {signed_interval(difference)} gain units per query against always {premium}"
    what = f"{premium}'s quality" if is_absolute else f"what {premium} gains over the cheap model"
    return f"keeps {percent(kept)} of {what}"


def _saved(usd: float | None) -> str:
    """The end of the sentence: what was counted, calls or money."""
    return "calls." if usd is None else f"cost, {usd:,.2f} USD in 1,000 queries."


def _basis(status: str, advantage: Estimate) -> str:
    if status == "fixed":
        return "There is no choice to judge: lower or raise the threshold. "
    unit = f"gain units per query, n = {advantage.n:,}"
    ends = {
        "better": "",
        "unclear": ", an interval that holds 0: these data do not show that routing pays",
        "worse": ": choose at random, or fit again with more gold labels",
    }
    return (
        f"Against a random router that sends as many queries to each model: "
        f"{signed_interval(advantage)} {unit}{ends[status]}. "
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
        f"{100 * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} %" if low == "nan" else f"{value} % [{low}, {high}]"


def signed(x: float, digits: int = 3) -> str:
    """A number with its sign, ``+0.031``, minus as a real minus sign; what rounds to 0 has none."""
    text = f"{x:+z.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def signed_interval(estimate: Estimate, digits: int = 3) -> str:
    """``+0.031 [+0.012, +0.050]``."""
    value, low, high = (signed(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
