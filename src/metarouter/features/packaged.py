"""Model files that ship inside installed packages, found without importing them.

Importing a package would run its code and pull its dependencies; all that is
needed is data. Every file is pinned by its size, checked whenever it is opened
(cheap), and by its SHA-256, checked before anything is learned from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from metarouter.errors import DataError, MissingDependencyError

__all__ = ["PackagedFile"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedFile:
    """A pinned file inside an installed package.

    Parameters
    ----------
    package : str, import name of the package that holds the file.
    path : str, path below the package folder, with forward slashes.
    size : int, expected size in bytes.
    sha256 : str, expected hex digest.
    extra : str, the metarouter extra that installs the package ("" for base).
    """

    package: str
    path: str
    size: int
    sha256: str
    extra: str = ""

    def locate(self) -> Path:
        """Path of the file, its size checked.

        Raises
        ------
        MissingDependencyError
            When the package is not installed.
        DataError
            When the file is absent or has another size.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingDependencyError.of(f"the file {self.path}", self.extra or "base")
        file = Path(spec.origin).parent / self.path
        size = file.stat().st_size if file.is_file() else None
        if size != self.size:
            raise DataError(
                f"{file} has {size} bytes, {self.size} expected: "
                f"reinstall the package {self.package} in the version that metarouter pins"
            )
        return file

    def verify(self) -> Path:
        """Path of the file, its SHA-256 checked once per process.

        Raises
        ------
        MissingDependencyError
            When the package is not installed.
        DataError
            When the content is not the pinned one.
        """
        file = self.locate()
        if _sha256(file, file.stat().st_mtime_ns) != self.sha256:
            raise DataError(
                f"{file} is not the file that metarouter knows (SHA-256 differs): "
                f"reinstall the package {self.package} in the version that metarouter pins"
            )
        return file


@lru_cache(maxsize=32)
def _sha256(file: Path, modified_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
