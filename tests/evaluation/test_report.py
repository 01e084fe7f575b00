"""The HTML reports: safe, self-contained, readable without sight, colour or network."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.evaluation.biasmap_view import view_bias_map
from metarouter.evaluation.compare_view import judge_comparison
from metarouter.evaluation.comparison import CompareConfig, CompareRecord, CompareResult
from metarouter.evaluation.evaluate import Evaluation, evaluate_router
from metarouter.evaluation.figures import ForestPanel, ForestRow, draw_forest, inline_svg
from metarouter.evaluation.report import (
    render_compare_report,
    render_evaluation_report,
    write_evaluation_report,
)
from metarouter.evaluation.verdict import signed
from metarouter.labels.table import make_gain_table
from metarouter.policy.rule import UtilityPolicy
from metarouter.records import Decision, GainEstimate

ATTACK = "<script>alert('x')</script> & $\\oops{$ \"quoted\" </style> http://evil.example/x.js"


class LengthRouter:
    """Predicts more gain for longer queries; its facts hold hostile text."""

    models = ("cheap <i>", "premium")
    query_hashes: None = None

    def __init__(self, bias_map: dict[str, Any] | None = None) -> None:
        self.facts = {
            "w": 0.0,
            "cost_unit": "calls",
            "corrector": ATTACK,
            "rows": {"gold": 100, "preference": 1000},
            "diagnostics": {"note": ATTACK},
            "overlap": {
                "n_treated": 1234,
                "auc": {"value": 0.61, "low": 0.58, "high": 0.64},
                "quantiles": [[0.5, 0.1]],
                "warnings": [ATTACK],
            },
            "bias_map": bias_map,
        }

    def predict_gain(self, queries: Sequence[str]) -> GainEstimate:
        mean = np.asarray([len(query) for query in queries]) / 100 - 1
        return GainEstimate(mean=mean, std=np.full(len(mean), 0.2))

    def route_batch(self, queries: Sequence[str]) -> list[Decision]:
        policy = UtilityPolicy(models=self.models, w=0.0)
        return policy.decide(self.predict_gain(queries), np.tile([0.0, 1.0], (len(queries), 1)))


def bias_rows() -> list[dict[str, Any]]:
    return [
        {
            "dimension": "domain",
            "level": level,
            "n_gold": 40,
            "n_preference": 400,
            "bias": bias,
            "low": bias - 0.1,
            "high": bias + 0.1,
        }
        for level, bias in ((ATTACK, -0.3), ("code", 0.02))
    ]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    texts = [
        f"{ATTACK if i % 50 == 0 else 'ask'} {'x' * int(rng.integers(0, 200))} {i}"
        for i in range(120)
    ]
    gain = np.asarray([len(text) for text in texts]) / 100 - 1 + rng.normal(0, 0.3, 120)
    table = make_gain_table(
        queries=texts,
        gain=gain,
        is_gold=np.ones(120, dtype=bool),
        models=LengthRouter.models,
        candidate_score=gain + 1.0,
        baseline_score=np.ones(120),
        domain=np.arange(120) % 2,
        domains=(ATTACK, "code"),
    )
    router = LengthRouter({"rows": bias_rows(), "p_value": 0.01})
    return evaluate_router(router, table, n_boot=200)


def make_result(shift: float = 0.0, n_seeds: int = 6) -> CompareResult:
    """`auto` is `shift` above gold_only in every split."""
    rng = np.random.default_rng(1)
    level = {
        "gold_only": 0.02,
        ATTACK.partition(" ")[0]: 0.01,
        "auto": 0.02 + shift,
        "all_gold": 0.05,
    }
    splits = rng.normal(0, 0.002, n_seeds)
    config = CompareConfig(
        n_gold=(50, 100),
        correctors=tuple(level),
        gain_models=("ridge",),
        seeds=tuple(range(n_seeds)),
        n_test=100,
        embedder=ATTACK,
        models=("cheap <i>", "premium"),
        n_queries=900,
        n_gold_queries=500,
        n_preference_queries=800,
        fingerprint="f",
    )
    records = [
        CompareRecord(
            seed=cell.seed,
            n_gold=cell.n_gold,
            corrector=cell.corrector,
            gain_model=cell.gain_model,
            n_preference=700,
            n_test=100,
            efficiency_gain_area=level[cell.corrector] + splits[cell.seed] + rng.normal(0, 1e-4),
            efficiency_gain_area_20_80=0.01,
            apgr=math.nan,
            cpt50=0.4,
            cpt80=0.7,
            fit_seconds=0.1,
        )
        for cell in config.cells()
    ]
    return CompareResult(records=tuple(records), config=config)


class Page(HTMLParser):
    """Elements of a page with their attributes, and what is never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "hr", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def evaluation_page(evaluation: Evaluation) -> str:
    return render_evaluation_report(evaluation)


@pytest.fixture(scope="module")
def compare_page() -> str:
    return render_compare_report(make_result())


@pytest.fixture(params=["evaluation_page", "compare_page"])
def page_text(request: pytest.FixtureRequest) -> str:
    text: str = request.getfixturevalue(request.param)
    return text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0.0000"), (-0.0, "0.0000"), (-4e-5, "0.0000"), (6e-5, "+0.0001"), (-0.5, "−0.5000")],
)
def test_a_number_that_rounds_to_zero_has_no_sign(number: float, text: str) -> None:
    assert signed(number, 4) == text


def test_page_loads_nothing(page_text: str) -> None:
    """No element and no style names an address to fetch; there is no script."""
    page = Page(page_text)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("img")
    for _, attrs in page.elements:
        for name, value in attrs.items():
            if name in {"src", "href", "xlink:href", "action", "data", "style"}:
                assert "//" not in (value or "")
    for style in re.findall(r"<style.*?</style>", page_text, re.DOTALL):
        assert "url(" not in style
        assert "@import" not in style


def test_hostile_text_is_shown_not_run(page_text: str) -> None:
    assert "<script" not in page_text
    assert "&lt;script&gt;alert" in page_text
    assert "cheap &lt;i&gt;" in page_text


def test_page_is_well_formed(page_text: str) -> None:
    """Every element is closed in order, ids are unique, references have a target."""
    page = Page(page_text)
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in ("aria-labelledby", "xlink:href"):
            if attrs.get(name):
                assert str(attrs[name]).lstrip("#") in ids


def test_every_figure_has_a_text_alternative(page_text: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page_text, re.DOTALL)
    assert len(figures) >= 3
    for figure in figures:
        assert figure.count('role="img"') == 2
        assert len(re.findall(r"<title id=\"\w+\">[^<]{10,}</title>", figure)) == 2
        assert re.search(r"<figcaption>[^<]{10,}", figure)


def test_tables_have_captions_and_header_cells(page_text: str) -> None:
    tables = re.findall(r"<table>.*?</table>", page_text, re.DOTALL)
    assert tables
    for table in tables:
        assert "<caption>" in table
        assert 'scope="col"' in table
        assert 'scope="row"' in table


def test_drawings_use_the_page_colours_only(page_text: str) -> None:
    """A fixed colour would be unreadable in either the light or the dark theme."""
    for drawing in re.findall(r"<svg.*?</svg>", page_text, re.DOTALL):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r"#f[0-9a-f]{8}", "", drawing))
        assert "var(--ink)" in drawing or "var(--muted)" in drawing


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_contrast_meets_wcag_aa(page_text: str, theme: int) -> None:
    """Every text colour has at least 4.5 : 1 on the page and on cards (WCAG 2.2, 1.4.3)."""
    block = re.findall(r":root \{(.*?)\}", page_text, re.DOTALL)[theme]
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
    for text in ("ink", "muted", "accent", "better", "worse", "unclear"):
        for ground in ("page", "card"):
            light, dark = sorted(map(luminance, (colors[text], colors[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_verdict_and_its_interval_come_first(evaluation: Evaluation, evaluation_page: str) -> None:
    interval = re.search(r"keeps (.*?\])", evaluation.verdict.sentence)
    assert interval is not None
    shown = interval.group(1).replace(" %", "\N{NO-BREAK SPACE}%")
    assert evaluation_page.index(shown) < evaluation_page.index("<figure>")


def test_overlap_shows_counts_and_estimates(evaluation_page: str) -> None:
    assert "1,234" in evaluation_page
    assert "0.610 [0.580, 0.640]" in evaluation_page


def test_report_without_facts_says_so(evaluation: Evaluation) -> None:
    bare = replace(evaluation, facts={"cost_unit": "calls"})
    text = render_evaluation_report(bare)
    assert "does not say what it was fitted on" in text
    assert "No bias map" in text


def test_prices_put_the_curve_over_money(evaluation: Evaluation, evaluation_page: str) -> None:
    priced = render_evaluation_report(replace(evaluation, facts={"cost_unit": "USD"}))
    assert "expected USD per 1,000 queries" in priced
    assert "expected USD" not in evaluation_page


def test_intervals_are_said_to_be_of_the_level_that_they_are(evaluation: Evaluation) -> None:
    curve = evaluation.curve
    other = replace(evaluation, curve=replace(curve, band=replace(curve.band, level=0.9)))
    text = render_evaluation_report(other).replace("\u00a0", " ").replace("\u202f", " ")
    assert "intervals are 90 %" in text
    assert "95 % band" not in text
    assert "95 % probability" not in text


def test_report_is_written_as_utf8(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_evaluation_report(evaluation, path)
    assert "✓" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("shift", "status"), [(0.01, "better"), (-0.01, "worse"), (0.0, "unclear")]
)
def test_comparison_verdict_follows_the_paired_difference(shift: float, status: str) -> None:
    assert judge_comparison(make_result(shift)).status == status


def test_one_split_is_reported_without_interval() -> None:
    text = render_compare_report(make_result(0.01, n_seeds=1))
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "1 splits: intervals rest" in text


def test_regret_is_drawn_and_listed_at_the_price_in_use(evaluation: Evaluation) -> None:
    """The table holds the router's own price, and the curve there is its regret."""
    priced = replace(evaluation, facts={**evaluation.facts, "w": float(evaluation.regret.w[7])})
    text = render_evaluation_report(priced)
    assert "Regret at every price of cost" in text
    assert "price of a premium call in gain units" in text
    row = f"{evaluation.regret.band.value[7]:.3f}"
    assert row in text[text.index("Regret in gain units per query") :]


def test_a_price_beyond_the_grid_has_no_point_on_it(evaluation: Evaluation) -> None:
    """The router is not drawn at a price it does not use."""
    regret = evaluation.regret
    beyond = float(2 * regret.w[-1] + 1)
    shown = []
    for w in (float(regret.w[7]), beyond):
        page = render_evaluation_report(replace(evaluation, facts={**evaluation.facts, "w": w}))
        picture = page[page.index("Regret of the router at every price") :]
        shown.append("this router" in picture[: picture.index("</svg>")])
    assert shown == [True, False]


def test_splits_without_a_gap_are_counted() -> None:
    """Where no APGR can be given the report says in how many splits, and why."""
    text = render_compare_report(make_result())
    assert "is not better than cheap &lt;i&gt; on the test queries of 6 of 6 splits" in text


def test_bias_map_lists_what_is_too_few_to_tell_and_leads_with_all_queries() -> None:
    whole = bias_rows()[0] | {"dimension": "all", "level": "queries"}
    few = bias_rows()[0] | dict.fromkeys(("bias", "low", "high"))
    view = view_bias_map([whole, *bias_rows(), few], p_value=None)
    assert view.sentence.startswith("Over all queries preference minus gold is −0.300")
    assert "in 1 of 2 slices" in view.sentence
    assert view.table.rows[0][0] == "all queries"
    assert view.table.rows[-1][-2:] == ("too few", "")


def test_a_router_that_cannot_tell_of_its_labels_says_why(evaluation: Evaluation) -> None:
    untold = "cannot be told: 3 queries with gold"
    facts = {**evaluation.facts, "bias_map": untold, "overlap": untold, "sensitivity": untold}
    text = render_evaluation_report(replace(evaluation, facts=facts))
    assert text.count(untold) == 2
    assert "something hidden" not in text


def test_sensitivity_is_told_in_sentences(evaluation: Evaluation) -> None:
    sensitivity = {"mean_bias": {"sentence": "It takes 5 of it."}, "routing_value": "cannot be"}
    facts = {**evaluation.facts, "sensitivity": sensitivity}
    text = render_evaluation_report(replace(evaluation, facts=facts))
    assert "preference minus gold: It takes 5 of it." in text
    assert "at random: cannot be" in text


def test_bias_map_names_the_slices_that_leave_out_zero() -> None:
    view = view_bias_map(bias_rows(), p_value=0.2)
    assert "biased in 1 of 2 slices" in view.sentence
    assert "not refuted" in view.sentence
    assert view.table.strong == frozenset({0})


def test_names_in_any_script_are_drawn_as_text_without_warnings() -> None:
    """Matplotlib's font has no Chinese; the reader's browser has (warnings are errors here)."""
    row = ForestRow(label="客户支持", value=0.1, low=0.0, high=0.2)
    drawn = draw_forest("bias", [ForestPanel(title="", rows=[row])], x_label="增益")
    assert "客户支持" in drawn.wide
    assert "增益" in drawn.narrow


def test_inline_svg_drops_metadata_and_prefixes_ids() -> None:
    raw = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9pt">'
        "<metadata>http://x</metadata><defs><path id='a' id=\"m1\"/></defs>"
        '<use xlink:href="#m1" style="stroke: #040404"/></svg>'
    )
    drawn = inline_svg(raw, "A <title>", 9, 9)
    assert "http" not in drawn
    assert "A &lt;title&gt;" in drawn
    found = re.search(r'id="(f\w+-m1)"', drawn)
    assert found is not None
    assert f'href="#{found.group(1)}"' in drawn
    assert "var(--accent)" in drawn


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1000, False), (1000, True), (390, False)])
def test_browser_draws_the_report_without_errors(
    chromium: str, page_text: str, tmp_path: Path, width: int, dark: bool
) -> None:
    """Chromium runs no script, logs no error, and scrolls sideways at no width."""
    path = tmp_path / "report.html"
    probe = (
        "<script>addEventListener('load', () => { const r = document.documentElement;"
        "const shown = [...document.querySelectorAll('svg')].filter(s => s.clientWidth > 0);"
        "r.dataset.wide = r.scrollWidth > r.clientWidth;"
        "r.dataset.shown = shown.length;"
        "r.dataset.ground = getComputedStyle(document.body).backgroundColor; })</script>"
    )
    path.write_text(page_text.replace("</body>", probe + "</body>"), encoding="utf-8")
    command = [
        chromium,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    root = re.search(r"<html[^>]*>", done.stdout)
    assert root is not None
    assert 'data-wide="false"' in root.group()
    assert f'data-shown="{page_text.count("<figure>")}"' in root.group()
    ground = "rgb(19, 22, 25)" if dark else "rgb(251, 251, 250)"
    assert f'data-ground="{ground}"' in root.group()
    assert "CONSOLE" not in done.stderr
