"""The Python interface: labels in any form to a router, and what it records."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import metarouter as mr
from metarouter.calibration import CalibrationTarget
from metarouter.crossfitted import CrossFitted, cross_fit
from metarouter.errors import ArtifactError, DataError, LabelError, OptionError
from metarouter.evaluation.metrics import folded_area_statistic
from metarouter.fitting import FitOptions, fit_table, label_fingerprint
from metarouter.gain.out_of_bag import unseen_gains
from metarouter.labels.split import take_queries
from metarouter.labels.table import make_gain_table
from metarouter.policy.calibrate import calibrate_share
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import GainEstimate
from metarouter.spread import draw_in, spread_ratio
from metarouter.testing import World, WorldPaths, make_world
from metarouter.testing.worlds import gold_records, preference_records


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("topic_bias", n_queries=400, n_gold=100, n_test=200, seed=2)


@pytest.fixture(scope="module")
def paths(world: World, tmp_path_factory: pytest.TempPathFactory) -> WorldPaths:
    return world.write(tmp_path_factory.mktemp("labels"))


def _fit(gold: Any, preference: Any = None, **options: Any) -> mr.Router:
    quick: dict[str, Any] = {"embedder": "surface", "corrector": "none", "folds": 0}
    return mr.fit(gold, preference, **(quick | options))


def test_the_example_of_the_readme(paths: WorldPaths, tmp_path: Path) -> None:
    """Ten lines from label files to a served decision."""
    router = mr.fit(gold=paths.gold, preference=paths.preference)
    decision = router.route("Prove that there are infinitely many primes.")
    assert decision.model in {"cheap", "premium"}
    router.save(tmp_path / "router")
    assert mr.load(tmp_path / "router").route("Hi") == router.route("Hi")


@pytest.mark.parametrize(
    "form",
    [
        lambda records: records,
        iter,
        pd.DataFrame,
        pl.DataFrame,
    ],
    ids=["list", "iterator", "pandas", "polars"],
)
def test_labels_come_in_any_form(
    world: World, paths: WorldPaths, form: Callable[[list[dict[str, Any]]], Any]
) -> None:
    """Records and data frames give the router that files give."""
    gold = list(gold_records(world.table.gold()))
    preference = list(preference_records(world.table.preference()))
    router = _fit(form(gold), form(preference))
    assert router.policy.version == _fit(paths.gold, paths.preference).policy.version


def test_the_artifact_records_the_fit(paths: WorldPaths) -> None:
    """Config, data, metrics and libraries say how the router came about."""
    router = _fit(paths.gold, paths.preference, folds=3, seed=4)
    artifact = router.artifact
    assert artifact.config["corrector"] == "none"
    assert artifact.config["seed"] == 4
    assert artifact.config["labels"]["rows_read"] == 500
    assert {name: source.rows for name, source in artifact.data.items()} == {
        "gold": 100,
        "preference": 300,
    }
    assert "numpy" in artifact.libraries
    area = artifact.metrics["efficiency_gain_area"]
    assert area["low"] < area["value"] < area["high"]
    assert area["n"] == 100


def test_the_router_knows_its_training_queries(paths: WorldPaths, world: World) -> None:
    """An evaluation on training queries is refused; on others it works."""
    router = _fit(paths.gold, paths.preference)
    with pytest.raises(DataError, match="fitted on all"):
        mr.evaluate_router(router, paths.gold)
    evaluation = mr.evaluate_router(router, paths.test)
    assert evaluation.n == 200


def test_fingerprints_do_not_depend_on_row_order_and_do_on_content(world: World) -> None:
    """Permuted rows have the same fingerprint; one changed gain another."""
    table = world.table.gold()
    order = np.random.default_rng(0).permutation(len(table))
    assert label_fingerprint(table.rows(order)) == label_fingerprint(table)
    gain = table.gain.copy()
    gain[0] += 0.01
    assert label_fingerprint(table.with_gains(gain, table.variance)) != label_fingerprint(table)


@pytest.mark.parametrize(
    ("target", "expected"),
    [({"premium_share": 0.2}, 0.2), ({"budget": 300.0}, 0.3), ({"w": 10.0}, 0.0)],
)
def test_the_target_sets_the_premium_share(
    paths: WorldPaths, world: World, target: dict[str, float], expected: float
) -> None:
    """Of training prompts, spread as new ones are, it is what was asked for, and never above it."""
    router = _fit(paths.gold, paths.preference, **target)
    costs = router.expected_costs(list(world.texts))
    chosen = best_model(*gains_and_costs(_as_new(router, world), costs), router.policy.w)
    assert expected - 0.02 <= chosen.mean() <= expected


def _as_new(router: mr.Router, world: World) -> Any:
    """Predicted gains of the training queries, drawn in by what a fit to half of them shows."""
    options = FitOptions(corrector="none", embedder="surface", folds=0)
    ratio = spread_ratio(world.table, options.make_features, options.learn)
    mean = router.predict_gain(list(world.texts)).mean.reshape(-1, 1)
    return draw_in(mean, mean, ratio)


def test_a_forest_s_share_is_set_on_bags_that_did_not_see_the_prompt(world: World) -> None:
    """On its own predictions for training prompts, which are too wide, w would be another."""
    target = CalibrationTarget(premium_share=0.2)
    options = FitOptions(
        corrector="none", gain_model="forest", embedder="surface", folds=0, target=target
    )
    table = take_queries(world.table, np.flatnonzero(world.has_gold)).gold()
    router = fit_table(table, options)
    features = router.features.transform(table.queries)
    model = options.learn(table.with_features(features))
    costs = router.expected_costs(table.queries)
    expected = calibrate_share(unseen_gains(model, features), costs, 0.2)
    assert router.policy.w == pytest.approx(expected.w)
    assert router.policy.w < calibrate_share(model.predict(features).mean, costs, 0.2).w - 0.01


def test_cross_fitted_ranks_set_the_share_of_a_forest(world: World) -> None:
    """Each prompt counts as what the router says at the place that its fold gave it."""
    options = FitOptions(
        corrector="none", gain_model="forest", embedder="surface", folds=2,
        target=CalibrationTarget(premium_share=0.2),
    )  # fmt: skip
    table = take_queries(world.table, np.flatnonzero(world.has_gold)).gold()
    router = fit_table(table, options)
    crossed = cross_fit(table, options.make_features, options.learn, folds=2, seed=0)
    assert crossed.rank is not None
    features = router.features.transform(table.queries)
    known = np.sort(unseen_gains(options.learn(table.with_features(features)), features).ravel())
    placed = np.interp(crossed.rank * (len(known) - 1), np.arange(len(known)), known)
    expected = calibrate_share(placed, router.expected_costs(table.queries), 0.2)
    assert router.policy.w == pytest.approx(expected.w)


def test_a_loss_limit_is_set_on_cross_fitted_gold(paths: WorldPaths) -> None:
    """A loose limit allows a cheaper router than a strict one."""
    loose = _fit(paths.gold, paths.preference, max_loss=0.5, folds=3)
    strict = _fit(paths.gold, paths.preference, max_loss=0.05, folds=3)
    assert loose.policy.w > strict.policy.w


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"premium_share": 0.2, "w": 0.1}, "`premium_share` and `w` were given"),
        ({"premium_share": 1.2}, "share"),
        ({"corrector": "magic"}, "magic"),
        ({"gain_model": "magic"}, "magic"),
        ({"embedder": "magic"}, "'magic'; allowed: default, or"),
        ({"cost": "euro"}, "unit or token"),
        ({"folds": 1}, "folds"),
        ({"max_loss": 0.1}, "folds"),
    ],
)
def test_impossible_options_are_refused(
    paths: WorldPaths, options: dict[str, Any], message: str
) -> None:
    """The message names the option or the value."""
    with pytest.raises(OptionError, match=message):
        _fit(paths.gold, paths.preference, **options)


def test_a_bad_row_stops_the_fit_or_is_counted(world: World) -> None:
    """`on_bad_row` is handed on, and what was skipped is recorded."""
    bad = [*gold_records(world.table.gold()), {"query": "x", "model": "cheap", "score": "high"}]
    with pytest.raises(LabelError, match="score"):
        _fit(bad)
    router = _fit(bad, on_bad_row="skip")
    assert router.artifact.config["labels"]["rows_skipped"] == 1


def test_calibrate_on_queries_and_on_gold(paths: WorldPaths, world: World) -> None:
    """The new router has the new threshold, the old one keeps its own."""
    router = _fit(paths.gold, paths.preference)
    before = router.policy.w
    cheaper, found = mr.calibrate(router, list(world.test.queries), premium_share=0.1)
    assert router.policy.w == before
    assert cheaper.policy.w == found.w > before
    assert found.premium_share.value <= 0.1
    certified, found = mr.calibrate(router, gold=paths.test, max_loss=0.2)
    assert found.certified
    assert certified.artifact.config["calibration"]["max_loss"] == 0.2


def test_a_loss_limit_rests_on_queries_that_the_fit_did_not_see(world: World) -> None:
    """Training queries are left out and counted; nothing but them is refused."""
    router = _fit(gold_records(world.table.gold()))
    test = list(gold_records(world.test))
    alone, expected = mr.calibrate(router, gold=test, max_loss=0.2)
    mixed = [*test, *gold_records(world.table.gold())]
    again, found = mr.calibrate(router, gold=mixed, max_loss=0.2)
    assert again.policy.w == alone.policy.w
    assert found.premium_share == expected.premium_share
    assert "100 of 300 queries were among the training queries" in found.reason
    assert "left out" not in expected.reason
    with pytest.raises(DataError, match=r"fitted on all 100 of these queries.*other queries"):
        mr.calibrate(router, gold=gold_records(world.table.gold()), max_loss=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no target"),
        ({"premium_share": 0.5}, "no `queries`"),
        ({"max_loss": 0.1}, "no `gold`"),
        ({"premium_share": 0.5, "budget": 1.0}, "one of them"),
    ],
)
def test_calibrate_says_what_it_needs(
    paths: WorldPaths, options: dict[str, Any], message: str
) -> None:
    """Targets come with their data."""
    with pytest.raises(OptionError, match=message):
        mr.calibrate(_fit(paths.gold), **options)


def test_an_unknown_price_is_found_before_the_work(world: World) -> None:
    """Nobody waits for a fit to be told of a missing price."""
    done: list[tuple[int, int]] = []
    with pytest.raises(OptionError, match="known price"):
        mr.fit(
            gold_records(world.table.gold()),
            cost="token",
            embedder="surface",
            progress=lambda *tick: done.append(tick),
        )
    assert done == []


def _stretched(table: mr.GainTable, factor: float) -> list[dict[str, Any]]:
    """Gold scores on a scale that is `factor` times as long."""
    return [row | {"score": factor * row["score"]} for row in gold_records(table)]


def test_scores_on_another_scale_give_the_same_router(world: World, tmp_path: Path) -> None:
    """With the range of the scores all is as on [0, 1], later gold files included."""
    plain = _fit(gold_records(world.table.gold()))
    wide = _fit(_stretched(world.table.gold(), 10.0), score_range=(-10, 20))
    narrow = _fit(gold_records(world.table.gold()), score_range=(-1, 2))
    assert wide.predict_gain(["Why?"]).mean == pytest.approx(narrow.predict_gain(["Why?"]).mean)
    assert plain.facts["score_range"] is None
    wide.save(tmp_path)
    wide = mr.load(tmp_path)
    assert wide.facts["score_range"] == [-10.0, 20.0]
    test = _stretched(world.test, 10.0)
    found = mr.evaluate_router(wide, test)
    expected = mr.evaluate_router(narrow, gold_records(world.test))
    assert found.area.value == pytest.approx(expected.area.value)
    assert (found.quality_unit, expected.quality_unit) == (
        "gold score, -10 to 20 as 0 to 1",
        "gold score, -1 to 2 as 0 to 1",
    )
    _, limit = mr.calibrate(wide, gold=test, max_loss=0.1)
    _, same = mr.calibrate(narrow, gold=gold_records(world.test), max_loss=0.1)
    assert limit.w == pytest.approx(same.w)
    with pytest.raises(DataError, match="score_range"):
        mr.calibrate(plain, gold=test, max_loss=0.1)


def test_one_default_confidence_everywhere() -> None:
    """A loss limit means the same wherever it is asked for."""
    from metarouter.cli.calibrate import calibrate
    from metarouter.cli.fit import fit
    from metarouter.policy.calibrate import calibrate_max_loss

    callables = (mr.fit, mr.calibrate, CalibrationTarget, calibrate_max_loss, calibrate, fit)
    defaults = {inspect.signature(one).parameters["confidence"].default for one in callables}
    level = inspect.signature(mr.evaluate_router).parameters["level"].default
    assert defaults == {level}


def test_cross_fitting_is_blind_to_the_label_it_predicts(world: World) -> None:
    """Changing a gold gain changes no out-of-fold prediction for its own query."""
    options = FitOptions(corrector="none", embedder="surface")
    table = world.table.gold()

    def scores(gain: Any) -> Any:
        changed = table.with_gains(gain, table.variance)
        return cross_fit(changed, options.make_features, options.learn, folds=4, seed=0)

    plain = scores(table.gain)
    gain = table.gain.copy()
    gain[7] = 50.0
    changed = scores(gain)
    at = plain.query.tolist().index(table.query[7])
    assert changed.score[at] == pytest.approx(plain.score[at], abs=1e-9)
    assert np.abs(changed.score - plain.score).max() > 0.1


def test_repeated_gold_labels_count_as_one_query(world: World) -> None:
    """Doubled rows leave the cross-fitted interval as it is: queries are what is sampled."""
    table = world.table.gold()
    doubled = table.rows(np.repeat(np.arange(len(table)), 2))
    options = FitOptions(corrector="none", embedder="surface", folds=3)
    once, twice = (
        fit_table(rows, options).artifact.metrics["efficiency_gain_area"]
        for rows in (table, doubled)
    )
    assert twice["n"] == once["n"] == 100
    assert twice["std_error"] == pytest.approx(once["std_error"], rel=0.2)


@pytest.mark.parametrize("as_rows", [True, False])
def test_a_query_with_nine_graders_counts_once_in_what_a_router_is_worth(
    world: World, as_rows: bool
) -> None:
    """As in an evaluation: the mean gain and the area are those of queries, not of labels."""
    table = world.table.gold()
    graders = np.where(table.gain > np.median(table.gain), 9, 1)
    more = table.rows(np.repeat(np.arange(len(table)), graders))
    if not as_rows:
        more = replace(more, weight=np.repeat(graders, graders).astype(float))
    options = FitOptions(corrector="none", embedder="surface", folds=3)
    metrics = fit_table(more, options).artifact.metrics
    assert metrics["mean_gold_gain"] == pytest.approx(table.gain.mean())
    if as_rows:  # which a fit takes for one label, so that the routers are the same
        area, once = (
            found["efficiency_gain_area"]
            for found in (metrics, fit_table(table, options).artifact.metrics)
        )
        for name in ("value", "low", "high"):
            assert area[name] == pytest.approx(once[name])


def test_means_by_query_are_weighted() -> None:
    """Rows of one query become one, with the sum of their weights."""
    crossed = CrossFitted(
        query=np.array([4, 2, 4]),
        score=np.array([1.0, 5.0, 1.0]),
        gain=np.array([0.0, 1.0, 1.0]),
        weight=np.array([1.0, 1.0, 3.0]),
        fold=np.array([1, 0, 1]),
        level=np.array([0.5, 0.0, 0.5]),
    ).by_query()
    assert crossed.query.tolist() == [2, 4]
    assert crossed.gain.tolist() == [1.0, 0.75]
    assert crossed.weight.tolist() == [1.0, 4.0]
    assert crossed.fold.tolist() == [0, 1]
    assert crossed.levelled().tolist() == [5.25, 0.75]


class _Given:
    """Features that texts stand for."""

    def __init__(self, features: dict[str, Any]) -> None:
        self.features = features

    def fit(self, texts: Any) -> _Given:
        return self

    def transform(self, texts: Any) -> Any:
        return np.stack([self.features[text] for text in texts]).astype(np.float32)


def _crossed(seed: int, n: int = 50, weight: Any = None) -> CrossFitted:
    """Cross-fitted ridge on labels that features say nothing of."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    texts = [f"query {i}" for i in range(n)]
    table = make_gain_table(
        queries=texts, gain=rng.normal(size=n), is_gold=np.ones(n, dtype=bool), weight=weight
    )
    given: Any = _Given(dict(zip(texts, X, strict=True)))
    options = FitOptions(corrector="gold_only", gain_model="ridge")
    return cross_fit(table, lambda: given, options.learn, seed=seed)


def test_a_router_that_knows_nothing_is_neither_better_nor_worse_than_random() -> None:
    """A fold's model has the level of the other folds' labels: ranked across folds it looks bad."""
    crossed = [_crossed(seed) for seed in range(60)]
    rows = np.ones((1, 50))
    areas = [folded_area_statistic(one.score, one.gain, one.fold)(rows)[0] for one in crossed]
    together = [np.cov(one.levelled(), one.gain)[0, 1] for one in crossed]
    for values in (np.array(areas), np.array(together)):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean()) < 3 * error < 0.05


class _Stub:
    """A model that says of a query what its one feature is, and twice that where it knew it."""

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, features: Any) -> GainEstimate:
        self.asked += len(features)
        return GainEstimate(mean=2.0 * features[:, :1], std=np.ones((len(features), 1)))

    def predict_unseen(self, features: Any) -> Any:
        return features[:, :1].astype(np.float64)


def _crossed_stub(n: int, folds: int, model: _Stub) -> tuple[CrossFitted, Any]:
    x = np.random.default_rng(0).permutation(n) / n
    texts = [f"query {i}" for i in range(n)]
    given: Any = _Given(dict(zip(texts, x[:, None], strict=True)))
    table = make_gain_table(queries=texts, gain=x, is_gold=np.ones(n, dtype=bool))
    return cross_fit(table, lambda: given, lambda _: model, folds=folds), x.astype(np.float32)


def test_a_row_is_ranked_among_what_its_fold_s_model_says_of_queries_as_if_new() -> None:
    """The share of the other folds' queries below it, one row at a time."""
    crossed, x = _crossed_stub(40, 4, _Stub())
    assert crossed.rank is not None
    for row in range(40):
        others = x[crossed.query[crossed.fold != crossed.fold[row]]]
        value = 2 * x[crossed.query[row]]
        expected = ((others < value).sum() + 0.5 * (others == value).sum()) / len(others)
        assert crossed.rank[row] == pytest.approx(expected)
    assert _crossed(0).rank is None  # of ridge


@pytest.mark.parametrize(("n", "asked"), [(60, 5 * 60), (2000, 2000 + 4 * 500)])
def test_a_fold_is_not_asked_about_every_gold_row(n: int, asked: int) -> None:
    """Its own rows, and up to 500 rows on which the levels of all folds are compared."""
    model = _Stub()
    crossed, x = _crossed_stub(n, 5, model)
    assert model.asked == asked
    np.testing.assert_allclose(crossed.score, 2 * x[crossed.query], rtol=1e-6)
    assert len(np.unique(crossed.level)) == 1
    assert crossed.level[0] == pytest.approx(2 * x.mean(), abs=0.1)


def test_gold_rows_of_weight_0_are_no_gold() -> None:
    weight = np.where(np.arange(60) < 25, 0.0, 1.0)
    crossed = _crossed(1, 60, weight)
    assert crossed.query.tolist() == list(range(25, 60))
    assert np.isfinite(crossed.by_query().score).all()


@pytest.mark.parametrize("corrector", ["gold_only", "mean_shift", "dr"])
def test_a_candidate_with_a_single_gold_label_is_fitted_without_folds(corrector: str) -> None:
    """The fold that holds its label cannot be left out: what the router is worth is not told."""
    rng = np.random.default_rng(0)
    query = np.concatenate([np.repeat(np.arange(60), 2), np.arange(31)])
    table = make_gain_table(
        queries=[f"question {i}" for i in range(60)],
        models=("a", "b", "c"),
        query=query,
        candidate=np.concatenate([np.tile([1, 2], 60), np.ones(30, dtype=np.int64), [2]]),
        gain=rng.choice([-1.0, 0.0, 1.0], 151),
        is_gold=np.arange(151) >= 120,
    )
    router = fit_table(table, FitOptions(corrector=corrector, embedder="surface"))
    assert router.models == ("a", "b", "c")
    assert router.artifact.metrics == {}


def test_cross_fitted_area_agrees_with_held_out_gold() -> None:
    """On many queries the cross-fitted area is near the area on other gold labels."""
    world = make_world("null_bias", n_queries=800, n_gold=800, n_test=2000, seed=3)
    router = _fit(gold_records(world.table), folds=3)
    from metarouter.evaluation.metrics import efficiency_gain_area

    test = world.test
    area = efficiency_gain_area(router.predict_gain(list(test.queries)).mean, test.gain)
    inside = router.artifact.metrics["efficiency_gain_area"]
    assert area == pytest.approx(inside["value"], abs=4 * inside["std_error"])


def test_read_queries_takes_lines_and_columns(tmp_path: Path, paths: WorldPaths) -> None:
    """Text lines, label files and chats give texts, each once."""
    lines = tmp_path / "traffic.txt"
    lines.write_text("one\n\ntwo\none\n", encoding="utf-8")
    assert mr.read_queries(lines) == ["one", "two"]
    assert len(mr.read_queries(paths.gold)) == 100
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n', encoding="utf-8")
    assert mr.read_queries(chats) == ["Hi"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "\n"), ("a.jsonl", '{"text": "no query"}\n'), ("a.jsonl", "{\n")],
)
def test_read_queries_refuses_what_holds_none(tmp_path: Path, name: str, content: str) -> None:
    """A file without queries is an input error."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(mr.InputError) as caught:
        mr.read_queries(path)
    assert "NoneType" not in str(caught.value)


def test_nothing_is_written_by_an_interrupted_fit(paths: WorldPaths, tmp_path: Path) -> None:
    """A fit touches no file; the old router stays whole until save."""
    _fit(paths.gold).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(paths.gold, progress=stop)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_router_is_an_artifact_error(tmp_path: Path) -> None:
    """The public error is the one that load raises."""
    with pytest.raises(ArtifactError):
        mr.load(tmp_path / "none")


def test_a_prompt_shows_values_in_a_line(world: World, paths: WorldPaths) -> None:
    """In a notebook a table is not its texts, nor a router its arrays."""
    router = _fit(paths.gold, paths.preference, w=0.25)
    assert repr(world.table) == (
        "GainTable(400 rows: 100 gold, 300 preference; 400 queries; "
        "models ('cheap', 'premium'); no features)"
    )
    assert repr(world).startswith("World('topic_bias'; GainTable(400 rows")
    version = router.policy.version
    assert repr(router) == (f"Router(('cheap', 'premium'); w = 0.25 per calls; policy {version})")
    evaluation = mr.evaluate_router(router, paths.test, n_boot=200)
    for value in (router.artifact, *router.artifact.parts.values(), evaluation):
        assert len(repr(value)) < 400


def test_values_that_hold_arrays_are_equal_to_themselves_alone(world: World) -> None:
    """Comparing two of them has an answer, and they can be kept in a set."""
    table = world.table
    copy = table.rows(np.arange(len(table)))
    assert table == table
    assert table != copy
    assert len({table, copy, mr.GainEstimate(mean=table.gain, std=table.gain)}) == 3
