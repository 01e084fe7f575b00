"""What reading labels found: the frozen :class:`ReadReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["BadRows", "FileReport", "LabelSource", "ReadReport"]

LabelSource = Literal["gold", "preference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRows:
    """Rows of one file that were left out for the same reason.

    `field` is empty when the row as a whole could not be read; `examples` are
    the messages of the first few.
    """

    field: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """Where the rows of one file went.

    Every row read is in exactly one of `rows_used`, `rows_skipped` (bad, see
    `bad_rows`), `rows_merged` (averaged into an earlier row), `rows_unpaired`
    (a score without another model's score by the same judge to compare it
    with) and `rows_other_models` (about models that were not asked for).
    `repeats` counts rows that equal an earlier row of the same source in every
    field: repeated scores and gains are merged, repeated votes are kept.
    """

    file: str
    source: LabelSource
    form: str
    rows_read: int
    rows_used: int
    rows_skipped: int
    rows_merged: int
    rows_unpaired: int
    rows_other_models: int
    repeats: int
    bad_rows: tuple[BadRows, ...]
    ignored_columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadReport:
    """What was read, and what became of each row.

    Attributes
    ----------
    files : one report for each file, gold first.
    models : the models of the table, the reference first.
    conflicts : number of (query, models, judge, annotator) with labels that differ.
    domain_conflicts : number of queries given more than one domain; the first is kept.
    texts_under_several_ids : number of query texts that have more than one query_id.
    gain_range : smallest and largest gain of the table.
    """

    files: tuple[FileReport, ...]
    models: tuple[str, ...]
    conflicts: int
    domain_conflicts: int
    texts_under_several_ids: int
    gain_range: tuple[float, float]

    @property
    def rows_read(self) -> int:
        """Rows found in all files."""
        return sum(file.rows_read for file in self.files)

    @property
    def rows_used(self) -> int:
        """Rows that are in the table."""
        return sum(file.rows_used for file in self.files)

    @property
    def rows_skipped(self) -> int:
        """Bad rows that were left out."""
        return sum(file.rows_skipped for file in self.files)

    @property
    def rows_merged(self) -> int:
        """Rows averaged into an earlier row about the same thing."""
        return sum(file.rows_merged for file in self.files)

    @property
    def rows_unpaired(self) -> int:
        """Scores without another model's score to compare them with."""
        return sum(file.rows_unpaired for file in self.files)

    @property
    def rows_other_models(self) -> int:
        """Rows about models that were not asked for."""
        return sum(file.rows_other_models for file in self.files)

    @property
    def repeats(self) -> int:
        """Rows that equal an earlier row of the same source in every field."""
        return sum(file.repeats for file in self.files)

    @property
    def is_off_scale(self) -> bool:
        """Whether a gain lies outside [−1, 1], where votes are: the scores need their range."""
        return self.gain_range[0] < -1 or self.gain_range[1] > 1

    @property
    def looks_swapped(self) -> bool:
        """Whether all gold labels are votes and all preference labels are none."""
        are_votes = {
            source: {file.form == "votes" for file in self.files if file.source == source}
            for source in ("gold", "preference")
        }
        return are_votes == {"gold": {True}, "preference": {False}}

    def to_dict(self) -> dict[str, Any]:
        """The report, its totals and whether it looks swapped as plain JSON values."""
        totals = ("read", "used", "skipped", "merged", "unpaired", "other_models")
        found = {f"rows_{name}": getattr(self, f"rows_{name}") for name in totals}
        return asdict(self) | found | {"looks_swapped": self.looks_swapped}
