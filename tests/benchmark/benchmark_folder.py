"""A small folder of benchmark data with the published files' columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metarouter.testing import make_queries

PREMIUM, CHEAP = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"


def write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def answers(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Right answers of both models, the premium model's more often."""
    return {CHEAP: rng.random(n) < 0.5, PREMIUM: rng.random(n) < 0.8}


def write_folder(root: Path, n: int = 90, seed: int = 0) -> Path:
    """Every benchmark in small; two rows of each RouteLLM one are contaminated."""
    rng = np.random.default_rng(seed)
    texts = list(make_queries(n, rng).texts)
    texts[5] = texts[4]  # a copy
    contaminated = np.arange(n) < 2
    subject = [f"subject {i % 6}" for i in range(n)]
    common = {"prompt": texts, "contaminated": contaminated}
    write(root / "mmlu" / "mmlu.parquet", common | {"subject": subject} | answers(n, rng))
    other = [f"Problem {i}: {text}" for i, text in enumerate(texts)]
    responses = {"mixtral_8x7b_response": ["4" * 40] * n, "gpt4_1106_response": ["4" * 80] * n}
    write(
        root / "gsm8k" / "gsm8k.parquet",
        {"prompt": other, "contaminated": contaminated} | answers(n, rng) | responses,
    )
    _write_mt_bench(root, texts, contaminated, rng)
    _write_pool(root, rng)
    _write_pair(root, texts, rng)
    _write_health(root, texts, rng)
    _write_battles(root, [*texts[4:6], *(f"Chat about {text}" for text in texts[:20])], rng)
    (root / "prices").mkdir()
    (root / "prices" / "prices.csv").write_text(
        "model,input_usd_per_mtok,output_usd_per_mtok,source\n"
        f"{PREMIUM},10,30,x\n{CHEAP},0.5,0.5,x\nsmall / tiny,1,1,x\nlarge,5,5,x\n"
    )
    return root


def _write_mt_bench(root: Path, texts: list[str], contaminated: Any, rng: Any) -> None:
    n = 40
    ids = np.arange(81, 81 + n)
    scores = {
        f"{m}_{t}": rng.integers(1, 11, n).astype(float) for m in (CHEAP, PREMIUM) for t in (1, 2)
    }
    write(
        root / "mt-bench" / "scores.parquet",
        {
            "question_id": ids,
            "prompt_turn1": [f"Write: {text}" for text in texts[:n]],
            "category": ["writing", "math"] * (n // 2),
            "contaminated": contaminated[:n],
        }
        | scores,
    )
    judged = {"question_id": np.repeat(ids, 2), "model": [CHEAP, PREMIUM] * n}
    write(root / "mt-bench" / "judgements.parquet", judged | {"response": ["some words"] * 2 * n})


def _write_pool(root: Path, rng: Any) -> None:
    n, models = 120, ("large", "small", "tiny")
    write(
        root / "mmlu-pro" / "questions.parquet",
        {
            "question_id": np.arange(n),
            "category": ["law", "physics", "math"] * (n // 3),
            "question": [f"Question {i} about {'cats' if i % 2 else 'dogs'}" for i in range(n)],
            "options": [["yes", "no"]] * n,
            "n_prompt_chars": np.full(n, 400),
        },
    )
    right = {"tiny": 0.2, "small": 0.5, "large": 0.9}
    rows = [(i, m) for i in range(n) for m in models if (i, m) != (0, "small")]
    write(
        root / "mmlu-pro" / "results.parquet",
        {
            "question_id": [i for i, _ in rows],
            "model": [m for _, m in rows],
            "correct": [bool(rng.random() < right[m]) for _, m in rows],
            "out_chars": [400] * len(rows),
        },
    )


def _write_pair(root: Path, texts: list[str], rng: Any) -> None:
    n = 60
    ids = [f"q{i}" for i in range(n)]
    for premium, cheap in (("big", "mini"), ("big", "nano")):
        right = np.concatenate([rng.random(n) < 0.7, rng.random(n) < 0.4]).astype(float)
        write(
            root / "pairs" / f"{premium}_vs_{cheap}" / "gold.parquet",
            {
                "query_id": ids * 2,
                "query": texts[10 : 10 + n] * 2,
                "model": [premium] * n + [cheap] * n,
                "score": right,
                "domain": ["a", "b"] * n,
            },
        )


def _write_health(root: Path, texts: list[str], rng: Any) -> None:
    n = 50
    keys = [f"k{i:03d}" for i in range(n)]
    scores = {
        f"score_{arm}": rng.normal(i / 4, 0.3, n)
        for i, arm in enumerate(("gpt-4o-mini", "gpt-4.1-mini", "gpt-4.1-mini+bodhi"))
    }
    scores["score_gpt-4.1-mini"][0] = np.nan
    write(root / "healthbench-hard" / "gains_wide.parquet", {"prompt_key": keys} | scores)
    talk = '[{"role": "user", "content": "Case %d"}, {"role": "assistant", "content": "Go on"}]'
    write(
        root / "healthbench-hard" / "prompts.parquet",
        {
            "prompt_key": keys[::-1],
            "n_turns": [1, 2] * (n // 2),
            "conversation": [talk % i for i in range(n)][::-1],
        },
    )


def _write_battles(root: Path, texts: list[str], rng: Any) -> None:
    n = len(texts)
    ids = [str(i) for i in range(n)]
    names = ("gpt4_1106_preview", "Mixtral-8x7B-Instruct-v0.1")
    write(
        root / "battles" / "alpacaeval.parquet",
        {
            "query_id": ids * 2,
            "model_a": [names[0]] * n + [names[1]] * n,
            "model_b": [names[1]] * n + [names[0]] * n,
            "p_a": [0.9] * n + [0.3] * n,
        },
    )
    write(root / "battles" / "alpacaeval_prompts.parquet", {"query_id": ids, "query": texts})
