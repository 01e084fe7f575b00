"""The process that ``metarouter bench fit`` measures: read, fit, report."""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise

__all__ = ["main", "peak_rss_mb"]


def main(gold: str, preference: str, corrector: str, embedder: str, seed: str) -> None:
    """Read and fit the two files; print seconds of each step and peak memory as JSON."""
    from metarouter.fitting import FitOptions, fit_table
    from metarouter.labels.read import read_gain_table

    marks = [time.perf_counter()]
    table, report = read_gain_table(gold, preference, premium="premium", cheap="cheap")
    marks.append(time.perf_counter())
    options = FitOptions(corrector=corrector, embedder=embedder, seed=int(seed))
    fit_table(table, options, report=report, progress=lambda *_: marks.append(time.perf_counter()))
    steps = ("read", "features", "learn", "cross_fit", "calibrate")
    seconds = [after - before for before, after in pairwise(marks)]
    found = {"seconds": marks[-1] - marks[0]}
    found |= {f"{name}_seconds": value for name, value in zip(steps, seconds, strict=True)}
    sys.stdout.write(json.dumps(found | {"peak_rss_mb": peak_rss_mb()}))


def peak_rss_mb() -> float:
    """Largest memory of this process in MiB; the system counts KiB, macOS bytes."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main(*sys.argv[1:])
