"""Telling callables apart, as resuming a comparison must."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.evaluation.identity import callable_identity


class Scaled:
    """A callable object with state."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, seed: int) -> float:
        return self.factor * seed


def adding(value: Any) -> Callable[[int], Any]:
    return lambda seed: value


def power(seed: int, exponent: int = 2) -> int:
    return int(seed**exponent)


def local_class(factor: float, *, shifted: bool = False) -> type:
    class Local:
        FACTOR = factor

        def __call__(self, seed: int) -> float:
            return self.FACTOR * seed + 1 if shifted else self.FACTOR * seed

        @property
        def size(self) -> float:
            return factor

        @staticmethod
        def name() -> str:
            return "local"

    return Local


def derived_class(factor: float) -> type:
    class Base:
        def scale(self) -> float:
            return factor

    class Middle(Base):
        pass

    class Derived(Middle):
        def scale(self) -> float:
            return super().scale() + 1  # closes over Derived itself

    return Derived


def recursive(step: int) -> Callable[[int], int]:
    def count(n: int) -> int:
        return 0 if n <= 0 else 1 + count(n - step)

    return count


def unfilled(step: int) -> Callable[[], int]:
    def early() -> int:
        return late + step

    if step < 0:
        late = 0
    return early


LARGE = np.zeros(5000)
OTHER = np.where(np.arange(5000) == 2500, 1.0, 0.0)

DIFFERENT: list[Callable[..., Any]] = [
    lambda seed: seed,
    lambda seed: seed + 1,
    lambda seed: seed + 2,
    lambda seed: [x + 1 for x in (seed,)],
    abs,
    adding(1),
    adding(2),
    adding(LARGE),
    adding(OTHER),
    adding(lambda: 1),
    adding(lambda: 2),
    power,
    partial(power, exponent=2),
    partial(power, exponent=3),
    partial(pow, 2),
    local_class(1.0),
    local_class(2.0),
    local_class(1.0, shifted=True),
    derived_class(1.0),
    derived_class(2.0),
    recursive(1),
    recursive(2),
    unfilled(1),
    unfilled(2),
    unfilled(-1),
    Scaled,
    Scaled(1.0),
    Scaled(2.0),
]


def test_callables_that_differ_have_different_names() -> None:
    """By code, constants, closures, defaults, arguments or state."""
    assert len({callable_identity(make) for make in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize("make", DIFFERENT, ids=range(len(DIFFERENT)))
def test_a_callable_keeps_its_name(make: Callable[..., Any]) -> None:
    """So that a comparison can be resumed."""
    assert callable_identity(make) == callable_identity(make)


def test_what_holds_itself_or_nothing_yet_is_the_same_when_made_again() -> None:
    """`super()`, recursion, and a name that a closure waits for; also what is inherited."""
    for make in (derived_class, recursive, unfilled):
        assert callable_identity(make(1)) == callable_identity(make(1))
    many: list[Any] = []
    many.append(many)
    assert callable_identity(adding(many)) == callable_identity(adding(many))


def test_what_cannot_be_told_is_never_the_same() -> None:
    """An object without a state to compare is another one each time."""
    make = adding(open(__file__, encoding="utf-8"))  # noqa: PTH123, SIM115 - not picklable
    try:
        assert callable_identity(make) != callable_identity(make)
    finally:
        make(0).close()


def test_the_name_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Hash randomisation and addresses do not enter it."""
    (tmp_path / "mine.py").write_text(
        "from functools import partial\n"
        "def make(seed, names=('a', 'b')): return names[0] in {'a', 'b', 'c', 'd', 'e'}\n"
        "def closed(value): return lambda seed: value\n"
        "ALL = [make, closed('text'), partial(make, names=('c',)), closed(make),\n"
        "    closed({'a', 'b', 'c'}), closed({'d': ['e']})]\n"
    )
    code = (
        "import mine; from metarouter.evaluation.identity import callable_identity as name\n"
        "print([name(one) for one in mine.ALL])"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(shown) == 1


PACKAGE = {
    "mine/__init__.py": "from mine import sums\nfrom mine.sums import LEVEL, Part\n"
    "make = lambda seed: Part(seed)\n"
    "def other(seed): return sums.half(seed) + LEVEL + sums.held()\n",
    "mine/sums.py": "from mine.deep import twice\nLEVEL = 1\ndef half(x): return x / 2\n"
    "class Part:\n    def __init__(self, seed): self.seed = seed\n"
    "    def fit(self): return twice(self.seed)\n"
    "from mine.holders import BY, OPTIONS, shift\n"
    "def held(): return OPTIONS['up'][0] + BY.of(1) + shift()\n",
    "mine/holders.py": "from functools import lru_cache\nOPTIONS = {'up': [1.0]}\n"
    "class Scale:\n    NAMED = {'x': 5}\n    def __init__(self, by): self.by = by\n"
    "    def of(self, x): return x * self.by\n"
    "BY = Scale(3)\n@lru_cache\ndef shift(): return 7\n",
    "mine/deep.py": "def twice(x): return 2 * x\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("mine/deep.py", "2 * x", "3 * x", "make"),
        ("mine/sums.py", "x / 2", "x / 3", "other"),
        ("mine/sums.py", "LEVEL = 1", "LEVEL = 2", "other"),
        ("mine/sums.py", "self.seed = seed", "self.seed = -seed", "make"),
        ("mine/holders.py", "[1.0]", "[2.0]", "other"),
        ("mine/holders.py", "'x': 5", "'x': 6", "other"),
        ("mine/holders.py", "x * self.by", "x + self.by", "other"),
        ("mine/holders.py", "Scale(3)", "Scale(4)", "other"),
        ("mine/holders.py", "return 7", "return 8", "other"),
    ],
)
def test_what_a_callable_names_in_its_package_counts(
    tmp_path: Path, file: str, old: str, new: str, changed: str
) -> None:
    """The class behind a lambda, what that calls elsewhere, constants and objects: no more."""

    def names(folder: str, edit: str = "") -> dict[str, str]:
        for name, text in PACKAGE.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(old, new) if name == edit else text)
        code = (
            "import mine; from metarouter.evaluation.identity import callable_identity as name\n"
            "print(name(mine.make), name(mine.other))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(zip(("make", "other"), done.stdout.split(), strict=True))

    before, after = names("before"), names("after", edit=file)
    assert {name for name in before if before[name] != after[name]} == {changed}


def test_another_package_is_not_followed() -> None:
    """A class that inherits from one of the standard library is told at once, and again."""
    made = [type("Mine", (threading.Thread,), {"__module__": "mine"}) for _ in range(2)]
    assert len({callable_identity(cls) for cls in made}) == 1
