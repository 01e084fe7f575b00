"""Which model is where: flags and the file of providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarouter.errors import InputError, MetarouterError, OptionError
from metarouter.providers import Endpoint, Target, read_targets
from metarouter.records import ModelSpec

FILE = """
[providers.house]
base_url = "http://127.0.0.1:8000/v1"
concurrency = 4
attempts = 2
max_tokens_field = "max_completion_tokens"

[models.small]
provider = "house"
name = "small-2026"
input_usd_per_mtok = 0
output_usd_per_mtok = 0.5
options = { reasoning_effort = "low" }

[models.gpt-4o]
provider = "house"
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "providers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_each_model_its_endpoint_name_and_price(tmp_path: Path) -> None:
    default = Endpoint(name="default", base_url="http://other/v1")
    names = ["small", "gpt-4o", "unheard-of-model-x"]
    small, known, other = read_targets(names, file=_file(tmp_path, FILE), default=default)
    assert (small.name, small.upstream) == ("small", "small-2026")
    assert small.spec == ModelSpec(name="small", input_usd_per_mtok=0.0, output_usd_per_mtok=0.5)
    assert small.options == {"reasoning_effort": "low"}
    assert (small.endpoint.concurrency, small.endpoint.retries.attempts) == (4, 2)
    assert small.endpoint.max_tokens_field == "max_completion_tokens"
    assert known.endpoint == small.endpoint
    assert known.spec.input_usd_per_mtok == 2.5  # the bundled price
    assert (other.endpoint, other.spec) == (default, ModelSpec(name="unheard-of-model-x"))


def test_prices_given_go_before_the_bundled_ones() -> None:
    mine = ModelSpec(name="gpt-4o", input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
    default = Endpoint(name="default", base_url="http://other/v1")
    (target,) = read_targets(["gpt-4o"], default=default, prices={"gpt-4o": mine})
    assert target.spec == mine


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = ", "providers.toml"),
        ('[providers.a]\nbase_url = "http://x"\ncolour = 1', "colour"),
        ("[providers.a]\nbase_url = 3", r"providers\[...\].base_url"),
        ("[providers.a]", "base_url"),
        ('[models.small]\nprovider = "b"', r"models.small.provider = 'b'"),
        ('[providers.a]\nbase_url = "ftp://x"', "base_url of a"),
        ('[providers.a]\nbase_url = "http://x:99999"', "base_url of a"),
        ('[providers.a]\nbase_url = "http://x"\nheaders = { A = "b\\r\\nC: d" }', "header 'A'"),
        ('[providers.a]\nbase_url = "http://x"\nconcurrency = 0', "concurrency"),
        ('[providers.a]\nbase_url = "http://x/v1/chat/completions/"', "the address up to /v1"),
        (FILE.replace("output_usd_per_mtok = 0.5", ""), "models.small: one price of two"),
        (FILE.replace("0.5", "-0.5"), "models.small: price -0.5"),
        (FILE.replace("reasoning_effort", "max_tokens"), "options.max_tokens of model small"),
        (FILE.replace("reasoning_effort", "n"), "options.n of model small"),
    ],
)
def test_a_wrong_file_is_told_by_name_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(MetarouterError, match=named) as caught:
        read_targets(["small"], file=_file(tmp_path, text))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_models_without_a_place_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        read_targets(["small"], file=tmp_path / "none.toml")
    with pytest.raises(OptionError, match="--base-url"):
        read_targets(["small"])
    with pytest.raises(OptionError, match="each once"):
        read_targets(["a", "a"])


@pytest.mark.parametrize(
    "url", ["http://user:pw@host/v1", "http://host/v1?key=1", "http://host/v1#x"]
)
def test_an_address_that_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        Endpoint(name="e", base_url=url)
    assert "pw" not in str(caught.value)
    assert "key=1" not in str(caught.value)


def test_headers_are_not_shown() -> None:
    """They may carry what an address may not."""
    endpoint = Endpoint(name="e", base_url="http://host/v1", headers={"X-Key": "hush"})
    target = Target(spec=ModelSpec(name="m"), endpoint=endpoint, upstream="m")
    assert "hush" not in repr(target)
