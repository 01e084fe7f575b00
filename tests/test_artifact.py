"""The router folder: whole at every moment, checked on every read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarouter.artifact import (
    SCHEMA_VERSION,
    LabelFingerprint,
    RouterArtifact,
    load_artifact,
    save_artifact,
)
from metarouter.errors import ArtifactError
from metarouter.types import ModelState


def _artifact(value: float = 1.5) -> RouterArtifact:
    return RouterArtifact(
        models=("small", "large"),
        parts={
            "gain": ModelState(
                kind="linear",
                config={"intercept": 0.1, "names": ["a", "b"]},
                arrays={
                    "coef": np.array([value, -2.0]),
                    "scale": np.ones((2, 3), dtype=np.float32).T,
                    "intercept": np.array(0.5),
                },
            ),
            "policy": ModelState(kind="utility", config={"w": 0.3}),
        },
        config={"corrector": "auto", "seed": 3},
        data={"gold": LabelFingerprint(rows=12, sha256="ab")},
        metrics={"area": 0.02},
        libraries={"numpy": np.__version__},
        created="2026-01-02T03:04:05+00:00",
    )


def _assert_same(one: RouterArtifact, two: RouterArtifact) -> None:
    assert one.models == two.models
    assert one.parts.keys() == two.parts.keys()
    for name, state in one.parts.items():
        other = two.parts[name]
        assert (state.kind, state.config) == (other.kind, other.config)
        assert state.arrays.keys() == other.arrays.keys()
        for key, array in state.arrays.items():
            assert (array.dtype, array.shape) == (other.arrays[key].dtype, other.arrays[key].shape)
            np.testing.assert_array_equal(array, other.arrays[key])
    for name in ("config", "data", "metrics", "libraries", "created"):
        assert getattr(one, name) == getattr(two, name)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Every field and array comes back with its type."""
    save_artifact(_artifact(), tmp_path / "deep" / "router")
    _assert_same(load_artifact(tmp_path / "deep" / "router"), _artifact())


def test_a_second_save_replaces_the_first_and_leaves_two_files(tmp_path: Path) -> None:
    """The folder holds the new router and nothing of the old one."""
    save_artifact(_artifact(1.0), tmp_path)
    save_artifact(_artifact(2.0), tmp_path)
    _assert_same(load_artifact(tmp_path), _artifact(2.0))
    assert len(list(tmp_path.iterdir())) == 2


class _Interrupted(Exception):  # noqa: N818 - stands for a kill signal
    pass


@pytest.mark.parametrize("step", range(6))
def test_an_interrupted_save_leaves_the_old_router(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any fsync or rename, the folder loads as the old or as the new router."""
    save_artifact(_artifact(1.0), tmp_path)
    count = iter(range(100))

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(count) == step:
                raise _Interrupted
            return real(*args)

        return call

    monkeypatch.setattr(os, "fsync", stopping(os.fsync))
    monkeypatch.setattr(Path, "replace", stopping(Path.replace))
    try:
        save_artifact(_artifact(2.0), tmp_path)
    except _Interrupted:
        pass
    else:
        pytest.fail("the save was not interrupted")
    value = load_artifact(tmp_path).parts["gain"].arrays["coef"][0]
    assert value == (2.0 if step == 5 else 1.0)
    monkeypatch.undo()
    save_artifact(_artifact(3.0), tmp_path)
    _assert_same(load_artifact(tmp_path), _artifact(3.0))
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_killed_first_save_do_not_block_the_next(tmp_path: Path) -> None:
    """Files with our own names are not foreign."""
    (tmp_path / f".json-{'0' * 16}.part").write_bytes(b"{")
    (tmp_path / f"arrays-{'0' * 64}.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="holds no manifest"):
        load_artifact(tmp_path)
    save_artifact(_artifact(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """Saving refuses a folder that is somebody's."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ArtifactError, match=r"thesis\.tex"):
        save_artifact(_artifact(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    """A path that is a file cannot become a folder."""
    (tmp_path / "router").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be written"):
        save_artifact(_artifact(), tmp_path / "router")


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    """The message names the next step."""
    with pytest.raises(ArtifactError, match="metarouter fit"):
        load_artifact(tmp_path / "none")


def _edit(folder: Path, **changes: Any) -> None:
    """Change manifest fields and keep its checksum right, as a newer writer would."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    content.pop("checksum")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content))


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    """The version is checked before anything else."""
    save_artifact(_artifact(), tmp_path)
    _edit(tmp_path, schema_version=SCHEMA_VERSION + 1, shape="unheard of")
    with pytest.raises(ArtifactError, match="upgrade metarouter"):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": "1"},
        {"schema_version": True},
        {"models": "small"},
        {"parts": {"gain": {"kind": 3}}},
        {"arrays_file": "../secrets"},
        {"arrays_file": f"arrays-{'1' * 64}.safetensors"},
        {"parts": {"gain": {"kind": "linear", "config": {}, "arrays": ["other"]}}},
    ],
)
def test_wrong_fields_are_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A field of the wrong type or value is one clear line."""
    save_artifact(_artifact(), tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_safetensors_is_damage(tmp_path: Path) -> None:
    """The hash can be right and the content still not arrays."""
    save_artifact(_artifact(), tmp_path)
    arrays = next(tmp_path.glob("arrays-*"))
    arrays.write_bytes(b"not arrays")
    _edit(tmp_path, arrays_sha256=hashlib.sha256(b"not arrays").hexdigest())
    with pytest.raises(ArtifactError, match="damaged"):
        load_artifact(tmp_path)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    which=st.sampled_from(["manifest", "arrays"]),
    where=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from(["flip", "cut", "insert"]),
    bit=st.integers(0, 7),
)
def test_any_damage_is_noticed(
    tmp_path: Path, which: str, where: float, how: str, bit: int
) -> None:
    """A flipped bit, a cut or an insertion anywhere is an ArtifactError, or changes nothing."""
    save_artifact(_artifact(), tmp_path)
    path = next(path for path in tmp_path.iterdir() if path.name.startswith(which))
    whole = path.read_bytes()
    at = int(where * len(whole))
    damaged = {
        "flip": whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :],
        "cut": whole[:at],
        "insert": whole[:at] + bytes([32 + bit]) + whole[at:],
    }[how]
    path.write_bytes(damaged)
    try:
        loaded = load_artifact(tmp_path)
    except ArtifactError as error:
        loaded, message = None, str(error)
    else:
        message = ""
    finally:
        path.unlink()
    assert "\n" not in message
    if loaded is not None:
        assert which == "manifest"  # white space between fields
        _assert_same(loaded, _artifact())


def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """A manifest of a hundred thousand brackets is refused."""
    (tmp_path / "manifest.json").write_text('{"a":' + "[" * 100_000)
    with pytest.raises(ArtifactError, match="damaged"):
        load_artifact(tmp_path)


def test_values_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    """NaN in a config is a bug of the writer and never reaches the disk."""
    bad = RouterArtifact(models=("a", "b"), parts={}, metrics={"area": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_artifact(bad, tmp_path / "router")
    assert not (tmp_path / "router").exists()


_SAVE_FOR_EVER = """
import itertools, sys
import numpy as np
from metarouter.artifact import RouterArtifact, save_artifact
from metarouter.types import ModelState
for i in itertools.count():
    state = ModelState(kind="x", arrays={"a": np.full(50_000, float(i % 2))})
    save_artifact(RouterArtifact(models=("a", "b"), parts={"p": state}), sys.argv[1])
    print(i, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023])
def test_a_killed_process_leaves_a_whole_router(tmp_path: Path, delay: float) -> None:
    """SIGKILL in the middle of saving: the folder loads, and holds one of the two routers."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVE_FOR_EVER, str(tmp_path / "router")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.communicate()
    values = load_artifact(tmp_path / "router").parts["p"].arrays["a"]
    assert set(values.tolist()) in ({0.0}, {1.0})


def test_readers_never_see_a_half_written_router(tmp_path: Path) -> None:
    """While another process saves again and again, every load succeeds."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVE_FOR_EVER, str(tmp_path / "router")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        for _ in range(100):
            values = load_artifact(tmp_path / "router").parts["p"].arrays["a"]
            assert set(values.tolist()) in ({0.0}, {1.0})
    finally:
        process.kill()
        process.communicate()
