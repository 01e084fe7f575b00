"""Which model is where: flags for one endpoint, a TOML file for several."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from metarouter.errors import InputError, OptionError
from metarouter.policy.prices import lookup_price
from metarouter.providers.endpoints import Endpoint, Target
from metarouter.providers.retries import RetryPolicy
from metarouter.records import ModelSpec

__all__ = ["read_targets"]


class _ProviderEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    base_url: str
    api_key_env: str | None = None
    headers: dict[str, str] = {}
    concurrency: int = 16
    connect_timeout: float = 10.0
    timeout: float = 180.0
    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 60.0
    max_tokens_field: str = "max_tokens"


class _ModelEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    provider: str
    name: str | None = None
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    options: dict[str, Any] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    providers: dict[str, _ProviderEntry] = {}
    models: dict[str, _ModelEntry] = {}


def read_targets(
    models: Iterable[str],
    *,
    file: Path | None = None,
    default: Endpoint | None = None,
    prices: Mapping[str, ModelSpec] | None = None,
) -> list[Target]:
    """Find the endpoint and the price of each model.

    Parameters
    ----------
    models : names of models, as they shall stand in label files.
    file : path of a TOML file, optional
        Tables ``[providers.NAME]`` (the fields of :class:`Endpoint`) and
        ``[models."NAME"]`` with `provider`, and optionally `name` (at the
        endpoint), `input_usd_per_mtok`, `output_usd_per_mtok`, `options`.
    default : Endpoint, optional, of models that the file does not name.
    prices : mapping of str to ModelSpec, optional
        Go before the bundled prices; those of `file` go before both.

    Returns
    -------
    list of Target, in the order of `models`; a price that is unknown is None.

    Raises
    ------
    InputError
        When the file cannot be read, holds an unknown or wrong field (the
        message names it), or names a provider that it does not define.
    OptionError
        When a model is given twice or has no endpoint.
    """
    names = list(models)
    if not names or len(set(names)) < len(names):
        raise OptionError.of("models", ",".join(names), "at least one name, each once")
    content = _File() if file is None else _read(file)
    endpoints = {name: _endpoint(name, entry) for name, entry in content.providers.items()}
    return [_target(name, content, endpoints, default, prices or {}, file) for name in names]


def _read(path: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, not TOML, or a field of a wrong type
        raise InputError(
            f"{path}: {error}; allowed: tables [providers.NAME] with base_url, api_key_env, … and "
            '[models."NAME"] with provider, …'
        ) from error


def _endpoint(name: str, entry: _ProviderEntry) -> Endpoint:
    fields = msgspec.structs.asdict(entry)
    retries = {key: fields.pop(key) for key in ("attempts", "first_pause", "longest_pause")}
    return Endpoint(name=name, retries=RetryPolicy(**retries), **fields)


def _target(
    model: str,
    content: _File,
    endpoints: Mapping[str, Endpoint],
    default: Endpoint | None,
    prices: Mapping[str, ModelSpec],
    file: Path | None,
) -> Target:
    entry = content.models.get(model)
    if entry is None:
        if default is None:
            raise OptionError.of(
                "model", model, "a model with a table in the file of --providers, or --base-url"
            )
        return Target(spec=_price(model, prices), endpoint=default, upstream=model)
    if entry.provider not in endpoints:
        raise InputError(
            f"{file}: models.{model}.provider = {entry.provider!r}; allowed: "
            f"{', '.join(endpoints) or 'a name that a table [providers.NAME] defines'}"
        )
    spec = ModelSpec(
        name=model,
        input_usd_per_mtok=entry.input_usd_per_mtok,
        output_usd_per_mtok=entry.output_usd_per_mtok,
    )
    given = (spec.input_usd_per_mtok, spec.output_usd_per_mtok)
    if None in given and given != (None, None):
        raise InputError(
            f"{file}: models.{model}: one price of two; allowed: both input_usd_per_mtok and "
            "output_usd_per_mtok, or neither"
        )
    for price in given:
        if price is not None and not 0 <= price < float("inf"):
            raise InputError(f"{file}: models.{model}: price {price}; allowed: at least 0")
    return Target(
        spec=_price(model, prices) if None in given else spec,
        endpoint=endpoints[entry.provider],
        upstream=entry.name or model,
        options=entry.options,
    )


def _price(model: str, prices: Mapping[str, ModelSpec]) -> ModelSpec:
    """The price where one is known."""
    try:
        return lookup_price(model, prices)
    except OptionError:
        return ModelSpec(name=model)
