"""The OpenAPI document: every route of the app, and nothing else.

Bodies of our own come from the records that read and write them. Bodies that pass
through to an upstream are described as far as the gateway looks into them: more
would be a claim about somebody else's protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import metarouter
from metarouter.gateway.admin import ADMIN_ENDPOINTS
from metarouter.gateway.options import RequestOptions
from metarouter.store.feedback import Feedback, Gold, Preference, Score, Thumbs

__all__ = ["OPERATIONS", "Operation", "openapi_document", "openapi_route"]

Schema = Mapping[str, Any]

_ANY: Schema = {}
_OBJECT: Schema = {"type": "object"}
_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": ["number", "null"]}
_ERRORS = {
    400: "What was sent cannot be used; the message says why.",
    401: "No valid key.",
    403: "The key is not for this.",
    404: "There is no such thing.",
    408: "The request took too long to arrive.",
    409: "The id was used for something else.",
    413: "The body is too large.",
    415: "Not JSON.",
    421: "This host is not known by that name.",
    422: "What is known does not suffice.",
    429: "The key has used up a limit; `retry-after` says when to come back.",
    502: "The upstream failed.",
    503: "No upstream or no store answers just now.",
    504: "The upstream took too long.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path.

    Attributes
    ----------
    gives : content type to schema of a good answer.
    takes : schema of the body, or None.
    errors : statuses of answers in the form of an error.
    parameters : of the query and the header, as OpenAPI has them.
    is_open : whether it needs no key.
    """

    method: str
    path: str
    summary: str
    gives: Mapping[str, Schema]
    takes: Schema | None = None
    status: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    is_open: bool = False
    tag: str = "gateway"
    error_schema: Schema = field(default_factory=lambda: _ref("Error"))


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(place: str, name: str, schema: Schema, text: str) -> Schema:
    return {"in": place, "name": name, "schema": schema, "description": text}


_OPTIONS = tuple(
    _parameter("header", f"x-metarouter-{name}", schema, text)
    for name, schema, text in (
        ("w", {"type": "number"}, "Price of cost in place of the policy's."),
        (
            "premium-share",
            {"type": "number", "minimum": 0, "maximum": 1},
            "Share of premium calls on the policy's calibration queries.",
        ),
        ("models", _STRING, "Only these may answer, by commas."),
        ("pin", _STRING, "This model answers."),
        (
            "budget",
            {"type": "number", "exclusiveMinimum": 0},
            "Most dollars that the request may be expected to cost.",
        ),
        ("explain", {"type": "boolean"}, "The whole decision comes back in a header."),
        (
            "conversation",
            {"type": "string", "minLength": 1, "maxLength": 200},
            "Requests with the same id stay with one model.",
        ),
    )
)
_BODY_ERRORS = (400, 401, 403, 408, 413, 415, 421, 429)
_UPSTREAM_ERRORS = (404, 502, 503, 504)


def _passed_on(path: str, summary: str, *, is_routed: bool = True, **fields: Schema) -> Operation:
    properties = {"model": _STRING, **fields}
    if is_routed:
        properties |= {
            "stream": {"type": ["boolean", "null"]},
            "metarouter": _ref("RequestOptions"),
        }
    return Operation(
        method="POST",
        path=f"/v1/{path}",
        summary=summary,
        takes={
            "type": "object",
            "required": ["model"],
            "properties": properties,
            "description": "Fields that are not named here pass on unchanged.",
        },
        gives={"application/json": _ANY, "text/event-stream": _ANY},
        errors=(*_BODY_ERRORS, *_UPSTREAM_ERRORS),
        parameters=_OPTIONS if is_routed else (),
        error_schema={
            "anyOf": [_ref("Error"), _ref("AnthropicError"), _OBJECT],
            "description": "Of the gateway, or what the upstream said.",
        },
        tag="models",
    )


_MESSAGES: Schema = {"type": "array", "items": _ANY}
_PROXIED = (
    _passed_on(
        "chat/completions", "OpenAI chat completion, routed; streams too.", messages=_MESSAGES
    ),
    _passed_on("responses", "OpenAI response, routed; streams too.", input=_ANY),
    _passed_on("messages", "Anthropic message, routed; streams too.", messages=_MESSAGES),
    _passed_on(
        "messages/count_tokens", "Anthropic token count, of the chosen model.", messages=_MESSAGES
    ),
    _passed_on("embeddings", "OpenAI embeddings of a named model.", is_routed=False, input=_ANY),
)
_JSON = "application/json"
_PLAIN = (
    Operation(
        method="POST",
        path="/v1/route",
        summary="Decide, and call nobody.",
        takes={
            "type": "object",
            "properties": {
                "model": _STRING,
                "query": _STRING,
                "queries": {"type": "array", "items": _STRING},
                "messages": _MESSAGES,
                "metarouter": _ref("RequestOptions"),
            },
            "description": "One of query, queries and messages.",
        },
        gives={_JSON: _ref("Decisions")},
        errors=(*_BODY_ERRORS, 502),
        parameters=_OPTIONS,
    ),
    Operation(
        method="POST",
        path="/v1/feedback",
        summary="Keep a statement about an answer; it is on the disk when this answers.",
        takes={
            "oneOf": [_ref(kind.__name__) for kind in (Thumbs, Score, Preference, Gold)],
            "discriminator": {
                "propertyName": "type",
                "mapping": {
                    kind.__name__.lower(): _ref(kind.__name__)["$ref"]
                    for kind in (Thumbs, Score, Preference, Gold)
                },
            },
        },
        gives={_JSON: _ref("Kept")},
        status=(200, 201, 202),
        errors=(400, 401, 404, 408, 409, 413, 415, 421, 503),
    ),
    Operation(
        method="GET",
        path="/v1/models",
        summary="Policies and models that the caller may name.",
        gives={_JSON: _ref("Models")},
        errors=(401, 421),
    ),
    Operation(
        method="GET",
        path="/v1/decisions/{decision_id}",
        summary="A decision of the caller's own as it is kept, and what was said of it.",
        gives={_JSON: _OBJECT},
        errors=(401, 404, 421, 503),
    ),
    Operation(
        method="GET",
        path="/v1/decisions/{decision_id}",
        summary="A decision of the caller's own, with its reasons, once it is written.",
        gives={_JSON: _OBJECT},
        errors=(401, 404, 421, 503),
    ),
    Operation(
        method="GET",
        path="/metrics",
        summary="For Prometheus; of keys, those of admins read it.",
        gives={"text/plain": _STRING},
        errors=(401, 403, 421),
    ),
    Operation(
        method="GET",
        path="/health",
        summary="The process answers.",
        gives={_JSON: _OBJECT},
        errors=(421,),
        is_open=True,
    ),
    Operation(
        method="GET",
        path="/ready",
        summary="Whether requests would be served; 503 where not.",
        gives={_JSON: _OBJECT},
        errors=(421, 503),
        error_schema=_OBJECT,
        is_open=True,
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        summary="This document.",
        gives={_JSON: _OBJECT},
        errors=(421,),
        is_open=True,
    ),
)
_QUERY: Mapping[str, tuple[Schema, str]] = {
    "days": ({"type": "integer", "minimum": 1, "maximum": 36_600}, "Days back from today."),
    "key_id": (_STRING, "Of this key only."),
    "limit": ({"type": "integer", "minimum": 1, "maximum": 1000}, "Most entries."),
    "before": ({"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, "Entries before this."),
}
_ADMIN = tuple(
    Operation(
        method=endpoint.method,
        path=endpoint.path,
        summary=endpoint.summary,
        gives={_JSON: _ref(endpoint.gives.__name__)},
        takes=None if endpoint.takes is None else _ref(endpoint.takes.__name__),
        status=(endpoint.status,),
        errors=(400, 401, 403, 404, 408, 413, 415, 421, 503),
        parameters=tuple(_parameter("query", name, *_QUERY[name]) for name in endpoint.query),
        tag="admin",
    )
    for endpoint in ADMIN_ENDPOINTS
)
OPERATIONS = (*_PROXIED, *_PLAIN, *_ADMIN)
"""What is written down here; pages of the dashboard and their data describe themselves."""


def openapi_document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document of an app.

    Parameters
    ----------
    routes : of the app.

    Returns
    -------
    dict
        OpenAPI 3.1, as JSON has it.
    """
    known = {(operation.method, operation.path): operation for operation in OPERATIONS}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not isinstance(route, Route):
            continue  # a folder of files
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = known.get((method, route.path)) or _undescribed(method, route.path)
            paths.setdefault(route.path, {})[method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "metarouter",
            "version": metarouter.__version__,
            "description": "Serves routers where OpenAI's and Anthropic's clients talk.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def openapi_route(routes: Sequence[BaseRoute]) -> Route:
    """``GET /openapi.json`` for an app of `routes` and itself; open, it tells of no settings."""

    async def answer(request: Request) -> Response:
        return Response(content, media_type="application/json")

    route = Route("/openapi.json", answer, methods=["GET"])
    content = msgspec.json.encode(openapi_document([*routes, route]))
    return route


def _undescribed(method: str, path: str) -> Operation:
    """What can be said of a route that is not written down: those of the dashboard are not."""
    is_data = path.startswith("/dashboard/api/")
    return Operation(
        method=method,
        path=path,
        summary="Data of the dashboard." if is_data else "A page.",
        gives={_JSON: _OBJECT} if is_data else {"text/html": _STRING},
        takes=_OBJECT if method == "POST" else None,
        errors=(400, 401, 403, 404, 408, 413, 415, 421, 422, 503) if is_data else (421,),
        is_open=not is_data,
        tag="dashboard",
    )


def _described(operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    inside = [{**_parameter("path", name, _STRING, ""), "required": True} for name in names]
    good = {
        str(status): {"description": "Done.", "content": _content(operation.gives)}
        for status in operation.status
    }
    bad = {
        str(status): {
            "description": _ERRORS[status],
            "content": _content({_JSON: operation.error_schema}),
        }
        for status in operation.errors
    }
    described: dict[str, Any] = {
        "operationId": _identity(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*inside, *operation.parameters],
        "responses": {**good, **bad},
        "security": [] if operation.is_open else [{"bearer": []}, {"header": []}],
    }
    if operation.takes is not None:
        described["requestBody"] = {"required": True, "content": _content({_JSON: operation.takes})}
    return described


def _identity(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    return "_".join([operation.method.lower(), *filter(None, words)])


def _content(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def _schemas() -> dict[str, Any]:
    kinds = [kind for e in ADMIN_ENDPOINTS for kind in (e.gives, e.takes) if kind is not None]
    found = msgspec.json.schema_components(
        [Feedback, RequestOptions, *kinds], ref_template="#/components/schemas/{name}"
    )[1]
    return {**found, **_WRITTEN}


_WRITTEN: Mapping[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {
                    "message": _STRING,
                    "type": _STRING,
                    "param": {"type": "null"},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _STRING, "message": _STRING},
            },
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "object", "created", "owned_by"],
                    "properties": {"id": _STRING, "owned_by": _STRING},
                },
            },
        },
    },
    "Kept": {
        "type": "object",
        "required": ["feedback_id", "is_new"],
        "properties": {"feedback_id": _STRING, "is_new": {"type": ["boolean", "null"]}},
    },
    "Decisions": {
        "type": "object",
        "required": ["decisions"],
        "properties": {
            "decisions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["decision_id", "model", "policy", "reason", "bound", "options"],
                    "properties": {
                        "decision_id": _STRING,
                        "model": _STRING,
                        "policy": _STRING,
                        "policy_version": _STRING,
                        "predicted_gain": _NUMBER,
                        "predicted_gain_std": _NUMBER,
                        "threshold": _NUMBER,
                        "cost": _NUMBER,
                        "cost_unit": _STRING,
                        "reason": _STRING,
                        "bound": _STRING,
                        "options": {"type": "array", "items": _OBJECT},
                        "experiment": {"type": ["string", "null"]},
                        "logging_propensity": _NUMBER,
                        "propensities": _OBJECT,
                    },
                },
            }
        },
    },
}
