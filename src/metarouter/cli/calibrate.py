"""``metarouter calibrate``: another threshold for a fitted router."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import JsonOut, RouterFolder, Seed, refuse_idle_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metarouter.policy.calibrate import Calibration
    from metarouter.router import Router

__all__ = ["calibrate"]


def calibrate(
    context: typer.Context,
    folder: RouterFolder,
    queries: Annotated[
        Path | None, typer.Option(metavar="F", help="Queries: text lines, JSONL, CSV, Parquet.")
    ] = None,
    gold: Annotated[
        list[Path] | None, typer.Option(metavar="F", help="Held-out gold, for --max-loss.")
    ] = None,
    premium_share: Annotated[float | None, typer.Option(help="Share of premium calls.")] = None,
    budget: Annotated[float | None, typer.Option(help="Cost of 1,000 queries.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Largest mean loss, in gain units.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of --max-loss.")] = 0.95,
    premium: Annotated[
        str | None,
        typer.Option(metavar="M", help="Of a pool, keep this model and the reference; with --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: DIR itself.")] = None,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Set the threshold to a premium share, a budget, or a largest quality loss.

    With two models and a share, also prints RouteLLM's name of it, router-NAME-THRESHOLD: premium
    from that win rate upwards. A router that learned from many models becomes one of two with
    --premium.

    Example: metarouter calibrate router --queries traffic.txt --premium-share 0.3
    """
    from metarouter.calibration import calibrate as calibrate_router
    from metarouter.cli.output import emit, require_writable, say
    from metarouter.errors import OptionError
    from metarouter.loading import load
    from metarouter.querying import read_queries

    refuse_idle_options(context, "max_loss", {"confidence": (), "gold": ()})
    if premium is not None and out is None:
        raise OptionError("--premium makes another router: give its folder, --out DIR")
    target = folder if out is None else out
    require_writable(target / "manifest.json", json_out, inputs=[queries, *(gold or ())])
    whole = load(folder)
    texts = None if queries is None else read_queries(queries)
    router, found = calibrate_router(
        whole if premium is None else whole.for_pair(premium),
        texts,
        gold=gold,
        premium_share=premium_share,
        budget=budget,
        max_loss=max_loss,
        confidence=confidence,
        seed=seed,
    )
    router.save(target)
    record = _record(found, router) | _named(router, texts, premium_share)
    for line in _told(found, router):
        say(line, json_out)
    if record["router_name"] is not None:
        say(f"as RouteLLM writes it: {record['router_name']}", json_out)
    say(f"router written to {target}; policy version {router.policy.version}", json_out)
    emit(json_out, "calibrate", [record], seed=seed)


def _record(found: Calibration, router: Router) -> dict[str, Any]:
    share = found.premium_share
    return {
        "w": found.w,
        "premium_share": share.value,
        "premium_share_low": share.low,
        "premium_share_high": share.high,
        "cost_per_1k": found.cost_per_1k.value,
        "certified": found.certified,
        "reason": found.reason,
        "policy_version": router.policy.version,
    }


def _told(found: Calibration, router: Router) -> Iterator[str]:
    """The share, and the cost of 1,000 queries where that is not counted in calls."""
    share, spent = found.premium_share, found.cost_per_1k
    is_pool = len(router.models) > 2
    named = f"share of queries that leave {router.models[0]}" if is_pool else "premium share"
    yield (
        f"{found.reason}; {named} {share.value:.3f}, on new queries of the same source "
        f"between {share.low:.3f} and {share.high:.3f} ({share.level:.0%})"
    )
    if router.cost.unit != "calls":
        has_interval = spent.low == spent.low  # NaN of a single query
        interval = f"[{spent.low:.4g}, {spent.high:.4g}]" if has_interval else "(one query)"
        cost = f"{spent.value:.4g} {router.cost.unit}"
        yield f"expected cost of 1,000 queries: {cost} {interval}"


def _named(router: Router, texts: list[str] | None, share: float | None) -> dict[str, Any]:
    """RouteLLM's name of the threshold, and the share that it gives; None where it has none."""
    from metarouter.routellm.names import router_name
    from metarouter.routellm.win_rates import calibrate_win_rate, router_win_rates

    if texts is None or share is None or len(router.models) > 2:
        return {"router_name": None, "win_rate_threshold": None, "win_rate_share": None}
    rates = router_win_rates(router, texts)
    threshold = calibrate_win_rate(rates, share)
    model = str(router.artifact.config.get("gain_model", "auto")).partition(":")[0]
    return {
        "router_name": router_name(model, threshold),
        "win_rate_threshold": threshold,
        "win_rate_share": float((rates >= threshold).mean()),
    }
