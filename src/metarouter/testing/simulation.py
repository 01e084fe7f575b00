"""The numeric setting of the published study, with known truth: features, no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing.nuisances import OracleNuisances
from metarouter.types import BoolArray, FloatArray

__all__ = ["SIMULATED_BIASES", "Simulation", "make_simulation"]

SimulatedBias = Literal["none", "constant", "linear", "topic", "nonlinear", "perverse", "noise"]
SIMULATED_BIASES: tuple[str, ...] = get_args(SimulatedBias)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Simulation:
    """Features and labels of which every truth is known. Arrays are about training rows.

    Attributes
    ----------
    bias : str, one of :data:`SIMULATED_BIASES`.
    features : float32 array, shape (n_train, d).
    psi, eta, delta : float arrays, shape (n_train,).
    gold_gain, preference_gain : float arrays, shape (n_train,)
        Both labels of every row, as if all were shown.
    is_gold : bool array, shape (n_train,); gold is chosen completely at random.
    annotation_propensity : float, the same for every row.
    table, test : GainTable with features; `test` holds gold rows only.
    test_psi : float array, shape (n_test,).
    """

    bias: str
    features: NDArray[np.float32]
    psi: FloatArray
    eta: FloatArray
    delta: FloatArray
    gold_gain: FloatArray
    preference_gain: FloatArray
    is_gold: BoolArray
    annotation_propensity: float
    table: GainTable
    test: GainTable
    test_psi: FloatArray

    def __repr__(self) -> str:
        return f"Simulation({self.bias!r}; {self.table!r}; {len(self.test)} test queries)"

    def all_gold(self) -> GainTable:
        """The ceiling: the training table with a gold label in every row."""
        n = len(self.psi)
        return _table(self.features, self.gold_gain, np.ones(n, dtype=np.bool_), "q")

    def nuisances(self) -> OracleNuisances:
        """The true nuisance values at the rows of `table`."""
        return OracleNuisances(
            outcome_gold=self.psi,
            outcome_pref=self.eta,
            annotation_propensity=np.full(len(self.psi), self.annotation_propensity),
        )


def make_simulation(
    n: int = 5000,
    d: int = 50,
    *,
    n_gold: int = 100,
    n_test: int = 500,
    bias: str = "linear",
    noise: float = 0.27,
    seed: int = 0,
) -> Simulation:
    """Make the HealthBench-like setting: Gaussian components, smooth gain, biased judge.

    Parameters
    ----------
    n : int, default 5000
        Rows in all; `n_test` are held out, `n_gold` are gold, the others
        carry a preference label.
    d : int, default 50
        Number of features.
    n_gold, n_test : int, default 100 and 500
    bias : str, default "linear"
        One of :data:`SIMULATED_BIASES`, see Notes.
    noise : float, default 0.27
        Standard deviation of the noise of both labels, in gain units.
    seed : int, default 0

    Returns
    -------
    Simulation

    Raises
    ------
    OptionError
        When the bias is unknown or the numbers do not fit together.

    Notes
    -----
    Feature j is N(0, 1/j), like principal components. With u, v random linear
    functions of the features of variance one, ψ = 0.25·tanh(u), and Δ = ψ − η is

    * none: 0; constant: −0.15; linear: 0.25·tanh(v) − 0.15;
    * topic: −0.35 where v > 0.6, 0.15 where v < −0.6, else −0.1;
    * nonlinear: 0.3·sin(2v)·cos(u) − 0.1;
    * perverse: 2ψ, so that η = −ψ; noise: ψ, so that η = 0.

    Examples
    --------
    >>> simulation = make_simulation(600, 5, n_gold=50, n_test=100, bias="constant")
    >>> len(simulation.table), len(simulation.test), round(float(simulation.delta[0]), 2)
    (500, 100, -0.15)
    """
    if bias not in SIMULATED_BIASES:
        raise OptionError.of("bias", bias, ", ".join(SIMULATED_BIASES))
    if not 1 <= n_gold <= n - n_test:
        raise OptionError.of("n_gold", n_gold, f"1 to n - n_test = {n - n_test}")
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.arange(1, d + 1))
    features = rng.normal(size=(n, d)) * scale
    u, v = (_unit_direction(scale, rng, features) for _ in range(2))
    psi = 0.25 * np.tanh(u)
    delta = _delta(bias, psi, u, v)
    gold_gain = psi + noise * rng.normal(size=n)
    preference_gain = psi - delta + noise * rng.normal(size=n)
    train, test = slice(n_test, None), slice(0, n_test)
    is_gold = np.zeros(n - n_test, dtype=np.bool_)
    is_gold[rng.permutation(n - n_test)[:n_gold]] = True
    x = features.astype(np.float32)
    shown = np.where(is_gold, gold_gain[train], preference_gain[train])
    return Simulation(
        bias=bias,
        features=x[train],
        psi=psi[train],
        eta=(psi - delta)[train],
        delta=delta[train],
        gold_gain=gold_gain[train],
        preference_gain=preference_gain[train],
        is_gold=is_gold,
        annotation_propensity=n_gold / (n - n_test),
        table=_table(x[train], shown, is_gold, "q"),
        test=_table(x[test], gold_gain[test], np.ones(n_test, dtype=np.bool_), "t"),
        test_psi=psi[test],
    )


def _unit_direction(
    scale: FloatArray, rng: np.random.Generator, features: FloatArray
) -> FloatArray:
    """A random linear function of the features whose variance is one."""
    weights = rng.normal(size=len(scale))
    values: FloatArray = features @ (weights / np.linalg.norm(weights * scale))
    return values


def _delta(bias: str, psi: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    shifts = {
        "none": np.zeros_like(psi),
        "constant": np.full_like(psi, -0.15),
        "linear": 0.25 * np.tanh(v) - 0.15,
        "topic": np.select([v > 0.6, v < -0.6], [-0.35, 0.15], -0.1),
        "nonlinear": 0.3 * np.sin(2 * v) * np.cos(u) - 0.1,
        "perverse": 2 * psi,
        "noise": psi,
    }
    return np.asarray(shifts[bias], dtype=np.float64)


def _table(
    features: NDArray[np.float32], gain: FloatArray, is_gold: BoolArray, prefix: str
) -> GainTable:
    return make_gain_table(
        queries=[f"{prefix}{i}" for i in range(len(gain))],
        query_ids=[f"{prefix}{i}" for i in range(len(gain))],
        gain=gain,
        is_gold=is_gold,
        features=features,
    )
