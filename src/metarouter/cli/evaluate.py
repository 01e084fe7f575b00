"""``metarouter evaluate``: what a router is worth on held-out gold labels."""

from __future__ import annotations

from metarouter.cli.options import Gold, JsonOut, Report, RouterFolder, Seed

__all__ = ["evaluate"]


def evaluate(
    folder: RouterFolder,
    gold: Gold,
    report: Report = None,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Measure quality and cost of a router on held-out gold labels.

    Example: metarouter evaluate router --gold test.jsonl --report report.html
    """
    from metarouter.cli.output import emit, print_table, say
    from metarouter.evaluation.evaluate import evaluate_router
    from metarouter.evaluation.report import write_evaluation_report
    from metarouter.loading import load

    evaluation = evaluate_router(load(folder), gold, seed=seed)
    records = evaluation.as_records()
    if report is not None:
        write_evaluation_report(evaluation, report)
    print_table(records, list(records[0]), json_out)
    say(evaluation.verdict.sentence, json_out)
    for warning in evaluation.warnings:
        say(f"Mind this: {warning}", json_out)
    emit(json_out, "evaluate", records, seed=seed)
