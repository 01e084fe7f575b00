"""How well each form of the votes' model foretells votes on queries it has not seen.

    ./run python experiments/votes_model.py --data ../shared/data

A quarter of the queries with votes is held out. Ridge regressions on the line, on each kernel
alone and on all together, with the leading functions of each kernel that f takes, and on the
kernel on 8 components, the line with it and all together with every function, by default
features; f is one of them, or a mean by a power of their evidence. Share of the variance of
held-out votes that f explains, and what it adds to the likeliest of the line, the kernel on 8
components and both, which f was before. Judges have no levels here: there is one. The splits for
choosing: pairs, judges simulated on MMLU prompts, and the simulated setting, where gains are
linear. Intervals: bootstrap over pairs or seeds, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from doubt import PAIRS, read_range
from metarouter.correction.judge import design_rows, judge_families, judge_map
from metarouter.features.bases import BASES, learn_query_map
from metarouter.linear import Ridge
from metarouter.testing import SIMULATED_BIASES, make_simulation
from metarouter.types import BoolArray, FloatArray, IntArray
from priors import pair_tasks
from semi_synthetic import read_mmlu, tasks
from study import Task, markdown, with_interval

# Families: line, rbf3, rbf8, rbf20, all of f; rbf8, line and rbf8, all with every function.
THREE, FIVE, UNCUT = [0, 5, 6], [0, 1, 2, 3, 4], [7]
WHOLE = ("rbf8", "linear+rbf8", "linear+rbf3+rbf8+rbf20")
# Families that f is made of, and the power of their evidence; infinite: the likeliest alone.
FORMS: list[tuple[str, list[int], float]] = [
    ("likeliest of line, 8, both", THREE, np.inf),
    ("mean of these, by evidence", THREE, 1.0),
    ("line", [0], np.inf),
    ("all together, every function", UNCUT, np.inf),
    ("all together", [4], np.inf),
    ("likeliest of line, each kernel, all", FIVE, np.inf),
    ("mean of these, by evidence", FIVE, 1.0),
    ("... to the power 1/4", FIVE, 0.25),
    ("... to the power 1/10", FIVE, 0.1),
    ("equal mean of these", FIVE, 0.0),
]
Found = dict[str, dict[str, list[FloatArray]]]  # by world, and by pair or seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pair-seeds", type=read_range, default=range(100, 106))
    parser.add_argument("--mmlu-seeds", type=read_range, default=range(16))
    parser.add_argument("--simulated-seeds", type=read_range, default=range(100, 104))
    arguments = parser.parse_args()
    found: Found = {}
    for folder in sorted(p for p in (arguments.data / PAIRS).iterdir() if p.is_dir()):
        collect(found, pair_tasks(folder, arguments.pair_seeds), pair_of)
    prompts = read_mmlu(arguments.data)
    for seed in arguments.mmlu_seeds:
        collect(found, tasks(prompts, seed), lambda task: (task.world, str(task.seed)))
    simulated = simulated_tasks(arguments.simulated_seeds)
    collect(found, simulated, lambda task: ("simulated", str(task.seed)))
    report(found)


def pair_of(task: Task) -> tuple[str, str]:
    """One world, whose units are the pairs."""
    return PAIRS, task.cell.split()[0]


def simulated_tasks(seeds: range) -> Iterator[Task]:
    """Linear gains and votes."""
    for seed in seeds:
        for bias in SIMULATED_BIASES:
            made = make_simulation(5000, 50, n_gold=100, n_test=10, bias=bias, seed=seed)
            yield Task(
                world=bias,
                cell="",
                seed=seed,
                table=made.table,
                test_features=made.test.row_features(),
                test_gain=made.test_psi,
            )


def collect(found: Found, given: Iterable[Task], place: Callable[[Task], tuple[str, str]]) -> None:
    """Explained shares of the votes of each world and seed; gold sizes share their votes."""
    seen = set()
    for task in given:
        world, unit = place(task)
        if (task.world, unit, task.seed) not in seen:
            seen.add((task.world, unit, task.seed))
            found.setdefault(world, {}).setdefault(unit, []).append(explained(task))


def explained(task: Task) -> FloatArray:
    """Share of the variance of held-out votes that each form explains."""
    votes = task.table.preference()
    queries = np.unique(votes.query)
    drawn = np.random.default_rng(task.seed).permutation(queries)[: len(queries) // 4]
    is_out = np.isin(votes.query, drawn)
    with threadpool_limits(limits=1):
        query_map = learn_query_map(votes.features, BASES, seed=task.seed)  # type: ignore[arg-type]
        narrow, entries = judge_map(query_map, 1)
        families = [entries[each] for each in judge_families(narrow, 1)]
        families += [query_map.columns(basis) for basis in WHOLE]
        X, y, weight = design_rows(query_map, votes), votes.gain, votes.weight
        fits = [foretold(X[:, each], y, weight, is_out) for each in families]
    scores = np.array([score for _, score in fits])
    predicted = np.stack([values for values, _ in fits])
    level = np.average(y[~is_out], weights=weight[~is_out])
    total = weight[is_out] @ (y[is_out] - level) ** 2
    return np.array([
        1.0 - weight[is_out] @ (y[is_out] - mean_of(predicted, scores, used, power)) ** 2 / total
        for _, used, power in FORMS
    ])  # fmt: skip


def foretold(
    X: FloatArray, y: FloatArray, weight: FloatArray, is_out: BoolArray
) -> tuple[FloatArray, float]:
    """Held-out votes by one regression on the others, and its −2 log evidence."""
    kept = ~is_out
    model = Ridge().fit(X[kept], y[kept], weight[kept])
    assert model.spectrum_ is not None
    score = float(model.spectrum_.evidence(np.array([model.penalty_]))[0])
    return model.predict(X[is_out]), score


def mean_of(
    predicted: FloatArray, scores: FloatArray, families: list[int], power: float
) -> FloatArray:
    """Mean of some regressions by a power of their evidence."""
    below = scores[families] - scores[families].min()
    share = (below == 0.0) * 1.0 if np.isinf(power) else np.exp(-0.5 * power * below)
    result: FloatArray = share @ predicted[families] / share.sum()
    return result


def report(found: Found) -> None:
    """One row for each form, two columns for each world."""
    rows = []
    for i, (form, _, _) in enumerate(FORMS):
        row = [form]
        for by_unit in found.values():
            values = np.array([np.mean(each, axis=0) for each in by_unit.values()])
            row += [f"{100 * values[:, i].mean():.2f}", with_interval(added(values, i), digits=2)]
        rows.append(row)
    print(markdown(["f", *(head for world in found for head in (world, "added"))], rows))


def added(values: FloatArray, form: int) -> Callable[[np.random.Generator | None], float]:
    """Percent of variance that a form explains beyond the former one."""

    def statistic(rng: np.random.Generator | None) -> float:
        n = len(values)
        at: IntArray = np.arange(n) if rng is None else rng.integers(n, size=n)
        return 100.0 * float((values[at, form] - values[at, 0]).mean())

    return statistic


if __name__ == "__main__":
    main()
