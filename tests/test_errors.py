"""Errors that come from the system, in the words of a message."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from metarouter.collection.prompts import read_prompt, read_rubric
from metarouter.collection.rows import read_queries as read_collected
from metarouter.errors import InputError
from metarouter.labels import read_gain_table
from metarouter.labels.dumps import read_dump
from metarouter.policy.prices import read_prices
from metarouter.querying import read_queries

READERS: dict[str, Callable[[Path], Any]] = {
    "labels": read_gain_table,
    "dump": lambda path: list(read_dump(path)),
    "queries": read_queries,
    "collected": read_collected,
    "rubric": read_rubric,
    "prices": read_prices,
    "prompt": lambda path: read_prompt(path, needed=frozenset(), known=frozenset()),
}
SUFFIXES = (".jsonl", ".parquet", ".csv", ".txt")
# a dump is known by its suffix, before it is opened
CASES = [pair for pair in product(READERS, SUFFIXES) if pair != ("dump", ".txt")]


@pytest.mark.parametrize(("reader", "suffix"), CASES)
def test_a_missing_file_is_told_in_words(reader: str, suffix: str, tmp_path: Path) -> None:
    """Once with its name, without the number that the system has for it."""
    path = tmp_path / f"none{suffix}"
    with pytest.raises(InputError) as caught:
        READERS[reader](path)
    told = str(caught.value)
    assert os.strerror(2) in told
    assert "rrno" not in told
    assert told.count(str(path)) == 1
