"""``metarouter onboard``: a model that the router was not fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut, Prices, RouterFolder

__all__ = ["onboard"]


def onboard(
    folder: RouterFolder,
    model: Annotated[str, typer.Option(metavar="NAME", help="The new model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the new router.")],
    gold: Annotated[
        list[Path] | None,
        typer.Option(metavar="F", help="Gold labels of the new and of known models; 0 to 200."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="M", help="Cheap model of a pair that is new as a whole.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="M", help="Known model that it resembles.")
    ] = None,
    prices: Prices = None,
    json_out: JsonOut = None,
) -> None:
    """Add a model to a router, or move it to a new pair, with few labels.

    Example: metarouter onboard router --gold probes.jsonl --model newcomer --out router2
    """
    from metarouter.cli.output import emit, require_writable, say
    from metarouter.loading import load
    from metarouter.onboarding import onboard as onboard_model

    require_writable(out / "manifest.json", json_out, inputs=[*(gold or ()), prices])
    router = onboard_model(
        load(folder), gold or None, model=model, baseline=baseline, like=like, prices=prices
    )
    router.save(out)
    record = {
        **router.artifact.config["onboarded"][-1],
        "models": ",".join(router.models),
        "policy_version": router.policy.version,
    }
    say(_sentence(record, router.models[0]), json_out)
    say(f"router written to {out}; policy version {router.policy.version}", json_out)
    target = "--premium-share 0.5" if router.cost.unit == "calls" else "--budget USD_OF_1000"
    say(f"next: metarouter calibrate {out} --queries TRAFFIC {target}", json_out)
    emit(json_out, "onboard", [record], seed=None)


def _sentence(record: dict[str, object], reference: str) -> str:
    if "mean_gain" not in record:
        return f"{record['model']} is served from what is known of other models, without a label"
    return (
        f"{record['model']}: mean gain {record['mean_gain']:.3f} ± {record['mean_gain_std']:.3f} "
        f"over {reference} on {record['n_labels']} queries"
    )
