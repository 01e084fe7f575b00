"""The plugin narrows LiteLLM's candidates, and imports nothing of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metarouter.errors import OptionError
from metarouter.fitting import FitOptions, fit_table
from metarouter.integrations.litellm_plugin import MetarouterPlugin
from metarouter.router import Router
from metarouter.testing import make_world


@dataclass
class Context:
    """As LiteLLM's own: three fields that plugins read and write."""

    candidate_models: list[str]
    structured_messages: list[dict[str, Any]] = field(
        default_factory=lambda: [{"role": "user", "content": "What is 2 + 2?"}]
    )
    signals: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def router() -> Router:
    world = make_world(n_queries=80, n_gold=60, n_test=2)
    options = FitOptions(corrector="gold_only", gain_model="ridge", embedder="surface", folds=0)
    return fit_table(world.table, options)


def _run(plugin: MetarouterPlugin, context: Context) -> Context:
    return asyncio.run(plugin.run(context))


@pytest.mark.parametrize("w", [-5.0, 5.0])
def test_the_chosen_model_is_what_is_left(router: Router, w: float) -> None:
    bent = router.with_policy(w=w)
    context = _run(MetarouterPlugin(bent), Context(["x/cheap", "y/premium", "z/premium"]))
    chosen = bent.route("What is 2 + 2?").model
    left = {"cheap": ["x/cheap"], "premium": ["y/premium", "z/premium"]}
    assert context.candidate_models == left[chosen]
    assert context.signals["metarouter"]["model"] == chosen


def test_what_others_left_out_is_not_brought_back(router: Router) -> None:
    plugin = MetarouterPlugin(router.with_policy(w=-5.0))
    context = _run(plugin, Context(["x/cheap"]))
    assert context.candidate_models == ["x/cheap"]
    assert context.signals["metarouter"]["preferred"] == "premium"


def test_names_that_differ_are_told(router: Router) -> None:
    plugin = MetarouterPlugin(router.with_policy(w=-5.0), {"premium": "openai/gpt-4o"})
    left = _run(plugin, Context(["x/cheap", "openai/gpt-4o"]))
    assert left.candidate_models == ["openai/gpt-4o"]


@pytest.mark.parametrize(
    "context",
    [
        Context(["x/other"]),
        Context(["x/cheap", "y/premium"], structured_messages=[]),
        Context(["x/cheap", "y/premium"], [{"role": "user", "content": "  "}]),
    ],
    ids=["unknown models", "no messages", "blank"],
)
def test_without_a_choice_the_candidates_stay_and_the_signal_says_why(
    router: Router, context: Context
) -> None:
    before = list(context.candidate_models)
    assert _run(MetarouterPlugin(router), context).candidate_models == before
    assert context.signals["metarouter"]["skipped"]


def test_the_router_is_that_of_the_environment(
    router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.save(tmp_path / "router")
    monkeypatch.setenv("METAROUTER_ROUTER", str(tmp_path / "router"))
    context = _run(MetarouterPlugin(), Context(["x/cheap", "y/premium"]))
    assert context.signals["metarouter"]["policy_version"] == router.policy.version


def test_a_missing_router_is_told_by_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("METAROUTER_ROUTER", raising=False)
    with pytest.raises(OptionError, match="METAROUTER_ROUTER"):
        _run(MetarouterPlugin(), Context(["x/cheap"]))


def test_nothing_of_litellm_is_imported() -> None:
    program = (
        "import sys, metarouter.integrations.litellm_plugin as p; print('litellm' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
