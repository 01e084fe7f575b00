"""Statistics of labels, against SciPy and plain computations, and what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metarouter.labels import (
    GainTable,
    LabelSummary,
    SliceBias,
    make_gain_table,
    read_gain_table,
    render_summary,
    summarise_labels,
)
from metarouter.labels.check import mean_estimate, welch_estimate
from metarouter.labels.findings import make_findings


def both_sources(n: int = 200, *, n_gold: int = 200, bias: float = 0.3, seed: int = 0) -> GainTable:
    """A pair; preference labels of every query, gold of the first `n_gold`."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.2, 0.5, n)
    preference = truth - bias + rng.normal(0, 0.3, n)
    gold = truth[:n_gold] + rng.normal(0, 0.2, n_gold)
    query = np.concatenate([np.arange(n_gold), np.arange(n)])
    return make_gain_table(
        queries=["x" * (1 + i % 90) + str(i) for i in range(n)],
        gain=np.concatenate([gold, preference]),
        is_gold=np.arange(n_gold + n) < n_gold,
        query=query,
        judge=np.where(np.arange(n_gold + n) < n_gold, 0, 1 + np.arange(n_gold + n) % 2),
        judges=("", "J1", "J2"),
        domain=np.arange(n) % 2,
        domains=("code", "maths"),
    )


def find_slice(summary: LabelSummary, kind: str, name: str = "") -> SliceBias:
    (part,) = [s for s in summary.slices if s.kind == kind and s.name.startswith(name)]
    return part


def says(summary: LabelSummary, text: str) -> bool:
    return any(text in finding for finding in summary.findings)


def test_the_t_interval_equals_scipys() -> None:
    values = np.random.default_rng(0).normal(size=17)
    estimate = mean_estimate(values, 0.9)
    expected: Any = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert estimate is not None
    np.testing.assert_allclose([estimate.low, estimate.high], [expected.low, expected.high])
    assert mean_estimate(values[:1]) is None


def test_welchs_interval_equals_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 12), rng.normal(0.4, 3, 40)
    estimate = welch_estimate(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert estimate is not None
    np.testing.assert_allclose([estimate.low, estimate.high], [expected.low, expected.high])
    assert welch_estimate(a[:1], b) is None


def test_welchs_interval_of_constant_samples_is_a_point() -> None:
    estimate = welch_estimate(np.ones(3), np.zeros(4))
    assert estimate is not None
    assert (estimate.low, estimate.high) == (1.0, 1.0)


@pytest.mark.parametrize("slope", [-0.8, 0.6])
def test_votes_against_gold_on_the_same_queries_make_the_bias_less_sure(slope: float) -> None:
    """All queries in both: the error is that of the paired differences, but never smaller."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=60)
    votes = slope * gold + rng.normal(size=60)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(60)],
        query=np.tile(np.arange(60), 2),
        gain=np.concatenate([gold, votes]),
        is_gold=np.arange(120) < 60,
    )
    bias = find_slice(summarise_labels(table), "all").bias
    apart = welch_estimate(votes, gold)
    assert bias is not None
    assert apart is not None
    paired = float(stats.sem(votes - gold))
    assert (paired > apart.std_error) == (slope < 0)
    assert bias.std_error == pytest.approx(max(paired, apart.std_error))
    assert bias.high - bias.value == pytest.approx(
        bias.std_error * (apart.high - apart.value) / apart.std_error
    )


def test_a_text_under_two_ids_counts_once() -> None:
    """Every query a second time under another id tells nothing new."""
    rng = np.random.default_rng(0)
    gain = rng.normal(size=120)

    def summarised(copies: int) -> LabelSummary:
        return summarise_labels(
            make_gain_table(
                queries=[f"q{i}" for i in range(120)] * copies,
                query_ids=[str(i) for i in range(120 * copies)],
                gain=np.tile(gain, copies),
                is_gold=np.tile(np.arange(120) < 60, copies),
            )
        )

    once, twice = summarised(1), summarised(2)
    assert twice.gold_gain == once.gold_gain
    assert twice.slices == once.slices
    assert says(twice, "fewer than 100 gold queries (60)")


def test_sources_are_described_row_by_row() -> None:
    table = make_gain_table(
        queries=["a", "b"],
        query=[0, 0, 1, 1],
        gain=[1.0, 0.0, 0.0, -0.5],
        is_gold=[True, False, False, False],
    )
    gold, preference = summarise_labels(table).sources
    assert (gold.rows, gold.queries, gold.mean, gold.std) == (1, 1, 1.0, 0.0)
    assert (preference.rows, preference.queries) == (3, 2)
    assert preference.share_ties == pytest.approx(2 / 3)
    assert preference.std == pytest.approx(np.std([0.0, 0.0, -0.5], ddof=1))
    assert dict(preference.quantiles)[0.5] == 0.0


def test_rows_are_counted_by_model_judge_and_domain() -> None:
    summary = summarise_labels(both_sources(10, n_gold=4))
    assert [(c.name, c.gold, c.preference) for c in summary.model_counts] == [
        ("cheap", 4, 10),
        ("premium", 4, 10),
    ]
    assert {c.name: (c.gold, c.preference) for c in summary.judge_counts} == {
        "": (4, 0),
        "J1": (0, 5),
        "J2": (0, 5),
    }
    assert {c.name: (c.gold, c.preference) for c in summary.domain_counts} == {
        "code": (2, 5),
        "maths": (2, 5),
    }


def test_agreement_where_the_sources_meet_equals_scipys() -> None:
    table = both_sources(120, n_gold=80)
    agreement = summarise_labels(table).agreement
    gold, preference = table.gold().gain, table.preference().gain[:80]
    pearson = stats.pearsonr(gold, preference)
    interval = pearson.confidence_interval(0.95)
    assert (agreement.n, agreement.n_queries) == (80, 80)
    assert agreement.correlation is not None
    assert agreement.mean_difference is not None
    np.testing.assert_allclose(agreement.correlation.value, pearson.statistic)
    np.testing.assert_allclose(  # of normal gains
        [agreement.correlation.low, agreement.correlation.high],
        [interval.low, interval.high],
        atol=0.02,
    )
    paired = stats.ttest_rel(preference, gold).confidence_interval(0.95)
    np.testing.assert_allclose(
        [agreement.mean_difference.low, agreement.mean_difference.high], [paired.low, paired.high]
    )
    same = np.sign(gold) == np.sign(preference)
    share = stats.binomtest(int(same.sum()), 80)
    wilson = share.proportion_ci(0.95, method="wilson")
    assert agreement.sign_agreement is not None
    np.testing.assert_allclose(
        [getattr(agreement.sign_agreement, part) for part in ("value", "low", "high")],
        [same.mean(), wilson.low, wilson.high],
    )


def labelled_twice(gold: Any, preference: Any, *, pairs: int = 1) -> GainTable:
    """Queries that both sources label, the same for each of some pairs of models."""
    n = len(gold)
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        query=np.tile(np.arange(n), 2 * pairs),
        gain=np.concatenate([np.tile(gold, pairs), np.tile(preference, pairs)]),
        is_gold=np.arange(2 * pairs * n) < pairs * n,
        models=tuple("abc")[: pairs + 1],
        candidate=np.tile(np.repeat(1 + np.arange(pairs), n), 2),
        baseline=np.zeros(2 * pairs * n, dtype=np.int64),
    )


def test_the_interval_of_a_correlation_holds_where_most_gains_are_ties() -> None:
    """At 95 %: Fisher's, which is that of normal gains, holds in 81 of 100 such sets of labels."""
    rng = np.random.default_rng(0)
    covers = []
    for _ in range(200):
        gold, other = rng.choice([-1.0, 0.0, 1.0], size=(2, 60), p=[0.1, 0.8, 0.1])
        preference = np.where(rng.random(60) < 0.4, gold, other)  # the correlation is 0.4
        found = summarise_labels(labelled_twice(gold, preference)).agreement.correlation
        if found is not None:
            covers.append(found.low <= 0.4 <= found.high)
    assert len(covers) > 190
    assert 0.91 < np.mean(covers) < 0.98


def test_pairs_of_models_that_share_their_queries_tell_no_more_of_a_correlation() -> None:
    """Labels that say of a second pair what they say of the first are not twice as many."""
    rng = np.random.default_rng(1)
    gold = rng.normal(size=40)
    preference = gold + rng.normal(size=40)
    one, two = (
        summarise_labels(labelled_twice(gold, preference, pairs=pairs)).agreement
        for pairs in (1, 2)
    )
    assert (one.n, two.n) == (40, 80)
    assert one.correlation is not None
    assert two.correlation is not None
    assert two.correlation.low == pytest.approx(one.correlation.low)
    assert two.correlation.high == pytest.approx(one.correlation.high)


def test_a_few_queries_that_all_agree_do_not_prove_that_all_do() -> None:
    """One in ten may differ unseen, at which the correlation is 0.8."""
    gold = np.tile([-1.0, 1.0], 6)
    found = summarise_labels(labelled_twice(gold, gold)).agreement.correlation
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 0.8


@pytest.mark.parametrize("gold", [[-1.0, 1.0, 1.0] * 3, [0.0] * 20 + [1.0] * 2])
def test_a_correlation_of_few_or_nearly_equal_gains_is_not_told(gold: list[float]) -> None:
    summary = summarise_labels(labelled_twice(gold, gold))
    assert summary.agreement.correlation is None
    assert says(summary, "too few, or too uniform")


def in_domains(n_gold: int, n_preference: int, shares: tuple[float, ...], seed: int) -> GainTable:
    """Twelve domains with the same three-valued gains of both sources."""
    rng = np.random.default_rng(seed)
    n = 12 * (n_gold + n_preference)
    return make_gain_table(
        queries=[f"query {i:05}" for i in range(n)],
        gain=rng.choice([-1.0, 0.0, 1.0], size=n, p=shares),
        is_gold=np.arange(n) < 12 * n_gold,
        domain=np.arange(n) % 12,
        domains=tuple(f"domain {i}" for i in range(12)),
    )


@pytest.mark.parametrize(
    ("n_gold", "n_preference", "shares"),
    [(3, 40, (0.1, 0.6, 0.3)), (14, 200, (0.02, 0.8, 0.18))],
    ids=["few labels", "labels of a domain that happen to be alike"],
)
def test_sources_alike_in_all_domains_are_called_biased_in_none(
    n_gold: int, n_preference: int, shares: tuple[float, ...]
) -> None:
    """In 5 % of all sets of labels at most; own variances would name a domain in 50 and 24 %."""
    named = [
        any(part.is_clear for part in summarise_labels(table).slices if part.kind == "domain")
        for table in (in_domains(n_gold, n_preference, shares, seed) for seed in range(40))
    ]
    assert sum(named) <= 3


@pytest.mark.parametrize(("n_gold", "is_clear"), [(9, False), (12, True)])
def test_a_bias_is_clear_from_ten_queries_of_each_source_on(n_gold: int, is_clear: bool) -> None:
    table = in_domains(n_gold, 60, (0.3, 0.4, 0.3), seed=0)
    worse = (table.domain[table.query] == 5) & ~table.is_gold
    summary = summarise_labels(
        table.with_gains(np.where(worse, table.gain - 2.0, table.gain), table.variance)
    )
    assert find_slice(summary, "domain", "domain 5").is_clear == is_clear
    assert says(summary, "domain 'domain 5'") == is_clear


def test_ties_are_left_out_of_the_sign_agreement() -> None:
    table = make_gain_table(
        queries=list("abc"),
        query=[0, 1, 2, 0, 1, 2],
        gain=[1.0, 0.0, 1.0, 0.5, 1.0, -0.5],
        is_gold=[True] * 3 + [False] * 3,
    )
    agreement = summarise_labels(table).agreement
    assert agreement.sign_agreement is not None
    assert (agreement.sign_agreement.value, agreement.n_signed) == (0.5, 2)


@pytest.mark.parametrize("flipped", [0, 12])
def test_pairs_of_one_query_agree_together(flipped: int) -> None:
    """Two pairs a query with the same answer tell little more of the share than one."""
    gold = np.ones(40)
    preference = np.where(np.arange(40) < flipped, -1.0, 1.0)
    once, twice = (
        summarise_labels(labelled_twice(gold, preference, pairs=pairs)).agreement
        for pairs in (1, 2)
    )
    assert once.sign_agreement is not None
    assert twice.sign_agreement is not None
    assert (once.n_signed, twice.n_signed) == (40, 80)
    assert once.sign_agreement.n == twice.sign_agreement.n == 40
    assert once.sign_agreement.value == twice.sign_agreement.value == 1 - flipped / 40
    assert twice.sign_agreement.low < once.sign_agreement.low < twice.sign_agreement.low + 0.02


def test_pairs_of_one_query_that_agree_by_chance_are_as_good_as_queries() -> None:
    """Over 300 pools of two pairs the interval holds the share 95 times of 100."""
    rng = np.random.default_rng(0)
    covers = []
    for _ in range(300):
        gains = np.where(rng.random(160) < 0.7, 1.0, -1.0)
        table = labelled_twice(np.ones(40), np.ones(40), pairs=2)
        agreement = summarise_labels(
            table.with_gains(np.where(table.is_gold, 1.0, gains), table.variance)
        ).agreement.sign_agreement
        assert agreement is not None
        covers.append(agreement.low <= 0.7 <= agreement.high)
    assert 0.92 < np.mean(covers) < 0.98


def test_the_share_of_signs_is_shown_with_its_interval() -> None:
    summary = summarise_labels(labelled_twice(np.ones(40), np.ones(40)))
    low = stats.binomtest(40, 40).proportion_ci(0.95, method="wilson").low
    assert f"same better model    100.0% [{low:.1%}, 100.0%] of the 40" in render_summary(summary)
    assert summary.to_dict()["agreement"]["sign_agreement"]["low"] == pytest.approx(low)


def test_repeated_votes_count_their_query_once() -> None:
    table = make_gain_table(
        queries=list("abc"),
        query=[0, 1, 0, 1, 1, 1],
        gain=[1.0, 0.0, 1.0, 0.0, 1.0, 1.0],
        weight=[1, 1, 1, 2, 1, 1],
        is_gold=[True, True, False, False, False, False],
    )
    summary = summarise_labels(table)
    overall = find_slice(summary, "all")
    assert (overall.n_gold, overall.n_preference) == (2, 2)
    assert overall.preference_mean == pytest.approx((1.0 + 0.5) / 2)
    assert summary.agreement.n == 2


def test_the_bias_of_a_slice_is_the_difference_of_its_mean_gains() -> None:
    table = both_sources(300, n_gold=120)
    part = find_slice(summarise_labels(table), "domain", "maths")
    odd = table.query % 2 == 1
    gold, preference = table.gain[odd & table.is_gold], table.gain[odd & ~table.is_gold]
    expected = stats.ttest_ind(preference, gold, equal_var=False).confidence_interval(0.95)
    assert part.bias is not None
    np.testing.assert_allclose(part.bias.value, preference.mean() - gold.mean())
    np.testing.assert_allclose([part.bias.low, part.bias.high], [expected.low, expected.high])
    assert (part.n_gold, part.n_preference) == (60, 150)
    assert part.share_gold == pytest.approx(60 / 150)


def test_a_judge_is_compared_with_all_gold_labels() -> None:
    table = both_sources(100, n_gold=40)
    part = find_slice(summarise_labels(table), "judge", "J2")
    gold, votes = table.gain[table.is_gold], table.gain[table.judge == 2]
    assert part.bias is not None
    assert part.n_preference == 50
    np.testing.assert_allclose(part.bias.value, votes.mean() - gold.mean())


def test_length_slices_part_the_labels_in_thirds() -> None:
    summary = summarise_labels(both_sources(300, n_gold=300))
    sizes = [part.n_gold for part in summary.slices if part.kind == "length"]
    assert len(sizes) == 3
    assert sum(sizes) == 300
    assert max(sizes) < 120


def test_length_slices_are_thirds_of_the_queries_and_not_of_the_labels() -> None:
    """The longest of nine queries has eight votes, and the others one each."""
    query = np.concatenate([np.arange(9), np.full(7, 8), np.arange(9)])
    table = make_gain_table(
        queries=["x" * (i + 1) for i in range(9)],
        query=query,
        gain=np.arange(25) % 3,
        is_gold=np.arange(25) >= 16,
    )
    slices = [part for part in summarise_labels(table).slices if part.kind == "length"]
    assert [part.name for part in slices] == [
        "up to 3 characters",
        "4 to 6 characters",
        "over 6 characters",
    ]
    assert [part.n_preference for part in slices] == [3, 3, 3]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((2, 3, 4), ["up to 2 characters", "3 characters", "over 3 characters"]),
        ((1, 2, 9), ["1 character", "2 to 4 characters", "over 4 characters"]),
        ((1, 1, 9), ["1 character", "over 3 characters"]),
        ((5, 5, 5, 9), ["up to 5 characters", "over 5 characters"]),
        ((5, 5, 5), []),
    ],
)
def test_length_slices_are_named_by_the_lengths_in_them(
    lengths: tuple[int, ...], expected: list[str]
) -> None:
    """No slice is empty, holds all labels, or goes from a length to the same one."""
    queries = [chr(97 + i) * length for i, length in enumerate(lengths * 6)]
    table = make_gain_table(
        queries=queries, gain=np.arange(len(queries)), is_gold=[True] * len(queries)
    )
    names = [part.name for part in summarise_labels(table).slices if part.kind == "length"]
    assert names == expected


def test_a_pool_is_sliced_for_its_best_known_pair_and_by_pairs() -> None:
    rows = [
        {"query": f"q{i}", "model": model, "score": value}
        for i in range(5)
        for model, value in (("a", 0.0), ("b", 0.3), ("c", 0.9))
        if model != "c" or i < 3
    ]
    summary = summarise_labels(read_gain_table(rows)[0])
    assert summary.contrast == ("b", "a")
    assert {p.name: p.n_gold for p in summary.slices if p.kind == "models"} == {
        "b over a": 5,
        "c over a": 3,
    }


def test_a_pool_is_sliced_for_the_pair_that_both_sources_know() -> None:
    """A domain with votes about other pairs is not said to have none."""
    rows = [
        {"query": f"q{i}", "model": model, "score": value, "domain": "maths"}
        for i in range(6)
        for model, value in (("a", 0.0), ("b", 0.3), ("c", i / 10 + 0.5))
    ]
    votes = [
        {"query": f"q{i}", "model_a": "c", "model_b": "a", "winner": "c", "domain": "maths"}
        for i in range(4, 8)
    ]
    summary = summarise_labels(read_gain_table(rows, votes)[0])
    assert summary.contrast == ("c", "a")
    assert not says(summary, "domain 'maths' has gold but no preference labels")
    assert says(summary, "models 'b over a' has gold but no preference labels")


def test_pairs_of_an_arena_without_gold_are_counted_not_listed() -> None:
    """Nine models are 36 pairs: one sentence and one line, not one each."""
    names = [f"model-{i}" for i in range(9)]
    gold = [
        {"query": f"q{i}", "model": model, "score": score}
        for i in range(6)
        for model, score in (("model-0", 0.1 * i), ("model-1", 0.5))
    ]
    votes = [
        {"query": f"{a} {b} {i}", "model_a": a, "model_b": b, "winner": "model_a"}
        for a, b in combinations(names, 2)
        for i in range(2)
    ]
    summary = summarise_labels(read_gain_table(gold, votes)[0])
    assert (
        sum("has preference" in text or "have preference" in text for text in summary.findings) == 1
    )
    assert says(summary, "and 32 more have preference but no gold labels")
    shown = render_summary(summary)
    assert "35 pairs of models in one source alone" in shown
    assert shown.count("  models model-") == 1


def test_slices_that_nobody_can_compare_do_not_widen_the_others() -> None:
    """A bias is clear at 0.05 over the slices with both labels, however many lack one."""
    noise = np.random.default_rng(0).normal(0, 0.2, 40)
    gold, votes = noise[:20], noise[20:] + 0.12
    others = list(combinations(range(25), 2))[1:]  # pairs of models that only votes know
    table = make_gain_table(
        queries=[f"query {i:03}" for i in range(40 + len(others))],
        models=tuple(f"model {i}" for i in range(25)),
        gain=np.concatenate([gold, votes, np.zeros(len(others))]),
        is_gold=np.arange(40 + len(others)) < 20,
        candidate=np.array([1] * 40 + [pair[1] for pair in others]),
        baseline=np.array([0] * 40 + [pair[0] for pair in others]),
    )
    p_value = stats.ttest_ind(votes, gold, equal_var=False).pvalue
    assert 0.05 / len(others) < p_value < 0.05 / 5
    assert find_slice(summarise_labels(table), "all").is_clear


@pytest.mark.parametrize(
    ("name", "is_alike"),
    [
        ("gpt4o-may", True),
        ("openai/GPT-4o-May", True),
        ("gpt-4o-june", False),
        ("gpt-5o-may", False),
    ],
)
def test_a_name_in_votes_that_is_nearly_one_of_gold_is_asked_about(
    name: str, is_alike: bool
) -> None:
    rows = [
        {"query": f"q{i}", "model": model, "score": value}
        for i in range(3)
        for model, value in (("small", 0.0), ("gpt-4o-may", 1.0))
    ]
    vote = {"query": "q9", "model_a": name, "model_b": "small", "winner": "tie"}
    summary = summarise_labels(read_gain_table(rows, [vote])[0])
    assert says(summary, f"{name!r} and 'gpt-4o-may' are taken for two models") == is_alike


def test_few_gold_labels_cannot_prove_savings() -> None:
    assert says(summarise_labels(both_sources(n_gold=99)), "cannot be shown")
    assert not says(summarise_labels(both_sources(n_gold=100)), "cannot be shown")


def test_missing_sources_are_named() -> None:
    table = both_sources()
    assert says(summarise_labels(table.preference()), "no gold labels")
    assert says(summarise_labels(table.gold()), "no preference labels")


def test_sources_that_never_meet_are_said_to_be_compared_by_slices_only() -> None:
    table = both_sources()
    apart = table.rows(np.where(table.is_gold, table.query < 100, table.query >= 100))
    assert says(summarise_labels(apart), "never share a query")
    assert not says(summarise_labels(table), "never share a query")


def test_a_domain_without_gold_is_named() -> None:
    table = both_sources()
    table = table.rows(~table.is_gold | (table.query % 2 == 0))
    assert says(summarise_labels(table), "domain 'maths' has preference but no gold labels")


def test_a_clear_bias_names_the_favoured_model_and_no_bias_does_not() -> None:
    assert says(summarise_labels(both_sources(bias=0.3)), "favour cheap")
    assert says(summarise_labels(both_sources(bias=-0.3)), "favour premium")
    assert not says(summarise_labels(both_sources(bias=0.0)), "favour")


def test_a_judge_that_follows_gold_by_a_little_is_not_praised() -> None:
    """A correlation may be clearly above 0 and still tell next to nothing."""
    found = summarise_labels(both_sources())
    measured = found.agreement.correlation
    assert measured is not None
    low, high = (
        replace(measured, value=value, low=value - 0.05, high=value + 0.05) for value in (0.1, 0.6)
    )
    for correlation, text in ((low, "hardly follow gold"), (high, "gains follow gold gains")):
        agreement = replace(found.agreement, correlation=correlation)
        said = make_findings(replace(found, agreement=agreement))
        assert any(text in finding for finding in said)


def test_a_perverse_judge_is_called_misleading() -> None:
    table = both_sources()
    gain = np.where(table.is_gold, table.gain, -table.gain)
    assert says(summarise_labels(table.with_gains(gain, table.variance)), "against gold gains")
    assert says(summarise_labels(table), "preference gains follow gold gains")


def test_a_judge_that_is_a_contestant_is_named() -> None:
    votes = [{"query": "q", "model_a": "a", "model_b": "b", "winner": "tie", "judge": "a"}]
    summary = summarise_labels(read_gain_table(preference=votes)[0])
    assert says(summary, "judge 'a' is one of the models that it judges: expect")
    assert not says(summary, "given as gold")


def test_gold_of_a_contestant_is_told_for_what_it_is() -> None:
    """No corrector doubts gold."""
    gold = [{"query": "q", "model_a": "a", "model_b": "b", "gain": 1.0, "judge": "x/A"}]
    summary = summarise_labels(read_gain_table(gold=gold)[0])
    assert says(summary, "judge 'x/A' is one of the models that it judges, and its labels are")
    assert not says(summary, "expect self-preference")


def test_sources_without_visible_agreement_are_said_to_add_nothing_so_far() -> None:
    table = both_sources(seed=5)
    shuffled = table.gain.copy()
    votes = np.flatnonzero(~table.is_gold)
    shuffled[votes] = np.random.default_rng(5).permutation(shuffled[votes])
    summary = summarise_labels(table.with_gains(shuffled, table.variance))
    assert says(summary, "do not visibly follow gold gains")


def test_a_mean_gain_around_zero_does_not_name_the_better_model() -> None:
    table = both_sources(100, n_gold=100)
    gain = np.where(table.is_gold, table.gain - table.gold().gain.mean(), table.gain)
    assert says(summarise_labels(table.with_gains(gain, table.variance)), "cannot tell yet")
    worse = np.where(table.is_gold, table.gain - 2.0, table.gain)
    summary = summarise_labels(table.with_gains(worse, table.variance))
    assert says(summary, "premium is worse than cheap")


def test_models_and_domains_that_only_one_source_knows_are_named() -> None:
    gold = [{"query": "q", "model": m, "score": s, "domain": "x"} for m, s in (("a", 0), ("b", 1))]
    votes = [{"query": "r", "model_a": "a", "model_b": "c", "winner": "tie", "domain": "y"}]
    summary = summarise_labels(read_gain_table(gold, votes)[0])
    assert says(summary, "no gold labels about: c")
    assert says(summary, "domain 'x' has gold but no preference labels")


def test_conflicts_other_models_and_shared_texts_are_said() -> None:
    votes: list[dict[str, Any]] = [
        {"query": "q", "model_a": "a", "model_b": "b", "winner": winner, "query_id": name}
        for winner, name in (("a", "1"), ("b", "1"), ("a", "2"))
    ]
    votes += [
        {**votes[0], "model_b": "c"},
        {**votes[0], "domain": "x"},
        {**votes[0], "domain": "y"},
    ]
    summary = summarise_labels(*read_gain_table(preference=votes, premium="a", cheap="b"))
    assert says(summary, "1 rows are about models that were not asked for")
    assert says(summary, "1 times the same judge labelled the same thing differently")
    assert says(summary, "1 texts have more than one query_id")
    assert says(summary, "1 queries have several domains")


def test_labels_that_never_vary_are_named() -> None:
    table = both_sources()
    gain = np.where(table.is_gold, 0.0, table.gain)
    assert says(summarise_labels(table.with_gains(gain, table.variance)), "all gold gains are +0")


def test_what_reading_found_is_said() -> None:
    rows: list[dict[str, Any]] = [
        {"query": "q", "model": "a", "score": 0.0, "notes": "x"},
        {"query": "q", "model": "b", "score": 1.0},
        {"query": "q", "model": "b", "score": 1.0},
        {"query": "r", "model": "b", "score": 1.0},
        {"query": "", "model": "b", "score": 1.0},
    ]
    summary = summarise_labels(*read_gain_table(rows, on_bad_row="skip"))
    assert says(summary, "1 of 5 rows were bad")
    assert says(summary, "1 scores stand alone")
    assert says(summary, "1 rows repeat")
    text = render_summary(summary)
    assert "5 rows read, 2 used, 1 skipped, 1 merged, 1 unpaired" in text
    assert "1 × query: empty text" in text
    assert "ignored columns: notes" in text


def test_intervals_of_the_bias_cover_it_as_often_as_they_say() -> None:
    covered = []
    for seed in range(200):
        part = find_slice(summarise_labels(both_sources(90, n_gold=40, seed=seed)), "all")
        assert part.bias is not None
        covered.append(part.bias.low <= -0.3 <= part.bias.high)
    # the queries of the two sources overlap, so the interval is somewhat too wide
    assert np.mean(covered) >= 0.93


def test_a_summary_is_plain_json_and_readable_text() -> None:
    table = both_sources(n_gold=50)
    summary = summarise_labels(table)
    values = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert values["sources"][0]["source"] == "gold"
    text = render_summary(summary)
    for part in ("cheap (reference)", "domain maths", "can and cannot", *summary.findings):
        assert part in text


def test_an_empty_table_has_a_summary() -> None:
    table = both_sources()
    empty = summarise_labels(table.rows(np.zeros(len(table), dtype=np.bool_)))
    assert (empty.contrast, empty.slices, empty.n_rows) == (None, (), 0)
    assert "0 labels" in render_summary(empty)


def pool_rows(n: int = 12) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Gold scores of three models, and votes on the two that are not the reference."""
    level = {"tiny": 0.1, "provider/a-very-long-name-of-a-model:mid": 0.5, "large": 0.9}
    _, mid, large = level
    gold = [
        {"query": f"q{i}", "model": model, "score": score + i % 3 / 100}
        for i in range(n)
        for model, score in level.items()
    ]
    votes = [
        {"query": f"q{i}", "model_a": large, "model_b": mid, "winner": "model_b"} for i in range(n)
    ]
    return gold, votes


def test_scores_of_three_models_are_gold_of_each_pair() -> None:
    """A vote on two models meets their gold scores, though gains are kept over a third."""
    gold, votes = pool_rows()
    summary = summarise_labels(*read_gain_table(gold, votes))
    assert summary.agreement.n_queries == 12
    assert summary.agreement.sign_agreement is not None
    assert summary.agreement.sign_agreement.value == 0
    part = find_slice(summary, "models", "large over provider")
    assert (part.n_gold, part.n_preference) == (12, 12)
    assert part.gold_mean == pytest.approx(0.4)
    assert part.bias is not None
    assert part.bias.value == pytest.approx(-1.4)
    assert not says(summary, "has preference but no gold labels")


def test_long_names_of_models_are_shown_whole() -> None:
    text = render_summary(summarise_labels(*read_gain_table(*pool_rows())))
    assert "models large over provider/a-very-long-name-of-a-model:mid " in text
    assert "\n  provider/a-very-long-name-of-a-model:mid " in text


@pytest.mark.parametrize(("score_range", "is_said"), [(None, True), ((1.0, 5.0), False)])
def test_scores_on_another_scale_want_their_range(
    score_range: tuple[float, float] | None, is_said: bool
) -> None:
    rows = [
        {"query": f"q{i}", "model": model, "score": score}
        for i in range(3)
        for model, score in (("a", 2.0), ("b", 5.0))
    ]
    summary = summarise_labels(*read_gain_table(rows, score_range=score_range))
    assert says(summary, "--score-range") is is_said


def test_votes_as_gold_and_scores_as_preference_are_asked_about() -> None:
    """Both may be meant; the usual reason is that the two files were taken for each other."""
    scores: list[dict[str, Any]] = [
        {"query": f"question {i}", "model": model, "score": float(i % 2)}
        for i in range(4)
        for model in ("a", "b")
    ]
    votes: list[dict[str, Any]] = [
        {"query": f"question {i}", "model_a": "b", "model_b": "a", "winner": "tie"}
        for i in range(4)
    ]
    for gold, preference, is_asked in [
        (votes, scores, True),
        (scores, votes, False),
        (votes, votes, False),
        (scores, None, False),
    ]:
        table, report = read_gain_table(gold, preference)
        assert report.looks_swapped == is_asked
        assert says(summarise_labels(table, report), "the wrong way round") == is_asked


def test_gold_queries_that_all_have_votes_are_said_to_leave_none_to_evaluate_on() -> None:
    assert says(summarise_labels(both_sources(10, n_gold=4)), "labels split")
    apart = make_gain_table(
        queries=["a", "b", "c"],
        query=[0, 1, 1, 2],
        gain=[1.0, 0.0, 1.0, 0.5],
        is_gold=[True, True, False, False],
    )
    assert not says(summarise_labels(apart), "labels split")
