"""Matrix factorisation: :class:`MFGain`, trained with PyTorch, scored with NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from metarouter.errors import OptionError
from metarouter.gain.candidate_slopes import candidate_slopes
from metarouter.gain.linear_error import linear_error_arrays
from metarouter.gain.mf_scorer import MFScorer
from metarouter.gain.mf_training import MFBattles, MFMember, MFSettings, train_members
from metarouter.gain.table_model import ScoredTableModel, TableRows, prepare_table
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, ModelState

__all__ = ["MFGain"]

_FEWEST = 20  # labels below which their mean says too little of the level


@dataclass
class MFGain(ScoredTableModel):
    """Bilinear model of query and model vectors, learned from battles.

    A model wins by how well its vector fits the query's. Every model of the
    table is learned at once, so battles between models that are never routed
    to teach the map of queries too.

    Parameters
    ----------
    variant : "paper" or "code", default "paper"
        "paper" has a bias in the projection and free model vectors; "code"
        (RouteLLM's program) has no bias and model vectors of length 1. Without
        a bias the features must not be centred, or no model can be better on
        the whole: give it raw embeddings.
    dim : int, default 128
        Length of a model vector.
    use_proj : bool, default True
        False leaves out W₁: model vectors are then as long as the features.
    ties : "half" or "drop", default "half"
        A row of gain g counts as (1 + g/s)/2 of a win, so a tie as half of
        one; or ties are dropped and the rest count by their sign, as in
        RouteLLM's program.
    n_members : int, default 8
        Members of the ensemble, each trained on a random half of the queries
        and stopped by the other half; halves come in complementary pairs. A
        single member is trained on all but `validation_share`.
    noise : float, default 0
        Standard deviation of noise added to every feature in training, in
        units of the features' overall standard deviation (RouteLLM: 0.05 to
        0.1 on vectors of length 1).
    learning_rate : float, default 3e-4
    weight_decay : float, default 1e-5
    batch_size : int, default 64
    max_epochs : int, default 100
    patience : int, default 5
        Epochs without a better validation loss before training stops.
    validation_share : float in (0, 1), default 0.1
        Share of the queries that stop the training of a single member.
    checkpoint : path, optional
        Where the best parameters so far are kept, as safetensors. A file that
        is there already is where training goes on from. It belongs to its rows
        and seed, and others are refused: members would know rows that they
        are taken not to have seen.
    seed : int, default 0

    Attributes
    ----------
    members_ : list of MFMember
        Parameters of each member, as arrays.
    n_epochs_ : int, epochs trained.
    validation_loss_ : float
        Mean over members of the best loss on their held-out queries.

    Raises
    ------
    OptionError
        When an option is not allowed, or the checkpoint does not fit.
    DataError
        From ``fit``, see :func:`~metarouter.gain.table_model.prepare_table`.
    MissingDependencyError
        From ``fit``, without the extra ``torch``.

    Notes
    -----
    ``δ_m(x) = w₂ᵀ(v_m ⊙ (W₁ᵀx + b))`` and ``P(a beats b) = σ(δ_a − δ_b)``;
    the loss is the weighted cross-entropy, minimised by Adam. The gain is
    ``s (2P − 1)``, with s the largest gain a label states. As cross-entropy is
    a proper score, P estimates E[(1 + g/s)/2 given x] and the gain E[g given
    x]. Where ties were dropped, P is of rows that are no tie, and their rate
    is taken as the same for all queries.

    Departures from a candidate's mean prediction are set right by the labels
    that members did not see (:func:`~metarouter.gain.candidate_slopes.candidate_slopes`).

    For given models δ is linear in x, so what the labels leave open is what they
    leave open of a linear map: the variance is the expected squared error of
    the prediction under a ridge regression of the same rows
    (:class:`~metarouter.gain.linear_error.LinearError`). The spread of the members
    is not used. Their halves come in complementary pairs, which deviate as one,
    so eight members have four degrees of freedom; and early stopping leaves the
    directions that few labels speak of at 0 in all of them alike.

    References
    ----------
    Ong et al. (2024), RouteLLM: learning to route LLMs with preference data,
    section 4.2. https://arxiv.org/abs/2406.18665

    Examples
    --------
    >>> MFGain(variant="code", n_members=1).settings().normalise
    True
    """

    variant: Literal["paper", "code"] = "paper"
    dim: int = 128
    use_proj: bool = True
    ties: Literal["half", "drop"] = "half"
    n_members: int = 8
    noise: float = 0.0
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 5
    validation_share: float = 0.1
    checkpoint: str | Path | None = None
    seed: int = 0

    def fit(self, table: GainTable) -> Self:
        """Train on all rows of a table with features."""
        settings = self.settings()
        rows = prepare_table(table)
        battles, tie_rate = self._battles(rows)
        trained = train_members(rows.features, battles, settings)
        self.members_ = trained.members
        self.n_epochs_ = trained.n_epochs
        self.validation_loss_ = trained.validation_loss
        start = _state(rows, trained.members, tie_rate)
        start = replace(start, arrays=start.arrays | linear_error_arrays(table))
        state = _with_slope(MFScorer(start), rows, trained.seen)
        return self._keep(state, MFScorer(state))

    def settings(self) -> MFSettings:
        """The options as the training takes them."""
        for name, value, allowed in (
            ("variant", self.variant, ("paper", "code")),
            ("ties", self.ties, ("half", "drop")),
        ):
            if value not in allowed:
                raise OptionError.of(name, value, " or ".join(allowed))
        for name in ("dim", "n_members", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise OptionError.of(name, getattr(self, name), "an integer from 1")
        if not 0 < self.validation_share < 1:
            raise OptionError.of("validation_share", self.validation_share, "inside (0, 1)")
        return MFSettings(
            dim=self.dim,
            use_proj=self.use_proj,
            bias=self.variant == "paper",
            normalise=self.variant == "code",
            n_members=self.n_members,
            noise=self.noise,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
            validation_share=self.validation_share,
            checkpoint=None if self.checkpoint is None else Path(self.checkpoint),
            seed=self.seed,
        )

    def _battles(self, rows: TableRows) -> tuple[MFBattles, float]:
        """The rows to train on, and the rate of ties among all."""
        keep, win, tie_rate = np.ones(len(rows.gain), dtype=np.bool_), rows.win, 0.0
        if self.ties == "drop" and (rows.gain != 0).any():
            keep, win = rows.gain != 0, (rows.gain > 0).astype(np.float64)
            tie_rate = float(np.average(~keep, weights=rows.weight))
        weight = rows.weight[keep]
        battles = MFBattles(
            query=rows.query[keep],
            candidate=rows.candidate[keep],
            baseline=rows.baseline[keep],
            win=win[keep],
            weight=weight / weight.mean(),
            n_models=rows.n_models,
        )
        return battles, tie_rate


def _state(rows: TableRows, members: list[MFMember], tie_rate: float) -> ModelState:
    columns, levels = zip(*(member.over_reference() for member in members), strict=True)
    return ModelState(
        kind="mf",
        config={
            "scale": rows.scale,
            "tie_rate": tie_rate,
            "shared_variance": rows.shared_variance.tolist(),
            "has_labels": True,
        },
        arrays={
            "columns": np.hstack(columns).astype(np.float32),
            "level": np.stack(levels).astype(np.float32),
            "centre": np.zeros(rows.n_models - 1),
            "mean_gain": np.zeros(rows.n_models - 1),
            "slope": np.ones(rows.n_models - 1),
        },
    )


def _with_slope(scorer: MFScorer, rows: TableRows, seen: BoolArray) -> ModelState:
    """The state with its predictions set right by the labels that members did not see."""
    gains = scorer.member_gains(rows.features)  # (queries, members, candidates)
    centre = gains[rows.query].mean(axis=(0, 1))
    unseen = np.logical_not(seen.T)  # (queries, members)
    share = unseen / np.maximum(unseen.sum(axis=1), 1)[:, None]
    departure = np.einsum("qm,qmc->qc", share, gains) - centre
    held_out = np.asarray(unseen.any(axis=1))[rows.query]
    slope, _ = candidate_slopes(departure[rows.query], centre, rows, held_out)
    level = centre + _offset(departure[rows.query] + centre, rows, held_out)
    arrays = {"centre": centre, "mean_gain": level, "slope": slope}
    return replace(scorer.state, arrays=scorer.state.arrays | arrays)


def _offset(predicted: FloatArray, rows: TableRows, held_out: BoolArray) -> FloatArray:
    """Mean of each candidate's held-out labels above what was predicted, (n_models − 1,).

    Early stopping pulls the level too. 0 where fewer than half of the labels, or
    20, were held out from some member: their mean is noisier than the level.
    """
    offset = np.zeros(rows.n_models - 1)
    for m in range(rows.n_models - 1):
        direct = (rows.baseline == 0) & (rows.candidate == m + 1)
        chosen = direct & held_out
        if chosen.sum() >= max(_FEWEST, direct.sum() / 2):
            excess = rows.gain[chosen] - predicted[chosen, m]
            offset[m] = np.average(excess, weights=rows.weight[chosen])
    return offset
