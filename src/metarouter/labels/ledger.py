"""Bad rows: raised at the first one, or counted so that none is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from metarouter.errors import LabelError
from metarouter.labels.report import BadRows, LabelSource

__all__ = ["BadRow", "Ledger", "OnBadRow", "shown"]

OnBadRow = Literal["error", "skip"]

N_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """One row that cannot be used: where, why, and what is allowed.

    `field` is None when the row as a whole is unreadable.
    """

    row: int
    field: str | None
    reason: str
    value: Any
    allowed: str


@dataclass(slots=True)
class Ledger:
    """Counts what became of the rows of one file."""

    file: str
    source: LabelSource
    on_bad_row: OnBadRow
    form: str = ""
    rows_read: int = 0
    ignored: set[str] = field(default_factory=set)
    _counts: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    @property
    def rows_skipped(self) -> int:
        """Bad rows so far."""
        return sum(count for count, _ in self._counts.values())

    def reject(self, bad: Iterable[BadRow]) -> None:
        """Raise at the earliest bad row, or count them all."""
        rows = sorted(bad, key=lambda row: row.row)
        if rows and self.on_bad_row == "error":
            raise self._error(rows[0])
        for row in rows:
            entry = self._counts.setdefault((row.field or "", row.reason), [0, []])
            entry[0] += 1
            if len(entry[1]) < N_EXAMPLES:
                entry[1].append(str(self._error(row)))

    def unusable(self, problem: str) -> LabelError:
        """The error for a file that cannot be read at all."""
        return LabelError(f"{self.file}: {problem}")

    def bad_rows(self) -> tuple[BadRows, ...]:
        """Counts by field and reason, the most frequent first."""
        counts = sorted(self._counts.items(), key=lambda item: -item[1][0])
        return tuple(
            BadRows(field=name, reason=reason, count=count, examples=tuple(examples))
            for (name, reason), (count, examples) in counts
        )

    def _error(self, bad: BadRow) -> LabelError:
        if bad.field is None:
            return LabelError(f"{self.file}: row {bad.row}: {bad.reason}; allowed: {bad.allowed}")
        return LabelError.at(
            file=self.file,
            row=bad.row,
            field=bad.field,
            value=bad.value,
            allowed=f"{bad.allowed} ({bad.reason})",
        )


def shown(name: str, limit: int = 60) -> str:
    """A column name made safe for messages and JSON, cut to `limit` characters.

    Examples
    --------
    >>> shown("score"), shown("sc" + chr(7) + "re") == "sc" + chr(92) + "x07re"
    ('score', True)
    """
    safe = name if name.isprintable() else repr(name)[1:-1]
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
