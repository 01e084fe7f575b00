"""Published RouteLLM `mf` checkpoints as scorers: :func:`read_routellm_mf`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from metarouter.errors import OptionError
from metarouter.gain.mf_training import MFMember
from metarouter.types import ModelState

__all__ = ["GPT_4_1106_PREVIEW", "MIXTRAL_8X7B", "read_routellm_mf"]

GPT_4_1106_PREVIEW, MIXTRAL_8X7B = 24, 36
"""Rows of the two models that RouteLLM's thresholds are published for."""

_NAMES = ("P.weight", "text_proj.0.weight", "classifier.0.weight")


def read_routellm_mf(
    path: str | Path, *, strong: int = GPT_4_1106_PREVIEW, weak: int = MIXTRAL_8X7B
) -> ModelState:
    """Read the safetensors file of a matrix-factorisation router that RouteLLM trained.

    Parameters
    ----------
    path : str or path
        ``model.safetensors`` as published; a pickle is not read.
    strong, weak : int
        Rows of the two models among those that it was trained on.

    Returns
    -------
    ModelState of kind "mf"
        :func:`~metarouter.gain.load_gain_model` makes its scorer. It takes raw
        embeddings of the model that the router was trained with
        (text-embedding-3-small, 1,536 numbers), and its ``win_probability`` is
        RouteLLM's score, to which its thresholds belong. Uncertainty is not
        known and given as 0.

    Raises
    ------
    OptionError
        When the file is no such checkpoint, or has no such row.

    Notes
    -----
    ``P = σ(wᵀ((v_s/‖v_s‖ − v_w/‖v_w‖) ⊙ W x))``.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise OptionError.of("path", str(path), "a safetensors file that exists") from error
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise OptionError(f"{path}: holds no {missing[0]}; allowed: an mf checkpoint of RouteLLM")
    models, projection, output = (arrays[name].astype(np.float64) for name in _NAMES)
    for name, row in (("strong", strong), ("weak", weak)):
        if not 0 <= row < len(models):
            raise OptionError.of(name, row, f"a row from 0 to {len(models) - 1}")
    pair = models[[weak, strong]]
    member = MFMember(
        models=pair / np.linalg.norm(pair, axis=1, keepdims=True),
        projection=projection.T,
        bias=np.zeros(len(projection)),
        output=output[0],
    )
    slope, level = member.over_reference()
    config = {"scale": 1.0, "tie_rate": 0.0, "shared_variance": 0.0, "has_labels": False}
    arrays = {"columns": slope, "level": level[None], "centre": np.zeros(1)}
    arrays |= {"mean_gain": np.zeros(1), "slope": np.ones(1)}
    return ModelState(kind="mf", config=config, arrays=arrays)
