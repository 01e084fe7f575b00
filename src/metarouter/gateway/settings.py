"""The gateway's settings: one YAML or TOML file, the environment, then flags.

Flags win over the environment (``METAROUTER_PORT=…``, nested with ``__``),
which wins over the file. Secrets are never settings: a setting names the
environment variable that holds one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from metarouter.errors import InputError, OptionError, shorten

__all__ = [
    "GatewaySettings",
    "LimitSettings",
    "PolicySettings",
    "PriceSettings",
    "SettingsSource",
    "SplitSettings",
    "StoreSettings",
    "UpstreamSettings",
    "is_loopback",
    "read_settings",
]

Seconds = Annotated[float, Field(gt=0, lt=float("inf"))]
_STRICT = ConfigDict(extra="forbid", frozen=True)
_TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # what RFC 9110 calls so


class UpstreamSettings(BaseModel):
    """One place where models are served."""

    model_config = _STRICT

    base_url: str = Field(
        default="", description="As a client takes it, e.g. https://api.openai.com/v1."
    )
    provider: str | None = Field(
        default=None,
        description="Of any-llm, e.g. bedrock: for wire formats of their own; extra providers.",
    )
    api_key_env: str | None = Field(
        default=None, description="Environment variable with the key; none sends no key."
    )
    forward_client_key: bool = Field(
        default=False,
        description="Pass the caller's own key on; only where the gateway asks for none.",
    )
    dialect: Literal["openai", "anthropic", "any"] = Field(
        default="openai", description="openai: chat, responses, embeddings. anthropic: messages."
    )
    headers: dict[str, str] = Field(default={}, description="Sent with each request.")
    models: dict[str, str] = Field(
        default={}, description="Our name to the name there; empty serves every name as it is."
    )
    concurrency: int = Field(default=256, ge=1, description="Requests in flight at once.")
    connect_timeout: Seconds = Field(default=10.0, description="Seconds to get a connection.")
    first_token_timeout: Seconds = Field(
        default=60.0, description="Seconds to a stream's first byte."
    )
    idle_timeout: Seconds = Field(
        default=120.0, description="Seconds between two pieces of a stream."
    )
    total_timeout: Seconds = Field(
        default=600.0, description="Seconds for one try, to the end of its answer."
    )
    attempts: int = Field(default=3, ge=1, le=20, description="Tries of one request here.")
    first_pause: float = Field(
        default=0.25, ge=0, le=60, description="Seconds; later pauses double."
    )
    longest_pause: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="Seconds; who asks for a longer pause is passed over.",
    )
    breaker_failures: int = Field(
        default=10, ge=1, description="Failures of a model in a row that open its breaker."
    )
    breaker_seconds: Seconds = Field(
        default=10.0, description="Seconds until an open breaker tries again."
    )

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not _can_be_asked(parts):
            raise ValueError("allowed: an http or https URL, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("holds a user, a password or a query; allowed: a plain URL")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not value.replace("_", "").isalnum():
            raise ValueError("allowed: the name of an environment variable, not a key")
        return value

    @field_validator("headers")
    @classmethod
    def _printable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _TOKEN.fullmatch(name) or not (text.isascii() and text.isprintable()):
                raise ValueError(f"header {name!r}: allowed: printable ASCII, no space in the name")
            if name.lower() in ("accept-encoding", "content-length", "transfer-encoding"):
                raise ValueError(f"header {name!r} is the gateway's to set; leave it out")
            if name.lower() in ("authorization", "x-api-key"):
                raise ValueError(f"header {name!r} is a secret; allowed: api_key_env")
        return value

    @model_validator(mode="after")
    def _is_somewhere(self) -> UpstreamSettings:
        if not self.base_url and self.provider is None:
            raise ValueError("neither base_url nor provider is given; allowed: one of them")
        if self.provider is not None and (self.headers or self.forward_client_key):
            raise ValueError("provider takes neither headers nor forward_client_key")
        return self


class PolicySettings(BaseModel):
    """One way to choose: a router and what its choice is bent by."""

    model_config = _STRICT

    router: Path = Field(description="Folder that `metarouter fit` wrote.")
    w: float | None = Field(default=None, description="Price of cost in place of the router's own.")
    premium_share: float | None = Field(
        default=None, ge=0, le=1, description="Share of premium calls on the queries of `queries`."
    )
    queries: Path | None = Field(
        default=None, description="File of queries that shares are calibrated on; see `calibrate`."
    )
    models: list[str] | None = Field(default=None, description="Only these models; none means all.")
    default_model: str | None = Field(
        default=None, description="Answers what holds no text to route on; none: the premium model."
    )
    exploration: float = Field(
        default=0.0, ge=0, le=1, description="Share of requests that get any allowed model."
    )
    shadow: list[str] = Field(
        default=[], description="Policies that decide too, are logged, and never act."
    )
    switch_cost: float | None = Field(
        default=None,
        ge=0,
        description="What a conversation's change of model costs, in the policy's unit; "
        "none: what prices say its prompt cache is worth.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> PolicySettings:
        if self.w is not None and self.premium_share is not None:
            raise ValueError("w and premium_share were given; allowed: one of them")
        if self.premium_share is not None and self.queries is None:
            raise ValueError("premium_share needs queries: a file of queries to calibrate on")
        return self


class PriceSettings(BaseModel):
    """What the tokens of one model cost."""

    model_config = _STRICT

    input_usd_per_mtok: float = Field(
        ge=0, lt=1e6, description="Dollars per million prompt tokens; also called `input`."
    )
    cached_input_usd_per_mtok: float | None = Field(
        default=None,
        ge=0,
        lt=1e6,
        description="The same, read from a prompt cache; also called `cached_input`.",
    )
    output_usd_per_mtok: float = Field(
        ge=0,
        lt=1e6,
        description="Dollars per million tokens of answers, 0 for embeddings; "
        "also called `output`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, given: Any) -> Any:
        """The names without a unit, which were the only ones at first, are taken too."""
        if not isinstance(given, dict):
            return given
        long_of = {name.removesuffix("_usd_per_mtok"): name for name in cls.model_fields}
        twice = [name for name in long_of if name in given and long_of[name] in given]
        if twice:
            raise ValueError(f"{long_of[twice[0]]} and {twice[0]} are one price; allowed: one name")
        return {long_of.get(name, name): value for name, value in given.items()}


class SplitSettings(BaseModel):
    """Requests for one name, shared out among policies."""

    model_config = _STRICT

    arms: dict[str, float] = Field(description="Policy to its share; shares sum to 1.")
    by: Literal["conversation", "key", "request"] = Field(
        default="conversation", description="What is drawn: all its requests go to one policy."
    )
    salt: str = Field(default="", description="Another salt draws anew.")

    @field_validator("arms")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(0 <= share <= 1 for share in value.values()):
            raise ValueError("allowed: shares from 0 to 1")
        if abs(sum(value.values()) - 1.0) > 1e-6:
            raise ValueError(f"shares sum to {sum(value.values()):g}; allowed: 1")
        return value


class StoreSettings(BaseModel):
    """Where decisions, feedback and keys are kept."""

    model_config = _STRICT

    url: str = Field(
        default="sqlite:///metarouter.db",
        description="sqlite:///PATH, or postgresql://USER@HOST/DATABASE without the password.",
    )
    password_env: str | None = Field(
        default=None, description="Environment variable with the password; PGPASSWORD if not set."
    )
    queue: int = Field(default=10_000, ge=1, description="Decisions that may wait to be written.")
    flush_seconds: Seconds = Field(
        default=0.1, description="Longest wait before a batch is written."
    )
    spill: Path | None = Field(
        default=None,
        description="Folder for what cannot be written; beside the file of SQLite by default, "
        "else metarouter-HASH.spill, of the address.",
    )
    spill_bytes: int = Field(
        default=2**30, ge=0, description="Most that one process puts there; more is dropped."
    )
    prompts: bool = Field(
        default=False, description="Keep the text of prompts; needed to export labels."
    )
    redact: list[Literal["secret", "email", "card", "phone"]] = Field(
        default=["secret", "email", "card", "phone"],
        description="What is taken out of prompts before they are kept.",
    )
    redact_patterns: dict[str, str] = Field(
        default={}, description="Further things to take out: regular expressions by name."
    )
    prompt_days: Annotated[float, Field(gt=0)] | None = Field(
        default=90.0, description="Days until the text of a prompt is erased; null: never."
    )
    row_days: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Days until decisions and feedback are deleted; null: never."
    )
    usage_days: Annotated[float, Field(gt=0)] | None = Field(
        default=400.0,
        description="Days until what keys used is deleted, but for what a budget still counts; "
        "null: never.",
    )

    @field_validator("url")
    @classmethod
    def _of_a_known_kind(cls, value: str) -> str:
        scheme, _, place = value.partition("://")
        if scheme not in ("sqlite", "postgresql", "postgresql+pg8000"):
            # shown without what follows, which may hold a password
            raise ValueError("allowed: sqlite:///PATH or postgresql://USER@HOST/DATABASE")
        if ":" in place.rpartition("@")[0]:
            raise ValueError("holds a password; allowed: password_env, the name of a variable")
        return value

    @field_validator("password_env")
    @classmethod
    def _name_of_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not value.replace("_", "").isalnum():
            raise ValueError("allowed: the name of an environment variable, not a password")
        return value

    @property
    def spill_folder(self) -> Path:
        """Where rows wait while the store is down."""
        if self.spill is not None:
            return self.spill
        scheme, _, path = self.url.partition(":///")
        if scheme == "sqlite":
            return Path(f"{path}.spill")
        # rows of one database must not end up in another that is served from the same folder
        return Path(f"metarouter-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}.spill")

    def password(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The password of the database, where a variable is named for it.

        Raises
        ------
        OptionError
            When the variable is not set.
        """
        if self.password_env is None:
            return None
        if self.password_env not in environ:
            raise OptionError(
                f"environment variable {self.password_env} is not set; store.password_env names it"
            )
        return environ[self.password_env]


class TracingSettings(BaseModel):
    """Where spans go; the other variables of OpenTelemetry (``OTEL_…``) hold too."""

    model_config = _STRICT

    endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP address, such as http://127.0.0.1:4318; none: no spans.",
    )


class LimitSettings(BaseModel):
    """What one request may be."""

    model_config = _STRICT

    body_bytes: int = Field(default=20 * 2**20, ge=1, description="Largest request body.")
    batch: int = Field(default=1000, ge=1, description="Most queries of one call of /v1/route.")
    read_seconds: Seconds = Field(
        default=60.0,
        description="Seconds that a caller gets to send a request, or to take a part of an answer.",
    )
    request_seconds: Seconds = Field(
        default=1800.0, description="Seconds for a request in all, whatever is tried."
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="Seconds that requests get to end after SIGTERM."
    )


class GatewaySettings(BaseSettings):
    """All settings of ``metarouter serve``."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="METAROUTER_",
        env_nested_delimiter="__",
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0: any free one."
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="Processes behind the port; each uses one core."
    )
    hosts: list[str] = Field(
        default=[], description="Names that requests may call this host by, besides its address."
    )
    auth: Literal["none", "keys"] = Field(default="none", description="Whether callers need a key.")
    upstreams: dict[str, UpstreamSettings] = Field(
        default={}, description="Places where models are served, best first."
    )
    policies: dict[str, PolicySettings] = Field(
        default={}, description="Ways to choose, default first."
    )
    splits: dict[str, SplitSettings] = Field(
        default={},
        description="Names that are shared out among policies; that of a policy takes it over.",
    )
    fallbacks: dict[str, list[str]] = Field(
        default={}, description="Models that answer when a model cannot, in order."
    )
    prices: dict[str, PriceSettings] = Field(
        default={},
        description="By model, as callers name it; others by the list that comes with metarouter.",
    )
    sticky: Literal["tool_loop", "off"] = Field(
        default="tool_loop",
        description="tool_loop: the steps of a tool loop stay with their model.",
    )
    cache_seconds: Seconds = Field(
        default=300.0, description="How long upstreams' prompt caches last after a request."
    )
    sticky_seconds: Seconds = Field(
        default=3600.0, description="How long a conversation is remembered."
    )
    store: StoreSettings = Field(default_factory=StoreSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    reload_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="How often to look whether settings or routers changed; 0: never.",
    )
    metrics_token_env: str | None = Field(
        default=None,
        description="Environment variable with a token that reads /metrics, and nothing else, "
        "where auth = keys; the keys of admins do too.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("metrics_token_env")
    @classmethod
    def _name_of_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not value.replace("_", "").isalnum():
            raise ValueError("allowed: the name of an environment variable, not a token")
        return value

    @field_validator("policies", "splits")
    @classmethod
    def _policy_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.isascii() or not name.isprintable() or not name or set(name) & set(" :,"):
                raise ValueError(f"policy {shorten(name)}; allowed: printable ASCII without ' :,'")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> GatewaySettings:
        if not self.upstreams:
            raise ValueError("upstreams: none is given; allowed: at least one, with its base_url")
        for name, upstream in self.upstreams.items():
            if upstream.forward_client_key and self.auth == "keys":
                raise ValueError(
                    f"upstreams.{name}.forward_client_key: callers' keys are the gateway's own "
                    "where auth = keys; allowed: api_key_env"
                )
        self._check_experiments()
        for model, others in self.fallbacks.items():
            for other in (model, *others):
                if not self.serves(other):
                    raise ValueError(f"fallbacks: no upstream serves {shorten(other)}")
        if not is_loopback(self.host) and self.auth == "none":
            raise ValueError(
                f"host = {self.host!r} is open to others; allowed: a loopback address such as "
                "127.0.0.1, or auth = keys with keys from `metarouter keys create`"
            )
        return self

    def _check_experiments(self) -> None:
        for name, policy in self.policies.items():
            for other in policy.shadow:
                if other not in self.policies or other == name:
                    raise ValueError(
                        f"policies.{name}.shadow: {shorten(other)} is no other policy; allowed: "
                        f"{', '.join(p for p in self.policies if p != name) or 'none'}"
                    )
        for name, split in self.splits.items():
            for arm in split.arms:
                if arm not in self.policies:
                    raise ValueError(
                        f"splits.{name}.arms: {shorten(arm)} is no policy; allowed: "
                        f"{', '.join(self.policies) or 'none'}"
                    )
            if split.by == "key" and self.auth == "none":
                raise ValueError(f"splits.{name}.by = 'key' needs auth = keys")

    def serves(self, model: str) -> bool:
        """Whether an upstream has the model, in whichever dialect."""
        return any(not up.models or model in up.models for up in self.upstreams.values())

    def check_variables(self, environ: Mapping[str, str] = os.environ) -> None:
        """See that the environment variables that settings name are set.

        Raises
        ------
        OptionError
            Names the first that is not.
        """
        missing = self.missing_variables(environ)
        if missing:
            raise OptionError(
                f"environment variable {missing[0]} is not set; an upstream's api_key_env, or "
                "metrics_token_env, names it"
            )

    def missing_variables(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Names of environment variables that settings name and that are not set."""
        names = [upstream.api_key_env for upstream in self.upstreams.values()]
        names.append(self.metrics_token_env)
        return sorted({name for name in names if name and not environ.get(name)})

    def metrics_token(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """What reads the metrics beside the keys of admins, where a variable is named for it."""
        return environ.get(self.metrics_token_env) if self.metrics_token_env else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _can_be_asked(parts: SplitResult) -> bool:
    """Whether host and port are such as a client could look up and connect to."""
    try:
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # out of range; or, as UnicodeError, no name of a host
        return False
    return bool(host) and b" " not in host and port != 0


def read_settings(
    file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> GatewaySettings:
    """Settings from a file, the environment and flags.

    Parameters
    ----------
    file : path of a ``.yaml``, ``.yml`` or ``.toml`` file, optional
        Paths in it are relative to its folder.
    overrides : mapping, optional
        Top-level settings that go before the file and the environment.

    Returns
    -------
    GatewaySettings

    Raises
    ------
    InputError
        When the file cannot be read.
    OptionError
        When a setting is unknown or wrong; the message names key and value.

    Examples
    --------
    >>> up = {"local": {"base_url": "http://127.0.0.1:9/v1"}}
    >>> read_settings(overrides={"upstreams": up}).upstreams["local"].dialect
    'openai'
    """
    content = {} if file is None else _read(Path(file))

    class _WithFile(GatewaySettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_file = InitSettingsSource(settings_cls, init_kwargs=content)
            return init_settings, env_settings, from_file

    try:
        return _WithFile(**dict(overrides or {}))
    except ValidationError as error:
        raise OptionError(_first_problem(error, file)) from None
    except SettingsError as error:
        raise OptionError(f"environment: {error}; allowed: JSON for lists and tables") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingsSource:
    """Where settings came from, to read them again.

    Parameters
    ----------
    file : path, optional
    overrides : mapping, as :func:`read_settings` takes it.
    """

    file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> GatewaySettings:
        """The settings as they are now; raises as :func:`read_settings`."""
        return read_settings(self.file, self.overrides)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {shorten(content)}; allowed: settings by name")
    return _with_paths(content, path.parent)


def _with_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of policies and of the store, relative to the folder of the file."""
    policies = content.get("policies")
    for policy in policies.values() if isinstance(policies, dict) else ():
        for name in {"router", "queries"} & policy.keys() if isinstance(policy, dict) else ():
            policy[name] = folder / str(policy[name])
    store = content.get("store")
    url = store.get("url") if isinstance(store, dict) else None
    if isinstance(store, dict) and "spill" in store:
        store["spill"] = folder / str(store["spill"])
    if isinstance(store, dict) and isinstance(url, str) and url.startswith("sqlite:///"):
        store["url"] = f"sqlite:///{folder / url.removeprefix('sqlite:///')}"
    return content


def _first_problem(error: ValidationError, file: str | Path | None) -> str:
    """One line: the file, the key, the value where it cannot be a secret, what is allowed."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        what = "no such setting"
    # A value under an unknown key, one where the name of a secret belongs, or one that looks like
    # an address may hold a secret.
    may_show = problem["type"] not in ("extra_forbidden", "missing") and not key.endswith("_env")
    shown = may_show and _is_plain(problem["input"])
    value = f" = {shorten(problem['input'])}" if shown else ""
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    place = "" if file is None else f"{file}: "
    return f"{place}{key}{value}: {what}{rest}" if key else f"{place}{what}{rest}"


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and len(value) < 20 and "@" not in value and "sk-" not in value
    )
