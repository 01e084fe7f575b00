"""Similarity-weighted ranking at arena size, beside a fit on all battles for every query.

    ./run python benchmarks/sw_ranking.py [--battles 55000 --dim 256 --rounds 40 --json out.json]

Made-up battles of 64 models over 200 topics, ten tiers, γ = 10, one thread. "peer" does
what the published router does for a query, written from its description: weigh every
battle by 10 · 10^(similarity / largest), then fit scikit-learn's logistic regression
without penalty or intercept on all battles, each of them twice so that ties split, the
design matrix built from a data frame of battles for every query. "peer_kept" is the same
with the design matrix kept from query to query, which the published code does not. "scan"
is ours with every prompt compared, "cells" ours with far prompts as wholes. All get the
same embeddings: the embedding call that the published 2.9 decisions/s contain is in none
of them. All are asked in turns within one run, so that what else the machine does falls on
all; times are medians, and intervals of their ratios a bootstrap over rounds. Win probabilities of
peer and scan are compared on the same queries.
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


class Timed:
    """A router with the wall and processor seconds of its queries, one at a time."""

    def __init__(self, name: str, run: Callable[[NDArray[np.float32]], Any], per_round: int):
        self.name, self.run, self.per_round = name, run, per_round
        self.walls: list[float] = []
        self.cpus: list[float] = []

    def ask(self, queries: NDArray[np.float32], turn: int) -> None:
        """One round of queries."""
        for i in range(turn * self.per_round, (turn + 1) * self.per_round):
            query = queries[i % len(queries)][None]
            wall, cpu = time.perf_counter(), time.process_time()
            self.run(query)
            self.walls.append(time.perf_counter() - wall)
            self.cpus.append(time.process_time() - cpu)

    def record(self) -> dict[str, Any]:
        return {
            "router": self.name,
            "queries": len(self.walls),
            "p50_ms": round(1e3 * float(np.median(self.walls)), 3),
            "p99_ms": round(1e3 * float(np.quantile(self.walls, 0.99)), 3),
            "cpu_ms": round(1e3 * float(np.median(self.cpus)), 3),
        }


def times(other: Timed, ours: Timed) -> list[float]:
    """Ratio of median processor times, and its 95 % bootstrap interval over rounds."""
    rng = np.random.default_rng(SEED)
    slow, fast = (np.reshape(router.cpus, (-1, router.per_round)) for router in (other, ours))
    drawn = rng.integers(0, len(slow), (2_000, len(slow)))
    ratios = np.median(slow[drawn], axis=(1, 2)) / np.median(fast[drawn], axis=(1, 2))
    ratio = float(np.median(slow) / np.median(fast))
    return [round(float(x), 1) for x in (ratio, *np.quantile(ratios, [0.025, 0.975]))]


def make_ours(cells: int | None, arena: Arena) -> tuple[dict[str, Any], SWRanking]:
    """Fit, and the decisions a second of a batch."""
    start = time.perf_counter()
    model = SWRanking(gamma=10.0, num_tiers=10, within_tiers=False, cells=cells).fit(arena.table)
    fitted = time.perf_counter() - start
    batches = []
    for _ in range(5):
        start = time.process_time()
        model.predict(arena.queries)
        batches.append(time.process_time() - start)
    rate = len(arena.queries) / float(np.median(batches))
    return {"fit_seconds": round(fitted, 2), "batch_per_cpu_second": round(rate, 1)}, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--battles", type=int, default=55_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cells", type=int, help="2 √n by default, as in SWRanking")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with threadpool_limits(limits=1):
        records = compare(arguments)
    for record in records:
        print(record)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all four in turns, and how far their win probabilities are apart."""
    arena = make_arena(arguments.battles, arguments.dim, arguments.queries)
    scan, exact = make_ours(0, arena)
    cells, indexed = make_ours(arguments.cells, arena)
    peer, kept = (Peer(arena.table, exact.tier_, keep=keep) for keep in (False, True))
    peers = [Timed("peer", peer.elo, 1), Timed("peer_kept", kept.elo, 1)]
    ours = [Timed("scan", exact.predict, 5), Timed("cells", indexed.predict, 20)]
    for router in (*peers, *ours):
        router.run(arena.queries[:1])
    for turn in range(arguments.rounds):
        for router in (*peers, *ours):
            router.ask(arena.queries, turn)
    scan["largest_difference_to_peer"] = difference(kept, exact, arena.queries[:20])
    near, far = (m.win_probability(arena.queries)[:, -1] for m in (exact, indexed))
    cells["correlation_with_scan"] = round(float(np.corrcoef(near, far)[0, 1]), 3)
    records = [router.record() for router in peers]
    for router, found in zip(ours, (scan, cells), strict=True):
        ratios = {f"times_{other.name}": times(other, router) for other in peers}
        record = router.record() | found | ratios
        record["times_published"] = round(1e3 / record["p50_ms"] / PUBLISHED, 1)
        records.append(record)
    return records


def difference(peer: Peer, ours: SWRanking, queries: NDArray[np.float32]) -> float:
    """Largest difference of P(strong wins) between peer and scan."""
    strong, weak = ours.tier_[-1], ours.tier_[0]
    elo = np.array([peer.elo(query[None]) for query in queries])
    p = 1.0 / (1.0 + 10.0 ** ((elo[:, weak] - elo[:, strong]) / 400.0))
    return float(np.abs(p - ours.win_probability(queries)[:, -1]).max())


if __name__ == "__main__":
    main()
