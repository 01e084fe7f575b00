"""Raw columns to typed ones, with a mask of the cells of a wrong type.

A raw column is a list of Python values (from JSON, CSV and records) or an
Arrow array (from Parquet and data frames); missing cells are None or null.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from metarouter.types import BoolArray, FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

RawColumn: TypeAlias = "list[Any] | pa.Array"

__all__ = ["RawColumn", "cell", "is_encodable", "number_column", "text_column"]


def text_column(raw: RawColumn, *, allow_integers: bool = False) -> tuple[pa.Array, BoolArray]:
    """Texts as a large_string array, and which cells are not texts.

    Wrong cells come back null. Integers count as texts where they name
    something (`allow_integers`).
    """
    import pyarrow as pa

    if isinstance(raw, pa.Array):
        return _text_from_arrow(raw, allow_integers)
    if set(map(type, raw)) <= {str, type(None)}:
        try:
            return pa.array(raw, type=pa.large_string()), np.zeros(len(raw), dtype=np.bool_)
        except UnicodeEncodeError:
            pass  # a lone surrogate stands for bytes that could not be decoded
    texts = [_text(value, allow_integers) for value in raw]
    wrong = [text is None and value is not None for text, value in zip(texts, raw, strict=True)]
    return pa.array(texts, type=pa.large_string()), np.array(wrong, dtype=np.bool_)


def number_column(
    raw: RawColumn, *, from_text: bool = False
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Numbers as float64, which cells are missing, and which are not numbers.

    Missing and wrong cells come back NaN. Texts are numbers only where the
    format has no numbers of its own (`from_text`).
    """
    import pyarrow as pa

    if isinstance(raw, pa.Array):
        return _number_from_arrow(raw)
    if from_text:
        try:
            return _number_from_arrow(_cast_to_numbers(raw))
        except (pa.ArrowInvalid, UnicodeEncodeError):
            raw = [_parsed(value) for value in raw]  # slower, and tells the bad cells apart
    missing = np.array([value is None for value in raw], dtype=np.bool_)
    if set(map(type, raw)) <= {int, float, type(None)}:
        try:
            values = np.array([math.nan if v is None else v for v in raw], dtype=np.float64)
        except OverflowError:
            pass  # an integer beyond float64
        else:
            return values, missing, np.zeros(len(raw), dtype=np.bool_)
    numbers = [_number(value) for value in raw]
    wrong = np.array([number is None for number in numbers], dtype=np.bool_) & ~missing
    values = np.array([math.nan if n is None else n for n in numbers], dtype=np.float64)
    return values, missing, wrong


def cell(raw: RawColumn, index: int) -> Any:
    """One raw value, for a message."""
    if isinstance(raw, list):
        return raw[index]
    try:
        return raw[index].as_py()
    except (ValueError, OverflowError):  # invalid UTF-8, or a date out of range
        return f"({raw.type} that cannot be shown)"


def _text(value: Any, allow_integers: bool) -> str | None:
    if allow_integers and isinstance(value, Integral) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    return value if is_encodable(value) else None


def is_encodable(text: str) -> bool:
    """Whether a text is free of lone surrogates, as valid Unicode is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_from_arrow(raw: pa.Array, allow_integers: bool) -> tuple[pa.Array, BoolArray]:
    import pyarrow as pa

    kind = raw.type
    if allow_integers and pa.types.is_integer(kind):
        return raw.cast(pa.large_string()), np.zeros(len(raw), dtype=np.bool_)
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    ):
        return pa.nulls(len(raw), pa.large_string()), _present(raw)
    texts = raw.cast(pa.large_string())
    try:
        texts.validate(full=True)  # Parquet does not promise valid UTF-8
    except pa.ArrowInvalid:
        return _decoded(texts)
    return texts, np.zeros(len(raw), dtype=np.bool_)


def _decoded(texts: pa.Array) -> tuple[pa.Array, BoolArray]:
    import pyarrow as pa

    values = [_utf8(value) for value in texts.cast(pa.large_binary()).to_pylist()]
    decoded = pa.array(values, type=pa.large_string())
    return decoded, _present(texts) & ~_present(decoded)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _present(array: pa.Array) -> BoolArray:
    present: BoolArray = array.is_valid().to_numpy(zero_copy_only=False)
    return present


def _cast_to_numbers(texts: list[Any]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(pc.utf8_trim_whitespace(pa.array(texts, pa.large_string())), pa.float64())


def _parsed(value: Any) -> Any:
    """A CSV cell as a number where it is one."""
    try:
        return float(value) if value is not None and "_" not in value else value
    except ValueError:
        return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _number_from_arrow(raw: pa.Array) -> tuple[FloatArray, BoolArray, BoolArray]:
    import pyarrow as pa

    kind = raw.type
    missing = ~_present(raw)
    if pa.types.is_null(kind):
        return np.full(len(raw), np.nan), missing, np.zeros(len(raw), dtype=np.bool_)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not is_number:
        return np.full(len(raw), np.nan), missing, ~missing
    values = raw.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64), missing, np.zeros(len(raw), dtype=np.bool_)
