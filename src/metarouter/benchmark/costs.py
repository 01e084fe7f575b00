"""Dollars of a call from list prices and lengths in characters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import InputError
from metarouter.policy.prices import lookup_price
from metarouter.records import ModelSpec
from metarouter.types import FloatArray

__all__ = ["CHARS_PER_TOKEN", "call_cost", "read_price_rows"]

CHARS_PER_TOKEN = 4.0
"""Rule of thumb for English; the data give lengths in characters only."""


def read_price_rows(folder: Path) -> dict[str, ModelSpec]:
    """Prices of ``prices/prices.csv`` by the names of its rows.

    A row may name several models, separated by " / "; each gets the price.

    Raises
    ------
    InputError
        When the file is missing or a price is not a number.
    """
    path = folder / "prices" / "prices.csv"
    prices: dict[str, ModelSpec] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                given = float(row["input_usd_per_mtok"]), float(row["output_usd_per_mtok"])
                for name in row["model"].split(" / "):
                    spec = ModelSpec(
                        name=name, input_usd_per_mtok=given[0], output_usd_per_mtok=given[1]
                    )
                    prices[name.strip()] = spec
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: costs need the price list") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}; each row needs a model and two prices") from error
    return prices


def call_cost(
    prices: dict[str, ModelSpec], model: str, prompt_chars: ArrayLike, answer_chars: ArrayLike
) -> FloatArray:
    """USD of each call, shape (n,).

    Parameters
    ----------
    prices : what :func:`read_price_rows` gave; the bundled prices fill gaps.
    model : str, name of a price row.
    prompt_chars, answer_chars : arrays, shape (n,), lengths in characters.

    Raises
    ------
    OptionError
        When no price of the model is known.

    Examples
    --------
    >>> spec = ModelSpec(name="m", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    >>> (1e6 * call_cost({"m": spec}, "m", [400], [40])).round(6).tolist()
    [120.0]
    """
    spec = prices.get(model) or lookup_price(model)
    dollars = (
        np.asarray(prompt_chars, dtype=np.float64) * (spec.input_usd_per_mtok or 0.0)
        + np.asarray(answer_chars, dtype=np.float64) * (spec.output_usd_per_mtok or 0.0)
    ) / (CHARS_PER_TOKEN * 1e6)
    return np.asarray(dollars)
