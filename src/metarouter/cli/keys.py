"""``metarouter keys``: who may call the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import JsonOut, names
from metarouter.cli.store import Config, Store, open_store

if TYPE_CHECKING:
    import sqlalchemy

    from metarouter.store.keys import ApiKey

__all__ = ["create", "list_all", "revoke", "update"]


def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    models: Annotated[str | None, typer.Option(help="Only these models, by commas.")] = None,
    policies: Annotated[str | None, typer.Option(help="Only these policies, by commas.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May see and change everything.")] = False,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    budget: Annotated[float | None, typer.Option(help="Dollars that it may spend.")] = None,
    budget_days: Annotated[
        float | None, typer.Option(help="Days that the budget is for; without: for good.")
    ] = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Make a key and print it, once; the store keeps its hash.

    Example: metarouter keys create alice --rpm 60 --budget 25 --budget-days 30
    """
    from metarouter.cli.output import say

    engine = open_store(store, config)
    from metarouter.store.keys import create_key

    key, record = create_key(
        engine,
        name,
        models=None if models is None else names(models),
        policies=None if policies is None else names(policies),
        days=days,
        is_admin=admin,
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        budget=budget,
        budget_days=budget_days,
    )
    say(f"{record.key_id}\t{key}")


def list_all(
    store: Store = None,
    config: Config = None,
    json_out: JsonOut = None,
) -> None:
    """Show the keys: whether they are valid, what they may do, what they used.

    Example: metarouter keys list
    """
    from metarouter.cli.output import emit, print_table

    engine = open_store(store, config, must_exist=True)
    from metarouter.store.keys import list_keys

    keys = list_keys(engine)
    usage = _usage(engine, keys)
    rows = [_shown(key) | usage[key.key_id] for key in keys]
    shown = ("key_id", "name", "state", "models", "policies", "expires")
    print_table(rows, (*shown, "requests_today", "tokens_today", "spent", "budget"), json_out)
    emit(json_out, "keys list", rows, seed=None)


def update(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    models: Annotated[str | None, typer.Option(help="Only these, by commas, or all.")] = None,
    policies: Annotated[str | None, typer.Option(help="Only these, by commas, or all.")] = None,
    days: Annotated[
        str | None, typer.Option(help="Days from now until it expires, or none.")
    ] = None,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="May see and change everything.")
    ] = None,
    rpm: Annotated[str | None, typer.Option(help="Requests per minute, or none.")] = None,
    tpm: Annotated[str | None, typer.Option(help="Tokens per minute, or none.")] = None,
    budget: Annotated[str | None, typer.Option(help="Dollars, or none.")] = None,
    budget_days: Annotated[str | None, typer.Option(help="Days, or none for good.")] = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Change what a key may do; running gateways know within two seconds.

    Example: metarouter keys update key-0123456789ab --rpm 120 --budget none
    """
    from metarouter.cli.output import say

    expires = _number("days", days)
    if expires is not None and not 0 < expires < float("inf"):
        raise typer.BadParameter(f"--days {days}; allowed: a number above 0, or none")
    changes = {
        "models": _scope(models),
        "policies": _scope(policies),
        "expires": expires and datetime.now(UTC).timestamp() + expires * 86_400,
        "is_admin": admin,
        "requests_per_minute": _whole("rpm", rpm),
        "tokens_per_minute": _whole("tpm", tpm),
        "budget": _number("budget", budget),
        "budget_days": _number("budget-days", budget_days),
    }
    texts = (models, policies, days, admin, rpm, tpm, budget, budget_days)
    given = [name for name, text in zip(changes, texts, strict=True) if text is not None]
    if not given:
        raise typer.BadParameter("nothing to change: see metarouter keys update --help")
    engine = open_store(store, config, must_exist=True)
    from metarouter.store.keys import update_key

    update_key(engine, key_id, {name: changes[name] for name in given})
    say(f"{key_id}: {', '.join(given)} changed")


def _scope(text: str | None) -> tuple[str, ...] | None:
    return None if text is None or text == "all" else tuple(names(text))


def _whole(option: str, text: str | None) -> int | None:
    value = _number(option, text)
    if value is not None and not value.is_integer():
        raise typer.BadParameter(f"--{option} {text}; allowed: a whole number, or none")
    return None if value is None else int(value)


def _number(option: str, text: str | None) -> float | None:
    if text is None or text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--{option} {text!r}; allowed: a number, or none") from None


def revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    store: Store = None,
    config: Config = None,
) -> None:
    """Make a key open nothing; running gateways know within two seconds.

    Example: metarouter keys revoke key-0123456789ab
    """
    from metarouter.cli.output import say

    engine = open_store(store, config, must_exist=True)
    from metarouter.store.keys import revoke_key

    revoke_key(engine, key_id)
    say(f"{key_id} is revoked")


def _usage(engine: sqlalchemy.Engine, keys: Sequence[ApiKey]) -> dict[str, dict[str, Any]]:
    """Requests and tokens of today (UTC), dollars of the budget's period or in all."""
    from metarouter.store.usage import list_days, read_spent

    minute = int(datetime.now(UTC).timestamp() // 60)
    today = {row.key_id: row for row in list_days(engine, since=minute // 1440)}
    starts = {key.key_id: key.first_minute(minute) for key in keys}
    with engine.connect() as connection:
        spent = read_spent(connection, starts, minute + 1)
    return {
        key.key_id: {
            "requests_today": today[key.key_id].requests if key.key_id in today else 0,
            "tokens_today": today[key.key_id].tokens if key.key_id in today else 0,
            "spent": spent[key.key_id],
        }
        for key in keys
    }


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "state": key.state(datetime.now(UTC).timestamp()),
        "models": "all" if key.models is None else ",".join(key.models),
        "policies": "all" if key.policies is None else ",".join(key.policies),
        "expires": None if key.expires is None else _date(key.expires),
        "is_admin": bool(key.is_admin),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "budget": key.budget,
        "budget_days": key.budget_days,
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
