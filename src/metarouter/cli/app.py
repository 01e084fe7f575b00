"""The table of commands."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from metarouter.cli import (
    bench_decision,
    bench_fit,
    bench_overhead,
    benchmark,
    calibrate,
    collect,
    compare,
    evaluate,
    experiments,
    fit,
    grade,
    judge,
    keys,
    labels_battles,
    labels_check,
    labels_export,
    labels_hub,
    labels_split,
    labels_tiers,
    onboard,
    quickstart,
    refit,
    route,
    serve,
    store,
)

__all__ = ["make_app"]

_HELP = "Learn which queries need the expensive model, and prove what it saves."

_COMMANDS: dict[str, Callable[..., None]] = {
    "quickstart": quickstart.quickstart,
    "fit": fit.fit,
    "evaluate": evaluate.evaluate,
    "compare": compare.compare,
    "benchmark": benchmark.benchmark,
    "calibrate": calibrate.calibrate,
    "onboard": onboard.onboard,
    "route": route.route,
    "serve": serve.serve,
    "experiments": experiments.experiments,
    "refit": refit.refit,
    "collect": collect.collect,
    "judge": judge.judge,
    "grade": grade.grade,
    "labels check": labels_check.check,
    "labels battles": labels_battles.battles,
    "labels tiers": labels_tiers.tiers,
    "labels hub": labels_hub.hub,
    "labels split": labels_split.split,
    "labels export": labels_export.export,
    "keys create": keys.create,
    "keys list": keys.list_all,
    "keys update": keys.update,
    "keys revoke": keys.revoke,
    "store info": store.info,
    "store migrate": store.migrate,
    "store prune": store.prune,
    "store replay": store.replay,
    "bench decision": bench_decision.bench_decision,
    "bench fit": bench_fit.bench_fit,
    "bench overhead": bench_overhead.bench_overhead,
}
_GROUPS = {
    "labels": "Look at label files, and make them.",
    "keys": "Say who may call the gateway.",
    "store": "Look after the gateway's database.",
    "bench": "Measure speed and memory on this machine.",
}


def make_app() -> typer.Typer:
    """Build the command line; nothing heavy is imported."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")
    app.callback(help=_HELP)(_options)
    groups = {name: typer.Typer(help=text, no_args_is_help=True) for name, text in _GROUPS.items()}
    for name, command in _COMMANDS.items():
        group, _, own = name.rpartition(" ")
        groups.get(group, app).command(own)(command)
    for name, part in groups.items():
        app.add_typer(part, name=name)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("metarouter"))
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""
