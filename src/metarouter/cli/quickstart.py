"""``metarouter quickstart``: the whole job on labels made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut, Seed

__all__ = ["quickstart"]

_QUERIES = (
    "Hi! How was your weekend?",
    "Prove rigorously by induction that the derivative exists for every n > 12.",
)


def quickstart(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for labels, router, report.")
    ] = Path("metarouter-quickstart"),
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Make labels, train a router, evaluate it, write a report, and route two queries.

    Example: metarouter quickstart --out demo
    """
    from metarouter.cli.evaluate import say_evaluation
    from metarouter.cli.fit_summary import say_fit
    from metarouter.cli.output import emit, progress, require_writable, say
    from metarouter.evaluation.evaluate import evaluate_router
    from metarouter.evaluation.report import write_evaluation_report
    from metarouter.fitting import fit
    from metarouter.testing import make_world

    require_writable(out / "report.html", json_out)
    world = make_world("topic_bias", n_queries=2000, n_gold=300, n_both=100, n_test=1000, seed=seed)
    paths = world.write(out / "labels")
    say(f"labels made here, with known truth, in {out / 'labels'}", json_out)
    with progress("fitting") as callback:
        router = fit(paths.gold, paths.preference, premium="premium", cheap="cheap",
                     seed=seed, progress=callback)  # fmt: skip
    router.save(out / "router")
    say_fit(router, out / "router", json_out)
    evaluation = evaluate_router(router, paths.test, seed=seed)
    write_evaluation_report(evaluation, out / "report.html")
    records = evaluation.as_records()
    say(f"\non {evaluation.n:,} held-out gold queries:", json_out)
    say_evaluation(evaluation, json_out)
    say(f"report: {out / 'report.html'}\n", json_out)
    for query in _QUERIES:
        decision = router.route(query)
        say(f"{decision.model}: {query}\n  {decision.reason}", json_out)
    say("\nnext, with your own files: metarouter labels check --gold F --preference F", json_out)
    emit(json_out, "quickstart", records, seed=seed)
