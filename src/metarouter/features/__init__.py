"""Query text to the feature matrix X.

Embedders turn texts into vectors and know nothing of the data;
:class:`FeaturePipeline` learns from training texts how to compress those of one
or more embedders. Importing this package costs little beyond NumPy: tokenizers,
onnxruntime and the HTTP client are imported when an embedder first needs them.
"""

from metarouter.features.cache import CachedEmbedder, EmbeddingCache
from metarouter.features.decoder_states import DecoderStates
from metarouter.features.endpoint import EndpointEmbedder
from metarouter.features.hashed import HashedNgrams, SparseRows
from metarouter.features.onnx import OnnxSentenceEncoder
from metarouter.features.pipeline import FeaturePipeline, load_pipeline, make_pipeline
from metarouter.features.registry import embedder_names, make_embedder
from metarouter.features.static import StaticEmbedding
from metarouter.features.surface import SURFACE_NAMES, SurfaceFeatures
from metarouter.features.universal import UniversalSentenceEncoder

__all__ = [
    "SURFACE_NAMES",
    "CachedEmbedder",
    "DecoderStates",
    "EmbeddingCache",
    "EndpointEmbedder",
    "FeaturePipeline",
    "HashedNgrams",
    "OnnxSentenceEncoder",
    "SparseRows",
    "StaticEmbedding",
    "SurfaceFeatures",
    "UniversalSentenceEncoder",
    "embedder_names",
    "load_pipeline",
    "make_embedder",
    "make_pipeline",
]
