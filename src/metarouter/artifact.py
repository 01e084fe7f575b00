"""The router on disk: one folder with ``manifest.json`` and one safetensors file, no pickle.

Training and serving meet here and nowhere else. The manifest names the arrays
file by its content (``arrays-<sha256>.safetensors``) and replacing the manifest
is the one step that commits a save. So at every moment the folder holds a
whole router, the old one or the new one; a save that is cut short leaves at
most a file that nothing refers to, which the next save removes. Any number of
processes may read while one writes.

Every read is checked: the schema version, the checksum of the manifest, the
types of its fields, the hash of the arrays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from metarouter.errors import ArtifactError, shorten
from metarouter.types import ModelState

__all__ = ["SCHEMA_VERSION", "LabelFingerprint", "RouterArtifact", "load_artifact", "save_artifact"]

SCHEMA_VERSION = 1
"""Version of the folder's layout; a reader refuses what is newer than itself."""

_MANIFEST = "manifest.json"
_ATTEMPTS = 10
_OWN_FILE = re.compile(r"arrays-[0-9a-f]{64}\.safetensors|\.[a-z.]+-[0-9a-f]{16}\.part")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFingerprint:
    """What the router was fitted on: number of rows, and sha256 of their content."""

    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class RouterArtifact:
    """All that a router folder holds.

    Attributes
    ----------
    models : tuple of str; the first is the reference model.
    parts : mapping of str to ModelState
        "features", "gain", "cost" and "policy".
    config : dict, the options of the fit, as JSON values.
    data : mapping of str to LabelFingerprint, "gold" and "preference".
    metrics : dict, what was measured at fitting, as JSON values.
    libraries : mapping of str to str, versions at fitting.
    created : str, time of fitting, UTC, ISO 8601.
    """

    models: tuple[str, ...]
    parts: Mapping[str, ModelState]
    config: dict[str, Any] = field(default_factory=dict)
    data: Mapping[str, LabelFingerprint] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {state.kind}" for name, state in self.parts.items())
        return f"RouterArtifact({shorten(self.models)}; {kinds}; {self.created})"


class _Part(msgspec.Struct, frozen=True):
    kind: str
    config: dict[str, Any]
    arrays: list[str]


class _Manifest(msgspec.Struct, frozen=True):
    schema_version: int
    created: str
    models: list[str]
    config: dict[str, Any]
    data: dict[str, LabelFingerprint]
    metrics: dict[str, Any]
    libraries: dict[str, str]
    parts: dict[str, _Part]
    arrays_file: str
    arrays_sha256: str


def save_artifact(artifact: RouterArtifact, folder: str | Path) -> None:
    """Write a router folder, so that it holds the old router until it holds the new one.

    Parameters
    ----------
    artifact : RouterArtifact
    folder : str or path
        Made where it is missing. An existing folder must hold a router, or
        nothing.

    Raises
    ------
    ArtifactError
        When the folder holds other files or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> state = ModelState(kind="unit", arrays={"a": np.zeros(2)})
    >>> artifact = RouterArtifact(models=("small", "large"), parts={"gain": state})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_artifact(artifact, folder)
    ...     load_artifact(folder).models
    ('small', 'large')
    """
    folder = Path(folder)
    blob = save_arrays(_flat_arrays(artifact))
    digest = hashlib.sha256(blob).hexdigest()
    arrays_file = f"arrays-{digest}.safetensors"
    manifest = _encode(_manifest(artifact, arrays_file, digest))
    try:
        _prepare(folder)
        _write_whole(folder / arrays_file, blob)
        _write_whole(folder / _MANIFEST, manifest)
        _remove_leftovers(folder, arrays_file)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written: {error.strerror or error}") from error


def load_artifact(folder: str | Path) -> RouterArtifact:
    """Read a router folder and check all of it.

    Parameters
    ----------
    folder : str or path

    Returns
    -------
    RouterArtifact

    Raises
    ------
    ArtifactError
        When the folder is missing, damaged, or written by a newer metarouter.
    """
    folder = Path(folder)
    manifest, blob = _read_files(folder)
    arrays = _checked_arrays(folder, manifest, blob)
    return RouterArtifact(
        models=tuple(manifest.models),
        parts={
            name: _part_state(folder, name, part, arrays)
            for name, part in sorted(manifest.parts.items())
        },
        config=manifest.config,
        data=manifest.data,
        metrics=manifest.metrics,
        libraries=manifest.libraries,
        created=manifest.created,
    )


def _flat_arrays(artifact: RouterArtifact) -> dict[str, NDArray[Any]]:
    return {
        f"{part}/{name}": np.asarray(array, order="C")
        for part, state in sorted(artifact.parts.items())
        for name, array in sorted(state.arrays.items())
    }


def _manifest(artifact: RouterArtifact, arrays_file: str, digest: str) -> _Manifest:
    return _Manifest(
        schema_version=SCHEMA_VERSION,
        created=artifact.created,
        models=list(artifact.models),
        config=artifact.config,
        data=dict(artifact.data),
        metrics=artifact.metrics,
        libraries=dict(artifact.libraries),
        parts={
            name: _Part(kind=state.kind, config=state.config, arrays=sorted(state.arrays))
            for name, state in artifact.parts.items()
        },
        arrays_file=arrays_file,
        arrays_sha256=digest,
    )


def _encode(manifest: _Manifest) -> bytes:
    content = msgspec.to_builtins(manifest)
    content["checksum"] = _checksum(content)
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    foreign = sorted(name for name in names if not _OWN_FILE.fullmatch(name))
    if foreign and _MANIFEST not in names:
        raise ArtifactError(
            f"{folder}: holds other files ({foreign[0]}) and no router; give a new or empty folder"
        )


def _write_whole(path: Path, content: bytes) -> None:
    """Write `path` so that it never exists in part: a file beside it, then a rename."""
    part = path.with_name(f".{path.suffix[1:]}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open folders (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(folder: Path, arrays_file: str) -> None:
    for path in folder.iterdir():
        if _OWN_FILE.fullmatch(path.name) and path.name != arrays_file:
            path.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; make one with: metarouter fit --out DIR")
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a router folder, it holds no {_MANIFEST}")
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged, not a JSON object: {error}; fit again") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_version(path, content.get("schema_version"))
    checksum = content.pop("checksum", None)
    if checksum != _checksum(content):
        raise ArtifactError(f"{path}: damaged, its checksum does not match; fit again")
    try:
        return msgspec.convert(content, _Manifest)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{path}: damaged: {error}; fit again") from error


def _check_version(path: Path, version: Any) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{path}: damaged, schema_version = {version!r}; fit again")
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version = {version}, this metarouter reads up to {SCHEMA_VERSION}; "
            "upgrade metarouter"
        )


def _read_files(folder: Path) -> tuple[_Manifest, bytes]:
    """A manifest and the arrays that it names.

    A save may replace both between the two reads; then they are read again.
    """
    for _ in range(_ATTEMPTS):
        manifest = _read_manifest(folder)
        if not _OWN_FILE.fullmatch(manifest.arrays_file):
            raise ArtifactError(f"{folder}: damaged, arrays_file = {manifest.arrays_file!r}")
        path = folder / manifest.arrays_file
        try:
            return manifest, path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise ArtifactError(f"{folder}: damaged, {manifest.arrays_file} is missing; fit again")


def _checked_arrays(folder: Path, manifest: _Manifest, blob: bytes) -> dict[str, NDArray[Any]]:
    path = folder / manifest.arrays_file
    if hashlib.sha256(blob).hexdigest() != manifest.arrays_sha256:
        raise ArtifactError(f"{path}: damaged, its hash is not the manifest's; fit again")
    try:
        return load_arrays(blob)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged: {error}; fit again") from error


def _part_state(
    folder: Path, name: str, part: _Part, arrays: Mapping[str, NDArray[Any]]
) -> ModelState:
    missing = [array for array in part.arrays if f"{name}/{array}" not in arrays]
    if missing:
        raise ArtifactError(f"{folder}: damaged, part {name} lacks the array {missing[0]}")
    return ModelState(
        kind=part.kind,
        config=part.config,
        arrays={array: arrays[f"{name}/{array}"] for array in part.arrays},
    )
