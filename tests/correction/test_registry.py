"""Correctors by name, with their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.correction import make_corrector
from metarouter.errors import OptionError
from metarouter.testing import make_simulation
from metarouter.types import FloatArray


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none:alignment=range", {"alignment": "range"}),
        ("published_dr:alignment=none", {"alignment": "none"}),
        ("t:n_folds=3:n_repeats=2", {"n_folds": 3, "n_repeats": 2}),
        ("dr:annotation_propensity=0.1", {"annotation_propensity": 0.1}),
        ("r:annotation_propensity=null", {"annotation_propensity": None}),
        ("x:estimate_propensity=false", {"estimate_propensity": False}),
        ('auto:uses=["ignore","inform"]:average=false', {"uses": ["ignore", "inform"]}),
        ("auto:scatter=false", {"scatter": False}),
        ('two_fidelity:bases=["linear+rbf7"]', {"bases": ["linear+rbf7"], "scatter": False}),
    ],
)
def test_options_may_stand_in_a_name(name: str, options: dict[str, object]) -> None:
    """As they may in that of a gain model; the seed comes from the caller."""
    made = make_corrector(name, seed=3)
    assert {option: getattr(made, option) for option in options} == options
    assert getattr(made, "seed", 3) == 3


def test_an_option_of_the_call_goes_before_that_of_the_name() -> None:
    assert make_corrector("dr:n_folds=3", n_folds=4) == make_corrector("dr", n_folds=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean_shift:aligned=range", r"options of mean_shift = 'aligned'; allowed: alignment$"),
        ("gold_only:alignment=none", r"options of gold_only = 'alignment'; allowed: none"),
        ("mean_shift:alignment=half", r"mean_shift:alignment = 'half'; allowed: none, range, "),
        ("dr:learner=r", r"options of dr = 'learner'; allowed: annotation_propensity, "),
        (
            "auto:priors=2",
            r"options of auto = 'priors'; allowed: uses, bases, average, scatter, n_folds$",
        ),
        ("auto:uses=ignore", r"auto:uses = 'ignore'; allowed: a list such as "),
        ("auto:uses=[]", r"auto:uses = \[\]; allowed: a list such as "),
        ("auto:bases=[5]", r"auto:bases = \[5\]; allowed: a list such as "),
        ("dr:annotation_propensity=abc", r"dr:annotation_propensity = 'abc'; allowed: a number"),
        ("dr:estimate_propensity=0", r"dr:estimate_propensity = 0; allowed: true or false"),
        ("dr:n_folds=2.5", r"dr:n_folds = 2.5; allowed: a whole number"),
        ("dr:seed=4", r"a name gives no seed; give it as `seed`"),
        ("d:n_folds=2", r"corrector = 'd'; allowed: auto, none, "),
        ("dr:n_folds", r"corrector = 'dr:n_folds'; allowed: auto, none, "),
    ],
)
def test_an_option_that_a_corrector_has_not_is_named(name: str, message: str) -> None:
    """With those that it has, before any work."""
    with pytest.raises(OptionError, match=message):
        make_corrector(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ('auto:uses=["ignore","trust"]', r"uses = 'trust'; allowed: ignore, inform, "),
        ('auto:bases=["linear","cubic"]', r"bases = 'cubic'; allowed: linear, rbf3, "),
        ("auto:n_folds=1", r"n_folds = 1; allowed: an integer of at least 2"),
        ("dr:n_folds=1", r"n_folds = 1; allowed: an integer of at least 2"),
        ("dr:annotation_propensity=2", r"annotation_propensity = 2; allowed: strictly between"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_fit(name: str, message: str) -> None:
    corrector = make_corrector(name)
    table = make_simulation(100, 3, n_gold=40, n_test=1, bias="linear").table
    with pytest.raises(OptionError, match=message):
        corrector.fit(table)


def test_a_known_propensity_of_the_name_is_the_one_of_the_call() -> None:
    """It is used: another one corrects otherwise."""
    table = make_simulation(200, 3, n_gold=80, n_test=1, bias="linear").table

    def gain(name: str, **options: Any) -> FloatArray:
        return make_corrector(name, **options).fit(table).transform(table).gain

    named = gain("r:annotation_propensity=0.3")
    np.testing.assert_array_equal(named, gain("r", annotation_propensity=0.3))
    assert not np.array_equal(named, gain("r:annotation_propensity=0.6"))
