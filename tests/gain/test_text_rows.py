"""What text gain models share: texts once each, a validation split, a readout that is set right."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import DataError, OptionError
from metarouter.gain import load_gain_model
from metarouter.gain.candidate_slopes import candidate_slopes
from metarouter.gain.table_model import TableRows, prepare_table
from metarouter.gain.text import row_inputs, stage_of
from metarouter.gain.text.decoder import grade_targets
from metarouter.gain.text.encoder import battle_targets
from metarouter.gain.text.rows import Readout, prepare_texts
from metarouter.labels.table import GainTable, make_gain_table


def _rows(gain: np.ndarray, n_models: int = 2, candidate: np.ndarray | None = None) -> TableRows:
    n = len(gain)
    table = make_gain_table(
        queries=[str(i) for i in range(n)],
        gain=gain,
        is_gold=[True] * n,
        models=tuple("abc"[:n_models]),
        candidate=candidate,
        features=np.eye(n),
    )
    return prepare_table(table)


def test_each_text_is_one_query_and_on_one_side() -> None:
    """Equal texts under other ids are joined; what is held out is not trained on."""
    table = make_gain_table(
        queries=[f"text {i % 10}" for i in range(40)], gain=np.ones(40), is_gold=[True] * 40
    )
    data = prepare_texts(table, 0.3, np.random.default_rng(0))
    assert data.texts == tuple(f"text {i}" for i in range(10))
    outside = set(data.rows.query[data.held_out].tolist())
    assert len(outside) == 3
    assert not outside & set(data.rows.query[~data.held_out].tolist())
    assert data.rows.weight.mean() == pytest.approx(1.0)


def test_queries_without_weight_are_left_out() -> None:
    table = make_gain_table(
        queries=["a", "b", "c"], gain=[1.0, 0.0, 1.0], is_gold=[True] * 3, weight=[1.0, 0.0, 1.0]
    )
    assert prepare_texts(table, 0.1, np.random.default_rng(0)).texts == ("a", "c")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_is_refused(share: float) -> None:
    table = make_gain_table(queries=["a"], gain=[1.0], is_gold=[True])
    with pytest.raises(OptionError, match="validation_share"):
        prepare_texts(table, share, np.random.default_rng(0))


def test_targets_have_the_label_as_their_mean() -> None:
    """Win minus loss, in gain units, is the gain; shares add to 1."""
    gain = np.random.default_rng(0).uniform(-2.0, 2.0, size=50)
    rows = _rows(gain)
    shares = battle_targets(rows).astype(np.float64)
    np.testing.assert_allclose(rows.scale * (shares[:, 0] - shares[:, 2]), gain, atol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(grade_targets(rows).sum(axis=1), 1.0, atol=1e-6)


def test_the_readout_has_the_slope_of_the_held_out_labels() -> None:
    """Where labels are twice the scores, so are the gains; the level is the one that is given."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=400).astype(np.float32)
    score = (p[:, 0] - p[:, 2]).astype(np.float64)
    gain = 2.0 * (score - score.mean()) + 0.3
    rows = _rows(gain)
    readout = Readout(direction=np.array([[1.0, 0.0, -1.0]]), level=np.array([0.3]))
    estimate = load_gain_model(readout.state(rows, p)).predict(p)
    np.testing.assert_allclose(estimate.mean[:, 0], gain, atol=1e-5)
    # with no noise left, the level alone is uncertain: by the standard error of the mean gain
    np.testing.assert_allclose(estimate.std[:, 0], gain.std() / 20.0, rtol=1e-2)


def test_the_readouts_uncertainty_grows_with_the_departure() -> None:
    """Std² = floor² + (s.d. of the slope · departure)², when labels are noisy."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), size=400).astype(np.float32)
    score = (p[:, 0] - p[:, 2]).astype(np.float64)
    rows = _rows(score + rng.normal(size=400))
    state = Readout(direction=np.array([[1.0, 0.0, -1.0]]), level=np.zeros(1)).state(rows, p)
    departure = score - score.mean()
    _, slope_std = candidate_slopes(departure[:, None], np.zeros(1), rows, np.ones(400, dtype=bool))
    std = load_gain_model(state).predict(p).std[:, 0]
    floor = rows.gain.std() / 20.0
    np.testing.assert_allclose(std**2, floor**2 + (slope_std[0] * departure) ** 2, rtol=1e-3)


def test_every_candidate_has_a_slope_of_its_own() -> None:
    """Labels follow the first candidate's prediction thrice as steeply, the second's not at all."""
    rng = np.random.default_rng(2)
    candidate = rng.integers(1, 3, size=600)
    departure = rng.normal(size=(600, 2))
    gain = np.where(candidate == 1, 3.0 * departure[:, 0], 0.0) + 0.01 * rng.normal(size=600)
    rows = _rows(gain, 3, candidate)
    everything = np.ones(600, dtype=bool)
    slope, _ = candidate_slopes(departure, np.zeros(2), rows, everything)
    np.testing.assert_allclose(slope, [3.0, 0.0], atol=0.01)
    none, std = candidate_slopes(departure, np.zeros(2), rows, ~everything)
    assert none.tolist() == [1.0, 1.0]
    assert std.tolist() == [0.0, 0.0]


class _Lengths:
    """A stage that counts letters."""

    name, dim, endpoints = "lengths", 1, ()

    def transform(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text)] for text in texts], dtype=np.float32)


class _Staged:
    stage_ = _Lengths()


def test_rows_are_read_through_the_models_own_stage() -> None:
    """A text model reads texts, any other the table's features."""
    table = make_gain_table(
        queries=["a", "bbb", "cc"], query=[1, 1, 2], gain=np.ones(3), is_gold=[True] * 3
    )
    assert row_inputs(_Staged(), table).tolist() == [[3.0], [3.0], [2.0]]
    assert stage_of(object()) is None
    with_features: GainTable = table.with_features(np.eye(3, dtype=np.float32))
    assert row_inputs(object(), with_features).tolist() == np.eye(3)[[1, 1, 2]].tolist()
    with pytest.raises(DataError, match="no features"):
        row_inputs(object(), table)
