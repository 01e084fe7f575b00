"""What a router costs beside the calls that it routes."""

from __future__ import annotations

import json

import pytest

from metarouter.cli import run
from metarouter.cli.bench_overhead import generation_usd_per_million, overhead_usd_per_million


@pytest.mark.parametrize(
    ("usd", "per_second", "usd_per_hour", "embeds"),
    [(39.26, 2.9, 0.39, True), (3.32, 155.16, 0.8, True), (3.19, 69.62, 0.8, False),
     (5.23, 42.46, 0.8, False)],
)  # fmt: skip
def test_the_published_figures_follow_from_the_formula(
    usd: float, per_second: float, usd_per_hour: float, embeds: bool
) -> None:
    """RouteLLM's table: sw_ranking, mf, bert, causal_lm; $0.02 a million embedded tokens."""
    embedding = 95 * 0.02 if embeds else 0.0
    found = overhead_usd_per_million(per_second, usd_per_hour, embedding)
    assert found == pytest.approx(usd, abs=0.02)


def test_a_premium_call_costs_what_the_paper_says() -> None:
    """(95 · 10 + 264 · 30) / 359 = $24.7 a million tokens; sw_ranking is 0.44 % of it."""
    assert generation_usd_per_million() / 359 == pytest.approx(24.7, abs=0.05)
    assert 39.26 / generation_usd_per_million() == pytest.approx(0.0044, abs=5e-5)


def test_each_router_is_timed_and_priced(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates, memory and dollars of two routers; one that cannot train here says why."""
    arguments = ["--routers", "ridge,sw_ranking", "--battles", "200", "--n", "100",
                 "--embedder", "surface", "--usd-per-hour", "3.6", "--json", "-"]  # fmt: skip
    assert run(["bench", "overhead", *arguments]) == 0
    ridge, ranking = json.loads(capsys.readouterr().out)["results"]
    assert (ridge["router"], ranking["router"]) == ("ridge", "sw_ranking")
    assert (ranking["rows"], ranking["models"]) == (200, 20)
    for row in (ridge, ranking):
        assert row["skipped"] is None
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["batch_per_second"] > 0
        assert row["cpu_us"] > 0
        assert row["peak_rss_mb"] > 10
        assert row["artifact_mb"] > 0
        # 3.6 USD an hour is 0.001 USD a second
        assert row["usd_per_million"] == pytest.approx(1000 / row["decisions_per_second"])
        assert row["share_of_premium"] == pytest.approx(row["usd_per_million"] / 8870)
