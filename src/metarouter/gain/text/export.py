"""A fine-tuned classifier as an ONNX graph, float32 or int8: :func:`export_graph`."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from metarouter.features.checkpoints import import_extra

__all__ = ["export_graph"]

_EXAMPLE_TOKENS = 16


def export_graph(network: Any, *, precision: Literal["int8", "fp32"]) -> bytes:
    """The graph of a sequence classifier for one text of any length.

    Parameters
    ----------
    network : transformers sequence classifier
    precision : "int8" or "fp32"
        "int8" quantises the weights of matrix products by channel, and
        activations as they come.

    Returns
    -------
    bytes of an ONNX model with the input ``input_ids`` (1, tokens), int64, and
    the output ``logits`` (1, labels). A single text needs no padding, so the
    graph has no attention mask.
    """
    import_extra("onnx")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain = Path(folder) / "fp32.onnx"
        _export(network, plain)
        if precision == "fp32":
            return plain.read_bytes()
        quantization = import_extra("onnxruntime.quantization")
        small = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            plain, small, weight_type=quantization.QuantType.QInt8, per_channel=True
        )
        return small.read_bytes()


def _export(network: Any, path: Path) -> None:
    torch = import_extra("torch")

    class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Token ids to logits, and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any) -> Any:
            return self.network(input_ids=input_ids).logits

    example = torch.ones((1, _EXAMPLE_TOKENS), dtype=torch.int64)
    # The exporter that traces needs no library beside onnx; the newer one needs onnxscript.
    torch.onnx.export(
        Logits().eval(),
        (example,),
        str(path),
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_axes={"input_ids": {1: "tokens"}},
        dynamo=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice to its developers."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
