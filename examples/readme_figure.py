"""Draw the figure of the README: ./run python examples/readme_figure.py (a minute).

Quality over the share of premium calls on 1,500 held-out gold queries of three made worlds, which
differ in the judge. In each, three routers learn from the same 50 gold-labelled queries and 1,475
votes; they differ in what they make of the votes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from metarouter import Evaluation, evaluate_router, fit
from metarouter.testing import make_world

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "cost_quality.svg"
SEED = 0
WORLDS = {
    "null_bias": "the judge is right",
    "topic_bias": "the judge errs by topic",
    "perverse_judge": "the judge prefers the worse answer",
}
LINES = {
    "gold_only": ("gold alone", "#c4622d", 1.6),
    "none": ("all labels pooled", "#7a5195", 1.6),
    "auto": ("metarouter", "#0b6e75", 2.6),
}
# A fixed salt and no date make the same run the same file.
STYLE: Any = {
    "svg.hashsalt": "metarouter",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def main() -> None:
    """Fit, evaluate, draw, and print what the figure shows."""
    found = {world: evaluate_world(world) for world in WORLDS}
    draw(found, OUT if len(sys.argv) == 1 else Path(sys.argv[1]))
    for world, evaluations in found.items():
        for corrector, evaluation in evaluations.items():
            area = evaluation.area
            print(f"{world} {corrector}: {area.value:.4f} [{area.low:.4f}, {area.high:.4f}]")


def evaluate_world(name: str) -> dict[str, Evaluation]:
    """One evaluation for each corrector, all on the same labels."""
    world = make_world(name, n_queries=1500, n_gold=50, n_both=25, n_test=1500, seed=SEED)
    with TemporaryDirectory() as folder:
        labels = world.write(folder)
        return {
            corrector: evaluate_router(
                fit(
                    labels.gold,
                    labels.preference,
                    premium="premium",
                    cheap="cheap",
                    corrector=corrector,
                    folds=0,
                    seed=SEED,
                ),
                labels.test,
                seed=SEED,
            )
            for corrector in LINES
        }


def draw(found: dict[str, dict[str, Evaluation]], path: Path) -> None:
    """One panel a world; the band is metarouter's, simultaneous at 95 %."""
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(found), figsize=(9.6, 3.4), sharey=True, layout="constrained"
        )
        for axes, (world, evaluations) in zip(panels, found.items(), strict=True):
            _draw_panel(axes, evaluations)
            axes.set_title(WORLDS[world])
        panels[0].set_ylabel("mean gold score")
        panels[1].set_xlabel("share of calls to the premium model")
        lines = panels[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=5, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _draw_panel(axes: Any, evaluations: dict[str, Evaluation]) -> None:
    reference = evaluations["auto"].curve
    axes.plot(reference.share, reference.oracle, color="#8a8a8a", ls=":", label="oracle")
    axes.plot(reference.share, reference.random, color="#8a8a8a", ls="--", label="random")
    for corrector, (label, colour, width) in LINES.items():
        curve = evaluations[corrector].curve
        axes.plot(curve.share, curve.band.value, color=colour, lw=width, label=label)
    band = reference.band
    axes.fill_between(reference.share, band.low, band.high, color=LINES["auto"][1], alpha=0.15)


if __name__ == "__main__":
    main()
