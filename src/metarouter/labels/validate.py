"""Row checks, one vectorised pass over a batch whatever format it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metarouter.labels.fields import RawColumn, cell, number_column, text_column
from metarouter.labels.formats import FORMS, RawBatch
from metarouter.labels.ledger import N_EXAMPLES, BadRow
from metarouter.labels.messages import CHAT_ALLOWED, CHAT_CELL, read_chat
from metarouter.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["find_form", "validate_batch"]

# Squares and sums of a million such numbers stay far below the largest float64, 1.8e308.
LARGEST = 1e50
WINNERS = {"model_a": 1.0, "model_b": -1.0, "tie": 0.0, "both_bad": 0.0}


def find_form(batch: RawBatch) -> str | None:
    """The form whose columns most rows fill; None when no form's columns are there."""
    complete = {form: int(_complete(batch, form).sum()) for form in FORMS}
    best = max(complete, key=lambda form: complete[form])
    if complete[best]:
        return best
    candidates = [form for form in FORMS if _has_columns(batch, form)]
    return candidates[0] if candidates else None


def validate_batch(
    batch: RawBatch, form: str, score_range: tuple[float, float] | None
) -> tuple[pa.Table, list[BadRow]]:
    """The good rows in canonical columns, and the bad ones with their reasons."""
    check = _RowCheck(batch)
    columns = {"query": check.prompts(), **check.names(form)}
    columns["value"] = _value(check, form, score_range)
    columns["weight"] = check.numbers("weight", default=1.0)
    a, b = ("completion_tokens", None) if form == "scores" else _TOKEN_PAIR
    columns["prompt_tokens"] = check.numbers("prompt_tokens")
    columns["tokens_a"] = check.numbers(a)
    columns["tokens_b"] = np.full(check.n, np.nan) if b is None else check.numbers(b)
    return check.table(columns), check.bad


_TOKEN_PAIR = ("completion_tokens_a", "completion_tokens_b")


class _RowCheck:
    """Collects the first problem of each row of a batch."""

    def __init__(self, batch: RawBatch) -> None:
        self.batch = batch
        self.n = len(batch.rows)
        self.ok = np.ones(self.n, dtype=np.bool_)
        self.bad: list[BadRow] = []

    def fail(self, mask: Any, field: str, reason: str, allowed: str) -> None:
        """Mark the rows of `mask` as bad unless they already are."""
        rows = np.flatnonzero(mask & self.ok)
        raw = self.batch.column(field)
        self.ok[rows] = False
        self.bad += [
            BadRow(
                row=int(self.batch.rows[i]),
                field=field,
                reason=reason,
                # only the first few are shown, and reading a cell is slow
                value=cell(raw, int(i)) if k < N_EXAMPLES else None,
                allowed=allowed,
            )
            for k, i in enumerate(rows)
        ]

    def fail_text(self, wrong: BoolArray, field: str) -> None:
        """Mark cells that are not texts, or texts that could not be decoded."""
        raw = self.batch.column(field)
        undecodable = wrong.copy()
        for i in np.flatnonzero(wrong & self.ok):
            undecodable[i] = isinstance(cell(raw, int(i)), str | bytes)
        self.fail(undecodable, field, "bytes that are not valid UTF-8", "a text in UTF-8")
        self.fail(wrong, field, "not a text", "a text")

    def text(self, field: str, *, required: bool = False, ids: bool = False) -> pa.Array:
        """A column of names, trimmed; blank counts as missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if field not in self.batch.columns and not required:
            return pa.nulls(self.n, pa.large_string())
        texts, wrong = text_column(self.batch.column(field), allow_integers=ids)
        self.fail_text(wrong, field)
        texts = pc.utf8_trim_whitespace(texts)
        blank = pc.fill_null(pc.equal(texts, ""), False)
        if required:
            self.fail(_mask(pc.or_(blank, texts.is_null())), field, "missing", "a name")
        return pc.if_else(blank, pa.scalar(None, pa.large_string()), texts)

    def prompts(self) -> pa.Array:
        """The query texts, chats rendered."""
        import pyarrow.compute as pc

        raw = self.batch.column("query")
        texts, wrong = text_column(raw)
        rendered, not_chats = _chats(self.batch, raw, texts)
        from_messages = _is_filled(self.batch.column("messages"))
        chat_rows = np.isin(np.arange(self.n), list(rendered))
        self.fail(not_chats, "messages", "not a chat", CHAT_ALLOWED)
        self.fail_text(wrong & ~chat_rows, "query")
        if rendered:
            texts = _replaced(texts, chat_rows, [rendered[i] for i in sorted(rendered)])
        blank = pc.or_kleene(pc.utf8_is_space(texts), pc.equal(texts, ""))
        field = "query" if "query" in self.batch.columns else "messages"
        self.fail(_mask(texts.is_null()), field, "missing", "a text, or a chat in messages")
        empty = _mask(pc.fill_null(blank, False))
        for name, rows in (("messages", from_messages), ("query", ~from_messages)):
            self.fail(empty & rows, name, "empty text", "a text that is not blank")
        return texts

    def names(self, form: str) -> dict[str, pa.Array]:
        """The columns that name things."""
        import pyarrow as pa
        import pyarrow.compute as pc

        a, b = ("model", None) if form == "scores" else ("model_a", "model_b")
        columns = {"model_a": self.text(a, required=True)}
        if b is None:
            columns["model_b"] = pa.nulls(self.n, pa.large_string())
        else:
            columns["model_b"] = self.text(b, required=True)
            same = pc.fill_null(pc.equal(columns["model_a"], columns["model_b"]), False)
            self.fail(_mask(same), b, "the same model twice", "a model other than model_a")
        for field in ("query_id", "judge", "annotator", "domain"):
            columns[field] = self.text(field, ids=True)
        return columns

    def numbers(self, field: str, *, default: float = np.nan) -> FloatArray:
        """An optional column of numbers that are zero or more."""
        if field not in self.batch.columns:
            return np.full(self.n, default)
        raw = self.batch.columns[field]
        values, missing, wrong = number_column(raw, from_text=self.batch.is_text)
        allowed = f"a finite number, zero or more, up to {LARGEST:g}"
        self.fail(wrong, field, "not a number", allowed)
        # NaN is how data frames write an unknown count of tokens
        unknown = missing | np.isnan(values) if field != "weight" else missing
        self.fail(~_is_moderate(values) & ~unknown & ~wrong, field, "not finite", allowed)
        self.fail(values < 0, field, "negative", allowed)
        return np.where(unknown, default, values)

    def number(self, field: str, *, required: bool = True) -> FloatArray:
        """A column of finite numbers; NaN where it is missing and may be."""
        raw = self.batch.column(field)
        values, missing, wrong = number_column(raw, from_text=self.batch.is_text)
        allowed = f"a finite number such as 0.5, up to {LARGEST:g} in size"
        if required:
            self.fail(missing, field, "missing", allowed)
        self.fail(wrong, field, "not a number", allowed)
        self.fail(~_is_moderate(values) & ~missing & ~wrong, field, "not finite", allowed)
        return values

    def table(self, columns: dict[str, Any]) -> pa.Table:
        """The good rows; names that repeat are stored once."""
        import pyarrow as pa

        columns = {"row": self.batch.rows, **columns}
        for name in ("model_a", "model_b", "judge", "annotator", "domain"):
            columns[name] = columns[name].dictionary_encode()
        return pa.table(columns).filter(pa.array(self.ok))


def _value(check: _RowCheck, form: str, score_range: tuple[float, float] | None) -> FloatArray:
    if form == "votes":
        return _vote_gain(check)
    low, high = score_range or (-np.inf, np.inf)
    field = "score" if form == "scores" else "gain"
    values = check.number(field)
    if score_range is None:
        return values
    length, zero = high - low, low
    # a gain is the difference of two scores in [low, high]
    if form == "gains":
        low, high, zero = -length, length, 0.0
    outside = (values < low) | (values > high)
    check.fail(outside, field, "outside the score range", f"a number in [{low:g}, {high:g}]")
    return (values - zero) / length


def _vote_gain(check: _RowCheck) -> FloatArray:
    """2 p_a − 1 where p_a is given, else ±1 by winner, ties 0."""
    p_a = check.number("p_a", required=False)
    outside = (p_a < 0) | (p_a > 1)
    check.fail(outside, "p_a", "outside [0, 1]", "a probability in [0, 1]")
    winner, named = _winner_gain(check)
    gain = np.where(np.isnan(p_a), winner, 2 * p_a - 1)
    against = named & ~np.isnan(p_a) & (winner * gain < 0)
    check.fail(against, "winner", "contradicts p_a", "the model that p_a favours")
    field = (
        "winner" if "winner" in check.batch.columns or "p_a" not in check.batch.columns else "p_a"
    )
    check.fail(np.isnan(gain), field, "missing", "winner or p_a")
    return gain


def _winner_gain(check: _RowCheck) -> tuple[FloatArray, BoolArray]:
    """±1 or 0 by winner, NaN where missing, and where it is given."""
    import pyarrow as pa
    import pyarrow.compute as pc

    winner = check.text("winner")
    a, b = (
        pc.utf8_trim_whitespace(text_column(check.batch.column(name))[0])
        for name in ("model_a", "model_b")
    )
    # the four words go before names, should a model be called "tie"
    codes = pc.index_in(winner, pa.array(list(WINNERS), pa.large_string()))
    gain = np.array([*WINNERS.values(), np.nan])[_filled(codes, len(WINNERS))]
    gain[_mask(pc.fill_null(pc.equal(winner, a), False)) & np.isnan(gain)] = 1.0
    gain[_mask(pc.fill_null(pc.equal(winner, b), False)) & np.isnan(gain)] = -1.0
    named = _mask(winner.is_valid())
    allowed = "model_a, model_b, tie, both_bad, or the name of one of the two models"
    check.fail(named & np.isnan(gain), "winner", "unknown winner", allowed)
    return gain, named


def _chats(batch: RawBatch, raw: RawColumn, texts: pa.Array) -> tuple[dict[int, str], BoolArray]:
    """Rendered chats by row index, and rows whose `messages` are not a chat."""
    rendered: dict[int, str] = {}
    for i, value in _query_chats(raw, texts):
        if (chat := read_chat(value)) is not None:
            rendered[i] = chat[1]
    not_chats = np.zeros(len(batch.rows), dtype=np.bool_)
    for i, given in enumerate(_values(batch.columns.get("messages"))):
        if given is None:
            continue
        chat = read_chat(given)
        if chat is None:
            not_chats[i] = True
        else:
            rendered[i] = chat[1]
    return rendered, not_chats


def _query_chats(raw: RawColumn, texts: pa.Array) -> list[tuple[int, Any]]:
    """Cells of the query column that look like a chat: lists, and JSON lists of objects."""
    import pyarrow.compute as pc

    # parsing is slow: only cells that start like one are tried
    likely = pc.fill_null(pc.match_substring_regex(texts, CHAT_CELL), False)
    chats = [(int(i), texts[int(i)].as_py()) for i in np.flatnonzero(_mask(likely))]
    if isinstance(raw, list):
        return chats + [(i, value) for i, value in enumerate(raw) if isinstance(value, list)]
    if _is_list(raw):
        return [(i, value) for i, value in enumerate(_values(raw)) if value is not None]
    return chats


def _is_list(raw: pa.Array) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(raw.type) or pa.types.is_large_list(raw.type))


def _values(raw: RawColumn | None) -> list[Any]:
    if raw is None:
        return []
    return raw if isinstance(raw, list) else [cell(raw, i) for i in range(len(raw))]


def _replaced(texts: pa.Array, mask: BoolArray, values: list[str]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.replace_with_mask(texts, pa.array(mask), pa.array(values, pa.large_string()))


def _complete(batch: RawBatch, form: str) -> BoolArray:
    """Rows that fill every needed column of a form and one of its values."""
    needed, values = FORMS[form]
    filled = {name: _is_filled(batch.column(name)) for name in (*needed, *values)}
    has_needed = np.logical_and.reduce([filled[name] for name in needed])
    complete: BoolArray = has_needed & np.logical_or.reduce([filled[name] for name in values])
    return complete


def _has_columns(batch: RawBatch, form: str) -> bool:
    return any(name in batch.columns for name in FORMS[form][1])


def _is_filled(raw: RawColumn) -> BoolArray:
    if isinstance(raw, list):
        return np.array([value is not None for value in raw], dtype=np.bool_)
    return _mask(raw.is_valid())


def _is_moderate(values: FloatArray) -> BoolArray:
    """Finite, and small enough for its square to be finite in sums."""
    moderate: BoolArray = np.abs(values) <= LARGEST
    return moderate


def _mask(array: pa.Array) -> BoolArray:
    mask: BoolArray = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def _filled(array: pa.Array, value: int) -> IntArray:
    filled: IntArray = array.fill_null(value).to_numpy(zero_copy_only=False).astype(np.int64)
    return filled
