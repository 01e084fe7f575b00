"""The gateway's database, looked after by hand, on both kinds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from metarouter.cli import run
from metarouter.store.database import insert_new, open_database
from metarouter.store.spill import Spill
from metarouter.store.tables import decisions

pytest.importorskip("aiohttp", reason="the store needs the serve extra")

_DAY = 86_400.0


def _row(number: int, days: float = 0.0) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in decisions.columns)
    words = dict.fromkeys(("endpoint", "asked", "model", "bound", "reason", "outcome"), "x")
    return {
        **row,
        **words,
        "decision_id": f"d{number}",
        "created": time.time() - days * _DAY,
        "logging_propensity": 1.0,
        "prompt": "Why?",
    }


def _fill(url: str, rows: list[dict[str, Any]]) -> None:
    engine: Engine = open_database(url)
    with engine.begin() as connection:
        insert_new(connection, decisions, rows)
    engine.dispose()


def _info(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["store", "info", "--store", url, "--json", "-"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)["results"][0]
    return result


def test_the_tables_are_made_by_hand_and_told(
    empty_store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", "migrate", "--store", empty_store_url]) == 0
    version = capsys.readouterr().out.split()[-1]
    found = _info(empty_store_url, capsys)
    assert (found["version"], found["decisions"], found["api_keys"]) == (version, 0, 0)
    assert found["bytes_waiting"] == 0


def test_prompts_and_rows_are_pruned_by_their_age(
    store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(store_url, [_row(number, days=number) for number in range(10)])
    flags = ["--prompt-days", "2.5", "--row-days", "6.5"]
    assert run(["store", "prune", "--store", store_url, *flags]) == 0
    assert "3 decisions" in capsys.readouterr().out
    found = _info(store_url, capsys)
    assert (found["decisions"], found["prompts"]) == (7, 3)


def test_prune_wants_to_know_what(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "prune", "--store", store_url]) == 2
    assert "--prompt-days" in capsys.readouterr().err


def test_what_dead_gateways_put_aside_is_written(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings name the folder; those of a running gateway are left alone."""
    config = tmp_path / "gateway.yaml"
    up = {"main": {"base_url": "http://127.0.0.1:9/v1"}}
    config.write_text(
        json.dumps({"upstreams": up, "store": {"url": store_url, "spill": "aside"}})
        if store_url.startswith("postgresql")
        else json.dumps({"upstreams": up, "store": {"url": "sqlite:///store.db", "spill": "aside"}})
    )
    dead, living = (Spill(tmp_path / "aside", instance=name) for name in ("dead", "living"))
    for number, spill in enumerate((dead, living)):
        spill.open()
        spill.append([_row(number)])
    dead.close()
    assert run(["store", "replay", "--config", str(config)]) == 0
    assert "rows written: 1;" in capsys.readouterr().out
    assert _info(store_url, capsys)["decisions"] == 1
    living.close()


@pytest.mark.parametrize("command", ["info", "replay", "prune --row-days 9"])
def test_a_mistyped_path_makes_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Zeros of an empty one would be believed."""
    path = tmp_path / "typo.db"
    assert run(["store", *command.split(), "--store", f"sqlite:///{path}"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    "flags", ["--rpm inf", "--rpm nan", "--tpm 1e400", "--days -5", "--days 0"]
)
def test_limits_that_are_none_are_refused_in_one_line(
    store_url: str, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    assert run(["keys", "update", "key-1", "--store", store_url, *flags.split()]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["keys", "create", "alice"], ["store", "prune", "--row-days", "1"]]
)
def test_a_database_that_fails_midway_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """As one that is locked for long: nobody is shown statements."""
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"
    engine = open_database(url)
    with engine.begin() as connection:
        for table in ("api_keys", "decisions"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    engine.dispose()
    assert run([*command, "--store", url]) == 2
    told = capsys.readouterr().err
    assert f"store.url: {path}: no such table" in told
    assert "SQL:" not in told
