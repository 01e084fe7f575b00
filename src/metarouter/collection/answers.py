"""What responses are graded by: accepted answers, patterns, tests, rubrics; one row a query."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from metarouter.collection.rows import Response, query_of, read_objects
from metarouter.errors import DataError, InputError, LabelError

__all__ = ["AnswerKey", "CodeTests", "Criterion", "read_answers"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTests:
    """A program that checks code.

    Parameters
    ----------
    setup : statements before the response's code, such as imports.
    tests : statements after it, which raise when the code is wrong.
    """

    setup: str
    tests: str

    def program(self, response: str) -> str:
        """The whole program for one response."""
        return "\n\n".join((self.setup, code_of(response), self.tests))


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One line of a rubric; negative points are for what should not be there."""

    text: str
    points: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerKey(Generic[T]):
    """What each query is graded by.

    Parameters
    ----------
    by_id, by_text : entries by `query_id`, and by text for rows without one.
    """

    by_id: Mapping[str, T]
    by_text: Mapping[str, T]

    def unused(self, responses: Sequence[Response]) -> int:
        """How many entries belong to no response."""
        ids = {response.query.query_id for response in responses}
        texts = {response.query.text for response in responses}
        return len(self.by_id.keys() - ids) + len(self.by_text.keys() - texts)

    def match(self, responses: Sequence[Response]) -> tuple[list[tuple[Response, T]], int]:
        """Responses with their entries, and how many have none.

        Raises
        ------
        DataError
            When no response has an entry.
        """
        found = [
            (response, entry)
            for response in responses
            if (entry := self._entry(response)) is not None
        ]
        if not found:
            raise DataError(
                "no response belongs to a query of the answers file; both need the same query_id, "
                "or the same text"
            )
        return found, len(responses) - len(found)

    def _entry(self, response: Response) -> T | None:
        query = response.query
        if query.query_id is not None and query.query_id in self.by_id:
            return self.by_id[query.query_id]
        return self.by_text.get(query.text)


def read_answers(path: Path, how: str) -> AnswerKey[Any]:
    """Entries of an answers file.

    Parameters
    ----------
    path : path
        JSONL, JSON, CSV or Parquet with `query_id`, `query` or `messages`, and
        for ``exact`` and ``numeric`` an `answer`: a text, a number or a list of
        accepted ones; for ``regex`` a `pattern`; for ``tests`` the `tests` (a
        text or a list), optionally `setup` and `entry_point`; for ``rubric`` a
        list `rubrics` of objects with `criterion` and `points`.
    how : one of these words.

    Raises
    ------
    LabelError
        Naming file, row and field.
    InputError
        When the file cannot be read or is empty.
    """
    by_id: dict[str, Any] = {}
    by_text: dict[str, Any] = {}
    for number, row in read_objects(path):
        fields = _Fields(path, number, row)
        entry = _READERS[how](fields)
        name, value = fields.identity()
        table = by_id if name == "query_id" else by_text
        if value in table:
            raise fields.bad(name, value, "one row for each query")
        table[value] = entry
    if not by_id and not by_text:
        raise InputError(f"{path}: holds no answer")
    return AnswerKey(by_id=by_id, by_text=by_text)


def code_of(response: str) -> str:
    r"""The longest fenced block of a response; the whole response when it has none.

    Examples
    --------
    >>> code_of("So:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    blocks = re.findall(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", response, re.MULTILINE | re.DOTALL)
    return max(blocks, key=len) if blocks else response


@dataclass(frozen=True, slots=True)
class _Fields:
    """One row, with errors that name it."""

    path: Path
    number: int
    row: Mapping[str, Any]

    def bad(self, name: str, value: Any, allowed: str) -> LabelError:
        return LabelError.at(
            file=str(self.path), row=self.number, field=name, value=value, allowed=allowed
        )

    def identity(self) -> tuple[str, str]:
        value = self.row.get("query_id")
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return "query_id", str(value)
        return "query", query_of(self.path, self.number, self.row).text

    def text(self, name: str, allowed: str, default: str | None = None) -> str:
        value = self.row.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            raise self.bad(name, value, allowed)
        return value

    def texts(self, name: str, allowed: str) -> list[str]:
        value = self.row.get(name)
        items = value if isinstance(value, list) else [value]
        texts = [_as_text(item) for item in items]
        if not texts or not all(text.strip() for text in texts):
            raise self.bad(name, value, allowed)
        return texts


def _as_text(item: Any) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        return ""
    return str(item)


def _accepted(fields: _Fields) -> list[str]:
    return fields.texts("answer", "a text, a number, or a list of accepted ones")


def _pattern(fields: _Fields) -> re.Pattern[str]:
    text = fields.text("pattern", "a regular expression")
    try:
        return re.compile(text)
    except re.error as error:
        raise fields.bad("pattern", text, f"a regular expression of Python ({error})") from error


def _tests(fields: _Fields) -> CodeTests:
    tests = fields.texts("tests", "Python statements, or a list of them")
    name = fields.text("entry_point", "the name of a function", default="")
    if name and not name.isidentifier():
        raise fields.bad("entry_point", name, "the name of a function")
    if name:
        tests.append(f"check({name})")
    return CodeTests(
        setup=fields.text("setup", "Python statements", default=""), tests="\n".join(tests)
    )


def _rubric(fields: _Fields) -> tuple[Criterion, ...]:
    allowed = "a list of objects with a text criterion and a number points, one of them positive"
    rows: Any = fields.row.get("rubrics")
    try:
        criteria = tuple(
            Criterion(text=_stripped(r["criterion"]), points=float(r["points"])) for r in rows
        )
    except (TypeError, KeyError, ValueError):
        raise fields.bad("rubrics", rows, allowed) from None
    is_finite = all(abs(criterion.points) < float("inf") for criterion in criteria)
    if not is_finite or not any(criterion.points > 0 for criterion in criteria):
        raise fields.bad("rubrics", rows, allowed)
    return criteria


def _stripped(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    return value.strip()


_READERS: Mapping[str, Callable[[_Fields], Any]] = {
    "exact": _accepted,
    "numeric": _accepted,
    "regex": _pattern,
    "tests": _tests,
    "rubric": _rubric,
}
