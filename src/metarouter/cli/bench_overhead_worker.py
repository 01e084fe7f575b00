"""The process that ``metarouter bench overhead`` measures: load, route, report."""

from __future__ import annotations

import json
import sys
import time

__all__ = ["main"]

_WARM_UP = 50


def main(folder: str, n: str, seed: str) -> None:
    """Route `n` new queries one by one, then as many in a batch; print times and memory."""
    import numpy as np

    from metarouter.cli.bench_decision import long_queries, timed
    from metarouter.cli.bench_fit_worker import peak_rss_mb
    from metarouter.loading import load

    router, count = load(folder), int(n)
    queries = long_queries(_WARM_UP + 2 * count, int(seed) + 1)
    timed(router.route, queries[:_WARM_UP])
    before = time.process_time()
    micros = timed(router.route, queries[_WARM_UP : _WARM_UP + count])
    processor, peak = time.process_time() - before, peak_rss_mb()
    start = time.perf_counter()
    router.route_batch(queries[_WARM_UP + count :])
    found = {
        "decisions_per_second": 1e6 / float(np.mean(micros)),
        "p50_us": float(np.percentile(micros, 50)),
        "p99_us": float(np.percentile(micros, 99)),
        "cpu_us": 1e6 * processor / count,  # what other work on the machine does not change
        "batch_per_second": count / (time.perf_counter() - start),
        "peak_rss_mb": peak,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
