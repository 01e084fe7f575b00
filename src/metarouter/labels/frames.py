"""Data frames to raw batches, through Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from metarouter.errors import LabelError, MissingDependencyError
from metarouter.labels.formats import RawBatch, read_arrow, read_records

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["is_frame", "read_frame", "require_arrow"]


def require_arrow() -> Any:
    """The pyarrow module, or the error that says how to install it."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError.of("reading labels", "train") from error
    return pyarrow


def is_frame(labels: object) -> bool:
    """Whether an object speaks the Arrow C stream or the dataframe interchange."""
    return hasattr(labels, "__arrow_c_stream__") or hasattr(labels, "__dataframe__")


def read_frame(frame: Any, name: str) -> Iterator[RawBatch]:
    """Raw batches of a pandas, polars or Arrow table, or of another that speaks Arrow.

    Raises
    ------
    LabelError
        When the object has no named columns, or has one of ours twice.
    """
    arrow = require_arrow()
    try:
        table = _as_arrow(frame)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
        if not hasattr(frame, "to_dict"):
            raise LabelError(f"{name}: not a table of columns: {error}") from error
        # a pandas column of mixed types: row by row, so that the bad cells are named
        return read_records(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    return read_arrow(table, name)


def _as_arrow(frame: Any) -> pa.Table:
    import pyarrow as pa
    from pyarrow.interchange import from_dataframe

    if isinstance(frame, pa.Table):
        return frame
    return pa.table(frame) if hasattr(frame, "__arrow_c_stream__") else from_dataframe(frame)
