"""Talk to language models behind any OpenAI-compatible HTTP endpoint.

What decides (wire format, retries, which failure may have cost money) is pure;
what talks is one small class, :class:`ProviderClient`. Keys are read from the
environment at each request and are never stored, shown or logged.
"""

from metarouter.providers.chat import ChatAnswer, ChatRequest
from metarouter.providers.client import ProviderClient
from metarouter.providers.endpoints import Endpoint, Target
from metarouter.providers.failures import CallError
from metarouter.providers.retries import RetryPolicy, call_with_retries
from metarouter.providers.settings import read_targets

__all__ = [
    "CallError",
    "ChatAnswer",
    "ChatRequest",
    "Endpoint",
    "ProviderClient",
    "RetryPolicy",
    "Target",
    "call_with_retries",
    "read_targets",
]
