"""Evaluating a fixed router on held-out gold labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.evaluation.breakdown import excerpt
from metarouter.evaluation.evaluate import Evaluation, evaluate_router
from metarouter.evaluation.heldout import read_held_out
from metarouter.evaluation.report import render_evaluation_report
from metarouter.evaluation.verdict import Verdict, judge_router, percent
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.policy.rule import UtilityPolicy
from metarouter.records import Decision, Estimate, GainEstimate

N = 300


@dataclass
class NumberRouter:
    """Predicts the number in the query, times `slope`."""

    slope: float = 1.0
    w: float = 0.5
    models: tuple[str, ...] = ("cheap", "premium")
    extra: dict[str, Any] = field(default_factory=dict)
    query_hashes: NDArray[np.uint64] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        return {"w": self.w, "cost_unit": "calls", **self.extra}

    def predict_gain(self, queries: Sequence[str]) -> GainEstimate:
        mean = self.slope * np.asarray([float(query.split()[1]) for query in queries])
        return GainEstimate(mean=mean, std=np.full(len(mean), 0.1))

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        policy = UtilityPolicy(models=self.models, w=self.w)
        return policy.decide(self.predict_gain(queries), np.tile([0.0, 1.0], (len(queries), 1)))


def make_test(n: int = N, *, scores: bool = True) -> GainTable:
    """Gold gain is the number in the query, in [0, 1], plus noise."""
    rng = np.random.default_rng(3)
    x = rng.permutation(n) / n
    premium = 0.3 + x + rng.normal(0, 0.2, n)
    columns: dict[str, Any] = {}
    if scores:
        columns = {"candidate_score": premium, "baseline_score": np.full(n, 0.3)}
    return make_gain_table(
        queries=[f"number {value} {'pad ' * (i % 7)}" for i, value in enumerate(x)],
        gain=premium - 0.3,
        is_gold=np.ones(n, dtype=bool),
        domain=np.arange(n) % 3,
        domains=("law", "code", "tiny <b>"),
        **columns,
    )


def run(router: NumberRouter | None = None, table: GainTable | None = None) -> Evaluation:
    return evaluate_router(
        NumberRouter() if router is None else router,
        make_test() if table is None else table,
        n_boot=300,
    )


def record(evaluation: Evaluation, policy: str) -> dict[str, Any]:
    return next(one for one in evaluation.as_records() if one["policy"] == policy)


def test_router_record_equals_a_straight_line_computation() -> None:
    table = make_test()
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    chosen = np.where(x > 0.5, table.candidate_score, table.baseline_score)
    found = record(run(), "router")
    assert found["quality"] == pytest.approx(chosen.mean(), abs=1e-12)
    assert found["premium_share"] == pytest.approx((x > 0.5).mean())
    assert found["cost_per_1k"] == pytest.approx(1000 * (x > 0.5).mean())
    assert found["saving_share"] == pytest.approx(1 - (x > 0.5).mean())
    assert found["quality_low"] < found["quality"] < found["quality_high"]


def test_kept_and_advantage_equal_straight_line_computations() -> None:
    table = make_test()
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    chosen = np.where(x > 0.5, table.candidate_score, table.baseline_score).mean()
    premium, cheap = table.candidate_score.mean(), table.baseline_score.mean()
    share = (x > 0.5).mean()
    evaluation = run()
    assert evaluation.kept.value == pytest.approx(chosen / premium)
    assert evaluation.advantage.value == pytest.approx(
        chosen - share * premium - (1 - share) * cheap
    )
    assert evaluation.saving.value == pytest.approx(1 - share)


@pytest.mark.parametrize(
    ("router", "status"),
    [
        (NumberRouter(), "better"),
        (NumberRouter(slope=-1.0, w=-0.5), "worse"),
        (NumberRouter(w=2.0), "fixed"),
    ],
)
def test_verdict_follows_the_advantage_over_random(router: NumberRouter, status: str) -> None:
    assert run(router).verdict.status == status


class BackwardRouter(NumberRouter):
    """Predicts what :class:`NumberRouter` does, and chooses the other model."""

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        other = {"cheap": "premium", "premium": "cheap"}
        decisions = super().route_batch(queries)
        return [replace(decision, model=other[decision.model]) for decision in decisions]


def test_a_rule_of_its_own_is_valued_by_what_it_chose() -> None:
    """The router's row, and the random one beside it, follow the decisions and not the gains."""
    table = make_test()
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    evaluation = run(BackwardRouter(w=0.7))
    chosen = np.where(x > 0.7, table.baseline_score, table.candidate_score)
    found = record(evaluation, "router")
    assert found["quality"] == pytest.approx(chosen.mean(), abs=1e-12)
    assert found["premium_share"] == pytest.approx((x <= 0.7).mean())
    assert record(evaluation, "random")["premium_share"] == pytest.approx((x <= 0.7).mean())
    assert evaluation.verdict.status == "worse"


class PricedRouter(NumberRouter):
    """The same, at 1 and 3 cents a call."""

    @property
    def facts(self) -> dict[str, Any]:
        return {"w": self.w, "cost_unit": "USD"}

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        policy = UtilityPolicy(models=self.models, w=self.w, cost_unit="USD")
        prices = np.tile([0.01, 0.03], (len(queries), 1))
        return policy.decide(self.predict_gain(queries), prices)


def test_prices_give_the_saving_in_money() -> None:
    """Half the calls at w = 25: 0.02 USD saved on each cheap call."""
    evaluation = run(PricedRouter(w=25.0))
    share = record(evaluation, "router")["premium_share"]
    assert 0.4 < share < 0.6
    assert f"{20 * (1 - share):.2f} USD in 1,000 queries" in evaluation.verdict.sentence
    assert evaluation.saving.value == pytest.approx((1 - share) * 0.02 / 0.03)
    assert any("token prices" in limit for limit in evaluation.limits)
    curve = evaluation.curve
    assert curve.cost[[0, -1]].tolist() == pytest.approx([10.0, 30.0])
    assert curve.cost == pytest.approx(10 + 20 * curve.share)


class PoolRouter(NumberRouter):
    """The same gain for both candidates, which cost the same."""

    def predict_gain(self, queries: Sequence[str]) -> GainEstimate:
        mean = np.asarray([[float(query.split()[1])] * 2 for query in queries])
        return GainEstimate(mean=mean, std=np.full(mean.shape, 0.1))

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        policy = UtilityPolicy(models=self.models, w=self.w)
        return policy.decide(self.predict_gain(queries), np.array([0.0, 1.0, 1.0]))


def test_test_labels_do_not_choose_the_premium_model() -> None:
    """Of equally dear models the last is the premium one, though it is worse on the test."""
    n = 60
    table = make_gain_table(
        queries=[f"number {i / n}" for i in range(n)],
        query=np.repeat(np.arange(n), 2),
        candidate=np.tile([1, 2], n),
        gain=np.tile([0.6, 0.2], n),
        is_gold=np.ones(2 * n, dtype=bool),
        models=("small", "middle", "large"),
    )
    evaluation = run(PoolRouter(models=table.models), table)
    assert evaluation.premium == "large"
    share = record(evaluation, "router")["premium_share"]
    start = (
        f"Sending {100 - 100 * share:.0f} % of the queries to small and {100 * share:.0f} % to "
        "middle, this router"
    )
    assert evaluation.verdict.sentence.startswith(start)
    assert record(evaluation, "always_premium")["quality"] == pytest.approx(0.2)
    # equal utilities go to the first of equally dear models
    assert evaluation.model_shares == pytest.approx((1 - share, share, 0.0))
    page = render_evaluation_report(evaluation).replace("\xa0", " ")
    assert f"It sends 0 % to large, {100 * share:.0f} % to middle" in page


class PricedPoolRouter(PoolRouter):
    """Large is predicted 0.3 above middle, and costs ten times as much."""

    costs = np.array([0.001, 0.003, 0.03])

    @property
    def facts(self) -> dict[str, Any]:
        return {**super().facts, "w": self.w, "cost_unit": "USD"}

    def predict_gain(self, queries: Sequence[str]) -> GainEstimate:
        x = np.asarray([float(query.split()[1]) for query in queries])
        return GainEstimate(mean=np.column_stack([x, x + 0.3]), std=np.full((len(x), 2), 0.1))

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        policy = UtilityPolicy(models=self.models, w=self.w, cost_unit="USD")
        return policy.decide(self.predict_gain(queries), self.costs)


def priced_pool(costs: Sequence[float] = (0.001, 0.003, 0.03)) -> Evaluation:
    """None go to large: 0.3 more gain is not worth 0.027 USD at w = 20."""
    n = 60
    table = make_gain_table(
        queries=[f"number {i / n}" for i in range(n)],
        query=np.repeat(np.arange(n), 2),
        candidate=np.tile([1, 2], n),
        gain=np.column_stack([np.linspace(-0.4, 0.4, n), np.linspace(0.2, -0.6, n)]).ravel(),
        is_gold=np.ones(2 * n, dtype=bool),
        models=("small", "middle", "large"),
    )
    router = PricedPoolRouter(models=table.models, w=20.0)
    router.costs = np.array(costs)
    return run(router, table)


def test_examples_and_slices_of_a_pool_tell_the_gold_gain_of_the_model_chosen() -> None:
    """Not that of the model with the largest predicted gain, which cost kept away."""
    evaluation = priced_pool()
    sent = [one for one in evaluation.examples if one.model == "middle"]
    assert sent
    for one in sent:
        x = float(one.query.split()[1])
        assert one.predicted_gain == pytest.approx(x)
        assert one.gain == pytest.approx(-0.4 + 0.8 * x * 60 / 59)
    thirds = [one.gain for one in evaluation.slices if one.dimension == "length"]
    assert np.mean(thirds) > -0.2  # of large it would be −0.2


def test_the_cheapest_model_of_a_pool_may_be_another_than_its_reference() -> None:
    """The weakest model need not be the cheapest: always the cheapest is named for what it is."""
    evaluation = priced_pool((0.004, 0.003, 0.03))
    cheap = record(evaluation, "always_cheap")
    assert cheap["cost_per_1k"] == pytest.approx(3.0)
    assert cheap["premium_share"] == 1.0
    page = render_evaluation_report(evaluation)
    assert "always middle" in page
    assert "always small" not in page


def test_the_curve_of_a_priced_pool_passes_through_the_router_and_beside_each_model() -> None:
    """Over the cost, from the cheapest model on; the mixture is of single models."""
    evaluation = priced_pool()
    curve, router = evaluation.curve, record(evaluation, "router")
    at = np.interp(router["cost_per_1k"], curve.cost, curve.band.value)
    # the curve has points a fiftieth of the costs apart
    assert at == pytest.approx(router["quality"], abs=0.005)
    assert curve.cost[[0, -1]].tolist() == pytest.approx([1.0, 30.0])
    assert evaluation.singles["large"] == pytest.approx((30.0, -0.2))
    # middle and small are 0 on average, large is worse: no mixture is above 0
    np.testing.assert_allclose(curve.random, 0.0, atol=1e-9)
    assert curve.oracle.max() == pytest.approx(record(evaluation, "oracle")["quality"])
    page = render_evaluation_report(evaluation)
    assert "best fixed mixture of them at that cost" in page


def test_a_saving_says_what_was_counted() -> None:
    """Calls, where no price is known: a cheap call is not free, it is not counted."""
    calls, money = run(), run(PricedRouter(w=25.0))
    assert calls.verdict.sentence.endswith("] of its calls.")
    assert "] of its cost, " in money.verdict.sentence
    assert ">calls saved<" in render_evaluation_report(calls)
    assert ">cost saved<" in render_evaluation_report(money)


def test_gains_without_scores_give_the_share_of_the_gain() -> None:
    """Without absolute scores no share of quality is claimed."""
    evaluation = run(table=make_test(scores=False))
    table = make_test()
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    assert evaluation.kept.value == pytest.approx((table.gain * (x > 0.5)).sum() / table.gain.sum())
    assert "what premium gains over the cheap model" in evaluation.verdict.sentence
    assert any("gains, without a level" in limit for limit in evaluation.limits)


def no_better(shift: float) -> GainTable:
    """Labels whose premium model is `shift` better than the cheap one, give or take 0.3."""
    table = make_test(scores=False)
    noise = np.random.default_rng(5).normal(0, 0.3, N)
    return table.with_gains(noise - noise.mean() + shift, table.variance)


@pytest.mark.parametrize("shift", [0.001, 0.0, -0.2])
def test_no_share_of_a_gain_that_may_be_none(shift: float) -> None:
    """Where premium is not clearly better, the verdict is a difference, with a warning."""
    table = no_better(shift)
    evaluation = run(table=table)
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    difference = (table.gain * (x > 0.5)).mean() - table.gain.mean()
    assert np.isnan([evaluation.kept.value, evaluation.kept.low, evaluation.kept.high]).all()
    assert evaluation.difference.value == pytest.approx(difference)
    assert evaluation.difference.low < difference < evaluation.difference.high
    assert any("premium is not clearly better than cheap" in text for text in evaluation.warnings)
    sentence = evaluation.verdict.sentence
    assert "gain units per query against always premium" in sentence
    assert "nan" not in sentence
    assert "above always premium" in render_evaluation_report(evaluation)


@pytest.mark.parametrize("shift", [0.0, -0.2])
@pytest.mark.parametrize("scores", [True, False])
def test_no_share_of_the_gap_to_a_model_that_is_not_better(shift: float, scores: bool) -> None:
    """APGR and CPT are unknown, one warning says why, and the report shows it."""
    table = no_better(shift)
    if scores:
        level = np.full(len(table), 3.0)
        table = replace(table, candidate_score=level + table.gain, baseline_score=level)
    evaluation = run(table=table)
    for unknown in (evaluation.apgr, evaluation.cpt50, evaluation.cpt80):
        assert np.isnan([unknown.value, unknown.low, unknown.high]).all()
    told = [text for text in evaluation.warnings if "premium is not clearly better" in text]
    assert len(told) == 1
    mean = f"{table.gain.mean():+.3f}".replace("-", "−") if shift else "0.000"
    assert f"mean gain is {mean}" in told[0]
    assert told[0] in evaluation.apgr.warnings
    assert "premium is not clearly better" in render_evaluation_report(evaluation)


def test_no_share_of_a_quality_that_may_be_none() -> None:
    """Scores around zero have no share either."""
    table = make_test()
    low = table.candidate_score.mean()
    shifted = replace(
        table,
        candidate_score=table.candidate_score - low,
        baseline_score=table.baseline_score - low,
    )
    evaluation = run(table=shifted)
    assert np.isnan(evaluation.kept.value)
    assert any("quality of premium is not clearly above 0" in one for one in evaluation.warnings)


def test_a_clear_gain_keeps_its_share() -> None:
    """A small gain that is well known is a sound denominator."""
    evaluation = run(table=no_better(0.1))
    assert np.isfinite(evaluation.kept.value)
    assert not any("clearly" in text for text in evaluation.warnings)


def hashed(texts: Sequence[str]) -> NDArray[np.uint64]:
    digests = [hashlib.sha256(text.strip().encode()).hexdigest() for text in texts]
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def test_training_queries_are_left_out_and_counted() -> None:
    table = make_test()
    evaluation = run(NumberRouter(query_hashes=hashed(table.queries[:40])), table)
    assert evaluation.n == N - 40
    assert any("40 of 300 queries" in warning for warning in evaluation.warnings)


def test_only_training_queries_are_refused() -> None:
    table = make_test()
    router = NumberRouter(query_hashes=hashed(table.queries))
    with pytest.raises(DataError, match="fitted on all 300 of these queries"):
        run(router, table)


def test_router_that_hides_its_queries_is_said_to() -> None:
    assert any("does not say which" in limit for limit in run().limits)
    told = run(NumberRouter(query_hashes=np.array([0], dtype=np.uint64)))
    assert not any("does not say which" in limit for limit in told.limits)


def test_few_queries_are_warned_of_and_very_few_refused() -> None:
    assert any("50 held-out" in warning for warning in run(table=make_test(50)).warnings)
    with pytest.raises(DataError, match="at least 10"):
        run(table=make_test(9))


def judged_by(names: Sequence[str], table: GainTable) -> GainTable:
    """The rows of `table` by these judges in turn."""
    judge = np.arange(len(table)) % len(names)
    return replace(table, judges=tuple(names), judge=judge)


def test_gold_by_one_of_the_contestants_is_warned_of() -> None:
    """Counted in queries, among those that are left, and told on the page too."""
    evaluation = run(table=judged_by(["people", "acme/Premium", "people"], make_test()))
    told = [text for text in evaluation.warnings if "prefers its own answers" in text]
    assert [text.split(" held-out")[0] for text in told] == ["100 of 300"]
    assert told[0] in render_evaluation_report(evaluation)
    table = judged_by(["people", "premium"], make_test())
    rest = run(NumberRouter(query_hashes=hashed(table.queries[:40])), table)
    assert any(text.startswith("130 of 260 held-out") for text in rest.warnings)
    others = run(table=judged_by(["people", "other-premium"], make_test()))
    assert not any("own answers" in text for text in others.warnings)


def test_a_judge_is_a_contestant_where_it_is_a_model_of_the_router() -> None:
    """Tiny's scores of small and large are another model's; large's of large are not."""
    table = make_gain_table(
        queries=["a", "b"],
        query=[0, 0, 1, 1],
        candidate=[1, 2, 1, 2],
        gain=[0.1, 0.2, 0.1, 0.2],
        is_gold=[True] * 4,
        models=("tiny", "small", "large"),
        judges=("tiny", "large"),
        judge=[0, 0, 1, 1],
        candidate_score=[0.6, 0.7, 0.6, 0.7],
        baseline_score=[0.5] * 4,
    )
    held_out = read_held_out(table, ["small", "large"])
    assert held_out.is_self_judged.tolist() == [False, True]
    assert held_out.n_self_judged == 1


def test_labels_of_other_models_are_refused() -> None:
    with pytest.raises(DataError, match="know nothing of huge"):
        run(NumberRouter(models=("cheap", "huge")))


def test_same_seed_gives_the_same_numbers() -> None:
    assert run().area == run().area
    other = evaluate_router(NumberRouter(), make_test(), seed=1, n_boot=300)
    assert other.area.low != run().area.low


def test_slices_share_out_the_queries() -> None:
    slices = run().slices
    domains = [one for one in slices if one.dimension == "domain"]
    assert sum(one.n for one in domains) == N
    assert sum(one.n for one in slices if one.dimension == "length") == N
    mean = sum(one.n * one.loss.value for one in domains) / N
    assert mean == pytest.approx(
        record(run(), "always_premium")["quality"] - record(run(), "router")["quality"]
    )


def test_examples_show_the_costliest_mistakes() -> None:
    table = make_test()
    x = np.asarray([float(text.split()[1]) for text in table.queries])
    worst = float(np.where(x > 0.5, 0.0, table.gain).max())
    missed = [one for one in run().examples if one.kind == "cheap call that cost quality"]
    assert missed[0].regret == pytest.approx(worst)


def test_repeated_gold_labels_are_averaged() -> None:
    table = make_gain_table(
        queries=["a", "b"], query=[0, 0, 1], gain=[1.0, 0.0, 1.0], is_gold=[True] * 3
    )
    assert read_held_out(table, ["cheap", "premium"]).quality[:, 1].tolist() == [0.5, 1.0]


def test_two_ids_of_one_text_are_one_query() -> None:
    """As everywhere else: they are not two draws from the traffic."""
    table = make_gain_table(queries=["a", "b", "a"], gain=[1.0, 1.0, 0.0], is_gold=[True] * 3)
    held_out = read_held_out(table, ["cheap", "premium"])
    assert held_out.queries == ("a", "b")
    assert held_out.quality[:, 1].tolist() == [0.5, 1.0]
    assert held_out.n_incomplete == 0


def test_swapped_models_change_the_sign() -> None:
    table = make_gain_table(queries=["a", "b"], gain=[1.0, 0.5], is_gold=[True] * 2)
    assert read_held_out(table, ["premium", "cheap"]).quality[:, 1].tolist() == [-1.0, -0.5]


def test_queries_without_a_label_for_every_model_are_counted() -> None:
    """Of three models, query b lacks one."""
    table = make_gain_table(
        queries=["a", "b"],
        query=[0, 0, 1],
        candidate=[1, 2, 1],
        gain=[0.1, 0.2, 0.3],
        is_gold=[True] * 3,
        models=("small", "middle", "large"),
    )
    held_out = read_held_out(table, ["small", "middle", "large"])
    assert held_out.n_incomplete == 1
    assert held_out.quality.tolist() == [[0.0, 0.1, 0.2]]


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, std_error=half / 2, low=value - half, high=value + half, n=200)


def test_wide_interval_is_said_to_be_wide() -> None:
    def basis(half: float) -> str:
        return judge_router(
            premium="large",
            premium_share=0.4,
            kept=estimate(0.9, half),
            difference=estimate(-0.05, 0.01),
            saving=estimate(0.6, 0.02),
            advantage=estimate(0.1, 0.05),
            is_absolute=True,
        ).basis

    assert "40 points wide" in basis(0.2)
    assert "wide" not in basis(0.02)


def test_unclear_advantage_is_not_called_better() -> None:
    verdict = judge_router(
        premium="large",
        premium_share=0.4,
        kept=estimate(0.9, 0.01),
        difference=estimate(-0.05, 0.01),
        saving=estimate(0.6, 0.02),
        advantage=estimate(0.01, 0.05),
        is_absolute=True,
    )
    assert verdict.status == "unclear"
    assert "do not show that routing pays" in verdict.basis


def pool_verdict(shares: dict[str, float], hull: float = 0.05) -> Verdict:
    return judge_router(
        premium="large",
        premium_share=1 - shares["small"],
        kept=estimate(0.9, 0.01),
        difference=estimate(-0.05, 0.01),
        saving=estimate(0.6, 0.02),
        advantage=estimate(0.01, 0.05),
        is_absolute=True,
        model_shares=shares,
        hull_advantage=estimate(hull, 0.02),
    )


def test_a_pool_that_never_calls_its_reference_still_chooses() -> None:
    """Its shares are told, and it is judged against the best mixture at its cost."""
    verdict = pool_verdict({"small": 0.0, "middle": 0.65, "large": 0.35})
    assert verdict.status == "better"
    assert verdict.sentence.startswith(
        "Sending 65 % of the queries to middle and 35 % to large, this router keeps 90 %"
    )
    assert "fixed mixture" in verdict.headline
    assert pool_verdict({"small": 0.0, "middle": 0.65, "large": 0.35}, -0.05).status == "worse"


def test_a_pool_that_calls_one_model_alone_has_no_choice_to_judge() -> None:
    verdict = pool_verdict({"small": 0.0, "middle": 1.0, "large": 0.0})
    assert verdict.status == "fixed"
    assert verdict.sentence.startswith("Sending 100 % of the queries to middle, this router")


def test_a_large_pool_names_the_four_models_that_are_called_most() -> None:
    shares = {"small": 0.3, "b": 0.25, "c": 0.2, "d": 0.15, "e": 0.097, "large": 0.003}
    sentence = pool_verdict(shares).sentence
    assert "15 % to d and 10 % to 2 others, this router" in sentence


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.97, 0.02, "97 % [95, 99]"),
        (0.9712, 0.004, "97.1 % [96.7, 97.5]"),
        (-0.0001, 0.0001, "0.0 % [0.0, 0.0]"),
        (-0.001, 0.002, "−0.1 % [−0.3, 0.1]"),
        (-0.02, 0.018, "−2 % [−4, 0]"),
    ],
)
def test_percent_shows_the_digits_that_the_interval_supports(
    value: float, half: float, text: str
) -> None:
    assert percent(estimate(value, half)) == text


def test_excerpt_is_one_line_cut_at_a_word() -> None:
    assert excerpt("one\n two  three", limit=11) == "one two …"
    assert excerpt("short") == "short"
