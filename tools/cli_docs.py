"""Write docs/cli.md from the commands' own help: ./run python tools/cli_docs.py [--check]."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from typer.main import get_command

from metarouter.cli import run
from metarouter.cli.app import make_app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

_HEAD = """\
# Command line

Made from `--help` by `./run python tools/cli_docs.py`; a test compares the two. In a clone every
command is `./run metarouter ...`; where the package is installed, `metarouter ...`.

Exit codes: 0 done, 1 failed, 2 usage or bad input. An error is one line on stderr. Progress goes
to stderr, and only to a terminal. `--json FILE` writes one object with `schema_version`,
`command`, `environment`, `seed` and `results`, a list of flat records; `--json -` writes it to
stdout in place of the text.
"""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# A fixed width and no colours, whatever the terminal or the CI service.
_PLAIN = {"COLUMNS": "96", "LINES": "50", "NO_COLOR": "1", "TERM": "dumb"}


def leaf_commands() -> list[str]:
    """Every command that does something, groups spelled out, in the order of the help."""
    return list(_leaves(get_command(make_app()), ()))


def help_text(command: str) -> str:
    """What ``metarouter COMMAND --help`` prints, without colours or trailing blanks."""
    out = io.StringIO()
    with patch.dict(os.environ, _PLAIN), contextlib.redirect_stdout(out):
        code = run([*command.split(), "--help"])
    if code:
        raise SystemExit(f"metarouter {command} --help ended with {code}")
    lines = _ANSI.sub("", out.getvalue()).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def render_page() -> str:
    """The whole page."""
    sections = [
        f"\n## metarouter {command}\n\n```text\n{help_text(command)}\n```\n"
        for command in leaf_commands()
    ]
    return _HEAD + "".join(sections)


def _leaves(command: object, path: tuple[str, ...]) -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path)
        return
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


def main() -> int:
    """Write the page, or with ``--check`` say whether it is current."""
    page = render_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/cli.md is not what --help says: run ./run python tools/cli_docs.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
