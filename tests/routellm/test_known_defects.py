"""What is known to fail in RouteLLM, one test for each, and what happens here instead.

Numbered as in docs/migration.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from metarouter.cli import run
from metarouter.evaluation import apgr, bootstrap_interval, cpt
from metarouter.evaluation.metrics import apgr_statistic
from metarouter.gain import make_table_gain_model
from metarouter.labels.battles import read_battles
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.routellm import Controller, RoutingError, parse_router_name
from metarouter.testing import FakeProvider
from metarouter.types import FloatArray

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def by_length(prompts: Sequence[str]) -> FloatArray:
    """Win rates that grow with the length of the prompt."""
    return np.array([1 - 1 / (1 + len(prompt)) for prompt in prompts])


def test_1_an_evaluation_ends_in_metrics(
    table: GainTable, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RouteLLM: AttributeError on a model's name after all inference."""
    cheap, premium = table.models
    gains = zip(table.queries, table.gain[np.argsort(table.query)], strict=True)
    rows = [
        {
            "query_id": i,
            "query": f"{query} Be brief.",
            "model": model,
            "score": max(sign * gain, 0.0),
        }
        for i, (query, gain) in enumerate(gains)
        for model, sign in ((cheap, -1.0), (premium, 1.0))
    ]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["evaluate", str(checkpoint), "--gold", str(gold)]) == 0
    shown = capsys.readouterr().out
    printed = {words[0]: words[1:] for line in shown.splitlines() if (words := line.split())}
    for policy, model in (("always_premium", premium), ("always_cheap", cheap)):
        quality = np.mean([row["score"] for row in rows if row["model"] == model])
        assert float(printed[policy][1]) == pytest.approx(quality, rel=1e-3)
    assert float(printed["router"][1]) > float(printed["random"][1])


def test_2_and_9_a_share_is_calibrated_to_a_name_that_keeps_it(
    table: GainTable, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RouteLLM: a TypeError in --task generate, and a stale threshold in the README."""
    traffic = tmp_path / "traffic.txt"
    traffic.write_text("\n".join(query.replace("\n", " ") for query in table.queries))
    command = ["calibrate", str(checkpoint), "--queries", str(traffic), "--premium-share", "0.3",
               "--out", str(tmp_path / "out"), "--json", "-"]  # fmt: skip
    assert run(command) == 0
    record = json.loads(capsys.readouterr().out)["results"][0]
    name, threshold = parse_router_name(record["router_name"])
    assert name == "knn"
    assert record["premium_share_low"] < 0.3 < record["premium_share_high"]
    own = Controller(
        ["knn"], STRONG, WEAK, config={"knn": {"checkpoint_path": str(tmp_path / "out")}}
    )
    lines = traffic.read_text().splitlines()
    share = np.mean([own.route(line, "knn", threshold) == STRONG for line in lines])
    assert share == pytest.approx(record["win_rate_share"])
    assert share == pytest.approx(0.3, abs=0.03)


def test_3_battles_keep_their_prompts() -> None:
    """RouteLLM: KeyError 'prompt', since preprocessing dropped what is to be embedded."""
    row = {"model_a": WEAK, "model_b": STRONG, "winner_model_a": 0, "winner_model_b": 1,
           "winner_tie": 0, "prompt": json.dumps(["How do whales sleep?"])}  # fmt: skip
    assert read_battles([row]).queries == ("How do whales sleep?",)


def test_4_and_7_importing_and_routing_need_no_key_and_read_no_arguments() -> None:
    """RouteLLM: OpenAI() and parse_args() at import."""
    program = (
        "import metarouter.routellm as r; import metarouter.cli\n"
        f"c = r.Controller(['random'], {STRONG!r}, {WEAK!r})\n"
        "print(c.route('Hi', 'random', 0.0))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI")}
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-such-flag"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == STRONG


@pytest.mark.parametrize("name", ["gpt-4", "router-mf"])
def test_5_a_plain_model_name_is_a_routing_error(provider: FakeProvider, name: str) -> None:
    """RouteLLM: a raw ValueError, so status 500."""
    own = Controller(["random"], STRONG, WEAK, api_base=provider.url)
    with pytest.raises(RoutingError, match=f"model = '{name}'; allowed"):
        own.completion(model=name, messages=[{"role": "user", "content": "Hi"}])


def test_6_every_field_passes_through_and_a_text_is_a_message(provider: FakeProvider) -> None:
    """RouteLLM: tools refused, unknown fields gone, a text as messages fails."""
    own = Controller(["random"], STRONG, WEAK, api_base=provider.url)
    function = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    fields: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "stream_options": {"include_usage": True},
        "metadata": {"team": "weather"},
        "temperature": 0.25,
    }
    own.completion(model="router-random-0.0", messages="Hi", **fields)
    sent = provider.requests[0].body
    assert sent == fields | {"model": STRONG, "messages": [{"role": "user", "content": "Hi"}]}


def test_6_a_chat_is_routed_by_its_last_user_turn(provider: FakeProvider) -> None:
    """RouteLLM: by the content of the last message, whoever wrote it, a text only."""
    seen: list[str] = []

    def rates(prompts: Sequence[str]) -> FloatArray:
        seen.extend(prompts)
        return by_length(prompts)

    own = Controller({"length": rates}, STRONG, WEAK, api_base=provider.url)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "An earlier question"},
        {"role": "assistant", "content": "An answer"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    own.completion(model="router-length-0.5", messages=messages)
    assert seen == ["What is this?"]
    assert provider.requests[0].body["messages"] == messages


def test_8_requests_are_routed_beside_each_other(provider: FakeProvider) -> None:
    """RouteLLM: a blocking call inside the handler, so requests queue."""

    def slow(prompts: Sequence[str]) -> FloatArray:
        time.sleep(0.2)
        return np.ones(len(prompts))

    own = Controller({"slow": slow}, STRONG, WEAK, api_base=provider.url)
    ask: dict[str, Any] = {"model": "router-slow-0.5", "messages": "Hi"}

    async def ticks_while_asking() -> int:
        asked = asyncio.gather(*(own.acompletion(**ask) for _ in range(3)))
        ticks = 0
        while not asked.done():
            ticks += 1
            await asyncio.sleep(0.01)
        await asked
        return ticks

    assert asyncio.run(ticks_while_asking()) >= 5  # a blocked loop would not tick at all
    assert own.model_counts["slow"][STRONG] == 3


def test_10_intervals_dollars_and_crossings() -> None:
    """RouteLLM: no interval, cost is a share of calls, CPT undefined where a curve turns."""
    rng = np.random.default_rng(0)
    score, cheap = rng.normal(size=400), (rng.uniform(size=400) < 0.5).astype(float)
    premium = np.where(score > 0, 1.0, cheap * (rng.uniform(size=400) < 0.8))
    found = bootstrap_interval(apgr_statistic(score, cheap, premium), 400, rng, n_boot=200)
    assert found.low < apgr(score, cheap, premium) < found.high
    # The curve overshoots 1 and comes back: the first crossing is meant, so CPT rises with x.
    crossings = [cpt(score, cheap, premium, x) for x in (0.2, 0.5, 0.8, 0.95)]
    assert crossings == sorted(crossings)


@pytest.mark.parametrize("normaliser", ["query", "battle"])
def test_11_where_paper_and_code_differ_both_are_there(
    normaliser: Literal["query", "battle"],
) -> None:
    """RouteLLM: the paper's similarity is normalised by the battle's prompt, the code's not."""
    rng = np.random.default_rng(0)
    x, z = rng.uniform(size=(8, 3)), rng.uniform(size=(20, 3))
    gain = np.array([1, -1, 1, 0, -1, -1, 1, 0])
    table = make_gain_table(queries=list("abcdefgh"), gain=gain, is_gold=[False] * 8, features=x)
    # the pull to the overall strengths, which RouteLLM has not, is all but none
    model = make_table_gain_model("sw_ranking", normaliser=normaliser, gamma=10.0, penalty=1e-9)
    wins = model.fit(table).win_probability(z)[:, 0]
    by_hand = {
        name: [_share_of_wins(point, x, (gain + 1) / 2, name) for point in z]
        for name in ("query", "battle")
    }
    np.testing.assert_allclose(wins, by_hand[normaliser], atol=1e-5)
    other = by_hand["battle" if normaliser == "query" else "query"]
    assert np.abs(wins - other).max() > 0.01


def _share_of_wins(point: FloatArray, x: FloatArray, win: FloatArray, normaliser: str) -> float:
    """What two models' strengths come to: the wins' share of weights 10^(similarity / largest)."""

    def cosine(a: FloatArray, b: FloatArray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    near = [cosine(point, prompt) for prompt in x]
    weights = []
    for i, prompt in enumerate(x):
        others = [cosine(prompt, x[j]) for j in range(len(x)) if j != i]
        weights.append(10 ** (near[i] / (max(near) if normaliser == "query" else max(others))))
    return float(np.average(win, weights=weights))
