"""Gains of a pool of models over a reference model, from contrasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, NotFittedError
from metarouter.gain.out_of_bag import PredictsUnseen
from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.gain.weights import row_weights, shared_variance
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import BoolArray, FloatArray, GainModel, ModelState

__all__ = ["PoolGainModel", "check_linked"]


class PoolGainModel:
    """One gain model for each candidate, fitted on contrasts.

    A row says ``gain = ψ_a(x) − ψ_b(x) + noise`` of candidate a and baseline
    b, with ψ = 0 for the reference model ``models[0]``. A table whose rows are
    all against the reference (a pair is the smallest) needs one fit for each
    candidate. Otherwise the fits are repeated in turn, each on what the
    others leave over, until they settle.

    Parameters
    ----------
    make : callable without arguments
        Gives an unfitted gain model of one gain, for instance
        ``lambda: make_gain_model("ridge")``.
    max_rounds : int, default 20
        Most passes over the candidates when rows compare two of them.
    tolerance : float, default 1e-3
        A pass that moves no fitted gain by more than this share of the
        standard deviation of the labels is the last.

    Attributes
    ----------
    members_ : list of fitted gain models, in the order of ``models[1:]``.
    n_rounds_ : int, passes made (1 when there was nothing to repeat).
    std_factor_ : array, shape (n_models − 1,); see Notes.
    shared_variance_ : array, shape (n_models − 1,)
        Error that corrected rows of a candidate have in common; see
        :func:`metarouter.gain.weights.shared_variance`.

    Raises
    ------
    DataError
        From ``fit``: a candidate has no label, or no chain of labels links it
        to the reference model.

    Notes
    -----
    For a ridge of fixed penalty the passes are block coordinate descent on

        Σ_i w_i (y_i − ψ_a(x_i) + ψ_b(x_i))² + λ Σ_m ‖β_m‖²,

    which is convex, so they reach its one minimum. For models that tune
    themselves or draw (trees, networks) it is backfitting.

    A member's own standard deviation takes the others as known. The joint one
    is larger by ``√(L_mm [L⁻¹]_mm)``, with L the Laplacian of the graph of
    labels (nodes are models, edges the summed weights, the reference
    grounded). This is exact for gains that do not depend on the query and
    close when contrasts share their queries' distribution; it is 1 when all
    rows are against the reference.

    References
    ----------
    Breiman & Friedman (1985), Estimating optimal transformations for multiple
    regression and correlation, section 5.

    Examples
    --------
    >>> from metarouter.gain import make_gain_model
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b", "c"], gain=[0.0, 1.0, 2.0],
    ...     is_gold=[True] * 3, features=np.eye(3))
    >>> pool = PoolGainModel(lambda: make_gain_model("forest")).fit(table)
    >>> pool.predict(np.eye(3)).mean.shape
    (3, 1)
    """

    def __init__(
        self, make: Callable[[], GainModel], *, max_rounds: int = 20, tolerance: float = 1e-3
    ) -> None:
        self.make = make
        self.max_rounds = max_rounds
        self.tolerance = tolerance

    def fit(self, table: GainTable) -> Self:
        """Learn the gains of ``table.models[1:]`` over ``table.models[0]``."""
        weight = row_weights(table)
        self.shared_variance_ = shared_variance(table)
        keep = weight > 0
        if not keep.all():
            table, weight = table.rows(keep), weight[keep]
        check_linked(table, weight)
        laplacian = _grounded_laplacian(table, weight)
        self.std_factor_ = np.sqrt(np.diag(laplacian) * np.diag(np.linalg.inv(laplacian)))
        self._fit_members(table, weight)
        self.scorer_: GainScorer = load_gain_model(self.state())
        return self

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, mean and std of shape (n, n_models − 1)."""
        if not hasattr(self, "scorer_"):
            raise NotFittedError.of(self)
        return self.scorer_.predict(np.asarray(features))

    def predict_unseen(self, features: NDArray[Any]) -> FloatArray:
        """Gains as by members that were not fitted on the query, shape (n, n_models − 1)."""
        gains = self.predict(features).mean
        for column, member in enumerate(self.members_):
            if isinstance(member, PredictsUnseen):
                gains[:, column] = member.predict_unseen(features)
        return gains

    def state(self) -> ModelState:
        """State of kind "pool" that holds the state of every member."""
        if not hasattr(self, "members_"):
            raise NotFittedError.of(self)
        states = [member.state() for member in self.members_]
        return ModelState(
            kind="pool",
            config={
                "members": [{"kind": state.kind, "config": state.config} for state in states],
                "std_factor": self.std_factor_.tolist(),
                "shared_variance": self.shared_variance_.tolist(),
            },
            arrays={
                f"{i}.{name}": array
                for i, state in enumerate(states)
                for name, array in state.arrays.items()
            },
        )

    def _fit_members(self, table: GainTable, weight: FloatArray) -> None:
        features = table.row_features()
        n_candidates = len(table.models) - 1
        # fitted[m − 1] is ψ̂_m at every row: zero until m is first fitted.
        fitted = np.zeros((n_candidates, len(table)))
        self.members_: list[GainModel] = [self.make() for _ in range(n_candidates)]
        repeated = bool((table.baseline > 0).any())
        limit = self.tolerance * float(table.gain.std())
        for round_number in range(1, self.max_rounds + 1):
            self.n_rounds_ = round_number
            before = fitted.copy() if repeated else fitted
            for model in range(1, n_candidates + 1):
                rows, x, target = _residual_rows(model, table, features, fitted)
                member = self.make().fit(x, target, weight[rows])
                self.members_[model - 1] = member
                if repeated:
                    fitted[model - 1, rows] = member.predict(x).mean
            if not repeated or float(np.abs(fitted - before).max()) <= limit:
                return


def _residual_rows(
    model: int, table: GainTable, features: NDArray[np.float32], fitted: FloatArray
) -> tuple[BoolArray, NDArray[np.float32], FloatArray]:
    """Rows that involve `model`, their features, and what they say of ψ_model."""
    rows = (table.candidate == model) | (table.baseline == model)
    leads = table.candidate[rows] == model
    other = np.where(leads, table.baseline[rows], table.candidate[rows])
    target = np.where(leads, 1.0, -1.0) * table.gain[rows]
    compared = other > 0
    target[compared] += fitted[other[compared] - 1, np.flatnonzero(rows)[compared]]
    return rows, features if rows.all() else features[rows], target


def _grounded_laplacian(table: GainTable, weight: FloatArray) -> FloatArray:
    n = len(table.models)
    joint = np.zeros((n, n))
    np.add.at(joint, (table.candidate, table.baseline), weight)
    joint += joint.T
    laplacian: FloatArray = (np.diag(joint.sum(axis=1)) - joint)[1:, 1:]
    return laplacian


def check_linked(table: GainTable, weight: FloatArray) -> None:
    """Refuse a table in which a model cannot be compared with the reference.

    Parameters
    ----------
    table : GainTable
    weight : array, shape (n_rows,); rows of weight 0 link nothing.

    Raises
    ------
    DataError
        When a candidate has no label, or no chain of labels links it to
        ``models[0]``.
    """
    laplacian = _grounded_laplacian(table, weight)
    names = table.models[1:]
    bare = [name for name, degree in zip(names, np.diag(laplacian), strict=True) if degree <= 0]
    if bare:
        raise DataError(
            f"no usable label for {', '.join(bare)}; allowed: at least one for each candidate, and "
            "votes that a corrector leaves out for want of gold labels are none; add gold labels, "
            "leave the model out, or take the corrector auto, which learns from such votes"
        )
    linked = np.isin(np.arange(len(table.models)), 0)
    for _ in names:
        meets = linked[table.candidate] | linked[table.baseline]
        linked[table.candidate[meets]] = linked[table.baseline[meets]] = True
    if not linked.all():
        lost = [name for name, is_linked in zip(table.models, linked, strict=True) if not is_linked]
        raise DataError(
            f"no chain of labels links {', '.join(lost)} to the reference model "
            f"{table.models[0]}; add labels that compare them"
        )
