"""Nothing lost: commands that are killed at random end with every answer once, within budget.

The slow tests are the proof of fifty kills each: pytest -m slow tests/collection/test_kill.py
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metarouter.testing import FakeProvider, Faults

MODELS = ("cheap", "premium")
PRICES = {"cheap": (2.0, 60.0), "premium": (5.0, 600.0), "judge": (5.0, 600.0)}
FAULTS = Faults(
    slow=0.3,
    rate_limit=0.04,
    error=0.02,
    late_error=0.02,
    cut=0.02,
    malformed=0.02,
    slow_seconds=0.05,
)
MAX_TOKENS = 40
ROOMY = 1000.0  # USD, more than anything here can cost


def _reply(body: dict[str, Any]) -> str:
    """As long as allowed, so that a request costs nearly what is held for it."""
    if body["model"] == "judge":
        return "word " * (MAX_TOKENS - 3) + "\nVERDICT: A"
    return "word " * 200


class Killer:
    """Runs one command again and again, and kills it at random moments."""

    def __init__(self, arguments: list[str], provider: FakeProvider, seed: int) -> None:
        self.arguments = [sys.executable, "-m", "metarouter", *arguments]
        self.provider = provider
        self.rng = random.Random(seed)
        self.kills = 0

    def run(self, budget: float) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        command = [*self.arguments, "--budget", repr(budget)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert self.provider.charged_usd <= budget
        return done

    def kill(self, budget: float) -> None:
        """Start it and kill it, after some requests or some time, whichever is drawn."""
        command = [*self.arguments, "--budget", repr(budget)]
        seen = len(self.provider.requests)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0.0, 1.0))
        else:
            self._await_requests(process, seen + self.rng.randint(1, 6))
            time.sleep(self.rng.uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        self.kills += process.wait() == -signal.SIGKILL
        assert self.provider.charged_usd <= budget

    def _await_requests(self, process: subprocess.Popen[bytes], n: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.provider.requests) < n and process.poll() is None:
            assert time.monotonic() < deadline, "the command sends nothing"
            time.sleep(0.002)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _common(folder: Path, provider: FakeProvider) -> list[str]:
    names = ("input_usd_per_mtok", "output_usd_per_mtok")
    prices = {model: dict(zip(names, pair, strict=True)) for model, pair in PRICES.items()}
    path = folder / "prices.json"
    path.write_text(json.dumps(prices), encoding="utf-8")
    return [
        *("--base-url", provider.url, "--prices", str(path)),
        *("--max-tokens", str(MAX_TOKENS), "--concurrency", "8"),
    ]


def _check_nothing_was_paid_twice(out: Path, provider: FakeProvider) -> dict[str, int]:
    """Beyond the first, an answer was delivered only to a request that a kill cut off."""
    attempts = [row for row in _lines(out.with_name(f"{out.name}.audit.jsonl")) if "key" in row]
    unknown = Counter(row["key"] for row in attempts if row["outcome"].startswith("unknown"))
    answered = Counter(row["key"] for row in attempts if row["outcome"] == "answered")
    assert set(answered.values()) == {1}
    assert len(provider.delivered) == len(answered)
    extra = sum(n - 1 for n in provider.delivered.values())
    assert extra <= sum(unknown.values())
    assert len(attempts) >= len(provider.requests)  # nothing was sent that is not written down
    return {
        "answers": len(answered),
        "requests": len(provider.requests),
        "in flight at a kill": sum(unknown.values()),
        "delivered again": extra,
    }


def _collect(folder: Path, n_queries: int, n_kills: int, seed: int) -> dict[str, int]:
    queries = [{"query_id": i, "query": f"Question {i}?"} for i in range(n_queries)]
    out = folder / "responses.jsonl"
    with FakeProvider(reply=_reply, faults=FAULTS, prices=PRICES, seed=seed) as provider:
        killer = Killer(
            [
                *("collect", "--queries", str(_write(folder / "q.jsonl", queries))),
                *("--models", ",".join(MODELS), "--out", str(out)),
                *_common(folder, provider),
            ],
            provider,
            seed,
        )
        # a budget for about a third of the work, which binds while commands are killed
        tight = n_queries * MAX_TOKENS * (60.0 + 600.0) / 1e6 / 3
        for _ in range(n_kills // 3):
            killer.kill(tight)
        stopped = killer.run(tight)
        assert stopped.returncode == 1
        assert "the budget is reached" in stopped.stderr
        while killer.kills < n_kills:
            killer.kill(ROOMY)
        done = killer.run(ROOMY)
        assert (done.returncode, done.stderr) == (0, "")
        assert killer.kills == n_kills
        found = Counter((row["query_id"], row["model"]) for row in _lines(out))
        assert found == Counter((i, model) for i in range(n_queries) for model in MODELS)
        return _check_nothing_was_paid_twice(out, provider)


def _judge(folder: Path, n_queries: int, n_kills: int, seed: int) -> dict[str, int]:
    responses = [
        {"query_id": i, "query": f"Question {i}?", "model": model, "response": f"{model} {i}"}
        for i in range(n_queries)
        for model in MODELS
    ]
    out = folder / "votes.jsonl"
    with FakeProvider(reply=_reply, faults=FAULTS, prices=PRICES, seed=seed) as provider:
        killer = Killer(
            [
                *("judge", "--responses", str(_write(folder / "r.jsonl", responses))),
                *("--judge-model", "judge", "--out", str(out)),
                *_common(folder, provider),
            ],
            provider,
            seed,
        )
        tight = 2 * n_queries * MAX_TOKENS * 600.0 / 1e6 / 3
        for _ in range(n_kills // 3):
            killer.kill(tight)
        assert killer.run(tight).returncode == 1
        while killer.kills < n_kills:
            killer.kill(ROOMY)
        assert killer.run(ROOMY).returncode == 0
        rows = _lines(out)
        assert Counter(row["query_id"] for row in rows) == Counter(range(n_queries))
        assert {row["p_a"] for row in rows} == {0.5}  # the first place always wins
        return _check_nothing_was_paid_twice(out, provider)


@pytest.mark.parametrize("seed", [1])
def test_collect_killed_three_times_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    _collect(tmp_path, n_queries=40, n_kills=3, seed=seed)


@pytest.mark.parametrize("seed", [2])
def test_judge_killed_three_times_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    _judge(tmp_path, n_queries=40, n_kills=3, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
def test_collect_killed_fifty_times_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    _collect(tmp_path, n_queries=400, n_kills=50, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4])
def test_judge_killed_fifty_times_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    _judge(tmp_path, n_queries=400, n_kills=50, seed=seed)
