"""Gain models by name, ours and third parties'."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.gain import (
    GAIN_MODELS,
    TABLE_GAIN_MODELS,
    TEXT_GAIN_MODELS,
    gain_model_names,
    make_gain_model,
    make_pool_model,
    make_table_gain_model,
)
from metarouter.gain.extras import import_train


def test_auto_is_a_registered_model_and_the_default() -> None:
    """`auto` and no name give the same kind of model."""
    assert GAIN_MODELS[0] == "auto"
    assert type(make_gain_model()) is type(make_gain_model("auto"))


def test_an_unknown_name_lists_those_allowed() -> None:
    """The message names the value and the choices."""
    with pytest.raises(OptionError, match=r"'tabpfn'; allowed: auto, ridge"):
        make_gain_model("tabpfn")


def test_a_third_party_model_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package that registers a name is called with the seed."""
    (tmp_path / "flat_gain.py").write_text(
        "class FlatGain:\n    def __init__(self, *, seed):\n        self.seed = seed\n"
    )
    info = tmp_path / "flat_gain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flat-gain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metarouter.gain_models]\nflat = flat_gain:FlatGain\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = make_gain_model("flat", seed=5)
    assert type(model).__name__ == "FlatGain"
    assert vars(model) == {"seed": 5}
    assert gain_model_names() == (*GAIN_MODELS, "flat", *TABLE_GAIN_MODELS, *TEXT_GAIN_MODELS)


def test_a_wrong_option_of_a_third_party_model_is_answered_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the built-in ones; a class that takes any option gets it, and a function its own."""
    (tmp_path / "steps_gain.py").write_text(
        "class Steps:\n    def __init__(self, *, seed=0, steps: int = 3): self.steps = steps\n"
        "class Any:\n    def __init__(self, *, seed=0, **options): self.options = options\n"
        "def wide(*, seed=0, rows: int): return Steps(seed=seed, steps=10 * rows)\n"
    )
    info = tmp_path / "steps_gain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steps-gain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[metarouter.table_gain_models]\nsteps = steps_gain:Steps\nany = steps_gain:Any\n"
        "wide = steps_gain:wide\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert vars(make_table_gain_model("steps:steps=5")) == {"steps": 5}
    assert vars(make_table_gain_model("any:depth=2")) == {"options": {"depth": 2}}
    assert vars(make_table_gain_model("wide:rows=2")) == {"steps": 20}
    with pytest.raises(OptionError, match="options of wide = 'steps'; allowed: rows"):
        make_table_gain_model("wide:steps=2")
    with pytest.raises(OptionError, match="options of steps = 'step'; allowed: steps"):
        make_pool_model("steps:step=5")
    with pytest.raises(OptionError, match="steps:steps = 'many'; allowed: a whole number"):
        make_pool_model("steps:steps=many")


def test_a_missing_library_comes_with_its_install_line() -> None:
    """The message names what needs it and the extra."""
    with pytest.raises(MissingDependencyError, match=r"ForestGain.*metarouter\[train\]"):
        import_train("no_such_library", "ForestGain")


def test_options_may_stand_in_a_name() -> None:
    """So that they can be given wherever a name can: fit, compare, benchmark, the commands."""
    model = make_pool_model("sw_ranking:gamma=100:num_tiers=5:within_tiers=false", seed=3)
    wanted = make_pool_model("sw_ranking", gamma=100, num_tiers=5, within_tiers=False, seed=3)
    assert repr(model) == repr(wanted)
    assert "num_tiers=5" in repr(model)


def test_a_checkpoint_and_options_stand_beside_each_other() -> None:
    """The folder of a checkpoint may hold anything but an option at its end."""
    model = make_table_gain_model("bert:/models/a=b:c/d:epochs=2")
    assert (model.checkpoint, model.epochs) == ("/models/a=b:c/d", 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sw_ranking:gama=100", r"options of sw_ranking = 'gama'; allowed: gamma"),
        ("mf:width=8:dims=3", r"options of mf = '\w+'; allowed: "),
        ("sw_ranking:penalty=much", r"sw_ranking:penalty = 'much'; allowed: a number"),
        ("sw_ranking:gamma=abc", r"sw_ranking:gamma = 'abc'; allowed: a number"),
        ("sw_ranking:gamma=NaN", r"sw_ranking:gamma = nan; allowed: a number"),
        ("sw_ranking:num_tiers=2.5", r"sw_ranking:num_tiers = 2.5; allowed: a whole number"),
        ("sw_ranking:within_tiers=5", r"sw_ranking:within_tiers = 5; allowed: true or false"),
        ("sw_ranking:seed=3", r"a name gives no seed; give it as `seed`"),
        ("always_cheap:choice=premium", r"options of always_cheap = 'choice'; allowed: none"),
        ("sw_ranking:cells=[2]", r"sw_ranking:cells = \[2\]; allowed: a whole number"),
        ("mf:variant=best", r"mf:variant = 'best'; allowed: paper, code"),
        ("mf:ties=2", r"mf:ties = 2; allowed: half, drop"),
        ("logistic:penalties=2", r"logistic:penalties = 2; allowed: a list such as \[0.1,1\]"),
        ("logistic:views=[1,2.5]", r"logistic:views = \[1, 2.5\]; allowed: a list such as \[1,2\]"),
        ("bert:x:max_tokens=true", r"bert:max_tokens = True; allowed: a whole number"),
        ("ridge:penalty=1", r"options of ridge = .*penalty.*; allowed: none"),
    ],
)
def test_an_option_that_a_model_has_not_is_named(name: str, message: str) -> None:
    """With those that it has."""
    with pytest.raises(OptionError, match=message):
        make_pool_model(name)


def test_an_option_that_may_be_left_open_is_left_open_by_null() -> None:
    model = make_table_gain_model("sw_ranking:gamma=null:penalty=2")
    assert (model.gamma, model.penalty) == (None, 2)  # type: ignore[attr-defined]
