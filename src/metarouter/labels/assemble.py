"""Checked rows to the gain table and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
from metarouter.labels.ledger import Ledger
from metarouter.labels.queries import match_queries
from metarouter.labels.report import FileReport, ReadReport
from metarouter.labels.rows import LabelRows, Names, group_rows
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.types import BoolArray, IntArray

__all__ = ["assemble", "require_rows"]

# What became of a row that was not bad.
USED, MERGED, UNPAIRED, OTHER_MODELS = range(4)


def assemble(
    rows: LabelRows,
    names: Names,
    ledgers: list[Ledger],
    premium: str | None,
    cheap: str | None,
) -> tuple[GainTable, ReadReport]:
    """The gain table of checked rows, and the report on where each row went.

    Raises
    ------
    LabelError
        When no row of a source is left.
    OptionError
        When a named model has no labels.
    """
    require_models(names.model, premium=premium, cheap=cheap)
    rows = oriented(rows.with_columns(query=match_queries(rows, len(names.query_id))))
    asked = np.flatnonzero(_is_asked_for(rows, names, premium, cheap))
    # each row has one fate, which is what makes the counts of a file add up
    status = np.full(len(rows), OTHER_MODELS)
    labels = rows.take(asked)
    merged, first = merge_measurements(labels)
    together = paired(merged)
    status[asked] = MERGED
    status[asked[first]] = np.where(together, USED, UNPAIRED)
    require_rows(ledgers, rows.file[status == USED], names.model)
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
        gain_range=(float(table.gain.min()), float(table.gain.max())),
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
    # code −1 is a row without a judge, whose name is empty
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


def require_rows(ledgers: list[Ledger], file_of_row: Any, models: Sequence[str] = ()) -> None:
    """Raise LabelError unless each source has a row left; `file_of_row` is theirs."""
    left = {ledgers[int(file)].source for file in np.unique(file_of_row)}
    for ledger in ledgers:
        if ledger.source not in left:
            raise ledger.unusable(f"no usable {ledger.source} rows: {_why_none(ledger, models)}")


def _why_none(ledger: Ledger, models: Sequence[str]) -> str:
    if not ledger.rows_read:
        return "it is empty; give a file with at least one label"
    if len(models) == 1:
        return f"all {ledger.rows_read} are about {models[0]}; a gain needs two models"
    first = "".join(f"; first: {bad.examples[0]}" for bad in ledger.bad_rows()[:1])
    return (
        f"{ledger.rows_read} read, {ledger.rows_skipped} bad{first}; a score also needs another "
        "model's score of the same query by the same judge"
    )
