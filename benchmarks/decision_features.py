"""What the default features cost: one query at a time, in batches, and to load.

    ./run python benchmarks/decision_features.py [--json out.json]

Prompts are made here. Every timed query is new to the process, but most of its
words are not, as in a service that has run for some minutes. Times are of one
thread; CPU seconds are given beside wall seconds, since on a shared machine
only the former belong to this process. "tokeniser" is the time that the
Hugging Face tokenizer itself takes, measured on the same texts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from metarouter.features import FeaturePipeline, load_pipeline, make_embedder, make_pipeline

SEED = 0
N_SINGLE = 3_000
N_BATCH = 6_000
_TOPICS = (
    "the boiling point of water at altitude", "a left join over two large tables",
    "the causes of the French Revolution", "a triangle with sides 3, 4 and 5",
    "consideration in contract law", "the citric acid cycle", "a fair price for used books",
    "a polite reminder to a landlord", "the second law of thermodynamics", "binary search trees",
)  # fmt: skip
_ASKS = (
    "Explain {} to a student who has never met the idea, with one worked example.",
    "Which of the following is true of {}?\nA. It never changes.\nB. It depends on size.\nC. Both.",
    "Write a Python function about {} and test it.\n```python\ndef solve(items):\n    ...\n```",
    "I have 12 minutes. How would you summarise {} in 7 bullet points?",
)  # fmt: skip


def make_prompts(n: int, rng: np.random.Generator) -> list[str]:
    """Prompts of about 100 tokens, no two alike; one word in twenty is new."""
    prompts = []
    for _ in range(n):
        asks = rng.choice(len(_ASKS), size=3, replace=False)
        parts = [_ASKS[a].format(_TOPICS[rng.integers(len(_TOPICS))]) for a in asks]
        names = " ".join(f"Case{rng.integers(1_000_000)}" for _ in range(3))
        prompts.append(" ".join([*parts, names]))
    return prompts


def quantiles_us(call: Callable[[list[str]], object], texts: Sequence[str]) -> dict[str, float]:
    """Median and 99th percentile of the wall time of a call with one text."""
    times = np.empty(len(texts))
    for i, text in enumerate(texts):
        started = time.perf_counter()
        call([text])
        times[i] = time.perf_counter() - started
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e6
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def cpu_us(call: Callable[[], object], n: int) -> float:
    """CPU microseconds per text of a call that handles `n` texts."""
    started = time.process_time()
    call()
    return round((time.process_time() - started) / n * 1e6, 1)


def fresh_load_seconds(pipeline: FeaturePipeline) -> dict[str, float]:
    """Seconds from a saved state to the first features, in a new process, NumPy imported."""
    import tempfile

    from safetensors.numpy import save_file

    state = pipeline.state()
    with tempfile.TemporaryDirectory() as folder:
        save_file(state.arrays, Path(folder) / "arrays.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(state.config))
        code = (
            "import json, sys, time, numpy; started = time.perf_counter(), time.process_time()\n"
            "from pathlib import Path\n"
            "from metarouter.features import load_pipeline\n"
            "from metarouter.types import ModelState\n"
            "from safetensors.numpy import load_file\n"
            "folder = Path(sys.argv[1])\n"
            "state = ModelState(kind='feature_pipeline',\n"
            "    config=json.loads((folder / 'config.json').read_text()),\n"
            "    arrays=load_file(folder / 'arrays.safetensors'))\n"
            "load_pipeline(state).transform(['first'])\n"
            "print(time.perf_counter() - started[0], time.process_time() - started[1])\n"
        )
        runs = [
            [*map(float, subprocess.check_output([sys.executable, "-c", code, folder]).split())]
            for _ in range(5)
        ]
    wall, cpu = np.median(runs, axis=0)
    return {"wall": round(float(wall), 3), "cpu": round(float(cpu), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the default features.")
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    prompts = make_prompts(2_000 + N_SINGLE + N_BATCH, rng)
    train, single, batch = np.split(np.array(prompts, dtype=object), [2_000, 2_000 + N_SINGLE])
    texts, tokenizer = list(batch), make_tokenizer()
    ids = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts[:500]]

    started = time.perf_counter()
    pipeline = load_pipeline(make_pipeline().fit(list(train)).state())
    results: dict[str, object] = {
        "fit_2000_seconds": round(time.perf_counter() - started, 2),
        "tokens_p50": float(np.median(ids)),
        "single": quantiles_us(pipeline.transform, list(single)),
    }
    total = cpu_us(lambda: pipeline.transform(texts), len(texts))
    results["batch_cpu_us"] = total
    results["batch_per_cpu_second"] = round(1e6 / total)
    for spec in ("hashed", "static", "surface"):
        embedder = make_embedder(spec)
        read = getattr(embedder, "embed_sparse", embedder.embed)
        results[f"{spec}_cpu_us"] = cpu_us(partial(read, texts), len(texts))
    results["tokeniser_whole_text_cpu_us"] = cpu_us(
        lambda: [tokenizer.encode(text, add_special_tokens=False) for text in texts], len(texts)
    )
    results["tokeniser_share"] = round(tokeniser_share(pipeline, make_prompts(N_BATCH, rng)), 3)
    results["load_to_first_features_seconds"] = fresh_load_seconds(pipeline)
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def make_tokenizer() -> Tokenizer:
    """The static embedding's tokenizer, read here once more."""
    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    return Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))


def tokeniser_share(pipeline: FeaturePipeline, texts: list[str]) -> float:
    """Share of the profiled time of new texts that is spent inside the tokenizer."""
    profile = cProfile.Profile()
    profile.runcall(pipeline.transform, texts)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    inside = sum(own for (_, _, name), (_, _, own, _, _) in stats.items() if "Tokenizer" in name)
    return float(inside / total)


if __name__ == "__main__":
    main()
