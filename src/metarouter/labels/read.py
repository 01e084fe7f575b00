"""Label files, data frames and records to one :class:`GainTable`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from metarouter.errors import OptionError
from metarouter.labels.assemble import assemble, require_rows
from metarouter.labels.files import read_file
from metarouter.labels.formats import COLUMNS, FORMS, RawBatch, read_records
from metarouter.labels.frames import is_frame, read_frame, require_arrow
from metarouter.labels.ledger import BadRow, Ledger, OnBadRow, shown
from metarouter.labels.queries import clashing_ids
from metarouter.labels.report import LabelSource, ReadReport
from metarouter.labels.rows import LabelRows, Names, make_label_rows
from metarouter.labels.table import GainTable
from metarouter.labels.validate import find_form, validate_batch
from metarouter.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Labels", "read_gain_table"]

Labels: TypeAlias = (
    "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[Any] | Any"
)


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
        Scores of both sources must lie inside and become (score − low) / (high − low);
        gains are divided by high − low. Votes are on [−1, 1] already.

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
        When an option is not allowed or names a model without labels, or a file is given
        as both sources.

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
    _check_apart(gold, preference)
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
    return assemble(rows, names, ledgers, premium, cheap)


def _check_options(
    gold: Any, preference: Any, on_bad_row: str, score_range: tuple[float, float] | None
) -> None:
    if gold is None and preference is None:
        raise OptionError("no labels: give `gold`, `preference` or both")
    if on_bad_row not in {"error", "skip"}:
        raise OptionError.of("on_bad_row", on_bad_row, "error or skip")
    if score_range is not None:
        low, high = score_range
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise OptionError.of("score_range", score_range, "two finite numbers, low < high")


def _check_apart(gold: Any, preference: Any) -> None:
    """Refuse a file that is given as both sources: it would agree with itself."""
    given = [
        {os.path.realpath(path) for path in labels} if _are_paths(labels) else set()
        for labels in (_listed(gold), _listed(preference))
    ]
    both = sorted(set.intersection(*given))
    if both:
        raise OptionError(
            f"{both[0]} is given as `gold` and as `preference`; allowed: one of the two, so that "
            "what judges the votes is not the votes themselves"
        )


def _listed(labels: Any) -> Any:
    return [labels] if isinstance(labels, str | os.PathLike) else labels


def _inputs(source: LabelSource, labels: Any) -> list[tuple[str, Iterable[RawBatch]]]:
    """Names and raw batches of what was given for a source."""
    labels = _listed(labels)
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
        # the first batch with a readable row decides on the form of the file
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

    require_rows(ledgers, np.concatenate([[], *(table.column("file") for table in tables)]))
    table = pa.concat_tables(tables).unify_dictionaries()
    # a million texts need not be in memory twice: Arrow's copy goes before ours is made
    tables.clear()
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
