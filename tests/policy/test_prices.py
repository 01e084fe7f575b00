"""Prices by name, from the bundled list and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarouter.errors import InputError, OptionError
from metarouter.policy.prices import lookup_price, read_prices
from metarouter.records import ModelSpec


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4-1106-preview",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "anyscale/mistralai/Mixtral-8x7B-Instruct-v0.1",
        "meta-llama/Llama-3.1-70B-Instruct",
        "llama-3.1-70b",
        "claude-3-opus-20240229",
    ],
)
def test_usual_spellings_are_found(name: str) -> None:
    """Organisation, case and tuning words do not matter; the given name is kept."""
    spec = lookup_price(name)
    assert spec.name == name
    assert spec.input_usd_per_mtok is not None
    assert spec.output_usd_per_mtok is not None
    assert 0 < spec.input_usd_per_mtok <= spec.output_usd_per_mtok


def test_a_given_price_comes_first() -> None:
    """The user's price beats the bundled one, under another spelling too."""
    given = {"GPT-4o": ModelSpec(name="GPT-4o", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)}
    spec = lookup_price("openai/gpt-4o", given)
    assert (spec.input_usd_per_mtok, spec.output_usd_per_mtok) == (1.0, 2.0)


def test_unknown_models_say_what_to_do() -> None:
    """The message has near names and how to give a price."""
    with pytest.raises(OptionError, match=r"nearest known names: .*qwen.*; or give its price"):
        lookup_price("qwen-2.5-73b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "model,input_usd_per_mtok,output_usd_per_mtok\na / b,0.5,1.5\n"),
        ("p.json", '{"a": {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1.5}}'),
        ("p.toml", "[a]\ninput_usd_per_mtok = 0.5\noutput_usd_per_mtok = 1.5\n"),
    ],
)
def test_price_files(tmp_path: Path, name: str, text: str) -> None:
    """CSV, JSON and TOML give the same price."""
    path = tmp_path / name
    path.write_text(text)
    spec = read_prices(path)["a"]
    assert (spec.input_usd_per_mtok, spec.output_usd_per_mtok) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "model,input_usd_per_mtok\na,1\n", "output_usd_per_mtok"),
        ("p.csv", "model,input_usd_per_mtok,output_usd_per_mtok\na,-1,2\n", "at least 0"),
        ("p.csv", "name,price\na,1\n", "columns model"),
        ("p.json", "[1, 2]", "price file"),
        ("p.json", '{"a": 3}', "must both be there, as numbers"),
        ("p.json", "{", "price file"),
        ("p.toml", "a = = 1", "price file"),
    ],
)
def test_bad_price_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The message names the file and what is wrong."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_prices(path)
    assert name in str(caught.value)


def test_a_missing_price_file() -> None:
    """A file that is not there is the user's mistake, not a traceback."""
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_prices("nowhere.csv")
