"""``metarouter keys``: who may call the gateway."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import JsonOut, names

if TYPE_CHECKING:
    import sqlalchemy

    from metarouter.store.keys import ApiKey

__all__ = ["create", "list_all", "revoke"]

Store = Annotated[
    str, typer.Option(metavar="URL", help="The gateway's database, as in its settings.")
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The gateway's settings, instead of --store.")
]
_STORE = "sqlite:///metarouter.db"


def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    models: Annotated[str | None, typer.Option(help="Only these models, by commas.")] = None,
    policies: Annotated[str | None, typer.Option(help="Only these policies, by commas.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
    store: Store = _STORE,
    config: Config = None,
) -> None:
    """Make a key and print it, once; the store keeps its hash.

    Example: metarouter keys create alice --policies default --days 90
    """
    from metarouter.cli.output import say

    engine = _engine(store, config)
    from metarouter.store.keys import create_key

    key, record = create_key(
        engine,
        name,
        models=None if models is None else names(models),
        policies=None if policies is None else names(policies),
        days=days,
    )
    say(f"{record.key_id}\t{key}")


def list_all(
    store: Store = _STORE,
    config: Config = None,
    json_out: JsonOut = None,
) -> None:
    """Show the keys: id, name, what they may ask for, whether they are valid.

    Example: metarouter keys list
    """
    from metarouter.cli.output import emit, print_table

    engine = _engine(store, config)
    from metarouter.store.keys import list_keys

    rows = [_shown(key) for key in list_keys(engine)]
    print_table(rows, ("key_id", "name", "state", "models", "policies", "expires"), json_out)
    emit(json_out, "keys list", rows, seed=None)


def revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    store: Store = _STORE,
    config: Config = None,
) -> None:
    """Make a key open nothing; running gateways know within two seconds.

    Example: metarouter keys revoke key-0123456789ab
    """
    from metarouter.cli.output import say

    engine = _engine(store, config)
    from metarouter.store.keys import revoke_key

    revoke_key(engine, key_id)
    say(f"{key_id} is revoked")


def _engine(store: str, config: Path | None) -> sqlalchemy.Engine:
    from metarouter.cli.serve import require_serve

    require_serve()
    from metarouter.gateway.settings import read_settings
    from metarouter.store.database import open_database

    return open_database(store if config is None else read_settings(config).store.url)


def _shown(key: ApiKey) -> dict[str, Any]:
    now = datetime.now(UTC).timestamp()
    state = "valid" if key.is_valid(now) else "revoked" if key.revoked else "expired"
    return {
        "key_id": key.key_id,
        "name": key.name,
        "state": state,
        "models": "all" if key.models is None else ",".join(key.models),
        "policies": "all" if key.policies is None else ",".join(key.policies),
        "expires": None if key.expires is None else _date(key.expires),
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
