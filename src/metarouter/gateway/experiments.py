"""What is left to chance: splits between policies, exploration, and their propensities.

Every draw is a hash of texts, so it can be done again from the log: of the
decision's id (new for each request), or of the salt and what a split draws by.

What a propensity is over. By request, and for exploration, the id is random: each
request is a draw of its own. By conversation or by key, the draw is over the salt:
of all salts, that share sends this unit to this arm. The requests of a unit then
share one draw. They are not independent, and what a conversation says later may
be due to its arm, so values are to be clustered by unit; a propensity there is
that of the request's model given its text, not of the whole conversation. A
conversation without an id is known by its caller's key and by how it begins, so
those that begin alike are one unit.

Nothing is left to chance where a request pins its model, or stays with one; its
propensity is 1 and its decision is marked ``fixed``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Split", "explored", "mixed", "uniform"]


def uniform(*texts: str) -> float:
    """A number in [0, 1) that is a function of its texts, and looks drawn at random.

    Examples
    --------
    >>> uniform("a", "b") == uniform("a", "b") != uniform("ab", "")
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Requests for one name, shared out among policies.

    Attributes
    ----------
    name : what callers ask for.
    arms : policy to its share, all above 0, summing to 1.
    by : what is drawn: a "request", a "conversation" or a "key".
    salt : another one draws anew.
    """

    name: str
    arms: Mapping[str, float]
    by: Literal["conversation", "key", "request"]
    salt: str = ""

    def shares(self, able: Collection[str]) -> dict[str, float]:
        """Probability of each arm among those that can answer a request.

        Examples
        --------
        >>> split = Split(name="s", arms={"a": 0.5, "b": 0.25, "c": 0.25}, by="key")
        >>> split.shares({"a", "c"})
        {'a': 0.6666666666666666, 'c': 0.3333333333333333}
        """
        kept = {arm: share for arm, share in self.arms.items() if arm in able}
        total = sum(kept.values())
        return {arm: share / total for arm, share in kept.items()}

    def draw(self, unit: str, shares: Mapping[str, float]) -> str:
        """The arm of a unit, each with the probability of its share.

        Where an arm cannot answer, only its own units move: each arm runs a race
        with an exponential time of its own, which does not know who else runs.

        References
        ----------
        Thaler & Ravishankar (1998), "Using name-based mappings to increase hit
        rates", IEEE/ACM Transactions on Networking 6(1).
        """

        def time(arm: str) -> float:
            return -math.log(1.0 - uniform("split", self.name, self.salt, unit, arm)) / shares[arm]

        return min((arm for arm, share in shares.items() if share > 0), key=time)


def explored(
    greedy: str, models: Sequence[str], epsilon: float, unit: str
) -> tuple[str, bool, dict[str, float]]:
    """The model after exploration, whether it was drawn, and the propensity of each.

    Parameters
    ----------
    greedy : the model that the policy chose.
    models : those that may be drawn; `greedy` is one of them.
    epsilon : probability in [0, 1] of a draw, with equal chances.
    unit : what is drawn for, such as a decision's id.

    Notes
    -----
    ``p(m) = (1 − ε)·1[m = greedy] + ε / K`` for K models. One uniform number
    decides both: below ε, its place there is uniform too.

    Examples
    --------
    >>> explored("a", ["a", "b"], 0.0, "d1")
    ('a', False, {'a': 1.0})
    >>> explored("a", ["a", "b"], 1.0, "d1")[2]
    {'a': 0.5, 'b': 0.5}
    """
    if epsilon == 0.0:
        return greedy, False, {greedy: 1.0}
    each = epsilon / len(models)
    propensities = {m: each + (1.0 - epsilon if m == greedy else 0.0) for m in models}
    place = uniform("exploration", unit) / epsilon
    if place >= 1.0:
        return greedy, False, propensities
    return models[int(place * len(models))], True, propensities


def mixed(parts: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Propensity of each model over arms and what happens within them.

    Parameters
    ----------
    parts : for each arm its share, and the propensities within it.

    Examples
    --------
    >>> mixed([(0.9, {"a": 1.0}), (0.1, {"a": 0.5, "b": 0.5})])
    {'a': 0.9500000000000001, 'b': 0.05}
    """
    total: dict[str, float] = {}
    for share, within in parts:
        for model, probability in within.items():
            total[model] = total.get(model, 0.0) + share * probability
    return total
