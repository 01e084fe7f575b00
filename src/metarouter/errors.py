"""All errors metarouter raises on purpose.

::

    MetarouterError
    ├── InputError               the user gave something that cannot be used   (exit 2)
    │   ├── LabelError           a row, field or file of labels
    │   ├── OptionError          an option or argument value
    │   └── ArtifactError        a router folder that is missing, damaged or too new
    ├── DataError                well-formed data that cannot support the request (exit 1)
    │   └── OverlapError         the two label sources do not meet
    ├── ProviderError            a remote service failed after retries          (exit 1)
    ├── MissingDependencyError   an optional library is not installed           (exit 2)
    └── NotFittedError           an object was used before ``fit``              (a bug)

Messages name what was wrong, the value, what is allowed, and the next step. Options
stand before " = " or in backticks, so that the command line can spell them as its flags.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArtifactError",
    "DataError",
    "InputError",
    "LabelError",
    "MetarouterError",
    "MissingDependencyError",
    "NotFittedError",
    "OptionError",
    "OverlapError",
    "ProviderError",
]


class MetarouterError(Exception):
    """Base of every error that metarouter raises on purpose."""

    exit_code = 1


class InputError(MetarouterError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class LabelError(InputError):
    """A file, row or field of labels is not usable."""

    @classmethod
    def at(
        cls, *, file: str, row: int | None, field: str | None, value: Any, allowed: str
    ) -> LabelError:
        """Build the one-line message ``file:row: field = value; allowed: …``.

        `row` is one-based and counts data rows as the user sees them (for CSV
        the header is row 0).
        """
        place = file if row is None else f"{file}: row {row}"
        what = "" if field is None else f": {field} = {shorten(value)}"
        return cls(f"{place}{what}; allowed: {allowed}")


class OptionError(InputError):
    """An option or argument has a value that is not allowed."""

    @classmethod
    def of(cls, option: str, value: Any, allowed: str) -> OptionError:
        """Build ``option = value; allowed: …``."""
        return cls(f"{option} = {shorten(value)}; allowed: {allowed}")


class ArtifactError(InputError):
    """A router folder is missing, damaged, or written by a newer metarouter."""


class DataError(MetarouterError):
    """The data are well formed but cannot support what was asked."""


class OverlapError(DataError):
    """The gold and the preference queries do not overlap enough."""


class ProviderError(MetarouterError):
    """A remote service failed, after the retries that its policy allows."""


class MissingDependencyError(MetarouterError):
    """An optional library is needed and not installed."""

    exit_code = 2

    @classmethod
    def of(cls, feature: str, extra: str) -> MissingDependencyError:
        """Build the message with the install line of the `extra`."""
        return cls(f"{feature} needs an optional library: pip install 'metarouter[{extra}]'")


class NotFittedError(MetarouterError):
    """An object was asked for a result before ``fit``."""

    @classmethod
    def of(cls, owner: object) -> NotFittedError:
        """Name the class that has to be fitted first."""
        return cls(f"{type(owner).__name__} is not fitted: call fit first")


def shorten(value: Any, limit: int = 60) -> str:
    """`repr` of a value, cut to `limit` characters, safe for one-line messages."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cause_of(error: Exception, limit: int = 200) -> str:
    r"""What an error says, on one line and without the system's number for it.

    Examples
    --------
    >>> cause_of(FileNotFoundError(2, "No such file or directory", "votes.csv"))
    'No such file or directory'
    >>> cause_of(EOFError("ends before\n its end"))
    'ends before its end'
    """
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(said.split())[:limit]
