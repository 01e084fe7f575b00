"""Similarity-weighted ranking at arena size, beside a fit on all battles for every query.

    ./run python benchmarks/sw_ranking.py [--battles 55000 --dim 256 --json out.json]

Made-up battles of 64 models over 200 topics, ten tiers, γ = 10, one thread. "peer" does
what the published router does for a query, written from its description: weigh every
battle by 10 · 10^(similarity / largest), then fit scikit-learn's logistic regression
without penalty or intercept on all battles, each of them twice so that ties split, the
design matrix built from a data frame of battles for every query. "peer_kept" is the same
with the design matrix kept from query to query, which the published code does not. "scan"
is ours with every prompt compared, "cells" ours with far prompts as wholes. All get the
same embeddings: the embedding call that the published 2.9 decisions/s contain is in none
of them. Win probabilities of peer and scan are compared on the same queries.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from metarouter.gain.sw_ranking import SWRanking
from metarouter.labels import GainTable, make_gain_table

PUBLISHED = 2.9  # decisions a second, RouteLLM's table of overheads
N_MODELS, N_TOPICS, SEED = 64, 200, 0


@dataclass
class Arena:
    """Battles and fresh queries of the same topics."""

    table: GainTable
    queries: NDArray[np.float32]


def make_arena(n: int, dim: int, n_queries: int) -> Arena:
    """Battles whose outcome depends on the models and, more or less, on the topic."""
    rng = np.random.default_rng(SEED)
    topics = rng.normal(size=(N_TOPICS, dim))
    topic = rng.integers(0, N_TOPICS, n + n_queries)
    x = (topics[topic] + 1.3 * rng.normal(size=(n + n_queries, dim))).astype(np.float32)
    first = rng.integers(0, N_MODELS, n)
    second = (first + rng.integers(1, N_MODELS, n)) % N_MODELS
    candidate, baseline = np.maximum(first, second), np.minimum(first, second)
    lead = (candidate - baseline) / 16.0 * (1.0 + rng.normal(size=N_TOPICS)[topic[:n]])
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-lead))
    table = make_gain_table(
        queries=[f"prompt {i}" for i in range(n)],
        models=[f"model {i}" for i in range(N_MODELS)],
        candidate=candidate,
        baseline=baseline,
        gain=np.where(rng.random(n) < 0.3, 0.0, np.where(won, 1.0, -1.0)),
        is_gold=np.zeros(n, dtype=bool),
        features=x[:n],
    )
    return Arena(table=table, queries=x[n:])


class Peer:
    """One logistic regression on all battles for every query."""

    def __init__(self, table: GainTable, tier: NDArray[np.int64], *, keep: bool) -> None:
        candidate, baseline = tier[table.candidate], tier[table.baseline]
        # The published design drops one entry of a battle within a tier; such battles are out.
        kept = candidate != baseline
        outcome = np.select([table.gain > 0, table.gain < 0], ["first", "second"], "tie")
        self.battles = pd.DataFrame({"a": candidate, "b": baseline, "outcome": outcome})[kept]
        x = np.asarray(table.features)[kept]
        self.points = x / np.linalg.norm(x, axis=1, keepdims=True)
        self.kept = self.design() if keep else None

    def design(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rows of ±ln 10 and who won, every battle twice, a tie once each way."""
        place = pd.Series(
            np.arange(10), index=sorted(set(self.battles["a"]) | set(self.battles["b"]))
        )
        twice = pd.concat([self.battles, self.battles], ignore_index=True)
        rows = np.zeros((len(twice), len(place)))
        rows[np.arange(len(twice)), place[twice["a"]]] = math.log(10.0)
        rows[np.arange(len(twice)), place[twice["b"]]] = -math.log(10.0)
        is_first_copy = np.arange(len(twice)) < len(self.battles)
        won = (twice["outcome"] == "first") | ((twice["outcome"] == "tie") & is_first_copy)
        return rows, won.to_numpy().astype(np.int64)

    def elo(self, query: NDArray[np.float32]) -> NDArray[np.float64]:
        """Ratings of the tiers for one query, given as a row."""
        similarity = self.points @ (query[0] / np.linalg.norm(query))
        weight = 10.0 * 10.0 ** (similarity / similarity.max())
        rows, won = self.design() if self.kept is None else self.kept
        model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-4)
        model.fit(rows, won, sample_weight=np.tile(weight, 2))
        return np.asarray(400.0 * model.coef_[0] + 1000.0)


def seconds_each(run: Callable[[NDArray[np.float32]], Any], queries: NDArray[np.float32]) -> Any:
    """Wall and CPU seconds of every call, one query at a time."""
    walls, cpus = [], []
    run(queries[:1])
    for i in range(len(queries)):
        wall, cpu = time.perf_counter(), time.process_time()
        run(queries[i : i + 1])
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "p50_ms": round(1e3 * float(np.median(walls)), 3),
        "p99_ms": round(1e3 * float(np.quantile(walls, 0.99)), 3),
        "cpu_ms": round(1e3 * float(np.mean(cpus)), 3),
    }


def measure_ours(name: str, cells: int | None, arena: Arena) -> tuple[dict[str, Any], SWRanking]:
    """Fit, single queries, and a batch."""
    start = time.perf_counter()
    model = SWRanking(gamma=10.0, num_tiers=10, within_tiers=False, cells=cells).fit(arena.table)
    fitted = time.perf_counter() - start
    record = {"router": name, "fit_seconds": round(fitted, 2)}
    record |= seconds_each(model.predict, arena.queries)
    start = time.perf_counter()
    model.predict(arena.queries)
    batch = (time.perf_counter() - start) / len(arena.queries)
    return record | {"batch_per_second": round(1.0 / batch, 1)}, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--battles", type=int, default=55_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--peer-queries", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with threadpool_limits(limits=1):
        records = compare(arguments)
    for record in records:
        print(record)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all three, and how far their win probabilities are apart."""
    arena = make_arena(arguments.battles, arguments.dim, arguments.queries)
    scan, exact = measure_ours("scan", 0, arena)
    cells, indexed = measure_ours("cells", None, arena)
    asked = arena.queries[: arguments.peer_queries]
    peers = []
    for name, keep in (("peer", False), ("peer_kept", True)):
        peer = Peer(arena.table, exact.tier_, keep=keep)
        peers.append({"router": name} | seconds_each(peer.elo, asked))
    strong, weak = exact.tier_[-1], exact.tier_[0]
    elo = np.array([peer.elo(query[None]) for query in asked])
    p = 1.0 / (1.0 + 10.0 ** ((elo[:, weak] - elo[:, strong]) / 400.0))
    ours = exact.win_probability(arena.queries)[:, -1]
    near = indexed.win_probability(arena.queries)[:, -1]
    scan["largest_difference_to_peer"] = float(np.abs(p - ours[: len(p)]).max())
    cells["correlation_with_scan"] = float(np.corrcoef(near, ours)[0, 1])
    for record in (scan, cells):
        for other in peers:
            record[f"times_{other['router']}"] = round(other["cpu_ms"] / record["cpu_ms"], 1)
        record["times_published"] = round(1e3 / record["p50_ms"] / PUBLISHED, 1)
    return [*peers, scan, cells]


if __name__ == "__main__":
    main()
