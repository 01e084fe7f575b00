"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "BadRows",
    "Cheap",
    "Cost",
    "EmbedderName",
    "Gold",
    "JsonOut",
    "OnBadRow",
    "Preference",
    "Premium",
    "Prices",
    "Report",
    "RouterFolder",
    "ScoreRange",
    "Seed",
    "SomeGold",
    "names",
    "numbers",
    "refuse_idle_options",
    "score_range",
]


_COMMA = re.compile(r",(?![^\[\]]*\])")


class Cost(StrEnum):
    """What a cost is counted in."""

    unit = "unit"
    token = "token"  # noqa: S105 - a unit of text, not a secret


class OnBadRow(StrEnum):
    """What to do with a label row that cannot be used."""

    error = "error"
    skip = "skip"


RouterFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Router folder that `fit` wrote.", show_default=False)
]
Gold = Annotated[
    list[Path],
    typer.Option("--gold", metavar="F", help="Gold labels; may be given more than once."),
]
SomeGold = Annotated[list[Path] | None, typer.Option("--gold", metavar="F", help="Gold labels.")]
Preference = Annotated[
    list[Path] | None,
    typer.Option("--preference", metavar="F", help="Preference labels; may be repeated."),
]
Premium = Annotated[str | None, typer.Option(metavar="M", help="The dearer model.")]
Cheap = Annotated[str | None, typer.Option(metavar="M", help="The cheaper model.")]
ScoreRange = Annotated[
    str | None,
    typer.Option(
        "--score-range", metavar="LOW,HIGH", help="Range of the scores; their length is one gain."
    ),
]
EmbedderName = Annotated[str, typer.Option("--embedder", help="What turns text into features.")]
Prices = Annotated[
    Path | None,
    typer.Option("--prices", metavar="F", help="Prices that go before the bundled ones."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]
JsonOut = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the results as JSON; - is stdout."),
]
BadRows = Annotated[
    OnBadRow, typer.Option("--on-bad-row", help="Stop at a bad row, or skip and count it.")
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write a self-contained HTML page.")
]


def names(text: str) -> list[str]:
    """Items of a comma-separated option; commas between brackets are the item's own.

    Examples
    --------
    >>> names('dr, auto:uses=["ignore","inform"]')
    ['dr', 'auto:uses=["ignore","inform"]']
    """
    return [item.strip() for item in _COMMA.split(text) if item.strip()]


def numbers(text: str) -> list[int]:
    """Integers of a comma-separated option.

    Raises
    ------
    typer.BadParameter
        When an item is not an integer.
    """
    try:
        return [int(item) for item in names(text)]
    except ValueError:
        raise typer.BadParameter(f"{text!r}; allowed: integers separated by commas") from None


def score_range(text: str | None) -> tuple[float, float] | None:
    """The two ends of a range such as ``0,10``; None where none was given.

    Raises
    ------
    typer.BadParameter
        When there are not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(item) for item in names(text))
    except ValueError:
        raise typer.BadParameter(f"--score-range {text!r}; allowed: LOW,HIGH, e.g. 0,10") from None
    return low, high


def refuse_idle_options(
    context: typer.Context, choice: str, users: Mapping[str, Sequence[str]]
) -> None:
    """Refuse options that were given and that do nothing with what was chosen.

    Parameters
    ----------
    context : of the command.
    choice : name of the option that chooses.
    users : options, each with the values of `choice` that use it; none where any does,
        once it is given.

    Raises
    ------
    OptionError
        When there is one.
    """
    from metarouter.errors import OptionError

    chosen = context.params[choice]
    for name, values in users.items():
        source = context.get_parameter_source(name)
        is_used = str(chosen) in values if values else chosen is not None
        if not is_used and source is not None and source.name == "COMMANDLINE":
            which = f" {' or '.join(values)}" if values else ""
            now = chosen if values else "not given"
            allowed = f"with `{choice}`{which} only, and it is {now}"
            raise OptionError.of(name, _as_given(context.params[name]), allowed)


def _as_given(value: Any) -> Any:
    """An option's value, with files and choices as they were typed."""
    if isinstance(value, list):
        return _as_given(value[0]) if len(value) == 1 else [_as_given(each) for each in value]
    return str(value) if isinstance(value, Path | StrEnum) else value
