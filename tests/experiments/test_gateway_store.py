"""The studies of outages and kills in small, and that they would notice what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarouter.store.database import insert_new, open_database
from metarouter.store.tables import feedback
from metarouter.testing import PostgresServer

pytest.importorskip("aiohttp", reason="the gateway needs the serve extra")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))


def test_acknowledged_feedback_survives_kills_under_load(postgres: PostgresServer) -> None:
    from gateway_kills import measure

    outcome = measure(3, "postgresql", longest=1.0)
    assert outcome.kept.feedback_lost == 0
    assert outcome.feedback_acknowledged > 0


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    """Two of three ids that callers were told are not in the store."""
    from gateway_callers import Kept, Told, compare

    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    row = {"created": 1.0, "decision_id": "d1", "key_id": None, "kind": "thumbs", "content": {}}
    with engine.begin() as connection:
        insert_new(connection, feedback, [{**row, "feedback_id": "f1"}])
    told = Told(decided=["d1"], said=["f1", "f2"])
    expected = Kept(decisions_lost=1, feedback_lost=1, decisions=0, feedback=1)
    assert compare(engine, told) == expected
    engine.dispose()
