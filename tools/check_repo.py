"""Small rules that no linter has: ./run python tools/check_repo.py.

- lock files hold hashes and no download addresses, so that any index can serve them;
- no function in the package is longer than 60 lines, docstring aside;
- every base and train dependency is explained in docs/dependencies.md.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 60


def problems() -> Iterator[str]:
    """One line for each rule that is broken."""
    yield from _locks_with_addresses()
    yield from _long_functions()
    yield from _unexplained_dependencies()


def _locks_with_addresses() -> Iterator[str]:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        text = lock.read_text(encoding="utf-8")
        if "://" in text:
            yield f"{lock.name}: holds a download address"
        pins = re.findall(r"^[\w.-]+==", text, flags=re.MULTILINE)
        if len(pins) > text.count("--hash=sha256:"):
            yield f"{lock.name}: a pin has no hash"


def _long_functions() -> Iterator[str]:
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = _body_length(node)
                if length > _LONGEST:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"


def _body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function below its signature and docstring."""
    has_docstring = ast.get_docstring(node) is not None
    if has_docstring and len(node.body) == 1:
        return 0
    first = node.body[1 if has_docstring else 0]
    return (node.end_lineno or node.lineno) - first.lineno + 1


def _unexplained_dependencies() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    extras = project["optional-dependencies"].values()
    for requirement in chain(project["dependencies"], *extras):
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        if f"`{name}`" not in explained:
            yield f"docs/dependencies.md: does not say why `{name}` is needed"


def main() -> int:
    """Print what is wrong; 1 when anything is."""
    found = list(problems())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
