"""Write docs/settings.md from the gateway's settings, or check that it is up to date.

./run python tools/settings_docs.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from metarouter.gateway.settings import GatewaySettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings of the gateway

Made from the code by `./run python tools/settings_docs.py`; CI compares the two. What they are
for: [gateway.md](gateway.md).

One YAML or TOML file (`metarouter serve --config FILE`), the environment, and flags. Flags go
before the environment (`METAROUTER_PORT=…`, nested with two underscores:
`METAROUTER_STORE__PROMPTS=true`), which goes before the file. Paths in the file are relative to it.
`metarouter serve --check` reads all of it and stops; a wrong setting is named with its value. NAME
stands for a name of your own.
"""


def main() -> None:
    page = HEAD + "".join(_sections("", GatewaySettings))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page:
        sys.exit("docs/settings.md is not what tools/settings_docs.py makes: run it")


def _sections(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A table of a model's own settings, then those of the models in it."""
    title = f"`{path}`" if path else "Top level"
    yield f"\n## {title}\n\n| setting | kind | default | meaning |\n|---|---|---|---|\n"
    nested = []
    for name, field in model.model_fields.items():
        inner = _inner(field.annotation)
        if inner is None:
            yield _row(name, field)
        else:
            place = "" if inner is field.annotation else ".NAME"
            nested.append((f"{path}.{name}".lstrip(".") + place, inner))
            text = field.description or (inner.__doc__ or "").partition("\n")[0]
            yield f"| `{name}` | settings below | | {text} |\n"
    for place, inner in nested:
        yield from _sections(place, inner)


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, itself or by name."""
    kinds = [annotation, *get_args(annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.default is PydanticUndefined else _shown(field.default)
    text = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_kind(field.annotation)} | {default} | {text} |\n"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if value == "":
        return '`""`'
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(annotation: Any) -> str:
    """A type in words."""
    known = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path"}
    if annotation in known:
        return known[annotation]
    inside = get_args(annotation)
    origin = get_origin(annotation)
    if origin is list:
        return f"list of {_kind(inside[0])}"
    if origin is dict:
        return f"{_kind(inside[1])} by name"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if hasattr(annotation, "__metadata__"):
        return _kind(annotation.__origin__)
    kinds = [_kind(one) for one in inside if one is not type(None)]
    return " or ".join(dict.fromkeys(kinds))


if __name__ == "__main__":
    main()
