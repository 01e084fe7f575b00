"""The table of commands."""

from __future__ import annotations

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


def make_app() -> typer.Typer:
    """Build the command line; nothing heavy is imported."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    app.callback(help=_HELP)(_options)
    app.command("quickstart")(quickstart.quickstart)
    app.command("fit")(fit.fit)
    app.command("evaluate")(evaluate.evaluate)
    app.command("compare")(compare.compare)
    app.command("benchmark")(benchmark.benchmark)
    app.command("calibrate")(calibrate.calibrate)
    app.command("onboard")(onboard.onboard)
    app.command("route")(route.route)
    app.command("serve")(serve.serve)
    app.command("experiments")(experiments.experiments)
    app.command("refit")(refit.refit)
    app.command("collect")(collect.collect)
    app.command("judge")(judge.judge)
    app.command("grade")(grade.grade)
    labels = typer.Typer(help="Look at label files, and make them.", no_args_is_help=True)
    labels.command("check")(labels_check.check)
    labels.command("battles")(labels_battles.battles)
    labels.command("tiers")(labels_tiers.tiers)
    labels.command("hub")(labels_hub.hub)
    labels.command("export")(labels_export.export)
    app.add_typer(labels, name="labels")
    key_commands = typer.Typer(help="Say who may call the gateway.", no_args_is_help=True)
    key_commands.command("create")(keys.create)
    key_commands.command("list")(keys.list_all)
    key_commands.command("update")(keys.update)
    key_commands.command("revoke")(keys.revoke)
    app.add_typer(key_commands, name="keys")
    store_commands = typer.Typer(help="Look after the gateway's database.", no_args_is_help=True)
    store_commands.command("info")(store.info)
    store_commands.command("migrate")(store.migrate)
    store_commands.command("prune")(store.prune)
    store_commands.command("replay")(store.replay)
    app.add_typer(store_commands, name="store")
    bench = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
    bench.command("decision")(bench_decision.bench_decision)
    bench.command("fit")(bench_fit.bench_fit)
    bench.command("overhead")(bench_overhead.bench_overhead)
    app.add_typer(bench, name="bench")
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
