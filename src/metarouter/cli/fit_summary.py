"""What ``metarouter fit`` tells of a fitted router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metarouter.cli.output import emit, say
from metarouter.router import Router

__all__ = ["fit_record", "report_fit", "say_fit"]


def report_fit(router: Router, folder: Path, json_out: str | None, seed: int) -> None:
    """Print a fitted router in a few lines and write its record."""
    say_fit(router, folder, json_out)
    emit(json_out, "fit", [fit_record(router, folder)], seed=seed)


def say_fit(router: Router, folder: Path, json_out: str | None) -> None:
    """Print a fitted router in a few lines."""
    record = fit_record(router, folder)
    rows = " and ".join(f"{n:,} {source}" for source, n in router.facts["rows"].items())
    say(f"fitted on {rows} rows; models: {', '.join(router.models)} (reference first)", json_out)
    for line in _left_out(router.artifact.config["labels"]):
        say(line, json_out)
    say(f"threshold: {router.artifact.config['calibration']['reason']}", json_out)
    if len(router.models) > 2:
        say(_of_pool(router), json_out)
    if record["efficiency_gain_area"] is not None:
        say(
            "cross-fitted efficiency-gain area "
            f"{record['efficiency_gain_area']:.4f} [{record['efficiency_gain_area_low']:.4f}, "
            f"{record['efficiency_gain_area_high']:.4f}] gain units per query (0 is random)",
            json_out,
        )
        if record["efficiency_gain_area_low"] <= 0:
            say(
                "Mind this: these labels do not show that the router beats sending queries at "
                "random; label more gold queries, of all kinds that it will meet",
                json_out,
            )
    elif router.facts["folds"]:
        say(
            "Mind this: too few gold labels to tell whether the router beats sending queries at "
            "random",
            json_out,
        )
    say(f"router written to {folder}; policy version {router.policy.version}", json_out)


def _of_pool(router: Router) -> str:
    """What is other than with two models."""
    if router.cost.unit == "calls":
        return (
            f"costs count calls: every model but {router.models[0]} costs the same; "
            "--cost token tells them apart"
        )
    return (
        f"a premium share counts every model but {router.models[0]}, dear or not; --budget sets "
        "what is spent"
    )


def _left_out(report: Mapping[str, Any] | None) -> Iterator[str]:
    """What reading left out, and whether the scores want their range."""
    if report is None:
        return
    counts = (
        ("rows_skipped", "bad rows"),
        ("rows_unpaired", "scores that stand alone"),
        ("rows_other_models", "rows about other models"),
    )
    lost = [f"{report[name]:,} {what}" for name, what in counts if report[name]]
    if lost:
        yield f"left out: {', '.join(lost)}"
    if report["looks_swapped"]:
        yield (
            "Mind this: gold labels are votes and preference labels are scores; if that is the "
            "wrong way round, swap --gold and --preference"
        )
    low, high = report["gain_range"]
    if low < -1 or high > 1:
        yield (
            f"Mind this: gains reach from {low:+g} to {high:+g}, votes from -1 to +1; name the "
            "range of the scores, such as --score-range 1,5"
        )


def fit_record(router: Router, folder: Path) -> dict[str, Any]:
    """A fitted router as a flat record."""
    facts = router.facts
    area = facts["metrics"].get("efficiency_gain_area") or {}
    return {
        "router": str(folder),
        "models": ",".join(router.models),
        "rows_gold": facts["rows"].get("gold", 0),
        "rows_preference": facts["rows"].get("preference", 0),
        "corrector": facts["corrector"],
        "gain_model": facts["gain_model"],
        "embedder": facts["embedder"],
        "w": facts["w"],
        "policy_version": facts["policy_version"],
        "efficiency_gain_area": area.get("value"),
        "efficiency_gain_area_low": area.get("low"),
        "efficiency_gain_area_high": area.get("high"),
    }
