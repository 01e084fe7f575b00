"""Training data of the protocol ``transfer``: nothing of the benchmark itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarouter.benchmark.data import CHEAP, PREMIUM, Benchmark, load_benchmark, read_columns
from metarouter.benchmark.similarity import measure_similarity
from metarouter.errors import DataError
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import Embedder, FloatArray

__all__ = ["transfer_table"]

_SOURCES = ("mmlu", "gsm8k", "mt-bench")
_BATTLE_NAMES = ("gpt4_1106_preview", "Mixtral-8x7B-Instruct-v0.1")
_SPAN = {"mt-bench": 9.0}  # scores from 1 to 10; the others' are right or wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    name: str
    prompts: list[str]
    gain: FloatArray
    is_gold: bool


def transfer_table(benchmark: Benchmark, folder: Path, embedder: Embedder) -> GainTable:
    """Labels of the same two models on other benchmarks, and votes on chat prompts.

    Gold gains of the other benchmarks, in [−1, 1], and judges' votes between the
    two models on AlpacaEval's prompts, 2 p − 1. Prompts that are in the
    benchmark, word for word or with a cosine of 0.95 and more, are left out.

    Parameters
    ----------
    benchmark : Benchmark of RouteLLM's pair.
    folder : path of the data folder.
    embedder : Embedder that finds near copies.

    Raises
    ------
    DataError
        When no other benchmark has labels of these two models.
    """
    if benchmark.models != (CHEAP, PREMIUM):
        raise DataError(
            f"transfer needs labels of {' and '.join(benchmark.models)} on other prompts: there "
            f"are some of {PREMIUM} and {CHEAP} only; try mmlu, gsm8k or mt-bench"
        )
    sources = [_gold(name, folder) for name in _SOURCES if name != benchmark.name]
    sources.append(_votes(folder))
    prompts = [prompt for source in sources for prompt in source.prompts]
    copies = measure_similarity(prompts, benchmark.prompts, embedder).contaminated
    gain = np.concatenate([source.gain for source in sources])
    is_gold = np.concatenate([np.full(len(s.gain), s.is_gold) for s in sources])
    domain = np.repeat(np.arange(len(sources)), [len(s.gain) for s in sources])
    kept = np.flatnonzero(~copies)
    return make_gain_table(
        queries=[prompts[i] for i in kept],
        gain=gain[kept],
        is_gold=is_gold[kept],
        models=(CHEAP, PREMIUM),
        domain=domain[kept],
        domains=[source.name for source in sources],
    )


def _gold(name: str, folder: Path) -> _Source:
    (benchmark,) = load_benchmark(name, folder)
    gain = benchmark.gain / _SPAN.get(name, 1.0)
    return _Source(name=name, prompts=list(benchmark.prompts), gain=gain, is_gold=True)


def _votes(folder: Path) -> _Source:
    """Mean vote of the judges on each AlpacaEval prompt; some judges saw both orders."""
    root = folder / "battles"
    votes = read_columns(root / "alpacaeval.parquet", ("query_id", "model_a", "model_b", "p_a"))
    texts = read_columns(root / "alpacaeval_prompts.parquet", ("query_id", "query"))
    premium, cheap = _BATTLE_NAMES
    forward = (votes["model_a"] == premium) & (votes["model_b"] == cheap)
    backward = (votes["model_a"] == cheap) & (votes["model_b"] == premium)
    p_premium = np.where(forward, votes["p_a"], 1.0 - votes["p_a"])
    rows = (forward | backward) & np.isfinite(p_premium)
    ids, at = np.unique(votes["query_id"][rows].astype(str), return_inverse=True)
    mean = np.bincount(at, p_premium[rows]) / np.bincount(at)
    text_of = dict(zip(texts["query_id"].astype(str), texts["query"], strict=True))
    prompts = [str(text_of[one]) for one in ids]
    return _Source(name="alpacaeval", prompts=prompts, gain=2.0 * mean - 1.0, is_gold=False)
