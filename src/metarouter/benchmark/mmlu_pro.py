"""MMLU-Pro answered by 31 models: routing among many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metarouter.benchmark.costs import call_cost, read_price_rows
from metarouter.benchmark.data import Benchmark, codes, positions, read_columns
from metarouter.errors import DataError
from metarouter.types import FloatArray

__all__ = ["load_mmlu_pro"]

# The row of the price list for each model. Base models are served at the price of the chat model
# of their size; where a model is on no list, the nearest of its family and size stands for it.
_PRICED_AS = {
    "DeepSeek-Coder-V2": "deepseek-chat",
    "Llama-2-13b-hf": "llama-3.1-8b-instruct",
    "Llama-2-70b-hf": "llama-3-70b-instruct",
    "Llama-2-7b-hf": "llama-3-8b-instruct",
    "Meta-Llama-3-70B": "llama-3-70b-instruct",
    "Meta-Llama-3-8B": "llama-3-8b-instruct",
    "Meta-Llama-3_1-70B": "llama-3.1-70b-instruct",
    "Meta-Llama-3_1-70B-Instruct": "llama-3.1-70b-instruct",
    "Meta-Llama-3_1-8B": "llama-3.1-8b-instruct",
    "Meta-Llama-3_1-8B-Instruct": "llama-3.1-8b-instruct",
    "Mistral-7B-Instruct-v0.1": "mistral-7b-instruct-v0.1/v0.2/v0.3",
    "Mistral-7B-Instruct-v0.2": "mistral-7b-instruct-v0.1/v0.2/v0.3",
    "Mistral-7B-v0.1": "mistral-7b-instruct-v0.1/v0.2/v0.3",
    "Mistral-7B-v0.2-hf": "mistral-7b-instruct-v0.1/v0.2/v0.3",
    "Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b-instruct-v0.1",
    "Mixtral-8x7B-v0.1": "mixtral-8x7b-instruct-v0.1",
    "Phi-3-mini-4k-instruct": "phi-3-mini",
    "Qwen1.5-110B": "qwen1.5-72b-chat",
    "Qwen1.5-72B-Chat": "qwen1.5-72b-chat",
    "Qwen1.5-7B-Chat": "qwen1.5-7b-chat",
    "Yi-34B": "yi-34b-chat",
    "Yi-6B": "yi-6b",
    "Yi-6b-Chat": "yi-6b",
    "c4ai-command-r-v01": "command-r-v01",
    "deepseek-chat-v2": "deepseek-chat",
    "gemini-1.5-flash-002": "gemini-1.5-flash",
    "gemini-1.5-pro-002": "gemini-1.5-pro",
    "gemma-7b": "gemma-2-9b-it",
    "gpt-4o-2024-05-13": "gpt-4o-2024-05-13",
    "jamba-1.5-large": "jamba-1.5-large",
    "mathstral-7B": "mistral-7b-instruct-v0.1/v0.2/v0.3",
}


def load_mmlu_pro(folder: Path) -> Benchmark:
    """Questions that every model answered; models by ascending mean accuracy.

    The cost of a call is at list price, for the length of the prompt and of
    the answer that the model gave.

    Raises
    ------
    DataError
        When the files do not fit together.
    """
    root = folder / "mmlu-pro"
    questions = read_columns(
        root / "questions.parquet",
        ("question_id", "category", "question", "options", "n_prompt_chars"),
    )
    results = read_columns(
        root / "results.parquet", ("question_id", "model", "correct", "out_chars")
    )
    ids, first = np.unique(questions["question_id"], return_index=True)
    model, names = codes(results["model"])
    at = positions(ids, results["question_id"], "question_id"), model
    quality, answer = np.full((2, len(ids), len(names)), np.nan)
    quality[at], answer[at] = results["correct"], results["out_chars"]
    keep = np.isfinite(quality).all(axis=1)
    if not keep.any():
        raise DataError(f"{root}: no question was answered by all of {len(names)} models")
    first, quality, answer = first[keep], quality[keep], answer[keep]
    order = np.argsort(quality.mean(axis=0), kind="stable")
    models = tuple(names[i] for i in order)
    number, subjects = codes(questions["category"][first])
    chars = questions["n_prompt_chars"][first]
    return Benchmark(
        name="mmlu-pro",
        prompts=tuple(_prompt(questions, int(i)) for i in first),
        models=models,
        quality=quality[:, order],
        subject=number,
        subjects=subjects,
        cost=_costs(folder, models, chars, answer[:, order]),
        n_contaminated=0,
    )


def _prompt(questions: dict[str, Any], row: int) -> str:
    options = "\n".join(
        f"{chr(65 + i)}. {option}" for i, option in enumerate(questions["options"][row])
    )
    return f"{questions['question'][row]}\n{options}"


def _costs(folder: Path, models: tuple[str, ...], chars: Any, answer: FloatArray) -> FloatArray:
    prices = read_price_rows(folder)
    return np.column_stack(
        [
            call_cost(prices, _PRICED_AS.get(model, model), chars, answer[:, i])
            for i, model in enumerate(models)
        ]
    )
