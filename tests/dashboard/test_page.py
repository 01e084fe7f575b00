"""The shell and its files: nothing from elsewhere, nothing inline, nothing changed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest
from dashboard_makers import Shown

import metarouter.dashboard

STATIC = Path(metarouter.dashboard.__file__).parent / "static"
VENDOR = STATIC / "vendor"
OWN = [path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents]


def _manifest() -> list[dict[str, object]]:
    entries: list[dict[str, object]] = json.loads((VENDOR / "manifest.json").read_text("utf-8"))
    return entries


def test_vendored_files_are_those_of_the_manifest() -> None:
    """Each file has the hash that was written down, and none is there besides them."""
    entries = _manifest()
    assert {path.name for path in VENDOR.iterdir()} == {
        "manifest.json",
        *(str(entry["file"]) for entry in entries),
    }
    for entry in entries:
        content = (VENDOR / str(entry["file"])).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]


def test_what_was_replaced_in_a_vendored_file_can_be_put_back() -> None:
    """With the replacement undone it is the file that npm serves."""
    (entry,) = [entry for entry in _manifest() if "replaced" in entry]
    replaced = entry["replaced"]
    assert isinstance(replaced, list)
    old, new = (part.encode() for part in replaced)
    content = (VENDOR / str(entry["file"])).read_bytes().replace(new, old)
    assert hashlib.sha256(content).hexdigest() == entry["npm_sha256"]


def test_every_package_comes_with_its_licence() -> None:
    packages = {str(entry["package"]) for entry in _manifest()}
    assert packages == {"preact", "htm", "echarts"}
    assert all((VENDOR / f"{name}.LICENSE").stat().st_size > 500 for name in packages)


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(STATIC)))
def test_no_file_of_ours_names_another_host(path: Path) -> None:
    """The only addresses in it are names of XML vocabularies."""
    text = path.read_text(encoding="utf-8")
    found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", text))
    assert found <= {"http://www.w3.org/2000/svg"}


class _Inline(HTMLParser):
    """What the browser would run or apply from the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (tag == "script" and "src" not in given) or tag == "style":
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name == "style"]


def test_the_shell_has_nothing_inline() -> None:
    parser = _Inline()
    parser.feed((STATIC / "index.html").read_text("utf-8"))
    assert parser.found == []


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard",
        "/dashboard/static/app.js",
        "/dashboard/api/about",
        "/dashboard/api/decisions/d",
    ],
)
def test_answers_allow_nothing_from_elsewhere(shown: Shown, path: str) -> None:
    """Page, files and data carry the same policy."""
    answer = httpx2.get(shown.url + path)
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_scripts_are_served_as_scripts_and_small(shown: Shown) -> None:
    """A browser runs modules of the right type only; the largest is sent compressed."""
    for name in ("app.js", "vendor/preact.mjs", "vendor/echarts.common.min.js"):
        answer = httpx2.get(f"{shown.url}/dashboard/static/{name}")
        assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("path", ["../page.py", "%2e%2e/page.py", "..%2f..%2ferrors.py", "vendor"])
def test_nothing_but_static_files_is_served(shown: Shown, path: str) -> None:
    answer = httpx2.get(f"{shown.url}/dashboard/static/{path}")
    assert answer.status_code in (404, 405)


def test_the_wheel_holds_the_pages(tmp_path: Path) -> None:
    """Every static file of the source is in what is installed."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(root / "src")) for path in STATIC.rglob("*") if path.is_file()}
    assert expected <= names
    assert len(expected) > 20
