"""What a comparison says of its records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metarouter.errors import OptionError
from metarouter.evaluation.comparison import CompareConfig, CompareRecord, CompareResult

AREAS = {
    ("gold_only", 50): [0.010, 0.014, 0.012],
    ("gold_only", 100): [0.020, 0.024, 0.022],
    ("none", 50): [0.016, 0.018, 0.020],
    ("none", 100): [0.011, 0.013, 0.012],
    ("auto", 50): [0.020, 0.019, 0.024],
    ("auto", 100): [0.030, 0.033, 0.030],
    ("two_fidelity", 50): [0.050, 0.050, 0.051],
    ("two_fidelity", 100): [0.050, 0.050, 0.051],
    ("all_gold", 50): [0.040, 0.042, 0.044],
    ("all_gold", 100): [0.040, 0.042, 0.044],
}


def make_record(corrector: str, n_gold: int, seed: int, area: float) -> CompareRecord:
    return CompareRecord(
        n_gold=n_gold,
        seed=seed,
        corrector=corrector,
        gain_model="ridge",
        n_preference=300,
        n_test=100,
        efficiency_gain_area=area,
        efficiency_gain_area_20_80=area / 2,
        apgr=math.nan if seed == 0 else 0.6,
        cpt50=0.4,
        cpt80=0.7,
        fit_seconds=1.0 + seed,
    )


@pytest.fixture
def result() -> CompareResult:
    config = CompareConfig(
        n_gold=(50, 100),
        correctors=tuple(dict.fromkeys(name for name, _ in AREAS)),
        gain_models=("ridge",),
        seeds=(0, 1, 2),
        n_test=100,
        embedder="default",
        models=("cheap", "premium"),
        n_queries=450,
        n_gold_queries=400,
        n_preference_queries=450,
        fingerprint="f",
    )
    records = [
        make_record(cell.corrector, cell.n_gold, cell.seed, AREAS[cell[2], cell[1]][cell.seed])
        for cell in config.cells()
    ]
    return CompareResult(records=tuple(records), config=config)


def half_width(values: list[float] | np.ndarray) -> float:
    """Nadeau and Bengio: (1/J + n_test/n_train) s², t with J - 1 degrees of freedom."""
    variance = (1 / 3 + 100 / 300) * np.var(values, ddof=1)
    return float(stats.t.ppf(0.975, 2) * np.sqrt(variance))


def test_mean_has_the_corrected_resampled_interval(result: CompareResult) -> None:
    values = AREAS["auto", 50]
    mean = result.mean("auto", 50)
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.high - mean.value == pytest.approx(half_width(values))


def test_difference_is_paired_by_split(result: CompareResult) -> None:
    difference = np.subtract(AREAS["auto", 50], AREAS["none", 50])
    found = result.paired_difference("auto", "none", 50)
    assert found.value == pytest.approx(difference.mean())
    assert found.value - found.low == pytest.approx(half_width(difference))


def test_ratio_is_of_means_by_the_delta_method(result: CompareResult) -> None:
    a, b = np.asarray(AREAS["auto", 50]), np.asarray(AREAS["none", 50])
    ratio = a.mean() / b.mean()
    found = result.paired_ratio("auto", "none", 50)
    assert found.value == pytest.approx(ratio)
    assert found.high - found.value == pytest.approx(half_width((a - ratio * b) / b.mean()))


def test_best_fixed_and_hindsight_are_picked_among_the_yardsticks(result: CompareResult) -> None:
    """Means over both sizes: gold_only 1.7, none 1.5; auto and two_fidelity do not count."""
    assert result.best_fixed() == "gold_only"
    assert result.hindsight(50) == "none"
    assert result.hindsight(100) == "gold_only"


def test_summary_holds_every_method_against_both_and_the_ceiling(result: CompareResult) -> None:
    rows = {(row.corrector, row.n_gold): row for row in result.summary()}
    assert set(rows) == set(AREAS)
    row = rows["auto", 50]
    assert row.ratio is not None
    assert row.hindsight_ratio is not None
    assert row.ceiling_ratio is not None
    assert row.ratio.value == pytest.approx(21 / 12)
    assert row.hindsight_ratio.value == pytest.approx(21 / 18)
    assert row.ceiling_ratio.value == pytest.approx(21 / 42)
    assert row.fit_seconds == 2.0


def test_undefined_metric_has_no_mean(result: CompareResult) -> None:
    apgr = result.mean("auto", 50, metric="apgr")
    assert math.isnan(apgr.value)
    assert apgr.warnings == ("undefined in some splits",)


def test_ratio_to_a_method_worse_than_random_says_nothing(result: CompareResult) -> None:
    records = [make_record("none", 50, seed, -0.01) for seed in range(3)]
    records += [make_record("auto", 50, seed, 0.01) for seed in range(3)]
    worse = CompareResult(records=tuple(records), config=result.config)
    assert math.isnan(worse.paired_ratio("auto", "none", 50).value)


def test_records_are_flat_json_with_the_contract_fields(result: CompareResult) -> None:
    first = result.as_records()[0]
    assert first["apgr"] is None
    assert {
        *("n_gold", "seed", "corrector", "gain_model", "n_test", "efficiency_gain_area"),
        *("apgr", "cpt50", "cpt80", "fit_seconds"),
    } <= set(first)
    again = CompareRecord.from_dict(first)
    assert again is not None
    assert again.as_dict() == first
    assert CompareRecord.from_dict({"n_gold": 50}) is None


def test_method_that_was_not_compared_is_named(result: CompareResult) -> None:
    with pytest.raises(OptionError, match="dr at n_gold 50 with ridge"):
        result.values("dr", 50)
