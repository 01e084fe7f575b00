"""Names of spans' attributes, all in one place.

Those of generative AI are from the OpenTelemetry semantic conventions, which are
still in development and get renamed; what is routing's own has the prefix
``app.route.``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ERROR_TYPE",
    "HTTP_METHOD",
    "HTTP_ROUTE",
    "HTTP_STATUS",
    "INPUT_TOKENS",
    "OPERATION",
    "OUTPUT_TOKENS",
    "PROVIDER",
    "REQUEST_MODEL",
    "ROUTE",
    "SERVER_ADDRESS",
    "SERVER_PORT",
    "operation_of",
]

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

ROUTE: Final = "app.route."
"""Prefix of what the conventions have no name for."""


def operation_of(path: str) -> str:
    """The conventions' name of what an endpoint does.

    Examples
    --------
    >>> operation_of("chat/completions"), operation_of("embeddings")
    ('chat', 'embeddings')
    """
    return path if path in ("embeddings", "messages/count_tokens") else "chat"
