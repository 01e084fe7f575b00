"""Published benchmarks: exact counts, protocols that hold out honestly, intervals."""

from metarouter.benchmark.data import BENCHMARKS, Benchmark, load_benchmark
from metarouter.benchmark.splits import PROTOCOLS, Fold, make_runs

__all__ = ["BENCHMARKS", "PROTOCOLS", "Benchmark", "Fold", "load_benchmark", "make_runs"]
