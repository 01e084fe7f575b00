"""Verdicts of a model on its own answers: :func:`judged_by_contestant`, :func:`model_key`."""

from __future__ import annotations

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import BoolArray

__all__ = ["judged_by_contestant", "model_key"]


def judged_by_contestant(table: GainTable) -> BoolArray:
    """Which rows were judged by one of the two models that they compare.

    A model prefers its own answers, and where it could not solve a query
    itself it cannot tell who did: its error goes with the gain.

    Parameters
    ----------
    table : GainTable
        Names are compared by :func:`model_key`. A row without a judge, or by a
        panel of several, is not a contestant's.

    Returns
    -------
    bool array, shape (n_rows,)

    References
    ----------
    Panickssery, Bowman and Feng (2024), LLM evaluators recognize and favor
    their own generations, https://arxiv.org/abs/2404.13076.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b"], gain=[1.0, 0.0], is_gold=[False, False],
    ...     models=["small", "large"], judges=["acme/Large", "other"], judge=[0, 1])
    >>> judged_by_contestant(table).tolist()
    [True, False]
    """
    # One more entry at the end, for the rows of judge −1: nobody.
    names = [model_key(name) for name in (*table.models, *table.judges, "")]
    key = np.unique(names, return_inverse=True)[1]  # a model of two providers has one
    judge = key[len(table.models) :][table.judge]
    is_either = (judge == key[table.candidate]) | (judge == key[table.baseline])
    own: BoolArray = (judge != key[-1]) & is_either
    return own


def model_key(name: str) -> str:
    """A model's name without provider and case, by which a judge is known for a model.

    Examples
    --------
    >>> model_key("acme/Large") == model_key(" large")
    True
    """
    return name.strip().rpartition("/")[2].casefold()
