"""Requests over time: how many, how they ended, who answered, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metarouter.dashboard.estimates import clustered_share
from metarouter.errors import InputError
from metarouter.store.analytics import ShareSums, TrafficCell, Window

__all__ = ["SPANS", "TimeGrid", "group_outcome", "time_grid", "traffic_view"]

# Seconds that a page may look back to the seconds of one of its buckets: 60 to 96 buckets each.
SPANS = {900: 15, 3600: 60, 21_600: 300, 86_400: 900, 604_800: 7200, 2_592_000: 28_800}

_GROUPS = {"ok": "ok", "decided": "decided", "client_left": "left", "refused": "refused"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeGrid:
    """A window cut into buckets of equal width that end with the present one."""

    window: Window
    width: int
    n: int

    @property
    def starts(self) -> list[float]:
        """When each bucket begins."""
        return [self.window.start + number * self.width for number in range(self.n)]

    def coarser(self, most: int = 32) -> TimeGrid:
        """The same window in at most `most` buckets, each of several of these."""
        factor = next(k for k in range(1, self.n + 1) if self.n % k == 0 and self.n // k <= most)
        return replace(self, width=self.width * factor, n=self.n // factor)


def time_grid(seconds: int, now: float) -> TimeGrid:
    """The buckets of the last `seconds`, at round times.

    Raises
    ------
    InputError
        When `seconds` is none of the spans that pages offer.

    Examples
    --------
    >>> grid = time_grid(3600, 7230.0)
    >>> grid.window, grid.n
    (Window(start=3660.0, end=7260.0), 60)
    """
    if seconds not in SPANS:
        raise InputError(f"seconds = {seconds}; allowed: {', '.join(map(str, SPANS))}")
    width = SPANS[seconds]
    end = (int(now) // width + 1) * width
    window = Window(start=float(end - seconds), end=float(end))
    return TimeGrid(window=window, width=width, n=seconds // width)


def group_outcome(outcome: str) -> str:
    """One of "ok", "decided" (nobody was called), "left", "refused" and "failed".

    Examples
    --------
    >>> group_outcome("client_left"), group_outcome("broken")
    ('left', 'failed')
    """
    return _GROUPS.get(outcome, "failed")


def traffic_view(
    cells: Sequence[TrafficCell],
    sums: Sequence[ShareSums],
    grid: TimeGrid,
    premium: Mapping[str, str],
) -> dict[str, Any]:
    """Series and totals of a window.

    Parameters
    ----------
    cells : sequence of TrafficCell
    sums : of premium choices, in the buckets of the coarser grid.
    grid : TimeGrid
    premium : the premium model of each policy that is loaded.

    Returns
    -------
    dict
        `series` by bucket; `totals`, `models` and `policies` over the window.
        A premium share is that of requests whose policy chose its premium
        model, among those of policies that are loaded. `shares`, in fewer
        buckets, has intervals for the share on such requests, of which those
        of one conversation are not independent; the shares of what was served
        are counts.
    """
    routed = [cell for cell in cells if cell.policy in premium]
    chosen = [cell for cell in routed if cell.model == premium[cell.policy or ""]]
    groups = sorted({group_outcome(cell.outcome) for cell in cells})
    by_group = {
        group: _series([c for c in cells if group_outcome(c.outcome) == group], grid, "requests")
        for group in groups
    }
    counted = {
        "routed": sum(cell.requests for cell in routed),
        "premium": sum(cell.requests for cell in chosen),
    }
    return {
        "start": grid.window.start,
        "end": grid.window.end,
        "width": grid.width,
        "starts": grid.starts,
        "requests": by_group,
        "shares": _shares(sums, grid.coarser()),
        "spent": _series(cells, grid, "spent"),
        "totals": _totals(cells) | counted,
        "models": _by_model(cells),
        "policies": _by_policy(routed, premium),
    }


def _series(cells: Iterable[TrafficCell], grid: TimeGrid, name: str) -> list[float]:
    found = [0.0] * grid.n
    for cell in cells:
        if 0 <= cell.bucket < grid.n:
            found[cell.bucket] += getattr(cell, name)
    return found


def _shares(sums: Sequence[ShareSums], grid: TimeGrid) -> list[dict[str, Any]]:
    found = {one.bucket: one for one in sums}
    return [
        {
            "start": start,
            "routed": one.requests if one else 0,
            "premium": one.premium if one else 0,
            "share": clustered_share(one) if one else None,
        }
        for start, one in ((start, found.get(i)) for i, start in enumerate(grid.starts))
    ]


def _totals(cells: Sequence[TrafficCell]) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for cell in cells:
        outcomes[cell.outcome] += cell.requests
    called = [cell for cell in cells if group_outcome(cell.outcome) != "decided"]
    sums = {
        name: sum(getattr(cell, name) for cell in called)
        for name in ("requests", "priced", "spent", "prompt_tokens", "completion_tokens")
    }
    failed = sum(c.requests for c in called if group_outcome(c.outcome) == "failed")
    return sums | {"failed": failed, "outcomes": dict(outcomes.most_common())}


def _by_model(cells: Sequence[TrafficCell]) -> list[dict[str, Any]]:
    names = Counter[str]()
    for cell in cells:
        names[cell.answered or cell.model] += cell.requests
    return [
        {"model": name} | _totals([cell for cell in cells if (cell.answered or cell.model) == name])
        for name, _ in names.most_common()
    ]


def _by_policy(routed: Sequence[TrafficCell], premium: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for policy, model in premium.items():
        own = [cell for cell in routed if cell.policy == policy]
        requests = sum(cell.requests for cell in own)
        dear = sum(cell.requests for cell in own if cell.model == model)
        found.append({"policy": policy, "model": model, "requests": requests, "premium": dear})
    return found
