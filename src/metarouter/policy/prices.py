"""Token prices of models: from a file of the user's, else from genai-prices.

The bundled price list needs no network. Prices change and hosts differ, so a
price that matters is best given in a file; the one used is part of the router's
artifact.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metarouter.errors import InputError, OptionError, cause_of
from metarouter.records import ModelSpec

__all__ = ["find_cached_price", "find_price", "lookup_price", "read_prices"]

_NO_PRICES: Mapping[str, ModelSpec] = MappingProxyType({})
_TUNING_WORDS = frozenset({"instruct", "chat", "it", "hf", "meta"})
# Hosts of open models, tried in this order when the maker of a model has no price for it.
_HOSTS = ("together", "openrouter", "fireworks", "groq", "novita")


def lookup_price(model: str, prices: Mapping[str, ModelSpec] = _NO_PRICES) -> ModelSpec:
    """Price of a model in USD per million tokens.

    Parameters
    ----------
    model : str
        Any usual spelling: with or without the organisation in front
        (``mistralai/Mixtral-8x7B-Instruct-v0.1``), in any case, with or
        without a word such as "instruct".
    prices : mapping of str to ModelSpec, optional
        Prices that come first, as :func:`read_prices` gives them.

    Returns
    -------
    ModelSpec
        Named `model`. For an open model the price of one of its hosts.

    Raises
    ------
    OptionError
        When no price is known; the message has the nearest names.

    Examples
    --------
    >>> spec = lookup_price("openai/gpt-4o")
    >>> spec.input_usd_per_mtok, spec.output_usd_per_mtok
    (2.5, 10.0)
    """
    found = find_price(model, prices)
    if found is None or found.output_usd_per_mtok is None:
        specs = (*_hosted().values(), *prices.values())
        known = {_key(s.name): s.name for s in specs if s.output_usd_per_mtok is not None}
        near = [
            known[name] for name in difflib.get_close_matches(_key(model), known, n=3, cutoff=0.5)
        ]
        hint = f"; nearest known names: {', '.join(near)}" if near else ""
        raise OptionError.of(
            "model",
            model,
            f"a model with a known price{hint}; or give its price in a file of "
            "model, input_usd_per_mtok, output_usd_per_mtok (CSV, JSON or TOML)",
        )
    return found


def find_price(model: str, prices: Mapping[str, ModelSpec] = _NO_PRICES) -> ModelSpec | None:
    """Price of a model as :func:`lookup_price` finds it, or None.

    Parameters
    ----------
    model, prices : as there.

    Returns
    -------
    ModelSpec or None
        Its output price is None where only input is sold, as by embedding models.

    Examples
    --------
    >>> find_price("text-embedding-3-small").input_usd_per_mtok
    0.02
    >>> find_price("no-such-model") is None
    True
    """
    key = _key(model)
    given = {_key(name): spec for name, spec in prices.items()}
    found = prices.get(model) or given.get(key) or _bundled(model)
    return None if found is None else replace(found, name=model)


def find_cached_price(model: str) -> float | None:
    """Price of a prompt token that the model's maker reads from its cache.

    Parameters
    ----------
    model : str, in any usual spelling.

    Returns
    -------
    float or None
        USD per million tokens; None where the price list knows none.

    Examples
    --------
    >>> find_cached_price("gpt-4o"), find_cached_price("no-such-model")
    (1.25, None)
    """
    from datetime import UTC, datetime

    from genai_prices.data_snapshot import get_snapshot

    try:
        name = model.rsplit("/", 1)[-1]
        _, maker = get_snapshot().find_provider_model(name, None, None, None)
    except LookupError:
        return None
    price: Any = maker.get_prices(datetime.now(UTC)).cache_read_mtok
    return None if price is None else float(getattr(price, "base", price))


def read_prices(path: str | Path) -> dict[str, ModelSpec]:
    """Prices from a CSV, JSON or TOML file.

    Parameters
    ----------
    path : str or Path
        CSV: columns ``model, input_usd_per_mtok, output_usd_per_mtok``; a model
        cell may list spellings separated by " / ". JSON and TOML: an object
        that maps a model to an object with the two prices.

    Returns
    -------
    dict of str to ModelSpec

    Raises
    ------
    InputError
        When the file cannot be read, or a price is missing, not a number or
        negative; the message names the model.
    """
    path = Path(path)
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path}: {cause_of(error)}; a price file is CSV with the columns model, "
            "input_usd_per_mtok, output_usd_per_mtok, or JSON or TOML that maps a model to "
            "these two"
        ) from error
    return {name: _spec(path, name, row) for names, row in rows for name in map(str.strip, names)}


def _rows(path: Path) -> Iterable[tuple[list[str], Mapping[str, Any]]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [(row["model"].split(" / "), row) for row in csv.DictReader(file)]
    text = path.read_text(encoding="utf-8")
    table = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    return [([name], row) for name, row in table.items()]


def _spec(path: Path, name: str, row: Any) -> ModelSpec:
    try:
        spec = ModelSpec(
            name=name,
            input_usd_per_mtok=float(row["input_usd_per_mtok"]),
            output_usd_per_mtok=float(row["output_usd_per_mtok"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: model {name!r}: {row!r}; input_usd_per_mtok and output_usd_per_mtok "
            "must both be there, as numbers"
        ) from error
    for price in (spec.input_usd_per_mtok, spec.output_usd_per_mtok):
        if price is None or not 0 <= price < float("inf"):
            raise InputError(f"{path}: model {name!r}: price {price}; allowed: at least 0")
    return spec


def _key(name: str) -> str:
    words = re.split(r"[-_:\s]+", name.lower().rsplit("/", 1)[-1])
    return "-".join(word for word in words if word not in _TUNING_WORDS)


def _bundled(model: str) -> ModelSpec | None:
    from genai_prices.data_snapshot import get_snapshot

    for reference in (model, model.rsplit("/", 1)[-1]):
        try:
            _, maker = get_snapshot().find_provider_model(reference, None, None, None)
        except LookupError:
            continue  # an open model has no maker that sells it: its hosts come next
        spec = _spec_of(maker)
        if spec is not None and spec.output_usd_per_mtok is not None:
            return spec
    return _hosted().get(_key(model))


def _spec_of(info: Any) -> ModelSpec | None:
    from datetime import UTC, datetime

    price = info.get_prices(datetime.now(UTC))
    prompt, answer = (getattr(price, name, None) for name in ("input_mtok", "output_mtok"))
    if prompt is None:
        return None
    # A tiered price starts at its base, which holds for prompts of ordinary length.
    return ModelSpec(
        name=info.id,
        input_usd_per_mtok=float(getattr(prompt, "base", prompt)),
        output_usd_per_mtok=None if answer is None else float(getattr(answer, "base", answer)),
    )


@cache
def _hosted() -> dict[str, ModelSpec]:
    """Normalised name to the price at the first host that states one."""
    from genai_prices.data_snapshot import get_snapshot

    rank = {host: place for place, host in enumerate(_HOSTS)}
    hosts = sorted(get_snapshot().providers, key=lambda host: rank.get(host.id, len(rank)))
    specs = [spec for host in hosts for info in host.models if (spec := _spec_of(info))]
    table: dict[str, ModelSpec] = {}
    # stable: of those that sell output too, the first host's
    for spec in sorted(specs, key=lambda spec: spec.output_usd_per_mtok is None):
        table.setdefault(_key(spec.name), spec)
    return table
