"""Figures of the reports: inline SVG whose colours follow the page.

Matplotlib draws with placeholder colours, one for each role; afterwards they
become CSS variables, so that one drawing serves light, dark and print. Text
stays text. Every figure comes in a wide and a narrow drawing, since shrinking
a wide one to a phone would make its labels unreadable.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarouter.errors import MissingDependencyError
from metarouter.evaluation.intervals import Band
from metarouter.records import Estimate
from metarouter.types import FloatArray

__all__ = [
    "ForestPanel",
    "ForestRow",
    "Picture",
    "Series",
    "Svg",
    "band_series",
    "draw_calibration",
    "draw_curves",
    "draw_forest",
    "draw_lines",
    "forest_row",
    "random_series",
]

_WIDE, _NARROW = 720, 360  # CSS pixels, drawn one to one
_SIZE = 12.5

# Greys that nothing else draws with; each stands for a role of the style sheet.
_ROLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--grid",
    "#040404": "--accent",
    "#050505": "--second",
    "#060606": "--quiet",
    "#070707": "--page",
}
INK, MUTED, GRID, ACCENT, SECOND, QUIET, PAGE = _ROLES


class Svg(str):
    """Markup that a template takes as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure as two inline SVGs, for screens and for phones."""

    wide: Svg
    narrow: Svg


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """A value with its interval, one line of a forest plot."""

    label: str
    value: float
    low: float
    high: float
    strong: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestPanel:
    """Rows under one heading; `reference` is drawn as a line across them."""

    title: str
    rows: Sequence[ForestRow]
    reference: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line: points, optional half-transparent band, style."""

    label: str
    x: Sequence[float] | FloatArray
    y: Sequence[float] | FloatArray
    low: Sequence[float] | FloatArray | None = None
    high: Sequence[float] | FloatArray | None = None
    color: str = ACCENT
    dash: str = "-"
    marker: str = ""


def draw_curves(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    x_label: str | None = None,
    point: tuple[float, float] | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    zero: bool = False,
    in_shares: bool = False,
    legend: str = "lower right",
) -> Picture:
    """Lines over the premium share, or over what `x_label` names.

    `point` marks the policy in use, `marks` others by name; `zero` draws the zero line;
    `in_shares` says that what `x_label` names is a share too.
    """

    def draw(axes: Any, narrow: bool) -> None:
        _plot_series(axes, series)
        if zero:
            axes.axhline(0, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
        _plot_marks(axes, marks or {})
        if point is not None:
            axes.plot(*point, "o", color=ACCENT, markersize=9, markeredgecolor=PAGE, zorder=6)
            axes.annotate(
                "this router",
                point,
                xytext=(-9, 9),
                textcoords="offset points",
                ha="right",
                color=INK,
                weight="bold",
            )
        axes.margins(x=0.01)
        if in_shares or x_label is None:
            axes.xaxis.set_major_formatter(_percent_ticks())
        axes.set_xlabel(x_label or "share of queries sent to the premium model")
        axes.set_ylabel(y_label)
        if len(series) > 1:
            _legend(axes, place=legend)

    return _picture(title, draw, heights=(360, 320))


def _plot_marks(axes: Any, marks: Mapping[str, tuple[float, float]]) -> None:
    """Named points; those on the right have their names on the left, to stay on the page."""
    middle = max((x for x, _ in marks.values()), default=0.0) / 2
    for name, at in marks.items():
        is_left = at[0] <= middle
        axes.plot(*at, "s", color=MUTED, markersize=6, markeredgecolor=PAGE, zorder=5)
        axes.annotate(
            name,
            at,
            xytext=(7 if is_left else -7, -12),
            textcoords="offset points",
            ha="left" if is_left else "right",
            color=MUTED,
            fontsize="small",
        )


def draw_lines(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> Picture:
    """Lines over a positive number on a logarithmic axis, labelled at their points."""

    def draw(axes: Any, narrow: bool) -> None:
        _plot_series(axes, series)
        axes.set_xscale("log")
        ticks = sorted({float(x) for line in series for x in line.x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.axhline(0, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _legend(axes, columns=2 if narrow else 3, above=True)

    return _picture(title, draw, heights=(400, 400))


def draw_calibration(title: str, rows: Sequence[ForestRow], predicted: Sequence[float]) -> Picture:
    """Mean gold gain against mean predicted gain, with the line of equality."""

    def draw(axes: Any, narrow: bool) -> None:
        value = [row.value for row in rows]
        error = [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]
        ends = [min(predicted), max(predicted)]
        axes.plot(ends, ends, color=MUTED, linewidth=1.2, dashes=(4, 3), label="equal")
        axes.errorbar(
            predicted,
            value,
            error,
            fmt="o",
            color=ACCENT,
            ecolor=ACCENT,
            elinewidth=1.6,
            markersize=6,
            label="mean of a bin, with its interval",
        )
        axes.set_xlabel("predicted gain")
        axes.set_ylabel("gold gain")
        _legend(axes, place="upper left")

    return _picture(title, draw, heights=(340, 320))


def draw_forest(
    title: str, panels: Sequence[ForestPanel], *, x_label: str, columns: int = 1
) -> Picture:
    """Values with intervals, row by row; panels side by side when there is room."""
    rows = max(len(panel.rows) for panel in panels)

    def svg(width: int, across: int, row_height: int, *, above: bool) -> Svg:
        down = -(-len(panels) // across)
        height = down * (rows * row_height + (46 if panels[0].title else 10)) + 52
        figure = _figure(width, height)
        figure.get_layout_engine().set(h_pad=7 / 72, w_pad=5 / 72)
        grid = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
        for position, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            _plot_forest(axes, panel)
            _label_rows(axes, panel, beside=position % across == 0 and not above, above=above)
            if position // across == down - 1:
                axes.set_xlabel(_short(x_label, width // 9))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure, title)

    with _style():
        # A phone has no room beside the bars, so the labels stand above them.
        return Picture(
            wide=svg(_WIDE, columns, 24, above=False), narrow=svg(_NARROW, 1, 40, above=True)
        )


def _plot_forest(axes: Any, panel: ForestPanel) -> None:
    axes.axvline(panel.reference, color=MUTED, linewidth=1.2, dashes=(4, 3), zorder=1)
    for place, row in enumerate(reversed(panel.rows)):
        color = ACCENT if row.strong else QUIET
        axes.plot([row.low, row.high], [place, place], color=color, linewidth=2.4, zorder=2)
        axes.plot(
            row.value, place, "D" if row.strong else "o", color=color, markersize=6.5, zorder=3
        )
    axes.grid(False, axis="y")
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if panel.title:
        axes.set_title(panel.title, loc="left", fontsize=_SIZE, weight="bold", color=INK)


def _label_rows(axes: Any, panel: ForestPanel, *, beside: bool, above: bool) -> None:
    rows = panel.rows[::-1]
    axes.set_ylim(-0.6, len(rows) - (0.2 if above else 0.4))
    axes.set_yticks(range(len(rows)), [_short(row.label, 36) for row in rows] if beside else [])
    for text, row in zip(axes.get_yticklabels(), rows, strict=False):
        text.set(color=INK, weight=_weight(row))
    for place, row in enumerate(rows if above else ()):
        axes.text(
            0,
            place + 0.3,
            _short(row.label, 44),
            transform=axes.get_yaxis_transform(),
            weight=_weight(row),
        )


def _weight(row: ForestRow) -> str:
    return "bold" if row.strong else "normal"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _plot_series(axes: Any, series: Sequence[Series]) -> None:
    for line in series:
        if line.low is not None and line.high is not None:
            axes.fill_between(
                line.x, line.low, line.high, color=line.color, alpha=0.16, linewidth=0
            )
        axes.plot(
            line.x,
            line.y,
            linestyle=line.dash,
            marker=line.marker,
            color=line.color,
            linewidth=2.2 if line.dash == "-" else 1.8,
            markersize=6.5,
            label=line.label,
        )


def _legend(
    axes: Any, *, place: str = "lower right", columns: int = 1, above: bool = False
) -> None:
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1)} if above else {"loc": place}
    axes.legend(frameon=False, ncols=columns, handlelength=2.4, columnspacing=1.4, **where)


def _picture(title: str, draw: Callable[[Any, bool], None], *, heights: tuple[int, int]) -> Picture:
    def svg(width: int, height: int) -> Svg:
        figure = _figure(width, height)
        draw(figure.subplots(), width == _NARROW)
        return _svg(figure, title)

    with _style():
        return Picture(wide=svg(_WIDE, heights[0]), narrow=svg(_NARROW, heights[1]))


def _style() -> Any:
    matplotlib = _import_matplotlib()
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "metarouter",
            "font.size": _SIZE,
            "text.color": INK,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": MUTED,
            "axes.labelsize": _SIZE,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.unicode_minus": True,
            # Names and labels are the user's: a dollar sign is not a formula.
            "text.parse_math": False,
            "grid.color": GRID,
            "grid.linewidth": 1,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "legend.fontsize": _SIZE,
        }
    )


def _figure(width: int, height: int) -> Any:
    from matplotlib.figure import Figure

    # SVG units are points, 72 to the inch.
    return Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")


def _svg(figure: Any, title: str) -> Svg:
    stream = io.StringIO()
    with warnings.catch_warnings():
        # Texts stay texts in the SVG: the reader's fonts draw what Matplotlib's lack.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    width, height = (72 * inches for inches in figure.get_size_inches())
    return inline_svg(stream.getvalue(), title, round(width), round(height))


def inline_svg(text: str, title: str, width: int, height: int) -> Svg:
    """Matplotlib's SVG as a part of a page: named, themed, free of addresses.

    Ids get a prefix of their own, so that many drawings share a page, and the
    font and line joins are left to the style sheet.
    """
    body = text[text.index(">", text.index("<svg")) + 1 :]
    for useless in (
        r"<metadata>.*?</metadata>\s*",
        r"<!--.*?-->\s*",
        r"<style.*?</style>\s*",
        r"(?<=<g) id=\"[^\"]*\"",
        r"font-family:[^;\"]*;?\s*",
    ):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", body)
    prefix = "f" + hashlib.sha256((title + body).encode()).hexdigest()[:8]
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    for color, variable in _ROLES.items():
        body = body.replace(color, f"var({variable})")
    return Svg(
        f'<svg role="img" aria-labelledby="{prefix}" viewBox="0 0 {width} {height}" '
        f'style="width:100%;max-width:{width}px;height:auto">'
        f'<title id="{prefix}">{html.escape(title)}</title>{body}'
    )


def band_series(label: str, x: FloatArray, band: Band) -> Series:
    """The router's own line with its simultaneous band."""
    return Series(label=label, x=x, y=band.value, low=band.low, high=band.high)


def random_series(x: FloatArray, y: FloatArray) -> Series:
    """The line of a random router."""
    return Series(label="random", x=x, y=y, color=MUTED, dash="--")


def forest_row(label: str, estimate: Estimate, *, strong: bool = False) -> ForestRow:
    """The line of an estimate."""
    return ForestRow(
        label=label, value=estimate.value, low=estimate.low, high=estimate.high, strong=strong
    )


def _percent_ticks() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0, symbol=" %")


def _import_matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("a report", "train") from error
    return matplotlib
