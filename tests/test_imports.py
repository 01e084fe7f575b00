"""Imports point one way, importing does nothing, and the public names are what they say."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import metarouter

SOURCE = Path(metarouter.__file__).parent

# What each part may import; every part may also import itself. The arrows of design.md, section 2.
_BASE = {"errors", "records", "types", "linear", "evidence"}
_LABELS = _BASE | {"labels"}
_SERVING = _LABELS | {"features", "gain", "policy", "artifact", "router", "loading"}
_TRAINING = _SERVING | {
    "causal",
    "correction",
    "evaluation",
    "calibration",
    "crossfitted",
    "spread",
}
_TOP = {"cli", "__init__", "__main__"}
ALLOWED = {
    "errors": set(),
    "records": {"errors", "types"},
    "types": {"errors", "records", "labels"},
    "linear": _BASE,
    "evidence": _BASE,
    "causal": _BASE,
    "labels": _BASE,
    "features": _BASE,
    "correction": _LABELS | {"causal", "features", "gain"},
    "gain": _LABELS | {"features"},
    "policy": _LABELS | {"features", "gain"},
    "evaluation": _LABELS | {"causal", "correction", "features", "gain", "policy"},
    # Evaluates gain models on data sets; it needs neither correctors nor routers.
    "benchmark": _LABELS | {"features", "gain", "policy", "evaluation"},
    "artifact": _BASE,
    "router": _SERVING,
    "loading": _SERVING,
    "calibration": _SERVING | {"evaluation"},
    "crossfitted": _SERVING,
    "spread": _SERVING,
    "querying": _SERVING,
    "fitting": _TRAINING,
    # Fingerprints labels as fitting does.
    "onboarding": _TRAINING | {"fitting"},
    "refitting": _TRAINING | {"fitting"},
    # A router inside another gateway: the serving path alone.
    "integrations": _SERVING,
    # Serve and send: no training, so that they start and run on the serving path alone.
    "routellm": _SERVING | {"providers"},
    "gateway": _SERVING | {"dashboard", "querying", "providers", "store"},
    # Pages over the store; curves are drawn by the policy's own code.
    "dashboard": _BASE | {"policy", "store"},
    # Calls are priced by the policy's price table.
    "providers": _BASE | {"policy"},
    "collection": _LABELS | {"providers"},
    "store": _BASE,
    "testing": _TRAINING,
}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imported(path: Path) -> set[str]:
    """Parts of metarouter that a module imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("metarouter.")}
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    """No module imports a part that stands above its own; the command line may import any."""
    part = _part(path)
    if part in _TOP:
        return
    assert part in ALLOWED, f"{part} is new: say in this test what it may import"
    assert _imported(path) - ALLOWED[part] - {part} == set()


def test_nothing_below_the_command_line_imports_it() -> None:
    """Only the package's entry point knows cli."""
    assert not [path for path in _modules() if _part(path) not in _TOP and "cli" in _imported(path)]


def _run(program: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.speed
def test_importing_the_package_imports_nothing_else_and_is_fast() -> None:
    """`import metarouter` takes under 0.1 s of processor time and loads no other library."""
    result = _run(
        "import json, sys, time; start = time.process_time(); import metarouter; "
        "print(json.dumps({'seconds': time.process_time() - start, "
        "'numpy': 'numpy' in sys.modules, 'output': None}))"
    )
    assert result["numpy"] is False
    assert isinstance(result["seconds"], float)
    assert result["seconds"] < 0.1


def test_the_command_line_starts_without_the_libraries_of_training() -> None:
    """`--help` imports neither numpy nor anything heavier."""
    result = _run(
        "import contextlib, io, json, sys\n"
        "from metarouter.cli import run\n"
        "with contextlib.redirect_stdout(io.StringIO()): code = run(['--help'])\n"
        "heavy = [m for m in ('numpy', 'sklearn', 'scipy', 'pyarrow', 'aiohttp', 'sqlalchemy', "
        "'starlette', 'pydantic_settings') if m in sys.modules]\n"
        "print(json.dumps({'code': code, 'heavy': heavy}))"
    )
    assert result == {"code": 0, "heavy": []}


def test_public_names_are_sorted_few_and_all_there() -> None:
    """`__all__` is sorted (constants, classes, functions), short, and is what dir() shows."""
    names = metarouter.__all__
    assert names == sorted(
        names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert len(names) == len(set(names)) <= 40
    assert set(dir(metarouter)) == set(names)
    for name in names:
        assert getattr(metarouter, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy door answers as a module does."""
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        metarouter.magic  # noqa: B018
