"""What pages are given, from rows whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.dashboard.comparison import comparison_view
from metarouter.dashboard.saving import saving_view
from metarouter.dashboard.service import attempts_view, times_view
from metarouter.dashboard.traffic import SPANS, time_grid, traffic_view
from metarouter.dashboard.whatif import read_options, what_if_view
from metarouter.errors import DataError, InputError
from metarouter.policy.calibrate import calibrate_share, share_prices
from metarouter.policy.rule import UtilityPolicy
from metarouter.store.analytics import ShareSums, TrafficCell
from metarouter.store.experiments import REWARDS, DecisionLog

PREMIUM = {"default": "large"}


def _cell(bucket: int, requests: int, **fields: Any) -> TrafficCell:
    given: dict[str, Any] = {
        "policy": "default",
        "model": "large",
        "answered": "large",
        "outcome": "ok",
        "priced": requests,
        "spent": 0.5 * requests,
        "prompt_tokens": 10 * requests,
        "completion_tokens": 20 * requests,
        **fields,
    }
    return TrafficCell(bucket=bucket, requests=requests, **given)


CELLS = [
    _cell(0, 3),
    _cell(0, 5, model="small", answered="small", spent=0.5),
    _cell(1, 2, model="large", answered="small", outcome="ok"),
    _cell(59, 1, answered=None, outcome="failed", priced=0, spent=0.0),
    _cell(59, 4, policy=None, model="other", answered="other"),
    _cell(59, 7, policy="gone"),
    _cell(59, 6, outcome="decided", answered=None, priced=0, spent=0.0),
]


SUMS = [
    ShareSums(bucket=0, units=10, requests=10, premium=5, squares=10, crossed=5, premium_squares=5),
    ShareSums(
        bucket=29, units=1, requests=7, premium=7, squares=49, crossed=49, premium_squares=49
    ),
]


@pytest.mark.parametrize("seconds", SPANS)
def test_every_span_is_cut_into_whole_buckets_up_to_now(seconds: int) -> None:
    """Buckets begin at round times; the last one holds the present."""
    now = 1_795_337_999.3
    grid = time_grid(seconds, now)
    assert grid.n * grid.width == seconds == grid.window.seconds
    assert grid.window.start % grid.width == 0
    assert grid.starts[-1] <= now < grid.window.end
    coarse = grid.coarser()
    assert coarse.n * coarse.width == seconds
    assert coarse.n <= 32


def test_a_span_that_pages_do_not_offer_is_refused() -> None:
    with pytest.raises(InputError, match="seconds = 61; allowed: 900"):
        time_grid(61, 0.0)


def test_traffic_adds_up() -> None:
    """Series, totals and tables are sums of the same cells."""
    view = traffic_view(CELLS, SUMS, time_grid(3600, 1e9), PREMIUM)
    assert view["requests"]["ok"][0] == 8
    assert view["requests"]["failed"][59] == 1
    assert view["requests"]["decided"][59] == 6
    totals = view["totals"]
    assert totals["requests"] == 22  # bare decisions called nobody
    assert totals["failed"] == 1
    assert totals["spent"] == pytest.approx(1.5 + 0.5 + 1.0 + 2.0 + 3.5)
    assert totals["outcomes"] == {"ok": 21, "decided": 6, "failed": 1}
    by_model = {row["model"]: row["requests"] for row in view["models"]}
    assert by_model == {"large": 11, "small": 7, "other": 4}


def test_a_premium_share_is_of_policies_that_are_loaded() -> None:
    """The chosen model counts, whoever answered; other requests are in neither number."""
    view = traffic_view(CELLS, SUMS, time_grid(3600, 1e9), PREMIUM)
    assert (view["totals"]["premium"], view["totals"]["routed"]) == (12, 17)
    (policy,) = view["policies"]
    assert policy == {"policy": "default", "model": "large", "requests": 17, "premium": 12}
    first = view["shares"][0]
    assert (first["routed"], first["premium"]) == (10, 5)
    assert first["share"].value == 0.5
    assert view["shares"][1]["share"] is None
    last = view["shares"][29]
    assert (last["routed"], last["premium"], last["share"].value) == (7, 7, 1.0)
    assert last["share"].low < 0.3  # one conversation says little, however long


def _weighed(model: str, spent: float | None, **fields: Any) -> dict[str, Any]:
    options = [{"model": "small", "cost": 0.0}, {"model": "large", "cost": 1.0}]
    return {
        "policy": "default",
        "model": model,
        "answered": model,
        "spent": spent,
        "options": options,
        "propensities": None,
        **fields,
    }


def test_a_saving_goes_by_what_the_premium_model_took() -> None:
    """Ten calls at a dollar and thirty at a dime would have cost forty dollars."""
    rows = [_weighed("large", 1.0)] * 10 + [_weighed("small", 0.1)] * 30
    view = saving_view(rows, PREMIUM)
    assert view["always"] == pytest.approx(40.0)
    assert view["share"].value == pytest.approx(1 - 13 / 40)
    assert view["expected"] == [{"policy": "default", "share": 0.75, "n": 40}]
    assert view["problems"] == []


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([_weighed("small", None)] * 3, "the price of no answer is known"),
        ([_weighed("small", 0.1)] * 3, "answered 0 of 3"),
    ],
)
def test_a_saving_that_cannot_be_told_says_why(rows: list[dict[str, Any]], problem: str) -> None:
    """The policy's own expectation is still there."""
    view = saving_view(rows, PREMIUM)
    assert view["share"] is None
    assert problem in view["problems"][0]
    assert view["expected"][0]["share"] == 1.0


def test_nothing_is_said_to_be_saved_where_the_cheap_model_has_no_price() -> None:
    """Its answers are what was saved: without them the saving would be near 0."""
    rows = [_weighed("large", 1.0)] * 10 + [_weighed("small", None)] * 30
    view = saving_view(rows, PREMIUM)
    assert view["share"] is None
    assert "no price of small is known, which gave 30 of 40 answers" in view["problems"][0]
    # a stream that counted no tokens is another matter: the model's other answers stand for it
    counted = [_weighed("small", 0.1)] * 29 + [_weighed("small", None)]
    assert saving_view([*rows[:10], *counted], PREMIUM)["n"] == 39


def test_times_are_percentiles_of_answers() -> None:
    """Failures have no time of an answer, and count in a share."""
    start = 1e9 // 60 * 60 - 3600 + 60
    rows = [
        {
            "created": start + 1,
            "model": "large",
            "answered": "large" if number else None,
            "outcome": "ok" if number else "failed",
            "seconds": float(number),
            "first_byte_seconds": number / 2,
            "decision_seconds": 0.001,
        }
        for number in range(101)
    ]
    view = times_view(rows, time_grid(3600, 1e9))
    (model,) = view["models"]
    assert model["seconds"]["p50"] == pytest.approx(np.quantile(np.arange(1, 101), 0.5))
    assert model["first_byte"]["p95"] == pytest.approx(np.quantile(np.arange(1, 101) / 2, 0.95))
    assert (model["failed"], model["requests"]) == (1, 101)
    assert model["failed_share"].value == pytest.approx(1 / 101)
    assert view["series"][0]["p95"][0] == pytest.approx(np.quantile(np.arange(1, 101), 0.95))
    assert set(view["series"][0]["p95"][1:]) == {None}


def test_tries_are_counted_by_upstream() -> None:
    """Upstreams of the settings come first, tried or not; one that is gone is told apart."""
    attempt = {"upstream": "main", "model": "large", "seconds": 0.2}
    rows: list[dict[str, Any]] = [
        {
            "created": 2.0,
            "attempts": [{**attempt, "outcome": "status 503"}, {**attempt, "outcome": "ok"}],
        },
        {"created": 1.0, "attempts": [{**attempt, "upstream": "old", "outcome": "timeout"}]},
        {"created": 0.0, "attempts": None},
    ]
    main, spare, old = attempts_view(rows, ["spare"], ["main", "spare"])
    assert (main["tries"], main["outcomes"]) == (2, {"status 503": 1, "ok": 1})
    assert main["failures"] == [{**attempt, "outcome": "status 503", "created": 2.0}]
    assert (spare["tries"], spare["is_open"], spare["failed_share"]) == (0, True, None)
    assert (old["is_known"], old["failed_share"].value) == (False, 1.0)


@pytest.fixture
def weighed() -> tuple[np.ndarray[Any, Any], ...]:
    """Gains and costs of 400 decisions between three models, each a conversation of its own."""
    rng = np.random.default_rng(3)
    gains = np.c_[np.zeros(400), rng.normal(0.1, 0.2, (400, 2))]
    return gains, np.c_[np.full(400, 0.1), rng.uniform(0.5, 3, (400, 2))], np.arange(400)


def test_logged_options_are_read_in_the_order_of_models() -> None:
    """Gains are over the first model; decisions that weighed fewer are left out."""
    options = [
        {"model": "b", "gain": 0.5, "cost": 2.0},
        {"model": "a", "gain": 0.2, "cost": 1.0},
        {"model": "c", "gain": 0.0, "cost": 3.0},
    ]
    rows: list[dict[str, Any]] = [
        {"options": options, "conversation": "one"},
        {"options": options[:1], "conversation": "one"},
        {"options": None, "conversation": None},
        {"options": options, "conversation": None},
        {"options": options, "conversation": "one"},
        {"options": options, "conversation": None},
    ]
    gains, costs, units = read_options(rows, ["a", "b"])
    assert gains.tolist() == [[0.0, pytest.approx(0.3)]] * 4
    assert costs.tolist() == [[1.0, 2.0]] * 4
    assert units[0] == units[2]
    assert len(set(units.tolist())) == 3


def test_what_if_is_what_the_policy_decides(weighed: Any) -> None:
    """At each price, the shares, costs and gains are those of the rule's own decisions."""
    gains, costs, units = weighed
    view = what_if_view(gains, costs, units, w=0.1)
    for point in [*view["points"][::10], view["now"]]:
        rule = UtilityPolicy(models=("a", "b", "c"), w=point["w"])
        decided = [rule.decide_one(g[1:], (0.1, 0.1), c) for g, c in zip(gains, costs, strict=True)]
        chosen = np.array([rule.models.index(one.model) for one in decided])
        rows = np.arange(400)
        assert point["premium_share"] == pytest.approx((chosen != 0).mean())
        assert point["gain"].value == pytest.approx(gains[rows, chosen].mean())
        assert point["cost"].value == pytest.approx(1000 * costs[rows, chosen].mean())


def test_what_if_differences_are_paired(weighed: Any) -> None:
    """Now differs from itself by nothing, without an error; others by the difference of means."""
    view = what_if_view(*weighed, w=0.1)
    now = view["now"]
    (same,) = [point for point in view["points"] if point["w"] == 0.1]
    assert (same["changed"], same["gain_difference"].value) == (0.0, 0.0)
    assert same["gain_difference"].std_error == 0.0
    for point in view["points"]:
        expected = point["gain"].value - now["gain"].value
        assert point["gain_difference"].value == pytest.approx(expected, abs=1e-12)


def test_what_if_takes_the_turns_of_a_conversation_for_one(weighed: Any) -> None:
    """Each request four times is no more to go by than once: the means and errors stay."""
    once = what_if_view(*weighed, w=0.1)
    again = what_if_view(*(np.repeat(column, 4, axis=0) for column in weighed), w=0.1)
    assert (again["n"], again["units"], once["units"]) == (1600, 400, 400)
    for one, four in zip(once["points"], again["points"], strict=True):
        for name in ("gain", "cost", "gain_difference", "cost_difference"):
            assert four[name].value == pytest.approx(one[name].value)
            assert four[name].std_error == pytest.approx(one[name].std_error)


@pytest.mark.parametrize(
    ("units", "expected"),
    [(["USD", "USD"], "USD"), (["calls", "calls"], "calls"), (["USD", "calls"], None)],
)
def test_a_shadow_costs_in_the_unit_of_who_acted(units: list[str], expected: str | None) -> None:
    """Where acting policies count in several there is no difference to tell."""
    n = 8
    unit = np.array([units[row % 2] for row in range(n)], dtype=object)
    zero, nothing = np.zeros(n, dtype=np.int64), np.full(n, np.nan)
    log = DecisionLog(
        models=("small", "large"),
        policy=np.array(["one", "two"] * 4, dtype=object),
        experiment=np.array([""] * n, dtype=object),
        cost_unit=unit,
        chosen=zero,
        reference=zero,
        propensities=np.full((n, 2), np.nan),
        gains=np.zeros((n, 2)),
        costs=np.tile([1.0, 3.0], (n, 1)),
        spent=nothing,
        seconds=nothing,
        is_ok=np.ones(n, dtype=np.bool_),
        unit=np.arange(n),
        rewards=dict.fromkeys(REWARDS, nothing),
        audited=np.full((n, 2), np.nan),
        shadows=tuple({"dear": "large"} for _ in range(n)),
        prompts=(None,) * n,
        conversations=(None,) * n,
    )
    (shadow,) = comparison_view(log)["shadows"]
    assert shadow["cost_unit"] == expected
    if expected is None:
        assert shadow["cost_difference"] is None
    else:
        assert shadow["cost_difference"].value == 2.0


def test_a_higher_price_never_costs_more(weighed: Any) -> None:
    """Shares and costs fall with the price; the curve runs from always premium to never."""
    points = what_if_view(*weighed, w=0.1)["points"]
    shares = [point["premium_share"] for point in points]
    costs = [point["cost"].value for point in points]
    assert shares == sorted(shares, reverse=True)
    assert costs == sorted(costs, reverse=True)
    assert shares[-1] == 0.0
    # a pair's ends are always premium and never
    gains, costs, units = weighed
    pair = what_if_view(gains[:, :2], costs[:, :2], units, w=0.1)["points"]
    assert [pair[0]["premium_share"], pair[-1]["premium_share"]] == [1.0, 0.0]


def test_what_if_of_a_pool_is_spread_over_the_cost_and_knows_each_model_alone() -> None:
    """Where hardly a query stays with the reference, the share tells no settings apart."""
    rng = np.random.default_rng(5)
    gains = np.c_[np.zeros(400), rng.normal(0.3, 0.05, 400), rng.normal(0.4, 0.2, 400)]
    costs = np.array([1e-5, 1e-4, 5e-3]) * rng.uniform(0.5, 2, (400, 1))
    view = what_if_view(gains, costs, np.arange(400), w=20.0)
    spent = [point["cost"].value for point in view["points"]]
    assert view["by_cost"] is True
    assert -np.diff(spent).min() < 0.1 * (spent[0] - spent[-1])
    assert spent[-1] == pytest.approx(1000 * costs[:, 0].mean())
    assert view["always"] == pytest.approx(1000 * costs[:, 2].mean())
    for model, (cost, gain) in enumerate(view["singles"]):
        assert cost == pytest.approx(1000 * costs[:, model].mean())
        assert gain == pytest.approx(gains[:, model].mean())
    assert view["hull"] == view["singles"]


def test_one_decision_is_no_curve() -> None:
    with pytest.raises(DataError, match="1 decisions"):
        what_if_view(np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1, dtype=np.int64), w=0.0)


def test_prices_of_shares_are_those_of_one_calibration_each(weighed: Any) -> None:
    """Many shares at once give what one at a time gives; one below the smallest gives that one."""
    gains, costs, _ = weighed
    shares = np.array([0.1, 0.5, 0.9])
    found = share_prices(gains[:, 1:], costs, shares)
    assert found.tolist() == [calibrate_share(gains[:, 1:], costs, s).w for s in shares]
    free = np.c_[np.ones(4), np.array([1.0, 2.0, 2.0, 2.0])]  # the first costs nothing more
    mean = np.array([0.5, 0.1, 0.2, 0.3])
    least, quarter = share_prices(mean, free, np.array([0.0, 0.25]))
    assert least == quarter


def test_a_stand_in_stands_for_no_other_answer() -> None:
    """The premium model answered for one that failed: it had no chance of being drawn."""
    by_chance = {"small": 0.8, "large": 0.2}
    rows = [{**_weighed("large", 1.0), "propensities": by_chance}] * 10
    rows += [{**_weighed("small", 0.1), "propensities": by_chance}] * 30
    whole = saving_view(rows, PREMIUM)
    stand_in = {**_weighed("small", 1.0), "answered": "large", "propensities": {"small": 1.0}}
    view = saving_view([*rows, stand_in], PREMIUM)
    assert whole["always"] == pytest.approx(40.0)
    assert view["always"] == pytest.approx(41.0)
    other = {**_weighed("large", 0.1), "answered": "small", "propensities": {"large": 1.0}}
    assert saving_view([*rows, other], PREMIUM)["always"] == pytest.approx(41.0)
