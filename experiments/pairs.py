"""Compare correctors on the fourteen real pairs of ``data/pairs``.

    ./run python experiments/pairs.py --data ../shared/data --seeds 20 --out results/pairs

Every pair is one ``metarouter compare`` with gold labels for n of the training
prompts and votes for the rest; the study can be interrupted and goes on where
it stopped. The summary pairs methods by (pair, seed, n_gold). Intervals are
over pairs and seeds (bootstrap of both, the same seeds for every pair, because a seed
splits the same prompts for all of them), and over seeds alone, which takes the pairs as given.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from metarouter.evaluation.comparison import YARDSTICKS
from metarouter.evaluation.experiment import compare
from metarouter.evaluation.intervals import corrected_resampled_ttest

# 500 of about 1,878 prompts of a pair are tested on; 0 takes the splits as independent.
TEST_SHARES = (500 / 1878, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/pairs"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--n-gold", default="50,100,250,500")
    parser.add_argument(
        "--correctors",
        default="gold_only,preference_only,none,mean_shift,r,dr,x,two_fidelity,auto,all_gold",
    )
    parser.add_argument("--gain-models", default="ridge")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = []
    for folder in sorted(p for p in (arguments.data / "pairs").iterdir() if p.is_dir()):
        premium, cheap = folder.name.split("_vs_")
        result = compare(
            folder / "gold.parquet",
            folder / "preference.parquet",
            n_gold=[int(n) for n in arguments.n_gold.split(",")],
            correctors=arguments.correctors.split(","),
            gain_models=arguments.gain_models.split(","),
            seeds=arguments.seeds,
            n_test=500,
            premium=premium,
            cheap=cheap,
            jobs=arguments.jobs,
            resume=arguments.out / f"{folder.name}.jsonl",
        )
        records += [{"pair": folder.name, **record} for record in result.as_records()]
        print(folder.name, flush=True)
    (arguments.out / "records.json").write_text(json.dumps(records), encoding="utf-8")
    summarise(records)


def summarise(records: list[dict[str, object]], n_boot: int = 2000) -> None:
    """Print area × 100 and the ratios of auto to both yardsticks, with intervals."""
    for gain_model in sorted({str(r["gain_model"]) for r in records}):
        chosen = [r for r in records if r["gain_model"] == gain_model]
        for n_gold in sorted({int(str(r["n_gold"])) for r in chosen}):
            areas = _areas([r for r in chosen if r["n_gold"] == n_gold])
            _print_size(gain_model, n_gold, areas, n_boot)


def _areas(records: list[dict[str, object]]) -> dict[str, np.ndarray]:
    """Area × 100 by method, shape (pairs, seeds)."""
    pairs = sorted({str(r["pair"]) for r in records})
    seeds = sorted({int(str(r["seed"])) for r in records})
    areas = {
        name: np.full((len(pairs), len(seeds)), np.nan)
        for name in dict.fromkeys(str(r["corrector"]) for r in records)
    }
    for r in records:
        at = pairs.index(str(r["pair"])), seeds.index(int(str(r["seed"])))
        areas[str(r["corrector"])][at] = 100 * float(str(r["efficiency_gain_area"]))
    return areas


def _print_size(gain_model: str, n_gold: int, areas: dict[str, np.ndarray], n_boot: int) -> None:
    means = {name: float(values.mean()) for name, values in areas.items()}
    fixed = max((name for name in YARDSTICKS if name in areas), key=lambda name: means[name])
    to_fixed = _ratio_interval(areas, [fixed], n_boot)
    to_hindsight = _ratio_interval(areas, [n for n in YARDSTICKS if n in areas], n_boot)
    shown = " ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    print(f"{gain_model} n_gold={n_gold}: {shown}")
    print(f"  auto / best fixed ({fixed}): {to_fixed}   auto / hindsight: {to_hindsight}")
    for rival in ("gold_only", "none"):
        if rival in areas:
            counts = [_clearly_below(areas["auto"] - areas[rival], share) for share in TEST_SHARES]
            print(
                f"  pairs where auto is clearly below {rival}: {counts[0]} by the corrected "
                f"resampled test, {counts[1]} if the splits were independent"
            )


def _clearly_below(difference: np.ndarray, test_share: float) -> int:
    """Pairs whose 95 % interval of the mean difference (pairs, seeds) lies below 0."""
    tests = (corrected_resampled_ttest(row, test_share) for row in difference)
    return sum(test.difference.high < 0 for test in tests)


def _ratio_interval(areas: dict[str, np.ndarray], rivals: list[str], n_boot: int) -> str:
    stacked = np.stack([areas[name] for name in rivals])  # (rivals, pairs, seeds)
    auto = areas["auto"]

    def ratio(pairs: np.ndarray, seeds: np.ndarray) -> float:
        best = stacked[:, pairs][:, :, seeds].mean(axis=2).max(axis=0).mean()
        return float(auto[pairs][:, seeds].mean() / best)

    n_pairs, n_seeds = auto.shape
    every_pair, every_seed = np.arange(n_pairs), np.arange(n_seeds)
    rng = np.random.default_rng(0)
    like_them = [
        ratio(rng.integers(n_pairs, size=(n_pairs,)), rng.integers(n_seeds, size=(n_seeds,)))
        for _ in range(n_boot)
    ]
    given = [ratio(every_pair, rng.integers(n_seeds, size=(n_seeds,))) for _ in range(n_boot)]
    (low, high), (lowest, highest) = (np.quantile(d, [0.025, 0.975]) for d in (like_them, given))
    return (
        f"{ratio(every_pair, every_seed):.3f} [{low:.3f}, {high:.3f}], "
        f"for these pairs [{lowest:.3f}, {highest:.3f}]"
    )


if __name__ == "__main__":
    main()
