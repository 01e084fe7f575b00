"""The endpoint embedder against a real HTTP server that misbehaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer

from metarouter.errors import ArtifactError, DataError, OptionError, ProviderError
from metarouter.evaluation.experiment import compare
from metarouter.features import EndpointEmbedder, load_pipeline, make_pipeline
from metarouter.features.endpoint import ALLOW_VARIABLE
from metarouter.fitting import FitOptions, fit, fit_table
from metarouter.loading import load
from metarouter.router import Router
from metarouter.testing import make_world

KEY = "METAROUTER_EMBEDDINGS_KEY"
SECRET = "sk-a-very-secret-value"


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer(dim=6) as running:
        yield running


def embedder_of(server: EmbeddingServer, **options: Any) -> EndpointEmbedder:
    settings: dict[str, Any] = {"model": "small", "dimensions": 6, "first_pause": 0.01} | options
    return EndpointEmbedder(url=server.url, **settings)


def test_batches_come_back_in_the_order_of_the_texts(server: EmbeddingServer) -> None:
    """Five texts in batches of two make three requests; shuffled answers are put in order."""
    server.troubles.extend([{"shuffle": True}] * 3)
    texts = [f"text {i}" for i in range(5)]
    vectors = embedder_of(server, batch_size=2).embed(texts)
    np.testing.assert_allclose(vectors, [server.vector(text) for text in texts], rtol=1e-6)
    assert [len(json.loads(request.body)["input"]) for request in server.requests] == [2, 2, 1]
    assert {request.path for request in server.requests} == {"/v1/embeddings"}


@pytest.mark.parametrize(
    "trouble",
    [{"status": 429}, {"status": 500}, {"status": 503}, {"sleep": 0.6}],
    ids=["429", "500", "503", "timeout"],
)
def test_passing_trouble_is_retried(server: EmbeddingServer, trouble: dict[str, Any]) -> None:
    server.troubles.append(trouble)
    vectors = embedder_of(server, timeout=0.3).embed(["text"])
    np.testing.assert_allclose(vectors[0], server.vector("text"), rtol=1e-6)
    assert len(server.requests) == 2


def test_retry_after_is_obeyed(server: EmbeddingServer) -> None:
    server.troubles.append({"status": 429, "headers": {"Retry-After": "0.7"}})
    embedder_of(server).embed(["text"])
    first, second = server.requests
    assert second.arrived - first.arrived >= 0.65


def test_a_retry_after_of_hours_is_not_waited_for(server: EmbeddingServer) -> None:
    server.troubles.append({"status": 429, "headers": {"Retry-After": "7200"}})
    with pytest.raises(ProviderError, match="status 429"):
        embedder_of(server).embed(["text"])


def test_lasting_trouble_ends_after_the_allowed_attempts(server: EmbeddingServer) -> None:
    server.troubles.extend([{"status": 500}] * 9)
    with pytest.raises(ProviderError, match="status 500"):
        embedder_of(server, attempts=3).embed(["text"])
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_will_not_pass_is_not_retried(server: EmbeddingServer, status: int) -> None:
    server.troubles.append({"status": status})
    with pytest.raises(ProviderError, match=f"status {status}"):
        embedder_of(server).embed(["text"])
    assert len(server.requests) == 1


def test_an_address_where_nobody_listens_is_named() -> None:
    nobody = EndpointEmbedder(
        url="http://127.0.0.1:9", model="m", dimensions=2, attempts=2, first_pause=0.01
    )
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1:9.*ConnectError"):
        nobody.embed(["text"])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"body": b"<html>not JSON"}, "not an embedding list"),
        ({"body": b'{"data": "none"}'}, "not an embedding list"),
        ({"body": b'{"data": [{"index": 0, "embedding": ["a"]}]}'}, "not an embedding list"),
        ({"body": b'{"data": [{"index": 0, "embedding": [1e300, 1, 1, 1, 1, 1]}]}'}, "not finite"),
        ({"body": b'{"data": [{"index": 7, "embedding": [1, 1, 1, 1, 1, 1]}]}'}, "wrong indices"),
        ({"body": b'{"data": [{"index": 0, "embedding": []}]}'}, "zero length"),
        ({"body": b"\xff\xfe"}, "not an embedding list"),
        ({"drop": True}, "wrong indices"),
        ({"dim": 5}, "5 numbers a text, 6 expected"),
    ],
)
def test_a_malformed_answer_is_refused(
    server: EmbeddingServer, answer: dict[str, Any], complaint: str
) -> None:
    server.troubles.append(answer)
    with pytest.raises(ProviderError, match=complaint):
        embedder_of(server).embed(["text"])


def test_batches_of_different_length_are_refused(server: EmbeddingServer) -> None:
    server.troubles.extend([{"dim": 6}, {"dim": 5}])
    with pytest.raises(ProviderError, match="5 numbers a text"):
        embedder_of(server, batch_size=1, dimensions=None).embed(["one", "two"])


def test_the_dimension_is_asked_for_once(server: EmbeddingServer) -> None:
    embedder = embedder_of(server, dimensions=None, model="asked-once")
    assert [embedder.dim, embedder.dim] == [6, 6]
    assert len(server.requests) == 1


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent as a bearer token; neither repr, name, state nor error shows it."""
    monkeypatch.setenv(KEY, SECRET)
    embedder = embedder_of(server)
    embedder.embed(["text"])
    assert server.requests[0].header("authorization") == f"Bearer {SECRET}"
    server.troubles.append({"status": 401, "body": b"bad key"})
    with pytest.raises(ProviderError) as caught:
        embedder.embed(["text"])
    assert SECRET not in f"{embedder!r} {embedder.name} {caught.value!r}"
    assert KEY in str(caught.value)


def test_without_a_key_no_authorization_is_sent(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    embedder_of(server).embed(["text"])
    assert server.requests[0].header("authorization") is None


@pytest.mark.parametrize(
    "url", ["http://user:hidden@host/v1", "https://host/v1?api_key=hidden", "https://hidden@host"]
)
def test_an_address_that_holds_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        EndpointEmbedder(url=url, model="m")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"url": "ftp://host/v1"}, {"url": "host"}, {"model": ""}, {"batch_size": 0}, {"attempts": 0}],
)
def test_unusable_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        EndpointEmbedder(**({"url": "http://host/v1", "model": "m"} | options))


def test_an_endpoint_whose_model_changed_is_noticed(
    server: EmbeddingServer, prompts: list[str]
) -> None:
    """Vectors of another length than at the fit are refused with the next step."""
    pipeline = make_pipeline(f"endpoint:{server.url}#changing", n_components=3).fit(prompts)
    server.troubles.append({"dim": 9})
    with pytest.raises(DataError, match=r"9 numbers a text, 6 when .* fit the router again"):
        pipeline.transform(["text"])


def test_a_pipeline_over_an_endpoint_is_saved_without_its_vectors(
    server: EmbeddingServer, prompts: list[str]
) -> None:
    """Loading asks nothing of the endpoint; transforming does."""
    pipeline = make_pipeline(f"endpoint:{server.url}#small", n_components=3).fit(prompts)
    expected = pipeline.transform(prompts[:4])
    before = len(server.requests)
    loaded = load_pipeline(pipeline.state())
    assert len(server.requests) == before
    np.testing.assert_array_equal(loaded.transform(prompts[:4]), expected)


def asked_for(server: EmbeddingServer) -> Counter[str]:
    """How often each text was sent, the question for the length left out."""
    sent = [text for request in server.requests for text in json.loads(request.body)["input"]]
    return Counter(text for text in sent if text != "dimension")


def test_a_fit_asks_for_each_text_once(server: EmbeddingServer, tmp_path: Path) -> None:
    """Folds, and the half by which a share is set, go over the texts again; a charge does not."""
    world = make_world(n_queries=60, n_gold=60, n_test=0)
    options = FitOptions(
        embedder=f"endpoint:{server.url}#small", corrector="none", gain_model="ridge", folds=3
    )
    once = fit_table(world.table, options)
    assert asked_for(server) == Counter(set(world.table.queries))
    kept = replace(options, cache=tmp_path / "vectors.sqlite")
    first = fit_table(world.table, kept)
    n_requests = len(server.requests)
    second = fit_table(world.table, kept)
    assert len(server.requests) == n_requests
    assert asked_for(server) == Counter(2 * list(set(world.table.queries)))
    assert once.policy.version == first.policy.version == second.policy.version


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_comparison_asks_for_each_text_once(server: EmbeddingServer, jobs: int) -> None:
    """However many splits it has, and processes that start at once."""
    world = make_world(n_queries=80, n_gold=60, n_both=10, n_test=0)
    server.troubles.extend([{"sleep": 0.5}] * 5)
    compare(
        world.table,
        embedder=f"endpoint:{server.url}#small",
        correctors=["gold_only"],
        gain_models=["ridge"],
        n_gold=[20],
        n_test=20,
        seeds=3,
        jobs=jobs,
    )
    assert asked_for(server) == Counter(set(world.table.queries))


def router_that_asks(url: str, server: EmbeddingServer, prompts: list[str]) -> Router:
    """A router fitted over the server, whose artifact names another address."""
    rows = [
        {"query": text, "model": model, "score": float((i + j) % 3)}
        for i, text in enumerate(prompts)
        for j, model in enumerate(("small", "large"))
    ]
    spec = f"endpoint:{server.url}#small"
    artifact = fit(gold=rows, embedder=spec, corrector="none", folds=0).artifact
    features = artifact.parts["features"]
    config = json.loads(json.dumps(features.config).replace(server.url, url))
    parts = {**artifact.parts, "features": replace(features, config=config)}
    return Router.from_artifact(replace(artifact, parts=parts))


@pytest.mark.parametrize(
    "host",
    [
        "embeddings.example",
        "localhost.embeddings.example",
        "127.0.0.1.embeddings.example",
        "10.0.0.1",
        "169.254.169.254",
        "2130706433",
        "[::2]",
    ],
)
def test_a_folder_cannot_name_another_machine_on_its_own(
    host: str,
    server: EmbeddingServer,
    prompts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It loads when the user allows it or lists the host, and not when another is listed."""
    url = f"https://{host}/v1"
    router_that_asks(url, server, prompts).save(tmp_path)
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    with pytest.raises(ArtifactError) as refused:
        load(tmp_path)
    name = host.strip("[]")
    assert f"sends query texts to {url}" in str(refused.value)
    assert f"{ALLOW_VARIABLE}={name}" in str(refused.value)
    monkeypatch.setenv(ALLOW_VARIABLE, "other.example, embeddings.example.org")
    with pytest.raises(ArtifactError):
        load(tmp_path)
    assert load(tmp_path, allow_endpoint=True).features.endpoints[0].url == url
    monkeypatch.setenv(ALLOW_VARIABLE, f"other.example, {name.upper()}")
    assert load(tmp_path).features.endpoints[0].url == url


def test_an_endpoint_on_this_machine_needs_no_permission(
    server: EmbeddingServer, prompts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loopback address loads, without a request, and routes."""
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    router_that_asks(server.url, server, prompts).save(tmp_path)
    before = len(server.requests)
    router = load(tmp_path)
    assert len(server.requests) == before
    assert router.route("Why?").model in {"small", "large"}
    assert len(server.requests) == before + 1
    assert load(tmp_path).features.endpoints[0].host == "127.0.0.1"


def test_a_cached_endpoint_is_still_one(
    server: EmbeddingServer, prompts: list[str], tmp_path: Path
) -> None:
    """Wrapping it in a cache does not hide where texts go."""
    pipeline = make_pipeline(
        f"surface+endpoint:{server.url}#small", cache=tmp_path / "vectors.sqlite"
    )
    assert [one.url for one in pipeline.endpoints] == [server.url]
    assert make_pipeline("surface").endpoints == ()
