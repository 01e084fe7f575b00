"""RouteLLM's configuration: the name of a router to where its checkpoint lies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarouter.errors import InputError, MissingDependencyError, OptionError
from metarouter.routellm.win_rates import WinRater, pair_win_rater, random_win_rates

__all__ = ["Config", "make_win_rater", "read_config"]

Config = Mapping[str, Mapping[str, Any]] | str | Path
"""Options of each router, or the path of a YAML file that holds them."""

_MANIFEST = "manifest.json"
_CHECKPOINT = "model.safetensors"
# Sizes and data sets that RouteLLM needs to know; an artifact holds what it needs.
_NEEDLESS = frozenset(
    {
        "arena_battle_datasets", "arena_embedding_datasets", "hidden_size", "model_type",
        "num_classes", "num_labels", "num_models", "num_tiers", "score_threshold",
        "text_dim", "use_proj",
    }
)  # fmt: skip
_USED = frozenset({"checkpoint_path", "embedder", "strong_model", "weak_model"})


def read_config(config: Config | None) -> dict[str, dict[str, Any]]:
    """Options by router.

    Raises
    ------
    InputError
        When the file cannot be read or is no mapping of routers to options.
    MissingDependencyError
        When it is YAML and PyYAML is not installed.
    """
    if config is None:
        return {}
    content = _read_yaml(Path(config)) if isinstance(config, str | Path) else config
    if not isinstance(content, Mapping):
        raise InputError(f"config of type {type(content).__name__}; allowed: options by router")
    for name, options in content.items():
        if not isinstance(options, Mapping | None):
            raise InputError(f"config: {name} = {options!r}; allowed: options, by name")
    return {str(name): dict(options or {}) for name, options in content.items()}


def make_win_rater(name: str, options: Mapping[str, Any], strong: str, weak: str) -> WinRater:
    """What scores prompts for one router.

    Parameters
    ----------
    name : str; ``random`` needs nothing.
    options : mapping
        `checkpoint_path`: a router folder of metarouter, or the safetensors
        file of a published `mf` checkpoint, which also needs the `embedder`
        that it was trained with. `strong_model` and `weak_model`: what a router
        of more than two models calls the two, where that is not what the
        endpoint does. RouteLLM's other options are known and have no effect; a
        warning names them.
    strong, weak : str, as the endpoint calls them.

    Raises
    ------
    OptionError
        When an option is unknown or missing, or a router of more than two
        models has not these.
    ArtifactError
        When the folder holds no sound router.
    """
    unknown = sorted(set(options) - _NEEDLESS - _USED)
    if unknown:
        raise OptionError.of(f"config: {name}", unknown[0], ", ".join(sorted(_USED)))
    needless = sorted(set(options) & _NEEDLESS)
    if needless:
        warnings.warn(
            f"config: {name}: {', '.join(needless)} have no effect: the checkpoint says them",
            stacklevel=3,
        )
    if name == "random":
        return random_win_rates
    if "checkpoint_path" not in options:
        raise OptionError(
            f"router {name} has no checkpoint_path; allowed: a folder that "
            f"`metarouter fit --gain-model {name} --out DIR` wrote"
        )
    path = Path(str(options["checkpoint_path"]))
    own = {role: options.get(f"{role}_model") for role in ("strong", "weak")}
    return _from_checkpoint(name, path, options, own["strong"] or strong, own["weak"] or weak)


def _from_checkpoint(
    name: str, path: Path, options: Mapping[str, Any], strong: str, weak: str
) -> WinRater:
    from metarouter.loading import load

    file = path / _CHECKPOINT if path.is_dir() else path
    if file.suffix == ".safetensors" and file.is_file():
        return _published_mf(file, options)
    if not (path / _MANIFEST).is_file():
        raise OptionError.of(
            f"config: {name}: checkpoint_path",
            str(path),
            "a router folder of `metarouter fit`, or a downloaded mf model.safetensors; nothing "
            "is downloaded here",
        )
    return pair_win_rater(load(path), strong, weak)


def _published_mf(file: Path, options: Mapping[str, Any]) -> WinRater:
    from metarouter.features.registry import make_embedder
    from metarouter.gain.mf_import import read_routellm_mf
    from metarouter.gain.mf_scorer import MFScorer

    if "embedder" not in options:
        raise OptionError(
            f"{file}: needs the embedder that it was trained with; allowed: for instance "
            "embedder: endpoint:https://api.openai.com/v1#text-embedding-3-small"
        )
    embedder = make_embedder(str(options["embedder"]))
    scorer = MFScorer(read_routellm_mf(file))
    return lambda prompts: scorer.win_probability(embedder.embed(list(prompts)))[:, 0]


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError.of("a YAML config", "serve") from None
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
