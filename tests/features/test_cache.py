"""The embedding cache gives right vectors or none."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.errors import InputError
from metarouter.features import CachedEmbedder, EmbeddingCache, SurfaceFeatures


class Counting:
    """Surface features that remember what they were asked for."""

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.dim = SurfaceFeatures().dim
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return SurfaceFeatures().embed(texts)


def check(path: Path, texts: list[str], name: str = "counting") -> list[str]:
    """Embed through a cache at `path`, check the vectors; what had to be computed."""
    inner = Counting(name)
    vectors = CachedEmbedder(inner, path).embed(texts)
    np.testing.assert_array_equal(vectors, SurfaceFeatures().embed(texts))
    return inner.asked


def embed_through(path: Path, start: int) -> float:
    """One of several processes that write to one file."""
    texts = [f"text {i}" for i in range(start, start + 60)]
    vectors = CachedEmbedder(SurfaceFeatures(), path, batch_size=5).embed(texts)
    return float(np.abs(vectors - SurfaceFeatures().embed(texts)).max())


def test_each_distinct_text_is_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "below" / "vectors.sqlite"
    assert check(path, ["a", "b", "a"]) == ["a", "b"]
    assert check(path, ["b", "c", "a"]) == ["c"]


def test_another_embedder_does_not_get_these_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    check(path, ["a", "b"])
    assert check(path, ["a"], name="another") == ["a"]


def test_name_and_text_are_kept_apart_in_the_key(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    cache.put("ab", ["c"], np.ones((1, 2), dtype=np.float32))
    assert cache.get("a", ["bc"], 2) == [None]


def test_any_text_can_be_a_key(tmp_path: Path) -> None:
    """Also one that is no valid Unicode."""
    path = tmp_path / "vectors.sqlite"
    texts = ["", "\ud800", "\x00", "漢"]
    assert check(path, texts) == texts
    assert check(path, texts) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET value = zeroblob(length(value))",
        "UPDATE vectors SET value = substr(value, 1, 8)",
        "UPDATE vectors SET value = NULL",
        "UPDATE vectors SET check_sum = check_sum + 1",
        "DROP TABLE vectors",
    ],
)
def test_damaged_entries_are_computed_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "vectors.sqlite"
    check(path, ["a", "b"])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    assert check(path, ["a", "b"]) == ["a", "b"]
    assert check(path, ["a", "b"]) == []


def test_swapped_entries_are_computed_again(tmp_path: Path) -> None:
    """A vector under the wrong key fails its checksum, which covers the key."""
    path = tmp_path / "vectors.sqlite"
    check(path, ["a", "long text?"])
    with closing(sqlite3.connect(path)) as connection, connection:
        (one, v1), (other, v2) = connection.execute("SELECT key, value FROM vectors")
        connection.execute("UPDATE vectors SET value = ? WHERE key = ?", (v2, one))
        connection.execute("UPDATE vectors SET value = ? WHERE key = ?", (v1, other))
    assert check(path, ["a", "long text?"]) == ["a", "long text?"]


@pytest.mark.parametrize("keep", [0, 50, 3000])
def test_a_file_that_is_cut_or_overwritten_is_set_aside(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "vectors.sqlite"
    check(path, [f"text {i}" for i in range(40)])
    path.write_bytes(path.read_bytes()[:keep] + b"rubbish " * 40)
    assert check(path, ["text 1"]) == ["text 1"]
    assert check(path, ["text 1"]) == []


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        errors = list(pool.map(embed_through, [path] * 3, [0, 20, 40]))
    assert errors == [0.0] * 3
    assert check(path, ["text 99"], name=SurfaceFeatures().name) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="embedding cache"):
        CachedEmbedder(SurfaceFeatures(), tmp_path).embed(["a"])


def test_a_file_that_another_process_sets_up_can_be_read(tmp_path: Path) -> None:
    """Its way of writing cannot be changed while somebody reads, which is no fault of the file."""
    path = tmp_path / "vectors.sqlite"
    check(path, ["a"])
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN")
        other.execute("SELECT * FROM vectors").fetchone()
        assert check(path, ["a"]) == []
