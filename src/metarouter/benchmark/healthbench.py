"""HealthBench Hard: medical conversations graded by physicians' rubrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from metarouter.benchmark.data import Benchmark, codes, read_columns
from metarouter.labels.messages import render_messages

__all__ = ["load_healthbench_hard"]

# Premium over cheap: another model, a dearer way to call the same one, and both.
_PAIRS = (
    ("gpt-4.1-mini", "gpt-4o-mini"),
    ("gpt-4.1-mini+bodhi", "gpt-4.1-mini"),
    ("gpt-4.1-mini+bodhi", "gpt-4o-mini"),
)


def load_healthbench_hard(folder: Path) -> list[Benchmark]:
    """One benchmark for each pair of arms, on the conversations that both answered.

    Quality is the rubric score, points met over points possible; penalties can
    make it negative.
    """
    root = folder / "healthbench-hard"
    arms = sorted({arm for pair in _PAIRS for arm in pair})
    scores = read_columns(
        root / "gains_wide.parquet", ("prompt_key", *(f"score_{arm}" for arm in arms))
    )
    prompts = read_columns(root / "prompts.parquet", ("prompt_key", "n_turns", "conversation"))
    keys, row = np.unique(prompts["prompt_key"].astype(str), return_index=True)
    at = row[np.searchsorted(keys, scores["prompt_key"].astype(str))]
    texts = [render_messages(json.loads(prompts["conversation"][i])) for i in at]
    turns = np.where(prompts["n_turns"][at] > 1, "several turns", "one turn")
    found = []
    for premium, cheap in _PAIRS:
        quality = np.column_stack([scores[f"score_{arm}"] for arm in (cheap, premium)])
        keep = np.isfinite(quality).all(axis=1)
        number, subjects = codes(turns[keep])
        found.append(
            Benchmark(
                name="healthbench-hard",
                prompts=tuple(texts[i] for i in np.flatnonzero(keep)),
                models=(cheap, premium),
                quality=quality[keep],
                subject=number,
                subjects=subjects,
                pair=f"{premium}_vs_{cheap}",
            )
        )
    return found
