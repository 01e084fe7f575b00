"""The command ``metarouter``: each command parses, calls the library and prints.

Exit codes: 0 done, 1 failed, 2 usage or bad input. An error is one line on
stderr. Machine output is described in :mod:`metarouter.cli.output`.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main", "run"]

_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def main() -> None:
    """Run the command of ``sys.argv`` and exit with its code."""
    # Bytes that a terminal or a pipe cannot take are shown, and never stop a command.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.
    """
    from typer import Abort, TyperException
    from typer.main import get_command

    from metarouter.cli.app import make_app
    from metarouter.errors import MetarouterError

    command = get_command(make_app())
    args = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = command.main(args=args, prog_name="metarouter", standalone_mode=False)
    except MetarouterError as error:
        return _fail(_as_typed(str(error), _flags(command, args)), error.exit_code)
    except TyperException as error:
        message = error.format_message().rstrip(".")
        return _fail(f"{message}. See: {_invoked(command, args)} --help", 2)
    except (Abort, KeyboardInterrupt):
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader left; what Python flushes at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    if code == _INTERRUPTED:  # Typer turns Ctrl-C into this code
        return _fail("interrupted", code)
    return code if isinstance(code, int) else 0


def _invoked(command: Any, arguments: Sequence[str]) -> str:
    """The invoked command as it is typed, as far as it exists."""
    words = ["metarouter"]
    for word in arguments:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        words.append(word)
    return " ".join(words)


def _flags(command: Any, arguments: Sequence[str]) -> dict[str, str]:
    """Python's names of the invoked command's options, and how they are typed."""
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return {
        param.name: max(param.opts, key=len)
        for param in command.params
        if param.param_type_name == "option"
    }


def _as_typed(message: str, flags: dict[str, str]) -> str:
    """A message with its options as flags; see :mod:`metarouter.errors`."""
    return re.sub(
        r"^(\w+)(?= = )|`(\w+)`",
        lambda found: flags.get(found[1] or found[2], found[0]),
        message,
    )


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"metarouter: error: {line}\n")
    return code
