"""Plain sentences about what labels can and cannot support."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from metarouter.labels.contestants import model_key
from metarouter.labels.summary import LabelSummary, SliceBias

__all__ = ["make_findings"]

# An evaluation wants as many held-out gold queries, beside those that are fitted on.
FEW_GOLD = 100

_SPELT_LIKE = 0.85  # share of equal letters of two names
_SHOWN = 3  # names in a sentence
_WEAK = 0.3  # correlation; a tenth of the variance is shared


def make_findings(summary: LabelSummary) -> tuple[str, ...]:
    """Say what the labels support, and what they do not.

    Parameters
    ----------
    summary : LabelSummary
        Its own `findings` are not read.

    Returns
    -------
    tuple of str
        One sentence or two each, the most important first.
    """
    return (
        *_about_files(summary),
        *_about_scale(summary),
        *_about_gold(summary),
        *_about_preference(summary),
        *_about_meeting(summary),
        *_about_bias(summary),
        *_about_slices(summary),
        *_about_models(summary),
        *_about_reading(summary),
    )


def _rows(summary: LabelSummary, source: str) -> int:
    return sum(part.rows for part in summary.sources if part.source == source)


def _queries(summary: LabelSummary, source: str) -> int:
    return sum(part.queries for part in summary.sources if part.source == source)


def _about_files(summary: LabelSummary) -> Iterator[str]:
    if summary.report is not None and summary.report.looks_swapped:
        yield (
            "gold labels are votes and preference labels are scores: if that is the wrong way "
            "round, swap --gold and --preference."
        )


def _about_scale(summary: LabelSummary) -> Iterator[str]:
    report = summary.report
    if report is not None and report.is_off_scale:
        low, high = report.gain_range
        yield (
            f"gains reach from {low:+g} to {high:+g}, votes from -1 to +1: name the range of the "
            "scores, such as --score-range 1,5, or the two are compared on different scales."
        )


def _about_gold(summary: LabelSummary) -> Iterator[str]:
    n = _queries(summary, "gold")
    if n == 0:
        yield (
            "no gold labels: neither savings nor the bias of the preference labels can be "
            "measured; add gold labels of some queries."
        )
        return
    if n < FEW_GOLD:
        yield (
            f"fewer than {FEW_GOLD} gold queries ({n}): a router can be fitted, but what it saves "
            f"cannot be shown; that takes about {FEW_GOLD} more that it was not fitted on."
        )
    if summary.gold_gain is None or summary.contrast is None:
        return
    gain = summary.gold_gain
    candidate, baseline = summary.contrast
    known = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] from {gain.n:,} queries"
    if gain.low > 0:
        yield f"{candidate} is better than {baseline} on average by gold: gain {known}."
    elif gain.high < 0:
        yield f"{candidate} is worse than {baseline} on average by gold: gain {known}."
    else:
        yield (
            f"gold labels cannot tell yet whether {candidate} is better than {baseline} on "
            f"average: gain {known}."
        )


def _about_preference(summary: LabelSummary) -> Iterator[str]:
    if not _rows(summary, "preference"):
        yield "no preference labels: the router learns from gold alone."
    for part in summary.sources:
        if part.rows > 1 and part.std == 0:
            yield f"all {part.source} gains are {part.mean:+g}: they cannot tell queries apart."


def _about_meeting(summary: LabelSummary) -> Iterator[str]:
    if len(summary.sources) < 2:
        return
    agreement = summary.agreement
    if agreement.n_queries and agreement.n_queries == _queries(summary, "gold"):
        yield (
            "every gold query has preference labels too, which a fit learns from: if you have kept "
            "no others to evaluate on, keep some out of both (labels split)."
        )
    if not agreement.n:
        yield (
            "gold and preference never share a query and pair of models: their agreement is "
            "estimated by slices only, which assumes that within a slice gold labels were not "
            "placed by gain."
        )
    elif agreement.correlation is None:
        yield (
            f"gold and preference meet on {agreement.n_queries:,} queries: too few, or too "
            "uniform, to say how far they agree."
        )
    elif agreement.correlation.low > 0 and agreement.correlation.high < _WEAK:
        yield (
            f"where they meet, preference gains hardly follow gold gains (correlation "
            f"{agreement.correlation.value:+.2f}): they tell little of which queries need the "
            "better model."
        )
    elif agreement.correlation.low > 0:
        yield (
            f"where they meet, preference gains follow gold gains (correlation "
            f"{agreement.correlation.value:+.2f})."
        )
    elif agreement.correlation.high < 0:
        yield (
            f"where they meet, preference gains go against gold gains (correlation "
            f"{agreement.correlation.value:+.2f}): the judge is misleading about which queries "
            "need the better model."
        )
    else:
        yield (
            f"where they meet ({agreement.n_queries:,} queries), preference gains do not visibly "
            "follow gold gains: they may add nothing."
        )


def _about_bias(summary: LabelSummary) -> Iterator[str]:
    if summary.contrast is None:
        return
    candidate, baseline = summary.contrast
    clear = [part for part in summary.slices if part.is_clear and part.bias is not None]
    for part in (part for part in clear if part.kind == "all"):
        favoured = candidate if _bias(part) > 0 else baseline
        yield f"preference labels favour {favoured} by {abs(_bias(part)):.3f} compared with gold."
    places = [
        f"{part.kind} {part.name!r} {_bias(part):+.3f}" for part in clear if part.kind != "all"
    ]
    if places:
        yield f"preference differs clearly from gold (mean gains) in {', '.join(places)}."


def _bias(part: SliceBias) -> float:
    return 0.0 if part.bias is None else part.bias.value


def _about_slices(summary: LabelSummary) -> Iterator[str]:
    if len(summary.sources) < 2:
        return
    for kind in ("domain", "length", "models"):
        slices = [part for part in summary.slices if part.kind == kind]
        without_gold = [part.name for part in slices if part.n_preference and not part.n_gold]
        if without_gold:
            yield (
                f"{_listed(kind, without_gold)} preference but no gold labels: the bias there can "
                "only be guessed from elsewhere."
            )
        without_votes = [part.name for part in slices if part.n_gold and not part.n_preference]
        if without_votes:
            yield f"{_listed(kind, without_votes)} gold but no preference labels."


def _listed(kind: str, names: list[str]) -> str:
    """Some names of slices and how many more, with the verb."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{kind} {shown}{more} {'has' if len(names) == 1 else 'have'}"


def _about_models(summary: LabelSummary) -> Iterator[str]:
    yield from _about_contestants(summary)
    if _rows(summary, "gold"):
        without = [count.name for count in summary.model_counts if not count.gold]
        if without:
            yield f"no gold labels about: {', '.join(without)}."
        with_gold = [count.name for count in summary.model_counts if count.gold]
        for name in without:
            yield from (
                f"{name!r} and {other!r} are taken for two models: give them one name in all "
                "files if they are one."
                for other in with_gold
                if _is_spelt_like(name, other)
            )


def _about_contestants(summary: LabelSummary) -> Iterator[str]:
    models = {model_key(name) for name in summary.models}
    for judge in sorted(summary.judge_counts, key=lambda count: count.name):
        if not judge.name or model_key(judge.name) not in models:
            continue
        start = f"judge {judge.name!r} is one of the models that it judges"
        if judge.gold:
            yield (
                f"{start}, and its labels are given as gold: its verdicts on its own answers are "
                "taken for the truth; give them as preference, and gold of another judge."
            )
        if judge.preference:
            yield (
                f"{start}: expect self-preference; the corrector auto trusts its verdicts on its "
                "own answers less."
            )


def _is_spelt_like(name: str, other: str) -> bool:
    """Whether two names may be one model's: the same digits, and nearly the same letters."""
    a, b = (re.sub(r"[\W_]", "", model_key(text)) for text in (name, other))
    same_digits = re.sub(r"\D", "", a) == re.sub(r"\D", "", b)
    return same_digits and SequenceMatcher(None, a, b).ratio() >= _SPELT_LIKE


def _about_reading(summary: LabelSummary) -> Iterator[str]:
    report = summary.report
    if report is None:
        return
    if report.rows_skipped:
        yield f"{report.rows_skipped:,} of {report.rows_read:,} rows were bad and left out."
    if report.rows_unpaired:
        yield (
            f"{report.rows_unpaired:,} scores stand alone: a gain needs another model's score "
            "of the same query by the same judge."
        )
    if report.rows_other_models:
        yield f"{report.rows_other_models:,} rows are about models that were not asked for."
    if report.repeats:
        yield (
            f"{report.repeats:,} rows repeat an earlier one in every field: scores and gains "
            "were merged, votes are counted as given."
        )
    if report.conflicts:
        yield (
            f"{report.conflicts:,} times the same judge labelled the same thing differently: "
            "scores and gains were averaged, votes kept."
        )
    if report.texts_under_several_ids:
        yield (
            f"{report.texts_under_several_ids:,} texts have more than one query_id: they are "
            "kept as separate queries, but count as one here, in a fit and in a split."
        )
    if report.domain_conflicts:
        yield f"{report.domain_conflicts:,} queries have several domains: the first was kept."
