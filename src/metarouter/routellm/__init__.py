"""RouteLLM's Python interface on metarouter's routers: see docs/migration.md."""

from metarouter.routellm.controller import Controller, ModelPair
from metarouter.routellm.names import RoutingError, parse_router_name, router_name

__all__ = ["Controller", "ModelPair", "RoutingError", "parse_router_name", "router_name"]
