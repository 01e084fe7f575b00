"""What is written is run: code of the pages, links, names, and the command line's help."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import metarouter
from metarouter.features.registry import embedder_names
from metarouter.gain import TABLE_GAIN_MODELS
from metarouter.testing import WORLDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Pages whose Python blocks stand on their own, each run as one program from top to bottom.
RUN = ("docs/tutorial.md", "docs/testing.md", "docs/python_api.md")


def _text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(code: str, folder: Path) -> str:
    """Standard output of a program, which must end well and say nothing on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """The blocks of a page are one program, which ends well and without a warning."""
    code = "\n".join(_blocks(_text(page), "python"))
    assert code
    output = _run(code, tmp_path)
    assert "nan" not in output


def test_the_readme_example_routes_and_tells_what_it_saves(tmp_path: Path) -> None:
    """The ten lines give a reason, a verdict, and a router that loads again."""
    (code,) = _blocks(_text("README.md"), "python")
    reason, verdict = _run(code, tmp_path).splitlines()
    assert re.search(r"predicted gain .* threshold", reason)
    assert re.search(r"premium calls this router keeps \d+.* saves \d+", verdict)
    assert (tmp_path / "router" / "manifest.json").is_file()


@pytest.mark.parametrize(
    "name", [name for name in metarouter.__all__ if inspect.isfunction(getattr(metarouter, name))]
)
def test_every_public_function_has_an_example(name: str) -> None:
    """As docs/python_api.md says; that it runs is what the doctests are for."""
    assert ">>> " in (inspect.getdoc(getattr(metarouter, name)) or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_exists(page: Path) -> None:
    """A link leads to a file, and its fragment to a heading of that page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if fragment:
            assert fragment in _anchors(file.read_text("utf-8")), target


def _anchors(text: str) -> set[str]:
    """Fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_the_page_of_the_command_line_is_what_help_says() -> None:
    """docs/cli.md is made by tools/cli_docs.py and was made again after the last change."""
    assert _text("docs/cli.md") == _tool("cli_docs").render_page()


def test_the_readme_names_every_command() -> None:
    text = _text("README.md")
    missing = [name for name in _tool("cli_docs").leaf_commands() if f"`{name}" not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/correctors.md", metarouter.CORRECTORS),
        ("docs/correctors.md", metarouter.GAIN_MODELS),
        ("docs/routers.md", TABLE_GAIN_MODELS),
        ("docs/estimands.md", metarouter.CORRECTORS),
        ("docs/testing.md", tuple(WORLDS)),
        ("CHANGELOG.md", metarouter.CORRECTORS),
        ("docs/features.md", tuple(name for name in embedder_names() if name != "endpoint")),
    ],
)
def test_a_page_names_all_that_is_registered(page: str, names: tuple[str, ...]) -> None:
    text = _text(page)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_page_of_the_python_interface_names_every_function() -> None:
    """Functions that a user calls; records and errors have their docstrings."""
    text = _text("docs/python_api.md")
    functions = [name for name in metarouter.__all__ if name[0].islower()]
    assert [name for name in functions if f"`{name}" not in text] == []


def test_the_rules_of_the_repository_hold() -> None:
    """Locks without addresses, functions of a readable length, dependencies explained."""
    assert list(_tool("check_repo").problems()) == []


def test_the_changelog_has_a_place_for_the_next_change_and_this_version() -> None:
    headings = re.findall(r"^## (\S+)", _text("CHANGELOG.md"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == metarouter.__version__
