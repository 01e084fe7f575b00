"""RouteLLM's Controller: same calls, same meaning."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from metarouter.cli import run
from metarouter.errors import ArtifactError, InputError, OptionError
from metarouter.features.registry import make_embedder
from metarouter.loading import load
from metarouter.providers import CallError
from metarouter.routellm import Controller, RoutingError, parse_router_name
from metarouter.routellm.completions import Completion, Upstream
from metarouter.testing import FakeProvider

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"

ASK = [{"role": "user", "content": "Why is the sky blue?"}]


def controller(provider: FakeProvider | None = None, **options: Any) -> Controller:
    routers = options.pop("routers", ["random"])
    base = None if provider is None else provider.url
    return Controller(routers, strong_model=STRONG, weak_model=WEAK, api_base=base, **options)


def test_a_win_rate_of_at_least_the_threshold_goes_to_the_strong_model() -> None:
    rates = {"yes": 0.7, "edge": 0.5, "no": 0.49}
    own = controller(routers={"own": lambda prompts: np.array([rates[p] for p in prompts])})
    routed = {prompt: own.route(prompt, "own", 0.5) for prompt in rates}
    assert routed == {"yes": STRONG, "edge": STRONG, "no": WEAK}


def test_random_needs_no_training_and_its_ends_force_a_model() -> None:
    """RouteLLM: router-random-0.0 is always strong, router-random-1.0 always weak."""
    prompts = [f"question {i}" for i in range(500)]
    own = controller()
    assert {own.route(prompt, "random", 0.0) for prompt in prompts} == {STRONG}
    assert {own.route(prompt, "random", 1.0) for prompt in prompts} == {WEAK}
    share = np.mean([own.route(prompt, "random", 0.7) == STRONG for prompt in prompts])
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 500)


def test_a_checkpoint_is_a_router_of_metarouter(checkpoint: Path) -> None:
    """Its win rates are those of its gain model, for a Series of prompts as well."""
    own = controller(routers=["mf"], config={"mf": {"checkpoint_path": str(checkpoint)}})
    prompts = pd.Series(["What is 2 + 2?", "Prove that there are infinitely many primes."])
    router = load(checkpoint)
    expected = router.scorer.win_probability(router.features.transform(list(prompts)))[:, 0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(own.batch_calculate_win_rate(prompts, "mf"), expected)


def test_the_yaml_config_of_routellm_keeps_working(checkpoint: Path, tmp_path: Path) -> None:
    """Options that an artifact makes needless are named in a warning, not silently dropped."""
    file = tmp_path / "config.yaml"
    file.write_text(f"mf:\n  checkpoint_path: {checkpoint}\n  use_proj: True\nrandom:\n")
    with pytest.warns(UserWarning, match="mf: use_proj have no effect"):
        own = controller(routers=["mf", "random"], config=str(file))
    assert own.route("What is 2 + 2?", "mf", 0.0) == STRONG


def test_the_config_says_what_a_pool_calls_the_two_models(pool: Path) -> None:
    """RouteLLM's keys for the names in the battles; without them nothing fits, and that at once."""
    config = {"mf": {"checkpoint_path": str(pool)}}
    with pytest.raises(OptionError, match=r"strong_model = .*mixtral, .*of its config"):
        controller(routers=["mf"], config=config)
    prompts = ["Prompt number 4 is long is long", "Is 91 prime?"]
    named = config["mf"] | {"strong_model": "gpt-4", "weak_model": "mixtral"}
    own = controller(routers=["mf"], config={"mf": named})
    pair = load(pool).for_pair("gpt-4")
    expected = pair.scorer.win_probability(pair.features.transform(prompts))[:, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(own.batch_calculate_win_rate(prompts, "mf"), expected, atol=1e-9)
    assert own.route(prompts[0], "mf", 0.0) == STRONG


def test_calibrating_a_pool_for_one_pair_gives_the_name_of_a_router_of_two(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`calibrate --premium` is the way from a router of many models to `router-NAME-THRESHOLD`."""
    traffic, out = tmp_path / "traffic.txt", tmp_path / "pair"
    traffic.write_text("\n".join(f"Line {i} {'is long ' * (i % 7)}" for i in range(40)))
    command = ["calibrate", str(pool), "--queries", str(traffic), "--premium-share", "0.4",
               "--premium", "gpt-4"]  # fmt: skip
    assert run(command) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert run([*command, "--out", str(out)]) == 0
    name, threshold = parse_router_name(
        "router-" + capsys.readouterr().out.split("router-")[1].split()[0]
    )
    assert name == "knn"
    assert load(out).models == ("mixtral", "gpt-4")
    own = controller(routers=["knn"], config={"knn": {"checkpoint_path": str(out)}})
    rates = own.batch_calculate_win_rate(traffic.read_text().splitlines(), "knn")
    assert threshold == pytest.approx(np.quantile(rates, 0.6), abs=1e-5)


def test_names_are_a_list() -> None:
    """A text would be taken for a list of letters."""
    with pytest.raises(OptionError, match="routers = 'random'; allowed: a list of names"):
        controller(routers="random")


def test_a_field_that_an_answer_may_leave_out_is_none() -> None:
    """The last piece of OpenAI's streams has an empty delta; a misspelt field is an error."""
    piece = Completion({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert piece.choices[0].delta.content is None
    assert piece.usage is None
    with pytest.raises(AttributeError, match="holds no 'contents'"):
        _ = piece.choices[0].delta.contents


def test_a_completion_goes_to_the_model_that_the_name_asks_for(provider: FakeProvider) -> None:
    own = controller(provider)
    assert own.model_counts["random"][STRONG] == 0
    answer = own.chat.completions.create(model="router-random-0.0", messages=ASK)
    assert answer.choices[0].message.content == f"{STRONG} was asked: {ASK[0]['content']}"
    assert answer["model"] == answer.model == STRONG
    assert answer.model_dump()["choices"][0]["finish_reason"] == "stop"
    own.completion(router="random", threshold=1.0, messages=ASK)
    assert own.model_counts == {"random": {STRONG: 1, WEAK: 1}}


def test_the_name_goes_before_the_arguments(provider: FakeProvider) -> None:
    own = controller(provider)
    answer = own.completion(model="router-random-0.0", router="mf", threshold=1.0, messages=ASK)
    assert answer.model == STRONG


def test_the_key_is_sent_and_never_shown(provider: FakeProvider) -> None:
    own = controller(provider, api_key="sk-secret")
    own.completion(model="router-random-0.5", messages=ASK)
    assert provider.requests[0].headers["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in repr(own.upstream)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_key_of_openai_goes_to_no_other_address(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """Only when it is given for that address."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    answer = controller(provider).completion(
        model="router-random-0.5", messages=ASK, stream=is_streamed
    )
    if is_streamed:
        with pytest.raises(CallError, match="ended early"):  # this provider does not stream
            list(answer)
    assert "Authorization" not in provider.requests[0].headers


@pytest.mark.parametrize(
    ("address", "is_sent"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("https://example.com/api.openai.com", False),
        ("https://api.openai.com:8443/v1", False),
    ],
)
def test_openai_is_known_by_its_whole_address(
    address: str | None, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert (Upstream(base_url=address).endpoint().key() is not None) == is_sent


def test_openai_is_asked_with_the_key_of_the_environment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key is missed when a completion is asked for, and not before."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    own = controller()
    with pytest.raises(OptionError, match="OPENAI_API_KEY is unset"):
        own.completion(model="router-random-0.5", messages=ASK)


def test_create_works_inside_a_running_loop(provider: FakeProvider) -> None:
    """As in a notebook."""
    own = controller(provider)

    async def notebook() -> str:
        return str(own.completion(model="router-random-0.0", messages=ASK).model)

    assert asyncio.run(notebook()) == STRONG


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"messages": ASK}, "no router and threshold; allowed: model="),
        ({"messages": ASK, "router": "random"}, "no router and threshold"),
        ({"messages": ASK, "router": "mf", "threshold": 0.5}, "router = 'mf'; allowed: random"),
        ({"messages": ASK, "router": "random", "threshold": "0.5"}, "threshold = '0.5'; allowed"),
        ({"messages": ASK, "model": "gpt-4"}, "model = 'gpt-4'; allowed"),
        ({"model": "router-random-0.5"}, "messages: not a list"),
        ({"model": "router-random-0.5", "messages": []}, "no user turn with text"),
    ],
)
def test_what_cannot_be_routed_is_a_routing_error_before_anything_is_sent(
    provider: FakeProvider, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoutingError, match=message):
        controller(provider).completion(**request_)
    assert provider.requests == []


def test_a_failing_endpoint_is_a_provider_error(provider: FakeProvider) -> None:
    """Busy is tried again, a wrong path is not."""
    provider.script.extend(["rate_limit", ""])
    assert controller(provider).completion(model="router-random-0.0", messages=ASK).model == STRONG
    assert len(provider.requests) == 2
    lost = Controller(["random"], STRONG, WEAK, api_base=f"{provider.url}/elsewhere")
    with pytest.raises(CallError, match="status 404"):
        lost.completion(model="router-random-0.5", messages=ASK)


def test_a_published_mf_checkpoint_scores_what_its_embedder_gives(tmp_path: Path) -> None:
    """σ(wᵀ((v_s/‖v_s‖ − v_w/‖v_w‖) ⊙ W x)) with its rows 24 and 36, on raw embeddings."""
    embedder, rng = make_embedder("surface"), np.random.default_rng(0)
    P, W, w = rng.normal(size=(64, 8)), rng.normal(size=(8, embedder.dim)), rng.normal(size=(1, 8))
    arrays = {"P.weight": P, "text_proj.0.weight": 0.01 * W, "classifier.0.weight": w}
    save_file({k: v.astype(np.float32) for k, v in arrays.items()}, tmp_path / "model.safetensors")
    config = {"mf": {"checkpoint_path": tmp_path, "embedder": "surface"}}
    rates = controller(routers=["mf"], config=config).batch_calculate_win_rate(["Why?"], "mf")
    v = P / np.linalg.norm(P, axis=1, keepdims=True)
    logit = w[0] @ ((v[24] - v[36]) * (0.01 * W @ embedder.embed(["Why?"])[0]))
    np.testing.assert_allclose(rates, 1 / (1 + np.exp(-logit)), rtol=1e-5)
    with pytest.raises(OptionError, match="needs the embedder that it was trained with"):
        controller(routers=["mf"], config={"mf": {"checkpoint_path": tmp_path}})


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, OptionError, "router mf has no checkpoint_path; allowed: a folder that"),
        ({"mf": {"path": "x"}}, OptionError, "config: mf = 'path'; allowed: checkpoint_path"),
        (
            {"mf": {"checkpoint_path": "routellm/mf_gpt4_augmented"}},
            OptionError,
            "nothing is downloaded here",
        ),
        ({"mf": 3}, InputError, "config: mf = 3"),
        ("no/such/file.yaml", InputError, "no/such/file.yaml: cannot be read"),
    ],
)
def test_configs_that_lead_nowhere_say_so(
    config: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        controller(routers=["mf"], config=config)


def test_a_folder_that_holds_no_sound_router_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError):
        controller(routers=["mf"], config={"mf": {"checkpoint_path": tmp_path}})
