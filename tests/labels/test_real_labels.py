"""Real label files, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarouter.labels import read_gain_table, render_summary, summarise_labels

DEFAULT = Path(__file__).parents[3] / "shared" / "data"
DATA = Path(os.environ.get("METAROUTER_DATA", DEFAULT))
PAIRS = sorted(path.parent for path in DATA.glob("pairs/*/gold.parquet"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not PAIRS, reason=f"real data is not at {DATA}"),
]


def wide_gains(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Gold and preference gain of the premium model by query_id, by plain loops."""
    premium = folder.name.partition("_vs_")[0]
    gold: dict[str, float] = {}
    for row in pq.read_table(folder / "gold.parquet").to_pylist():
        sign = 1 if row["model"] == premium else -1
        gold[row["query_id"]] = gold.get(row["query_id"], 0.0) + sign * row["score"]
    votes = pq.read_table(folder / "preference.parquet").to_pylist()
    return gold, {row["query_id"]: 2 * row["p_a"] - 1 for row in votes}


@pytest.mark.parametrize("folder", PAIRS, ids=lambda folder: folder.name)
def test_pairs_become_the_gains_that_their_files_hold(folder: Path) -> None:
    premium, _, cheap = folder.name.partition("_vs_")
    table, report = read_gain_table(
        folder / "gold.parquet", folder / "preference.parquet", premium=premium, cheap=cheap
    )
    gold, preference = wide_gains(folder)
    assert table.models == (cheap, premium)
    assert report.rows_read == report.rows_used
    assert table.n_queries == len(gold) == len(preference)
    ids = np.array(table.query_ids)[table.query]
    np.testing.assert_allclose(
        table.gain[table.is_gold], [gold[i] for i in ids[table.is_gold]], atol=1e-12
    )
    np.testing.assert_allclose(
        table.gain[~table.is_gold], [preference[i] for i in ids[~table.is_gold]], atol=1e-12
    )


def test_a_real_pair_has_a_summary_that_names_its_judge() -> None:
    folder = PAIRS[0]
    labels = read_gain_table(folder / "gold.parquet", folder / "preference.parquet")
    text = render_summary(summarise_labels(*labels))
    assert "is one of the models that it judges" in text


def test_medical_conversations_are_read_as_chats() -> None:
    path = DATA / "healthbench-hard" / "prompts.parquet"
    if not path.exists():
        pytest.skip(f"real data is not at {path}")
    prompts = pq.read_table(path).slice(0, 50)
    rows = pa.concat_tables(
        pa.table(
            {
                "query": prompts["conversation"],
                "model": pa.array([name] * len(prompts)),
                "score": pa.array([score] * len(prompts)),
            }
        )
        for name, score in (("cheap", 0.2), ("premium", 0.6))
    )
    table, _ = read_gain_table(rows)
    last = prompts["last_user"].to_pylist()
    assert all(text.endswith(user.strip()) for text, user in zip(table.queries, last, strict=True))
    assert not any(text.startswith("[") for text in table.queries)
