"""What commands print: JSON for machines, tables for people, progress on a terminal.

Machine output is one JSON object::

    {"schema_version": 1, "command": "evaluate", "environment": {...},
     "seed": 0, "results": [{...}, ...]}

`results` is a list of flat records. Numbers that do not exist are null.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from metarouter.errors import OptionError

__all__ = [
    "SCHEMA_VERSION",
    "emit",
    "json_lines",
    "print_table",
    "progress",
    "require_writable",
    "say",
    "write_text",
]

SCHEMA_VERSION = 1
_LIBRARIES = ("numpy", "scikit-learn", "scipy", "pyarrow", "tokenizers", "safetensors")


def emit(
    target: str | None, command: str, results: Sequence[Mapping[str, Any]], *, seed: int | None
) -> None:
    """Write the machine output to a file, or to stdout when `target` is "-".

    Raises
    ------
    OptionError
        When the file cannot be written.
    """
    if target is None:
        return
    text = envelope(command, results, seed=seed)
    if target == "-":
        sys.stdout.write(text + "\n")
    else:
        write_text(Path(target), text + "\n")


def envelope(command: str, results: Sequence[Mapping[str, Any]], *, seed: int | None) -> str:
    """The JSON text of one command's results."""
    from metarouter.records import json_value

    content = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "environment": environment(),
        "seed": seed,
        "results": [json_value(row) for row in results],
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def environment() -> dict[str, str | int | None]:
    """Versions and machine that the numbers were made with."""
    return {
        "metarouter": version("metarouter"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **{name: _installed(name) for name in _LIBRARIES},
    }


def require_writable(
    *paths: Path | str | None, inputs: Iterable[Path | None] | None = None
) -> None:
    """Refuse files that could not be written before the work is done; "-" and None are none.

    Raises
    ------
    OptionError
        When the place of a file is not a folder that may be written to, or the file is one
        of the `inputs` or written otherwise.
    """
    taken = {_identity(path) for path in inputs or () if path is not None}
    for path in paths:
        if path is None or path == "-":
            continue
        target = Path(path).absolute()
        if not _is_device(target) and _identity(target) in taken:
            raise OptionError(
                f"{path}: cannot be written: it is read, or written otherwise; name another file"
            )
        taken.add(_identity(target))
        place = next(each for each in (target, *target.parents) if each.exists())
        is_file = place == target and not target.is_dir()  # a pipe or a device as well
        if not (is_file or (place.is_dir() and place != target)) or not os.access(place, os.W_OK):
            raise OptionError(
                f"{path}: cannot be written: {place} is not "
                f"{'a file' if place == target else 'a folder'} that this user may write to"
            )


def _identity(path: Path) -> tuple[int, int] | str:
    """The same for all paths to one file, by links of either kind."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)  # Path.resolve raises RuntimeError of links in a circle
    return found.st_dev, found.st_ino


def _is_device(path: Path) -> bool:
    """Whether it takes several writers, as /dev/null does."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_text(path: Path, text: str) -> None:
    """Write a file that the user asked for; half a surrogate pair, which is no text, as "?".

    Raises
    ------
    OptionError
        When it cannot be written.
    """
    content = text.encode("utf-8", "replace")  # before the old file is gone
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written: {error.strerror or error}") from error


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a JSONL file has them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def say(text: str, target: str | None = None) -> None:
    """Print a line for people, unless stdout carries the machine output."""
    if target != "-":
        sys.stdout.write(text + "\n")


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], target: str | None = None
) -> None:
    """Print records as an aligned table, numbers with four digits."""
    cells = [[name.replace("_", " ") for name in columns]]
    cells += [[_shown(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  " + "  ".join(padded).rstrip(), target)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress callback ``(done, total)`` on stderr; None when it is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
