"""The OpenAPI document says what the app does: read from routes, tried by schemathesis."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from gateway_makers import Served
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Mount, Route

from metarouter.gateway.app import gateway_routes
from metarouter.gateway.openapi import OPERATIONS
from metarouter.store.keys import create_key

Serve = Callable[..., Served]
EXAMPLES = int(os.environ.get("METAROUTER_SCHEMA_EXAMPLES", "6"))  # of each operation and kind
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def _document(served: Served) -> dict[str, Any]:
    document: dict[str, Any] = served.client.get("/openapi.json").json()
    return document


def test_the_document_has_every_route_and_no_other(serve: Serve) -> None:
    """Folders of files apart; what is written down by hand exists."""
    served = serve(auth="keys")
    known = gateway_routes(served.gateway)
    routes = {
        (method, route.path)
        for route in known
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert all(isinstance(route, Route | Mount) for route in known)
    paths = _document(served)["paths"]
    assert {(m.upper(), path) for path, methods in paths.items() for m in methods} == routes
    written = {(operation.method, operation.path) for operation in OPERATIONS}
    assert written == {(m, path) for m, path in routes if not path.startswith("/dashboard")}


def test_what_the_document_says_of_keys_is_so(serve: Serve) -> None:
    """Exactly the operations that it calls open answer without a key."""
    served = serve(auth="keys")
    for path, methods in _document(served)["paths"].items():
        for method, operation in methods.items():
            headers = {"content-type": "application/json"}
            url = path.replace("{", "").replace("}", "")
            answer = served.client.request(method, url, content=b"{}", headers=headers)
            is_open = operation["security"] == []
            assert (path, answer.status_code != 401) == (path, is_open)


def test_every_reference_leads_somewhere_and_every_name_is_one(serve: Serve) -> None:
    document = _document(serve())
    names = set(document["components"]["schemas"])
    found = set(_references(document))
    assert {f"#/components/schemas/{name}" for name in names} >= found
    identities = [o["operationId"] for m in document["paths"].values() for o in m.values()]
    assert len(set(identities)) == len(identities)
    assert document["openapi"].startswith("3.1")


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [name for item in value.values() for name in _references(item)]
    return [name for item in value for name in _references(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("auth", ["none", "keys"])
def test_schemathesis_finds_no_fault(serve: Serve, auth: str) -> None:
    """Bodies, headers and queries that fit the document and that do not: no 5xx, as described.

    METAROUTER_SCHEMA_EXAMPLES sets how many of each; the run is a seeded one.
    """
    served = serve(auth=auth)
    key, _ = create_key(served.gateway.engine, "tester", is_admin=True)
    served.gateway.keyring.refresh()
    headers = {"authorization": f"Bearer {key}"} if auth == "keys" else {}
    document = _document(served)
    tried = 0
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        described = document["paths"][operation.path][operation.method]
        modes = list(schemathesis.GenerationMode)
        if not (described["parameters"] or "requestBody" in described):
            modes = [schemathesis.GenerationMode.POSITIVE]  # nothing in it can be wrong
        for mode in modes:
            _try(served, operation, mode, headers)
        tried += 1
    assert tried >= len(OPERATIONS)


def _try(
    served: Served,
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    mode: schemathesis.GenerationMode,
    headers: dict[str, str],
) -> None:
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def attempt(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=served.url, headers=headers)
        case.validate_response(response, checks=CHECKS)

    attempt()
