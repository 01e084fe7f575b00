"""``metarouter bench decision``: how long one routing decision takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import JsonOut, Seed

if TYPE_CHECKING:
    from metarouter.labels.table import GainTable

__all__ = ["bench_decision", "long_queries", "small_table", "timed"]

_WARM_UP = 200
_WORDS_PER_QUERY = 52  # a little more once the last part is added: about 100 tokens


def bench_decision(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A router; made here by default.")
    ] = None,
    n: Annotated[int, typer.Option(min=100, help="Queries to time.")] = 5000,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Time single decisions and batches on queries of about 100 tokens.

    Example: metarouter bench decision --json decision.json
    """
    import numpy as np

    from metarouter.cli.output import emit, print_table
    from metarouter.features.registry import make_embedder
    from metarouter.fitting import FitOptions, fit_table
    from metarouter.loading import load
    from metarouter.policy.costs import estimate_tokens

    router = (
        fit_table(small_table(seed), FitOptions(folds=0, seed=seed))
        if folder is None
        else load(folder)
    )
    # Every query is new to what is timed, as in traffic; only the warm-up is shared.
    warm_up, whole, embedded, tokenised, batch = np.split(
        np.array(long_queries(_WARM_UP + 4 * n, seed), dtype=object),
        [_WARM_UP, _WARM_UP + n, _WARM_UP + 2 * n, _WARM_UP + 3 * n],
    )
    static = make_embedder("static")
    timed(router.route, warm_up)
    micros = timed(router.route, whole)
    features = timed(lambda query: router.features.transform([query]), embedded)
    tokens = timed(lambda query: static.embed([query]), tokenised)
    start = time.perf_counter()
    router.route_batch(list(batch))
    seconds = time.perf_counter() - start
    record = {
        "n": n,
        "p50_us": float(np.percentile(micros, 50)),
        "p99_us": float(np.percentile(micros, 99)),
        "batch_per_second": n / seconds,
        "features_p50_us": float(np.percentile(features, 50)),
        "static_p50_us": float(np.percentile(tokens, 50)),
        "features_share": float(np.median(features) / np.median(micros)),
        "tokens_per_query": float(np.mean([estimate_tokens(query) for query in whole])),
    }
    print_table([record], list(record), json_out)
    emit(json_out, "bench decision", [record], seed=seed)


def long_queries(n: int, seed: int) -> list[str]:
    """Different queries of about 100 tokens."""
    import numpy as np

    from metarouter.testing import make_queries

    texts = make_queries(4 * n, np.random.default_rng(seed)).texts
    queries: list[str] = []
    parts = iter(texts * 4)
    while len(queries) < n:
        query = next(parts)
        while query.count(" ") < _WORDS_PER_QUERY:
            query = f"{query} {next(parts)}"
        queries.append(query)
    return queries


def timed(call: Callable[[str], Any], queries: Iterable[str]) -> list[float]:
    """Microseconds of each call, with the garbage collector off."""
    gc.disable()
    try:
        micros = []
        for query in queries:
            start = time.perf_counter_ns()
            call(query)
            micros.append((time.perf_counter_ns() - start) / 1000)
        return micros
    finally:
        gc.enable()


def small_table(seed: int) -> GainTable:
    """Labels of a made world, to fit a router on quickly."""
    from metarouter.testing import make_world

    return make_world(n_queries=2000, n_gold=300, n_test=0, seed=seed).table
