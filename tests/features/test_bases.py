"""Feature maps that the gain may live in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metarouter.errors import DataError
from metarouter.features.bases import BASES, QueryMap, distinct_bases, learn_query_map
from metarouter.types import FloatArray, ModelState


def make_features(n: int = 200, d: int = 20, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) / np.sqrt(np.arange(1, d + 1)) + 2.0


def parts_of(query_map: QueryMap) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return {part: query_map.columns(part) for part in query_map.parts}


def test_every_part_is_centred_and_of_unit_size() -> None:
    """One prior variance means the same in each part, and the first entry is the level."""
    X = make_features()
    query_map = learn_query_map(X, BASES)
    v = query_map.transform(X)
    np.testing.assert_array_equal(v[:, 0], 1.0)
    for columns in parts_of(query_map).values():
        np.testing.assert_allclose(v[:, columns].mean(axis=0), 0, atol=1e-10)
        assert (v[:, columns] ** 2).sum(axis=1).mean() == pytest.approx(1.0)


def test_parts_follow_each_other_and_a_basis_joins_some() -> None:
    query_map = learn_query_map(make_features(), BASES)
    assert query_map.parts == ("linear", "rbf3", "rbf8", "rbf20")
    joined = np.concatenate(list(parts_of(query_map).values()))
    np.testing.assert_array_equal(joined, np.arange(1, query_map.dim))
    np.testing.assert_array_equal(
        query_map.columns("linear+rbf8"),
        np.concatenate([query_map.columns("linear"), query_map.columns("rbf8")]),
    )


def test_linear_is_a_rotation_of_the_centred_features() -> None:
    """Inner products are those of the features, up to one constant."""
    X = make_features()
    query_map = learn_query_map(X, ["linear"])
    centred = X - X.mean(axis=0)
    v = query_map.transform(X)[:, 1:]
    expected = centred @ centred.T / (centred**2).sum(axis=1).mean()
    np.testing.assert_allclose(v @ v.T, expected, atol=1e-10)


def test_rbf_is_a_gaussian_kernel_at_its_landmarks() -> None:
    """With all rows as landmarks the map reproduces the kernel of half the median distance."""
    X = make_features(n=40, d=6)
    query_map = learn_query_map(X, ["rbf5"])
    centred = X - X.mean(axis=0)
    components = centred @ np.linalg.svd(centred)[2][:5].T
    squared = ((components[:, None] - components[None]) ** 2).sum(axis=2)
    kernel = np.exp(-2.0 * squared / np.median(squared))
    twice_centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
    expected = twice_centred / np.trace(twice_centred) * 40
    v = query_map.transform(X)[:, 1:]
    np.testing.assert_allclose(v @ v.T, expected, atol=1e-4)


def test_the_unit_and_origin_of_features_do_not_matter() -> None:
    X = make_features()
    one, other = (learn_query_map(rows, BASES).transform(rows) for rows in (X, 7.0 * X - 3.0))
    for part in (slice(1, 21), slice(21, None)):
        np.testing.assert_allclose(
            other[:, part] @ other[:, part].T, one[:, part] @ one[:, part].T, atol=1e-5
        )


def with_index(query_map: QueryMap, X: FloatArray) -> QueryMap:
    """The map with two linear functions of its components."""
    width = query_map.rotation.shape[1]
    return query_map.with_index(np.random.default_rng(5).normal(size=(width, 2)), X)


@pytest.mark.parametrize("bases", [BASES, ("linear",), ("rbf12",)])
@pytest.mark.parametrize("has_index", [False, True])
def test_scoring_folded_is_transforming_and_multiplying(
    bases: tuple[str, ...], has_index: bool
) -> None:
    X, new = make_features(), make_features(7, seed=1)
    query_map = learn_query_map(X, bases)
    if has_index:
        query_map = with_index(query_map, X)
    weights = np.random.default_rng(2).normal(size=(query_map.dim, 3))
    np.testing.assert_allclose(
        query_map.lift()(new) @ query_map.fold(weights),
        query_map.transform(new) @ weights,
        atol=1e-8,
    )


def test_bounds_on_the_width_hold_for_components_and_for_each_curve() -> None:
    query_map = learn_query_map(make_features(), BASES, max_dim=8, max_curve=5)
    widths = {part: len(columns) for part, columns in parts_of(query_map).items()}
    assert widths == {"linear": 8, "rbf3": 5, "rbf8": 5, "rbf20": 5}


@pytest.mark.parametrize(
    ("bases", "n_features", "distinct"),
    [
        (BASES, 64, list(BASES)),
        (BASES, 6, ["linear", "rbf3", "rbf8", "linear+rbf3", "linear+rbf8"]),
        (BASES, 2, ["linear", "rbf3", "linear+rbf3"]),
        (["rbf9", "rbf12"], 10, ["rbf9", "rbf12"]),
        (
            ["rbf8", "linear+rbf3", "rbf3+linear", "rbf3+rbf3"],
            9,
            ["rbf8", "linear+rbf3", "rbf3+rbf3"],
        ),
        (["rbf9+rbf12", "rbf9"], 5, ["rbf9+rbf12", "rbf9"]),
    ],
)
def test_a_basis_counts_once_where_there_are_few_features(
    bases: list[str], n_features: int, distinct: list[str]
) -> None:
    assert distinct_bases(bases, n_features) == distinct


def test_index_features_are_linear_and_of_mean_squared_length_one() -> None:
    X = make_features()
    query_map = with_index(learn_query_map(X, ("rbf3",)), X)
    assert query_map.parts == ("rbf3", "index")
    v = query_map.transform(X)[:, query_map.columns("index")]
    assert v.shape[1] == 2
    assert abs(((v - v.mean(axis=0)) ** 2).sum(axis=1).mean() - 1.0) < 1e-9
    halfway = query_map.transform((X[:1] + X[1:2]) / 2)[:, query_map.columns("index")]
    np.testing.assert_allclose(halfway[0], v[:2].mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("has_index", [False, True])
def test_round_trip_gives_the_same_bits(has_index: bool) -> None:
    """Through JSON config and arrays as a file gives them back."""
    X = make_features()
    query_map = learn_query_map(X, BASES)
    if has_index:
        query_map = with_index(query_map, X)
    state = query_map.state()
    arrays = {name: np.frombuffer(a.tobytes()).reshape(a.shape) for name, a in state.arrays.items()}
    config = json.loads(json.dumps(state.config))
    restored = QueryMap.restore(ModelState(kind=state.kind, config=config, arrays=arrays))
    np.testing.assert_array_equal(restored.transform(X), query_map.transform(X))


@pytest.mark.parametrize(
    "X", [np.zeros((5, 3)), np.ones((1, 3)), np.eye(2)], ids=["constant", "one row", "two rows"]
)
def test_features_without_variety_give_finite_maps(X: FloatArray) -> None:
    assert np.isfinite(learn_query_map(X, BASES).transform(X)).all()


@pytest.mark.parametrize("value", [0.1, 1.0, 7.3])
def test_the_rounding_of_features_that_never_vary_is_not_scaled_up(value: float) -> None:
    X = np.full((230, 6), value, dtype=np.float32)
    v = learn_query_map(X, BASES).transform(X)
    np.testing.assert_allclose(v[:, 1:], 0.0, atol=1e-10)


def test_features_of_another_width_are_refused() -> None:
    query_map = learn_query_map(make_features(), BASES)
    for X in (np.zeros((3, 19)), np.zeros(20)):
        with pytest.raises(DataError, match="20"):
            query_map.transform(X)
