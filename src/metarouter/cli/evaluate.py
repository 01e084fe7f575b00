"""``metarouter evaluate``: what a router is worth on held-out gold labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarouter.cli.options import Gold, JsonOut, Report, RouterFolder, Seed

if TYPE_CHECKING:
    from metarouter.evaluation.evaluate import Evaluation

__all__ = ["evaluate", "say_evaluation"]


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
    from metarouter.cli.output import emit, progress, require_writable, say
    from metarouter.evaluation.evaluate import evaluate_router
    from metarouter.evaluation.report import write_evaluation_report
    from metarouter.loading import load

    require_writable(report, json_out, inputs=gold)
    with progress("evaluating"):
        evaluation = evaluate_router(load(folder), gold, seed=seed)
        if report is not None:
            write_evaluation_report(evaluation, report)
    say_evaluation(evaluation, json_out)
    if report is not None:
        say(f"report: {report}", json_out)
    emit(json_out, "evaluate", evaluation.as_records(), seed=seed)


def say_evaluation(evaluation: Evaluation, json_out: str | None) -> None:
    """Print an evaluation: a table, its units, the verdict and what it rests on."""
    from metarouter.cli.output import print_table, say

    records = evaluation.as_records()
    print_table(records, list(records[0]), json_out)
    say(
        f"quality: {evaluation.quality_unit}; cost of 1,000 queries: "
        f"{evaluation.facts['cost_unit']}; intervals: 95 %, over {evaluation.n:,} queries",
        json_out,
    )
    say(_legend(evaluation), json_out)
    if len(evaluation.models) > 2:
        shares = zip(evaluation.models, evaluation.model_shares, strict=True)
        say(f"sent to {', '.join(f'{model} {share:.0%}' for model, share in shares)}", json_out)
        alone = [
            f"{model} {quality:.3f} at {cost:,.4g}"
            for model, (cost, quality) in evaluation.singles.items()
        ]
        say(f"each alone, quality and cost: {', '.join(alone)}", json_out)
    say(f"\n{evaluation.verdict.sentence}", json_out)
    say(f"{evaluation.verdict.headline}. {evaluation.verdict.basis}".rstrip(), json_out)
    for warning in evaluation.warnings:
        say(f"Mind this: {warning}", json_out)


def _legend(evaluation: Evaluation) -> str:
    """What the policies of the table are."""
    is_pool = len(evaluation.models) > 2
    calls = f"calls of other models than {evaluation.models[0]}" if is_pool else "premium calls"
    steps = f"router_N: N % {calls}"
    if any(value.policy.startswith("budget_") for value in evaluation.policies):
        steps = f"budget_N: within N % of {evaluation.premium}'s cost; premium share: of {calls}"
    return (
        f"random: as many queries to each model; hull: the best fixed mixture at the same cost; "
        f"oracle: knows every gold label; {steps}"
    )
