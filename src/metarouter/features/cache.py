"""Embeddings kept on disk, addressed by what they are embeddings of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import InputError
from metarouter.types import Embedder

__all__ = ["CachedEmbedder", "EmbeddingCache"]

_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, check_sum INTEGER, value BLOB)"
_BUSY_MILLISECONDS = 60_000
_KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class EmbeddingCache:
    """Vectors by embedder name and text, in one SQLite file.

    The key is the SHA-256 of the name and the text, so a vector can never be
    taken for that of another text or embedder; each carries a checksum, and
    what fails it counts as absent. Several processes may use one file at once:
    every write is one transaction. A file that SQLite finds damaged is set
    aside under the ending ``.damaged`` and begun anew.

    Parameters
    ----------
    path : the file; made, with its folder, when first written.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.TemporaryDirectory()
    >>> cache = EmbeddingCache(Path(folder.name) / "vectors.sqlite")
    >>> cache.put("model", ["hello"], np.ones((1, 3), dtype=np.float32))
    >>> [None if v is None else v.tolist() for v in cache.get("model", ["hello", "bye"], 3)]
    [[1.0, 1.0, 1.0], None]
    >>> folder.cleanup()
    """

    path: Path

    def get(self, name: str, texts: Sequence[str], dim: int) -> list[NDArray[np.float32] | None]:
        """The vector of each text, or None where it is absent or fails its checksum."""
        keys = [_key(name, text) for text in texts]
        if not self.path.exists():
            return [None] * len(keys)
        try:
            found = dict(self._read(keys))
        except sqlite3.DatabaseError as error:
            self._recover(error)
            return [None] * len(keys)
        return [_vector(key, found.get(key), dim) for key in keys]

    def put(self, name: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors, one row for each text, in one transaction.

        Raises
        ------
        InputError
            When the file cannot be written.
        """
        values = [np.ascontiguousarray(v, dtype="<f4").tobytes() for v in vectors]
        keys = [_key(name, text) for text in texts]
        rows = [(k, _check_sum(k, v), v) for k, v in zip(keys, values, strict=True)]
        try:
            self._write(rows)
        except sqlite3.DatabaseError as error:
            self._recover(error)
            self._write(rows)

    def _read(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, tuple[int, bytes]]]:
        with self._connected() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, check_sum, value FROM vectors WHERE key IN ({marks})"  # noqa: S608
                for key, check_sum, value in connection.execute(query, part):
                    yield key, (check_sum, value)

    def _write(self, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
        with self._connected() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=0)) as connection:
            with suppress(sqlite3.OperationalError):  # another process reads, or is just doing it
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_SCHEMA)
            yield connection

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        """Set a damaged file aside; re-raise what is not damage."""
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            raise InputError(
                f"the embedding cache {self.path} cannot be used ({error}): "
                "check its folder, or name another file"
            ) from error
        # Another process may have set it aside already.
        with suppress(FileNotFoundError):
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
        for ending in ("-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{ending}").unlink(missing_ok=True)


class CachedEmbedder:
    """An embedder that keeps what it computed.

    It has the name of the embedder it wraps and gives the same vectors. Texts
    are handed on in batches, so that an interrupted run loses little.

    Parameters
    ----------
    embedder : the embedder to ask for what the cache does not hold.
    path : the cache file, see :class:`EmbeddingCache`.
    batch_size : int, texts computed between two writes, default 256.

    Examples
    --------
    >>> import tempfile
    >>> from metarouter.features import SurfaceFeatures
    >>> folder = tempfile.TemporaryDirectory()
    >>> embedder = CachedEmbedder(SurfaceFeatures(), Path(folder.name) / "vectors.sqlite")
    >>> bool((embedder.embed(["a", "a"]) == SurfaceFeatures().embed(["a", "a"])).all())
    True
    >>> folder.cleanup()
    """

    def __init__(self, embedder: Embedder, path: Path | str, *, batch_size: int = 256) -> None:
        self.embedder = embedder
        self.cache = EmbeddingCache(Path(path))
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """Name of the wrapped embedder."""
        return self.embedder.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.embedder.dim

    @property
    def mixed_units(self) -> bool:
        """As the wrapped embedder has it."""
        return bool(getattr(self.embedder, "mixed_units", False))

    def verify(self) -> None:
        """Check the files of the wrapped embedder, if it has any."""
        verify = getattr(self.embedder, "verify", None)
        if verify is not None:
            verify()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, dim); each distinct text is computed at most once."""
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        places: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            places.setdefault(text, []).append(i)
        distinct = list(places)
        missing = []
        for text, vector in zip(
            distinct, self.cache.get(self.name, distinct, self.dim), strict=True
        ):
            if vector is None:
                missing.append(text)
            else:
                out[places[text]] = vector
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            vectors = self.embedder.embed(batch)
            self.cache.put(self.name, batch, vectors)
            for text, vector in zip(batch, vectors, strict=True):
                out[places[text]] = vector
        return out


def _key(name: str, text: str) -> bytes:
    # The length of the name keeps ("ab", "c") apart from ("a", "bc").
    head = f"{len(name)}:{name}:".encode()
    return sha256(head + text.encode("utf-8", "surrogatepass")).digest()


def _check_sum(key: bytes, value: bytes) -> int:
    return crc32(value, crc32(key))


def _vector(key: bytes, entry: tuple[int, bytes] | None, dim: int) -> NDArray[np.float32] | None:
    """The stored vector, or None when it is absent, damaged or of another length."""
    if entry is None or not isinstance(entry[1], bytes) or len(entry[1]) != 4 * dim:
        return None
    check_sum, value = entry
    if _check_sum(key, value) != check_sum:
        return None
    return np.frombuffer(value, dtype="<f4").astype(np.float32)
