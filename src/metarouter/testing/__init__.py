"""Data of which every truth is known, and stand-ins, for tests, studies and demonstrations."""

from __future__ import annotations

from metarouter.testing.contracts import (
    CORRECTOR_CHECKS,
    EMBEDDER_CHECKS,
    GAIN_MODEL_CHECKS,
    TABLE_GAIN_MODEL_CHECKS,
)
from metarouter.testing.fake_provider import FakeProvider, FakeRequest, Fault, Faults
from metarouter.testing.judges import SIMULATED_JUDGES, semi_synthetic_votes
from metarouter.testing.nuisances import OracleNuisances
from metarouter.testing.postgres import PostgresServer
from metarouter.testing.queries import QuerySet, make_queries
from metarouter.testing.simulation import SIMULATED_BIASES, Simulation, make_simulation
from metarouter.testing.upstream import (
    FakeUpstream,
    UpstreamReply,
    UpstreamRequest,
    default_reply,
)
from metarouter.testing.worlds import WORLDS, World, WorldOptions, WorldPaths, make_world

__all__ = [
    "CORRECTOR_CHECKS",
    "EMBEDDER_CHECKS",
    "GAIN_MODEL_CHECKS",
    "SIMULATED_BIASES",
    "SIMULATED_JUDGES",
    "TABLE_GAIN_MODEL_CHECKS",
    "WORLDS",
    "FakeProvider",
    "FakeRequest",
    "FakeUpstream",
    "Fault",
    "Faults",
    "OracleNuisances",
    "PostgresServer",
    "QuerySet",
    "Simulation",
    "UpstreamReply",
    "UpstreamRequest",
    "World",
    "WorldOptions",
    "WorldPaths",
    "default_reply",
    "make_queries",
    "make_simulation",
    "make_world",
    "semi_synthetic_votes",
]
