"""``metarouter serve``: the gateway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from metarouter.gateway.settings import GatewaySettings
    from metarouter.gateway.state import Gateway

__all__ = ["require_serve", "serve"]


def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings, YAML or TOML.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Router folder of the policy `default`.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the models are, with /v1.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Variable with the upstream's key; or callers' own."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 8080 by default, 0 any.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Database; sqlite:///metarouter.db.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes; 1 by default. Each uses a core.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the settings, and stop.")] = False,
) -> None:
    """Serve routers where OpenAI and Anthropic clients already talk.

    Example: metarouter serve --router router --upstream https://api.openai.com/v1
    """
    require_serve()
    # One decision is too small to share: threads of the BLAS would only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from metarouter.gateway.app import load_policies, make_gateway
    from metarouter.gateway.serving import serve as run
    from metarouter.gateway.settings import SettingsSource
    from metarouter.gateway.workers import serve_workers

    flags = {
        "host": host,
        "port": port,
        "workers": workers,
        "store": None if store is None else {"url": store},
    }
    given = {name: value for name, value in flags.items() if value is not None}
    overrides = given | _quick(router, upstream, api_key_env)
    source = SettingsSource(file=config, overrides=overrides)
    settings = source.read()
    settings.check_variables()
    if settings.workers > 1 and not check:
        serve_workers(source, _say_address)
        return
    gateway = make_gateway(settings, load_policies(settings), source)
    if check:
        _say_settings(gateway, settings)
        gateway.engine.dispose()
        return
    run(gateway, _say_address)


def _say_address(url: str) -> None:
    typer.echo(f"metarouter serves on {url}/v1", err=True)


def _say_settings(gateway: Gateway, settings: GatewaySettings) -> None:
    """What a gateway would serve, and which of its models have no price."""
    from metarouter.cli.output import say

    for name, policy in gateway.policies.items():
        say(f"policy {name}: {', '.join(policy.models)} ({policy.router.policy.version})")
    for name, split in gateway.current.splits.items():
        arms = ", ".join(f"{arm} {share:g}" for arm, share in split.arms.items())
        say(f"split {name}: {arms}, by {split.by}")
    models = {model for policy in gateway.policies.values() for model in policy.models}
    for model in sorted(models):
        if not gateway.current.prices.knows(model):
            say(f"no price of {model} is known, so that it counts as free; set prices.{model}")
    say(f"settings are good; upstreams: {', '.join(settings.upstreams)}")


def require_serve() -> None:
    """Tell how to install the extra where it is missing.

    Raises
    ------
    MissingDependencyError
    """
    from importlib.util import find_spec

    for name in ("aiohttp", "alembic", "pydantic_settings", "sqlalchemy", "starlette", "uvicorn"):
        if find_spec(name) is None:
            raise MissingDependencyError.of("the gateway", "serve")


def _quick(router: Path | None, upstream: str | None, key: str | None) -> dict[str, Any]:
    """Settings from flags alone: one upstream for all models, one policy."""
    settings: dict[str, Any] = {}
    if router is not None:
        settings["policies"] = {"default": {"router": router}}
    if upstream is not None:
        where: dict[str, Any] = {"base_url": upstream, "dialect": "any"}
        where |= {"forward_client_key": True} if key is None else {"api_key_env": key}
        settings["upstreams"] = {"default": where}
    elif key is not None:
        raise OptionError("`api_key_env` needs `upstream`; in a file, set it for each upstream")
    return settings
