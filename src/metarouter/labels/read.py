"""Label files, data frames and records to one :class:`GainTable`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from metarouter.errors import OptionError
from metarouter.labels.contrasts import (
    Contrasts,
    count_conflicts,
    make_contrasts,
    merge_measurements,
    order_models,
    oriented,
    paired,
    repeated,
    require_models,
)
from metarouter.labels.files import read_file
from metarouter.labels.formats import COLUMNS, FORMS, RawBatch, read_records
from metarouter.labels.frames import is_frame, read_frame, require_arrow
from metarouter.labels.ledger import BadRow, Ledger, OnBadRow, shown
from metarouter.labels.queries import clashing_ids, match_queries
from metarouter.labels.report import FileReport, LabelSource, ReadReport
from metarouter.labels.rows import LabelRows, Names, group_rows, make_label_rows
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.labels.validate import find_form, validate_batch
from metarouter.types import BoolArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Labels", "read_gain_table"]

Labels: TypeAlias = (
    "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[Any] | Any"
)

USED, MERGED, UNPAIRED, OTHER_MODELS = range(4)


def read_gain_table(
    gold: Labels | None = None,
    preference: Labels | None = None,
    *,
    premium: str | None = None,
    cheap: str | None = None,
    on_bad_row: OnBadRow = "error",
    score_range: tuple[float, float] | None = None,
) -> tuple[GainTable, ReadReport]:
    """Read gold and preference labels into one table of quality gains.

    Each source is a file (JSONL, JSON array, CSV, TSV or Parquet, plain, gzip
    or zstd), a list of files, a data frame (pandas, polars, pyarrow), or an
    iterable of mappings, in one of three forms:

    - scores: `query`, `model`, `score`;
    - gains: `query`, `model_a`, `model_b`, `gain` (of a over b);
    - votes: `query`, `model_a`, `model_b` and `winner` (model_a, model_b, tie,
      both_bad, or the name of a model) or `p_a` in [0, 1]; the gain is
      2 p_a − 1.

    Optional in all: `query_id`, `judge`, `annotator`, `domain`, `weight`,
    `prompt_tokens`, `messages` (a chat, instead of `query`), and
    `completion_tokens` (`_a` and `_b` for gains and votes). Other columns are
    ignored and reported.

    Parameters
    ----------
    gold, preference : path, paths, data frame or records, or None
        At least one of the two.
    premium, cheap : str or None
        Names of the models. With both, rows about other models are left out and
        counted. Without, models are ordered by mean gold score, the lowest
        first (by preference where there is no gold).
    on_bad_row : {"error", "skip"}, default "error"
        Raise at the first row that cannot be used, or leave such rows out and
        count them by field and reason.
    score_range : (low, high) or None
        Scores must lie inside, and scores and gains are divided by high − low.
        Votes are on [−1, 1] already.

    Returns
    -------
    table : GainTable
        Gold rows first. Scores of one query by one judge give the gains of each
        model over the reference model, or over the lowest model that was scored.
    report : ReadReport
        What became of every row.

    Raises
    ------
    LabelError
        At a bad row, a file that cannot be read, or a source without usable rows.
    OptionError
        When an option is not allowed or names a model without labels.

    Notes
    -----
    A query is its `query_id` where given, else its text; preference rows meet
    gold rows by query_id, else by text. Scores and gains about the same thing
    by the same judge are averaged (see :func:`merge_measurements`); votes are
    kept one by one.

    Examples
    --------
    >>> table, report = read_gain_table(
    ...     gold=[
    ...         {"query": "2+2?", "model": "small", "score": 0.0},
    ...         {"query": "2+2?", "model": "large", "score": 1.0},
    ...     ],
    ...     preference=[
    ...         {"query": "Hi", "model_a": "small", "model_b": "large", "winner": "tie"}
    ...     ],
    ... )
    >>> table.models, table.gain.tolist(), table.is_gold.tolist()
    (('small', 'large'), [1.0, 0.0], [True, False])
    >>> report.rows_read, report.rows_used
    (3, 3)
    """
    _check_options(gold, preference, on_bad_row, score_range)
    if premium is not None and premium == cheap:
        raise OptionError.of("premium", premium, "a model other than cheap")
    require_arrow()
    ledgers: list[Ledger] = []
    tables: list[pa.Table] = []
    sources: tuple[tuple[LabelSource, Any], ...] = (("gold", gold), ("preference", preference))
    for source, labels in sources:
        for name, batches in [] if labels is None else _inputs(source, labels):
            ledger = Ledger(file=name, source=source, on_bad_row=on_bad_row)
            tables += _checked(batches, ledger, len(ledgers), score_range)
            ledgers.append(ledger)
    rows, names = _joined(tables, ledgers)
    return _assembled(rows, names, ledgers, premium, cheap)


def _check_options(
    gold: Any, preference: Any, on_bad_row: str, score_range: tuple[float, float] | None
) -> None:
    if gold is None and preference is None:
        raise OptionError("no labels: give gold, preference or both")
    if on_bad_row not in {"error", "skip"}:
        raise OptionError.of("on_bad_row", on_bad_row, "error or skip")
    if score_range is not None:
        low, high = score_range
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise OptionError.of("score_range", score_range, "two finite numbers, low < high")


def _inputs(source: LabelSource, labels: Any) -> list[tuple[str, Iterable[RawBatch]]]:
    """Names and raw batches of what was given for a source."""
    if isinstance(labels, str | os.PathLike):
        labels = [labels]
    if _are_paths(labels):
        return [(str(path), read_file(Path(path))) for path in labels]
    if is_frame(labels):
        name = f"<{source} data frame>"
        return [(name, read_frame(labels, name))]
    if isinstance(labels, Iterable):
        return [(f"<{source} records>", read_records(labels))]
    allowed = "a path, a list of paths, a data frame, or an iterable of mappings"
    raise OptionError.of(source, labels, allowed)


def _are_paths(labels: Any) -> bool:
    return (
        isinstance(labels, list | tuple)
        and len(labels) > 0
        and all(isinstance(path, str | os.PathLike) for path in labels)
    )


def _checked(
    batches: Iterable[RawBatch],
    ledger: Ledger,
    file: int,
    score_range: tuple[float, float] | None,
) -> Iterator[pa.Table]:
    """The good rows of each batch of one file, in canonical columns."""
    import pyarrow as pa

    for batch in batches:
        ledger.rows_read += len(batch.rows) + len(batch.broken)
        ledger.ignored |= {shown(name) for name in batch.names - COLUMNS}
        if not ledger.form and len(batch.rows):
            ledger.form = find_form(batch) or ""
            if not ledger.form:
                raise ledger.unusable(_no_form(batch))
        if not ledger.form:
            ledger.reject(batch.broken)
            continue
        table, bad = validate_batch(batch, ledger.form, score_range)
        ledger.reject([*batch.broken, *bad])
        for name, value in (
            ("file", np.full(len(table), file)),
            ("is_gold", np.full(len(table), ledger.source == "gold")),
            ("is_vote", np.full(len(table), ledger.form == "votes")),
        ):
            table = table.append_column(name, pa.array(value))
        yield table


def _no_form(batch: RawBatch) -> str:
    forms = "; ".join(
        f"{form} (query, {', '.join(needed)}, {' or '.join(values)})"
        for form, (needed, values) in FORMS.items()
    )
    found = ", ".join(sorted(map(shown, batch.names))[:20]) or "none"
    return f"no form of labels found in its columns ({found}); allowed: {forms}"


def _joined(tables: list[pa.Table], ledgers: list[Ledger]) -> tuple[LabelRows, Names]:
    """All good rows, without those whose query_id clashes with an earlier text."""
    import pyarrow as pa

    _require_rows(ledgers, np.concatenate([[], *(table.column("file") for table in tables)]))
    table = pa.concat_tables(tables).unify_dictionaries()
    tables.clear()  # a million texts need not be in memory twice
    rows, names = make_label_rows(table)
    del table
    pa.default_memory_pool().release_unused()
    clash = clashing_ids(rows)
    for file, ledger in enumerate(ledgers):
        ledger.reject(_clashes(rows, names, np.flatnonzero(clash & (rows.file == file))))
    return rows.take(~clash), names


def _clashes(rows: LabelRows, names: Names, clashing: IntArray) -> Iterator[BadRow]:
    for i in clashing:
        yield BadRow(
            row=int(rows.row[i]),
            field="query_id",
            reason="clashing text",
            value=names.query_id[int(rows.query_id[i])].as_py(),
            allowed="one text for each query_id; an earlier row has another",
        )


def _require_rows(ledgers: list[Ledger], file_of_row: Any) -> None:
    """Every source that was given needs at least one row (`file_of_row` of those left)."""
    left = {ledgers[int(file)].source for file in np.unique(file_of_row)}
    for ledger in ledgers:
        if ledger.source not in left:
            first = "".join(f"; first: {bad.examples[0]}" for bad in ledger.bad_rows()[:1])
            raise ledger.unusable(
                f"no usable {ledger.source} rows: {ledger.rows_read} read, {ledger.rows_skipped} "
                f"bad{first}; a score also needs another model's score of the same query by the "
                "same judge"
            )


def _assembled(
    rows: LabelRows,
    names: Names,
    ledgers: list[Ledger],
    premium: str | None,
    cheap: str | None,
) -> tuple[GainTable, ReadReport]:
    require_models(names.model, premium=premium, cheap=cheap)
    rows = oriented(rows.with_columns(query=match_queries(rows, len(names.query_id))))
    asked = np.flatnonzero(_is_asked_for(rows, names, premium, cheap))
    status = np.full(len(rows), OTHER_MODELS)
    labels = rows.take(asked)
    merged, first = merge_measurements(labels)
    together = paired(merged)
    status[asked] = MERGED
    status[asked[first]] = np.where(together, USED, UNPAIRED)
    _require_rows(ledgers, rows.file[status == USED])
    used = merged.take(together)
    order = order_models(used, names.model, premium=premium, cheap=cheap)
    table = _table(used, make_contrasts(used, order), order, names)
    labelled = used.take(used.domain >= 0)
    repeats = np.bincount(labels.file[repeated(labels)], minlength=len(ledgers))
    report = ReadReport(
        files=tuple(
            _file_report(ledger, status[rows.file == file], int(repeats[file]))
            for file, ledger in enumerate(ledgers)
        ),
        models=table.models,
        conflicts=count_conflicts(labels),
        domain_conflicts=_count_several(labelled.query, labelled.domain),
        texts_under_several_ids=_count_several(rows.text, rows.query),
    )
    return table, report


def _is_asked_for(
    rows: LabelRows, names: Names, premium: str | None, cheap: str | None
) -> BoolArray:
    """Rows about no other models, when both models are named."""
    if premium is None or cheap is None:
        return np.ones(len(rows), dtype=np.bool_)
    asked = [code for code, name in enumerate(names.model) if name in {premium, cheap}]
    is_score = rows.model_b < 0
    return np.isin(rows.model_a, asked) & (is_score | np.isin(rows.model_b, asked))


def _table(rows: LabelRows, contrasts: Contrasts, order: IntArray, names: Names) -> GainTable:
    query, first = group_rows(rows.query[contrasts.row])
    source = rows.take(contrasts.row)
    texts = names.text.take(source.text[first]).to_pylist()
    judge, judges = _compact(source.judge, ("", *names.judge), offset=1)
    domain, domains = _compact(_first_domain(rows, source.query[first]), names.domain)
    return make_gain_table(
        queries=texts,
        query_ids=_query_ids(source.query[first], texts, names),
        models=[names.model[code] for code in order],
        query=query,
        candidate=contrasts.candidate,
        baseline=contrasts.baseline,
        gain=contrasts.gain + 0.0,  # no negative zeros
        is_gold=source.is_gold,
        judge=judge,
        judges=judges,
        domain=domain,
        domains=domains,
        weight=contrasts.weight,
        candidate_score=contrasts.candidate_score,
        baseline_score=contrasts.baseline_score,
        prompt_tokens=contrasts.prompt_tokens,
        candidate_tokens=contrasts.candidate_tokens,
        baseline_tokens=contrasts.baseline_tokens,
    )


def _compact(
    codes: IntArray, names: tuple[str, ...], offset: int = 0
) -> tuple[IntArray, list[str]]:
    """Codes into the names that occur, in the order of `names`; negative codes stay."""
    codes = codes + offset
    used = np.unique(codes[codes >= 0])
    compact = np.where(codes < 0, codes, np.searchsorted(used, codes))
    return compact, [names[code] for code in used]


def _query_ids(keys: IntArray, texts: list[str], names: Names) -> list[str]:
    """The query_id of each query, or its text where it has none."""
    n_ids = len(names.query_id)
    given = iter(names.query_id.take(keys[keys < n_ids]).to_pylist())
    return [next(given) if key < n_ids else text for key, text in zip(keys, texts, strict=True)]


def _first_domain(rows: LabelRows, keys: IntArray) -> IntArray:
    """The first domain given for each query key; −1 where none is."""
    known = np.flatnonzero(rows.domain >= 0)
    seen, first = np.unique(rows.query[known], return_index=True)
    if not len(seen):
        return np.full(len(keys), -1)
    place = np.minimum(np.searchsorted(seen, keys), len(seen) - 1)
    return np.where(seen[place] == keys, rows.domain[known][first[place]], -1)


def _count_several(things: IntArray, values: IntArray) -> int:
    """Number of things that come with more than one value."""
    thing, first = group_rows(things)
    _, first_pair = group_rows(thing, values)
    return int((np.bincount(thing[first_pair], minlength=len(first)) > 1).sum())


def _file_report(ledger: Ledger, status: IntArray, repeats: int) -> FileReport:
    count = np.bincount(status, minlength=4)
    return FileReport(
        file=ledger.file,
        source=ledger.source,
        form=ledger.form,
        rows_read=ledger.rows_read,
        rows_used=int(count[USED]),
        rows_skipped=ledger.rows_skipped,
        rows_merged=int(count[MERGED]),
        rows_unpaired=int(count[UNPAIRED]),
        rows_other_models=int(count[OTHER_MODELS]),
        repeats=repeats,
        bad_rows=ledger.bad_rows(),
        ignored_columns=tuple(sorted(ledger.ignored)),
    )
