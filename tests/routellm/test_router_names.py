"""Names such as router-mf-0.11593."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import InputError
from metarouter.routellm import RoutingError, parse_router_name, router_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("router-mf-0.11593", ("mf", 0.11593)),
        ("router-random-1.0", ("random", 1.0)),
        ("router-causal_llm-0", ("causal_llm", 0.0)),
        ("router-my-own-1e-05", ("my-own", 1e-05)),
        ("router-v2-0.5", ("v2", 0.5)),
    ],
)
def test_names_are_read_as_routellm_means_them(name: str, parts: tuple[str, float]) -> None:
    assert parse_router_name(name) == parts


@pytest.mark.parametrize(
    "name", ["gpt-4", "router-mf", "router", "router--0.5", "router-mf-high", "mf-0.5", "",
             "router-mf-nan", "router-mf-inf", None, 3],
)  # fmt: skip
def test_other_names_are_routing_errors_that_say_what_is_allowed(name: str) -> None:
    with pytest.raises(RoutingError, match=r"allowed: router-NAME-THRESHOLD .* router-mf-0\.11593"):
        parse_router_name(name)


def test_a_threshold_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(RoutingError, match=r"threshold = 1\.5; allowed: a number from 0 to 1"):
        parse_router_name("router-mf-1.5")
    assert issubclass(RoutingError, InputError)


@given(
    router=st.text("abc_-1", min_size=1).filter(lambda text: not text.startswith("-")),
    threshold=st.integers(0, 100_000).map(lambda k: k / 100_000),
)
def test_a_name_that_was_written_is_read_back(router: str, threshold: float) -> None:
    """Whatever dashes and digits the router's own name holds, unless it ends like a number."""
    if not router.endswith("-") and not router[-1].isdigit():
        assert parse_router_name(router_name(router, threshold)) == (router, threshold)
