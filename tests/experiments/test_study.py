"""What the studies share: the log that lets them go on, and the ratio to hindsight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the studies need the train extra")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    """A torn log keeps its whole lines and takes further ones."""
    from study import Log, Record

    path = tmp_path / "log.jsonl"
    log = Log(path)
    for method in ("auto", "dr"):
        log.add(Record(world="w", cell="c", seed=0, method=method, area=0.1, seconds=1.0))
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    resumed = Log(path)
    assert resumed.missing("w", "c", 0, ["auto", "dr"]) == ["dr"]
    resumed.add(Record(world="w", cell="c", seed=0, method="dr", area=0.2, seconds=1.0))
    assert [r.area for r in Log(path).records] == [0.1, 0.2]


def test_hindsight_knows_the_means_over_seeds_only() -> None:
    """The yardstick is one method for all seeds, and never one of ours."""
    from study import ratio_to_hindsight

    by = {
        "dr": np.array([1.0, 3.0]),
        "none": np.array([2.0, 1.0]),
        "auto": np.array([3.0, 3.0]),
    }
    assert ratio_to_hindsight(by, "auto") == pytest.approx(1.5)
    assert ratio_to_hindsight(by, "none") == pytest.approx(0.75)


def test_worlds_average_pairs_before_they_divide() -> None:
    """A pair whose best area is near 0 does not decide the mean."""
    from worlds import ratio

    cell = {
        "gold_only": np.array([[0.01, 0.01], [1.0, 1.0]]),
        "auto": np.array([[0.11, 0.11], [0.9, 0.9]]),
    }
    assert ratio([cell], "auto") == pytest.approx(1.0)


def test_an_interval_over_pairs_is_not_narrowed_by_seeds() -> None:
    """Pairs are redrawn first: ten seeds of four pairs are four units, not forty."""
    from study import ratio_to_hindsight

    level = np.array([0.5, 1.0, 2.0, 4.0])
    by = {"none": np.ones(40), "auto": np.tile(level, 10)}
    rng = np.random.default_rng(0)
    draws = [ratio_to_hindsight(by, "auto", rng, units=4) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(level.mean(), rel=0.05)
    assert np.std(draws) == pytest.approx(level.std() / 2, rel=0.1)


def test_new_models_of_equally_long_names_are_probed_with_other_queries() -> None:
    """The order of the labels is a model's own, and the same whenever it is run."""
    from onboarding_report import probe_order

    train = np.arange(100)
    gemma, llama = (probe_order(0, name, train) for name in ("gemma-7b", "llama-7b"))
    assert not np.array_equal(gemma, llama)
    assert np.array_equal(probe_order(0, "gemma-7b", train), gemma)
    assert np.array_equal(np.sort(gemma), train)
