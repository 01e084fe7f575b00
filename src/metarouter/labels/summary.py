"""What labels hold, as a frozen record and as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from metarouter.labels.report import LabelSource, ReadReport
from metarouter.records import Estimate

__all__ = [
    "Agreement",
    "LabelSummary",
    "NameCount",
    "SliceBias",
    "SourceSummary",
    "render_summary",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class NameCount:
    """How many rows of each source are about one model, judge or domain."""

    name: str
    gold: int
    preference: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSummary:
    """The gains of one label source, row by row.

    `std` is 0 for a single row; `quantiles` are (probability, gain).
    """

    source: LabelSource
    rows: int
    queries: int
    mean: float
    std: float
    share_ties: float
    quantiles: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Gold against preference where both label the same query and models.

    Attributes
    ----------
    n : number of (query, models) with both, `n_queries` of them distinct queries.
    correlation : of the gains; None when they are too few or too much alike to tell.
    mean_difference : preference − gold gain, mean over queries, with a t
        interval; None with fewer than two queries.
    sign_agreement : share of the `n_signed` where neither is a tie that agree
        on the better model, with Wilson's interval; its `n` counts queries. None when
        there are none.
    """

    n: int
    n_queries: int
    correlation: Estimate | None
    mean_difference: Estimate | None
    sign_agreement: Estimate | None
    n_signed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceBias:
    """The two sources in one slice of the queries, each query counted once.

    `kind` is "all", "domain", "length", "judge" or "models". `bias` is mean
    preference − mean gold gain with a Welch interval, positive where the votes
    overrate the candidate, None with fewer than two queries in a source. A
    judge's slice compares its votes to all gold labels. `is_clear` tells whether
    both sources have labels enough and the bias differs from 0 at a level corrected
    for the number of such slices.
    `share_gold` is the share of the slice's labelled queries that have gold.
    """

    kind: str
    name: str
    n_gold: int
    n_preference: int
    share_gold: float
    gold_mean: float | None
    preference_mean: float | None
    bias: Estimate | None
    is_clear: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSummary:
    """What the labels are, how far the sources agree, and what they can support.

    `contrast` names the pair (candidate, baseline) that the slices are about: the
    one with most labels of the source that has fewer of them, so that the two can be
    compared; then the one with most gold labels. `gold_gain` is its mean gold gain over
    queries, None with fewer than two. `findings` are plain sentences.
    """

    models: tuple[str, ...]
    contrast: tuple[str, str] | None
    gold_gain: Estimate | None
    n_rows: int
    n_queries: int
    sources: tuple[SourceSummary, ...]
    model_counts: tuple[NameCount, ...]
    judge_counts: tuple[NameCount, ...]
    domain_counts: tuple[NameCount, ...]
    agreement: Agreement
    slices: tuple[SliceBias, ...]
    findings: tuple[str, ...]
    report: ReadReport | None

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self) | {"report": self.report.to_dict() if self.report else None}


def render_summary(summary: LabelSummary) -> str:
    """The summary as plain text, for a terminal or a log.

    Examples
    --------
    >>> from metarouter.labels.check import summarise_labels
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b"], gain=[1, 0], is_gold=[True, False])
    >>> print(render_summary(summarise_labels(table)).splitlines()[0])
    2 labels of 2 queries; models: cheap (reference), premium
    """
    reference, *others = summary.models or ("none",)
    models = ", ".join([f"{reference} (reference)", *others])
    lines = [
        f"{summary.n_rows:,} labels of {summary.n_queries:,} queries; models: {models}",
        *_report_lines(summary.report),
        "",
        *_source_lines(summary),
        *_count_lines(summary),
        "",
        *_agreement_lines(summary.agreement),
        *_slice_lines(summary),
        "",
        "What these labels can and cannot support",
        *(f"  - {finding}" for finding in summary.findings),
    ]
    return "\n".join(lines)


def _report_lines(report: ReadReport | None) -> Iterator[str]:
    if report is None:
        return
    for file in report.files:
        fates = ("skipped", "merged", "unpaired", "other_models")
        lost = [
            f"{getattr(file, f'rows_{fate}'):,} {fate.replace('_', ' ')}"
            for fate in fates
            if getattr(file, f"rows_{fate}")
        ]
        yield (
            f"  {file.file}: {file.source} {file.form}, {file.rows_read:,} rows read, "
            + ", ".join([f"{file.rows_used:,} used", *lost])
        )
        for bad in file.bad_rows:
            yield f"    {bad.count:,} × {bad.field or 'row'}: {bad.reason}; e.g. {bad.examples[0]}"
        if file.ignored_columns:
            yield f"    ignored columns: {', '.join(file.ignored_columns[:12])}"


def _source_lines(summary: LabelSummary) -> Iterator[str]:
    yield "Gains            rows   queries     mean       sd     ties    quantiles 5 25 50 75 95 %"
    for source in summary.sources:
        quantiles = " ".join(f"{gain:+.2f}" for _, gain in source.quantiles)
        yield (
            f"  {source.source:<11}{source.rows:>8,}{source.queries:>10,}{source.mean:>+9.3f}"
            f"{source.std:>9.3f}{source.share_ties:>9.1%}    {quantiles}"
        )


def _count_lines(summary: LabelSummary) -> Iterator[str]:
    for title, counts in (
        ("Models", summary.model_counts),
        ("Judges", summary.judge_counts),
        ("Domains", summary.domain_counts),
    ):
        if not counts:
            continue
        width = _width(count.name for count in counts[:20])
        yield f"{title:<{width + 2}}{'gold':>9}{'preference':>12}"
        for count in counts[:20]:
            name = count.name or "(not given)"
            yield f"  {name[: width - 1]:<{width}}{count.gold:>9,}{count.preference:>12,}"
        if len(counts) > 20:
            yield f"  … and {len(counts) - 20} more"


def _agreement_lines(agreement: Agreement) -> Iterator[str]:
    yield f"Both sources label {agreement.n_queries:,} queries"
    if agreement.correlation is not None:
        yield f"  correlation of gains {_interval(agreement.correlation)}"
    if agreement.mean_difference is not None:
        yield f"  preference − gold    {_interval(agreement.mean_difference)}"
    if agreement.sign_agreement is not None:
        share = agreement.sign_agreement
        yield (
            f"  same better model    {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of the "
            f"{agreement.n_signed:,} without a tie"
        )


def _slice_lines(summary: LabelSummary) -> Iterator[str]:
    if not summary.slices or summary.contrast is None:
        return
    candidate, baseline = summary.contrast
    shown = [part for part in summary.slices if part.kind != "models" or _is_in_both(part)]
    width = _width(f"{part.kind} {part.name}" for part in shown)
    yield f"Slices of {candidate} over {baseline} (each query counted once)"
    yield f"  {'':<{width}}{'gold':>7}{'pref.':>9}{'share':>8}   preference − gold [95 %]"
    for part in shown:
        bias = "unknown" if part.bias is None else _interval(part.bias)
        yield (
            f"  {f'{part.kind} {part.name}'[: width - 1]:<{width}}{part.n_gold:>7,}"
            f"{part.n_preference:>9,}{part.share_gold:>8.1%}   {bias}"
        )
    if len(shown) < len(summary.slices):
        yield f"  … and {len(summary.slices) - len(shown):,} pairs of models in one source alone"


def _is_in_both(part: SliceBias) -> bool:
    return part.n_gold > 0 and part.n_preference > 0


def _width(names: Iterable[str]) -> int:
    """Characters of a column of names: 32, or more where a longer one would be cut."""
    return min(max([31, *map(len, names)]), 99) + 1


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
