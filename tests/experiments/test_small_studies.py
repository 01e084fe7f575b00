"""Studies of routers in small: each runs on made data, and says what it should of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metarouter.benchmark import Benchmark

pytest.importorskip("threadpoolctl", reason="the studies need the train extra")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))


@pytest.fixture
def benchmark() -> Benchmark:
    """Questions of ten subjects; the premium model is right, the cheap one on every other."""
    kinds = ("long division of", "the spelling of")
    return Benchmark(
        name="toy",
        prompts=tuple(f"please explain {kinds[i % 2]} number {i}" for i in range(120)),
        models=("cheap", "premium"),
        quality=np.stack([np.arange(120) % 2, np.ones(120)], axis=1),
        subject=np.arange(120) // 12,
        subjects=tuple(f"subject {i}" for i in range(10)),
    )


def test_cells_that_are_all_near_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cells are all looked into, forty are not."""
    import sw_cells

    monkeypatch.setattr(sw_cells, "N_BATTLES", 400)
    correlation, difference, _, deviations = sw_cells.compare(10.0, 0, n_cells=8)
    assert correlation == pytest.approx(1.0)
    assert difference < 1e-6
    assert deviations == pytest.approx(1.0, abs=1e-5)
    assert sw_cells.compare(10.0, 0, n_cells=40)[1] > 1e-4


def test_test_questions_of_the_study_of_gamma_are_of_other_subjects(benchmark: Benchmark) -> None:
    """Where subjects are split; and no question is on both sides in either split."""
    from sw_gamma import split

    for kind in ("random", "subjects"):
        train, test = split(benchmark, kind, 60, 0)
        assert len(train) == 60
        assert not set(train.tolist()) & set(test.tolist())
    assert not set(benchmark.subject[train].tolist()) & set(benchmark.subject[test].tolist())


def test_every_gamma_and_the_chosen_one_are_measured(benchmark: Benchmark) -> None:
    from metarouter.gain.sw_ranking import GAMMAS
    from sw_gamma import measure

    areas, chosen = measure(benchmark, "random", 80, 0)
    assert len(areas) == len(GAMMAS) + 1
    assert areas[-1] == areas[GAMMAS.index(chosen)] > 0.6  # the kind of question says it all


def test_scores_are_out_of_fold_and_differences_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """One area less itself is 0 in every resample; what trains is not what is scored."""
    import components
    from components import area, less, orders, out_of_fold
    from embedders import Task

    monkeypatch.setattr(components, "N_FOLDS", 2)
    monkeypatch.setattr(components, "N_BOOTSTRAP", 20)
    n = 60
    task = Task(
        name="toy",
        prompts=[f"{'sum' if i % 2 else 'poem'} about number {i}" for i in range(n)],
        gain=np.where(np.arange(n) % 2, 1.0, 0.0),
        fold=np.arange(n) // 2 % 2,
    )
    for fold, order in enumerate(orders(task)):
        assert set(order.tolist()) == set(np.flatnonzero(task.fold != fold).tolist())
    many, few = out_of_fold(task, 4, 6)
    assert np.isfinite([many, few]).all()
    weight = np.ones(n)
    assert area(task, many, weight) > area(task, -many, weight)
    assert less(task, many, many) == "0.000 [0.000, 0.000]"


def test_two_runs_are_compared_model_by_model() -> None:
    """Seeds are averaged, other methods and models of one run only are left out."""
    from onboarding_compare import compare
    from onboarding_report import Row

    def run(more: float, models: int) -> list[Row]:
        return [
            Row(world="toy", model=f"model {model}", seed=seed, method=method, k=20,
                area=model + more + 0.1 * seed, covered=0.9)
            for model in range(models) for seed in range(2) for method in ("onboard", "refit")
        ]  # fmt: skip

    (line,) = compare(run(0.0, 3), run(0.5, 4)).splitlines()[2:]
    assert line == "| toy | 20 | 1.05 | 1.55 | 0.50 [0.50, 0.50] | 0.90 | 0.90 |"


def test_a_report_of_onboarding_has_a_table_for_each_world(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from onboarding_report import Row, report

    report([
        Row(world=world, model=f"model {model}", seed=0, method="refit", k=99, area=1.0 + model)
        for world in ("first", "second") for model in range(3)
    ])  # fmt: skip
    shown = capsys.readouterr().out
    assert "first: 3 new models" in shown
    assert "second: 3 new models" in shown
    assert shown.count("| refit | 99 | 2.00") == 2


def test_probes_of_a_model_come_in_one_order_for_a_seed() -> None:
    """Its own for each model and seed."""
    from onboarding_report import probe_order

    queries = np.arange(100)
    orders = [probe_order(seed, model, queries).tolist() for seed in (0, 1) for model in "ab"]
    assert orders[0] == probe_order(0, "a", queries).tolist()
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == queries.tolist() for order in orders)


def test_the_study_of_doubt_reads_its_own_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prior as good as the best yardstick of every cell and pair has a ratio of 1."""
    import doubt
    from doubt import PAIRS, name_of, record, report
    from study import YARDSTICKS, Log

    monkeypatch.setattr(doubt, "DOUBTS", (2.0, 4.0))
    log = Log(tmp_path / "doubt.jsonl")
    for world, cell in ((PAIRS, "a_vs_b"), (PAIRS, "a_vs_c"), ("judge", "n_gold=50")):
        for seed in range(2):
            for i, name in enumerate([*YARDSTICKS, *map(name_of, doubt.DOUBTS)]):
                best = name in ("gold_only", name_of(2.0))
                log.add(record(world, cell, seed, name, 0.1 if best else 0.05 - 0.001 * i))
    (tmp_path / "semi_synthetic.jsonl").touch()
    report(Log(log.path), tmp_path, range(2))
    first, second = capsys.readouterr().out.splitlines()[2:4]
    exact = "1.000 [1.000, 1.000]"
    assert first == f"| {name_of(2.0)} | {' | '.join([exact] * 4)} | 1.00 |"
    assert exact not in second


def test_the_prior_that_is_swept_is_that_of_the_corrector() -> None:
    from doubt import MAKERS, Doubtful, read_range

    corrector = Doubtful(5.0)(seed=3)
    assert (corrector.priors.ignore, corrector.priors.ignore_contestant) == (5.0, 5.0)
    assert corrector.seed == 3
    assert set(MAKERS) > {"gold_only"}
    assert list(read_range("100:103")) == [100, 101, 102]


def test_the_study_of_kernels_compares_families_with_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A family whose areas are half of the first one's has a ratio of 0.5 everywhere."""
    from doubt import PAIRS, record
    from kernels import FAMILIES, FORMER, N_GOLD, OfFamily, report
    from study import Log

    log = Log(tmp_path / "kernels.jsonl")
    cells = [(PAIRS, f"{pair} n_gold={n}") for pair in "ab" for n in N_GOLD] + [("j", "n_gold=50")]
    for world, cell in cells:
        for seed in range(2):
            for family in FAMILIES:
                log.add(record(world, cell, seed, family, 0.02 if family == FORMER else 0.01))
    report(log)
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert first.split(" | ")[1:] == ["1.000 [1.000, 1.000]"] * 3 + ["1.000 [1.000, 1.000] |"]
    assert second.count("0.500 [0.500, 0.500]") == 4
    assert OfFamily("line")(seed=3).bases == ("linear",)


def test_labels_of_a_made_world_have_the_mean_that_is_called_true() -> None:
    """Without a signal every gain is tanh(0.15); with one, gains differ by query."""
    from mf_coverage import make_world

    table, fresh, truth = make_world(0.0, 10_000, 2, seed=0)
    assert (len(table), len(fresh)) == (10_000, len(truth))
    np.testing.assert_allclose(truth, np.tanh(0.15))
    # labels of ±1 have a standard error of 0.01
    assert table.gain.mean() == pytest.approx(np.tanh(0.15), abs=0.04)
    assert make_world(3.0, 10, 2, seed=0)[2].std() > 0.3


@pytest.mark.torch
def test_intervals_of_mf_are_measured_beside_its_members_and_ridge() -> None:
    pytest.importorskip("torch")
    from mf_coverage import held, make_world

    shares = held(*make_world(1.0, 60, 4, seed=0), seed=0)
    assert len(shares) == 3
    assert 0.5 < shares[2] <= 1.0


@pytest.mark.torch
def test_routers_beside_causal_lm_are_compared_on_the_test_questions(
    benchmark: Benchmark,
) -> None:
    pytest.importorskip("torch")
    from causal_lm import as_markdown, measure

    train, test = np.arange(80), np.arange(80, 120)
    records = [measure(benchmark, router, train, test, 0) for router in ("ridge", "knn")]
    lines = as_markdown(benchmark, records, test).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `ridge`", "| `knn`"]
    assert all(len(r["score"]) == 40 for r in records)


def test_a_judge_that_is_blind_to_its_own_answers_is_seen_to_be() -> None:
    """Figures equal a loop over pairs; a level that differs between pairs is no agreement."""
    from contestant_judges import figures

    rng = np.random.default_rng(0)
    pair = np.arange(600) % 3
    own = pair == 0
    human = rng.normal(size=600) + 5.0 * pair
    verdict = np.where(own, rng.normal(size=600), human + rng.normal(size=600)) - 9.0 * own
    weight = rng.integers(1, 4, size=600).astype(float)
    has = {"judge": own, "other": pair == 1}
    found = figures(human, verdict, pair, has, weight)

    def correlation(pairs: list[int]) -> float:
        products = np.zeros(3)
        for p in pairs:
            at = pair == p
            h, v = (x[at] - np.average(x[at], weights=weight[at]) for x in (human, verdict))
            products += [weight[at] @ (a * b) for a, b in ((h, v), (h, h), (v, v))]
        return float(products[0] / np.sqrt(products[1] * products[2]))

    with_judge, without = correlation([0]), correlation([1, 2])
    other = correlation([1]) - correlation([0, 2])
    np.testing.assert_allclose(found, [with_judge, without, with_judge - without, other])
    assert abs(found[0]) < 0.2
    assert 0.6 < found[1] < 0.8


def test_asked_shares_are_reached_on_the_queries_that_set_the_price() -> None:
    """As far as they have as many; and fewer where new gains are half as wide."""
    from asked_share import SHARES, reached

    known = np.random.default_rng(0).permutation(np.arange(-9.5, 10.5))[:, None]
    asked = [np.floor(20 * share) / 20 for share in SHARES.tolist()]
    assert reached(known, known).tolist() == pytest.approx(asked)
    narrow = reached(known, known / 2)
    assert narrow[0] < 0.1
    assert narrow[-1] > 0.75


def test_asked_shares_are_counted_for_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in, a threshold for few lets more pass, and one for most fewer."""
    import asked_share

    monkeypatch.setattr(asked_share, "N_TEST", 200)
    found = asked_share.replication("worlds gold", "ridge", 60, 0, 2)
    assert list(found) == ["halves", "own"]
    assert found["halves"][0] > found["own"][0]
    assert found["halves"][-1] < found["own"][-1]


def test_a_judge_of_the_study_of_asked_shares_votes_on_all_and_gold_on_half(
    benchmark: Benchmark,
) -> None:
    from asked_share import judged

    table = judged(benchmark, np.arange(40), 0)
    assert table.query[table.is_gold].tolist() == list(range(20))
    assert table.gain[table.is_gold].tolist() == benchmark.gain[:20].tolist()
    assert table.query[~table.is_gold].tolist() == list(range(40))
    assert set(table.gain[~table.is_gold].tolist()) <= {-1.0, 0.0, 1.0}


def test_the_prior_in_use_gives_the_area_of_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken while `auto` fits, the others beside it."""
    import made_worlds
    import priors
    from study import OWN_POSTERIOR, Log

    monkeypatch.setattr(made_worlds, "N_QUERIES", 150)
    monkeypatch.setattr(made_worlds, "N_TEST", 100)
    log = Log(tmp_path / "priors.jsonl")
    priors.run(log, made_worlds.make_task("topic_bias", 40, 0), [OWN_POSTERIOR])
    area = {r.method: r.area for r in log.records}
    assert set(area) == {OWN_POSTERIOR, *priors.PRIORS}
    assert area[priors.USED] == pytest.approx(area[OWN_POSTERIOR], abs=1e-9)
    assert area["gold alone 4"] != area[priors.USED]


def test_the_level_of_a_judge_helps_where_it_is_right_and_misleads_where_it_is_not() -> None:
    """Mean error with ten labels, always believed or never."""
    import judges_level

    def error(off: float, chance: float) -> float:
        return float(np.mean([judges_level.level_error(off, 10, chance, s)[0] for s in range(30)]))

    assert error(0.4, 1.0) > error(0.4, 0.0) + 0.1
    assert abs(error(0.0, 1.0)) < 0.05


def test_made_worlds_of_the_study_of_scatter_have_the_noise_they_name() -> None:
    """And the two settings are measured on the same split against ψ."""
    import scatter
    from metarouter.correction.fidelity import EvidenceCorrector

    noisy = {}
    for kind in scatter.MADE:
        task = scatter.made(kind, 50, 0)
        votes, gold = task.table.preference(), task.table.gold()
        assert len(gold) == 50
        assert len(votes) == scatter.N_VOTES
        assert len(task.test_gain) == scatter.N_TEST
        noisy[kind] = EvidenceCorrector().fit(task.table).diagnostics_["gold_weight_ratio"]
    assert noisy["both"] > 1.1 > noisy["neither"]
    assert set(np.unique(scatter.made("exact", 50, 0).table.gold().gain)) == {-1.0, 0.0, 1.0}
    found = scatter.collect([scatter.made("both", 50, seed) for seed in (0, 1)])
    values = scatter.seeds_of(found["both, 50"])
    assert values.shape == (2, 2, 3)
    assert scatter.error_ratio(values) == pytest.approx(
        values[:, 0, 1].mean() / values[:, 1, 1].mean()
    )
    assert ((values[:, :, 2] > 0) & (values[:, :, 2] <= 1)).all()


def test_the_study_of_the_votes_model_foretells_votes_held_out() -> None:
    """Where votes are a line, and plenty, evidence takes it, and nothing beats it by much."""
    import votes_model

    task = next(votes_model.simulated_tasks(range(1)))
    shares = dict(zip(range(len(votes_model.FORMS)), votes_model.explained(task), strict=True))
    line, former = shares[2], shares[0]
    assert votes_model.FORMS[2][0] == "line"
    assert line == former  # the likeliest of three
    assert 0.2 < line < 1.0
    assert all(share < line + 0.01 for share in shares.values())


def test_a_mean_of_forms_goes_from_all_alike_to_the_likeliest() -> None:
    import votes_model

    predicted = np.array([[1.0], [2.0], [4.0]])
    scores = np.array([10.0, 8.0, 0.0])  # -2 log evidence
    for power, share in ((0.0, 0.5), (0.25, 1 / (1 + np.exp(-0.25))), (np.inf, 1.0)):
        found = votes_model.mean_of(predicted, scores, [0, 1], power)
        assert found[0] == pytest.approx(1.0 + share)
