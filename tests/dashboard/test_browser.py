"""The pages in a real Chromium: what is drawn, what is said, what is sent, and to whom."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import sqlalchemy as sa
from dashboard_makers import Shown

from metarouter.store.keys import create_key, revoke_key
from metarouter.store.tables import decisions, feedback

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PAGES = (
    "traffic", "decisions", "what-if", "feedback", "experiments", "service", "playground", "keys",
)  # fmt: skip
WIDE, PHONE = 1280, 390
DARK = "rgb(19, 22, 25)"
# roles of what has to have a name for who cannot see it
NAMED = {
    "button", "checkbox", "combobox", "dialog", "img", "link", "region", "searchbox", "slider",
    "spinbutton", "table", "textbox",
}  # fmt: skip

# Text whose contrast with the ground behind it is below 4.5 (3 for large text), as WCAG has it.
_LOW_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(":disabled, option")) continue;
    const pair = [light(rgb(style.color)), light(ground(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      low.push([walker.currentNode.data.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return low;
}"""


@contextmanager
def _looking(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page in a context of its own, which has to stay free of errors and of other hosts."""
    width = options.pop("width", WIDE)
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on(
        "console",
        lambda said: problems.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on(
        "request",
        lambda sent: None if sent.url.startswith(url + "/") else problems.append(sent.url),
    )
    yield page
    assert [problem for problem in problems if not _is_refusal(problem)] == []
    context.close()


def _is_refusal(problem: str) -> bool:
    """The browser reports refusals on its console; those here are meant."""
    return re.search("responded with a status of 40[013]", problem) is not None


def _open(page: Page, url: str, name: str) -> None:
    page.goto(f"{url}/dashboard#/{name}")
    page.locator("h1").wait_for()
    span = page.locator(".controls select")
    if span.count():
        # what the page opened with is shown until the day's answer is there
        with page.expect_response(lambda answer: "seconds=86400" in answer.url):
            span.select_option("86400")
    page.locator(".panel").first.wait_for()
    page.wait_for_function("() => !document.querySelector('.empty[role=status]')")


@pytest.fixture(scope="module", params=PAGES)
def seen(request: pytest.FixtureRequest, browser: Browser, shown: Shown) -> Iterator[Page]:
    """Each page in turn, open."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, request.param)
        yield page


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDE), ("dark", PHONE)])
def test_every_page_is_drawn_and_readable(seen: Page, scheme: Any, width: int) -> None:
    """No error, no other host, no sideways scrolling, text of enough contrast in both themes."""
    seen.emulate_media(color_scheme=scheme)
    seen.set_viewport_size({"width": width, "height": 900})
    if seen.locator(".canvas").count():
        seen.locator(".canvas canvas").first.wait_for()
    # A chart takes the new width at the next resize that it observes.
    root = "document.documentElement"
    seen.wait_for_function(f"() => {root}.scrollWidth <= {root}.clientWidth")
    assert seen.evaluate(_LOW_CONTRAST) == []
    is_dark = seen.evaluate("getComputedStyle(document.body).backgroundColor") == DARK
    assert is_dark == (scheme == "dark")


def test_every_page_can_be_heard(seen: Page) -> None:
    """The accessibility tree has landmarks, one first heading, and a name for what is used."""
    seen.set_viewport_size({"width": WIDE, "height": 900})
    tree = seen.locator("body").aria_snapshot()
    roles = re.findall(r"^\s*- (\w+)(?: \"(.*?)\")?", tree, re.MULTILINE)
    found = [role for role, _ in roles]
    assert found.count("main") == found.count("banner") == 1
    assert ("navigation", "Pages") in roles
    assert seen.locator("h1").count() == 1
    assert [role for role, name in roles if role in NAMED and not name] == []
    assert seen.locator("th:empty").count() == 0
    assert seen.locator("html").get_attribute("lang") == "en"


def test_charts_have_a_table_of_the_same_numbers(browser: Browser, shown: Shown) -> None:
    """Each chart is an image with a sentence, and its numbers can be read in a table."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "traffic")
        charts = page.locator("figure.chart")
        for number in range(charts.count()):
            chart = charts.nth(number)
            assert len(chart.get_by_role("img").get_attribute("aria-label") or "") > 30
            chart.get_by_text("Table", exact=True).click()
            assert chart.locator("tbody tr").count() > 10


HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"&{{7*7}}'


@pytest.fixture
def hostile(shown: Shown) -> Iterator[str]:
    """A decision that holds markup wherever a caller, an upstream or a setting may put text."""
    named: dict[str, Any] = {
        "decision_id": "hostile",
        "created": time.time() - 5,
        "endpoint": "chat/completions",
        "asked": HOSTILE,
        "policy": HOSTILE,
        "policy_version": HOSTILE,
        "model": HOSTILE,
        "answered": HOSTILE,
        "options": [
            {"model": HOSTILE, "gain": 0.1, "gain_std": 0.1, "gain_low": 0.0, "gain_high": 0.2,
             "cost": 1.0, "utility": 0.1},
        ],
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": HOSTILE,
        "outcome": "ok",
        "status": 200,
        "attempts": [
            {"upstream": HOSTILE, "model": HOSTILE, "outcome": HOSTILE, "seconds": 1.0},
        ],
        "seconds": 1.0,
        "prompt": HOSTILE,
        "experiment": HOSTILE,
        "propensities": {HOSTILE: 1.0},
        "shadow": [{"policy": HOSTILE, "model": HOSTILE, "predicted_gain": 0.1}],
        "conversation": "c",
        "prompt_tokens": 3,
    }  # fmt: skip
    content = {"type": "score", "decision_id": "hostile", "value": 0.5, "annotator": HOSTILE}
    said = {
        "feedback_id": "hostile",
        "created": time.time(),
        "decision_id": "hostile",
        "kind": "score",
        "content": content,
    }
    engine = shown.gateway.engine
    with engine.begin() as connection:
        connection.execute(sa.insert(decisions), named)
        connection.execute(sa.insert(feedback), said)
    yield HOSTILE
    with engine.begin() as connection:
        for table in (decisions, feedback):
            connection.execute(sa.delete(table).where(table.c.decision_id == "hostile"))


@pytest.mark.parametrize(
    "name", ["traffic", "decisions?id=hostile", "feedback", "experiments", "service"]
)
def test_text_from_traffic_is_text(browser: Browser, shown: Shown, hostile: str, name: str) -> None:
    """Markup in prompts, names and reasons is shown letter by letter and does nothing."""
    with _looking(browser, shown.url) as page:
        page.goto(f"{shown.url}/dashboard#/{name}")
        page.get_by_text("window.hacked=1").first.wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("window.hacked") is None
        assert page.locator("#app script, #app [onerror], #app img[src=x]").count() == 0
        assert hostile in page.locator("#app").inner_text()


@pytest.fixture
def unanimous(shown: Shown) -> Iterator[str]:
    """Four answers of a model that users and audits all judge alike, and one preference."""
    name, now = "unanimous", time.time()
    served: dict[str, Any] = dict.fromkeys(("asked", "model", "answered"), name)
    served |= {"endpoint": "chat/completions", "policy": "default", "logging_propensity": 1.0}
    served |= {"bound": "gain", "reason": "r", "outcome": "ok", "options": []}
    verdicts: list[dict[str, Any]] = [
        {"type": kind, "decision_id": f"{name}-{n}", "annotator": f"{kind}-{n}", **content}
        for n in range(4)
        for kind, content in (("gold", {"scores": {name: 1.0}}), ("score", {"value": 0.5}))
    ]
    pair = {"model_a": name, "model_b": "swift-8b", "winner": "model_a"}
    verdicts.append({"type": "preference", "decision_id": f"{name}-0", **pair})
    rows = [{**served, "decision_id": f"{name}-{n}", "created": now - 9} for n in range(4)]
    said = [
        {"feedback_id": f"{name}-{n}", "created": now, "decision_id": one["decision_id"],
         "kind": one["type"], "content": one}
        for n, one in enumerate(verdicts)
    ]  # fmt: skip
    with shown.gateway.engine.begin() as connection:
        connection.execute(sa.insert(decisions), rows)
        connection.execute(sa.insert(feedback), said)
    yield name
    with shown.gateway.engine.begin() as connection:
        for table in (decisions, feedback):
            gone = table.c.decision_id.startswith(f"{name}-")
            connection.execute(sa.delete(table).where(gone))


def test_why_a_figure_has_no_interval_stands_beside_it(
    browser: Browser, shown: Shown, unanimous: str
) -> None:
    """In words, without a range that is none, and it is not called clear."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "feedback")
        table = page.get_by_role("table", name="Feedback by the model that answered")
        model = table.get_by_role("row", name=unanimous).inner_text()
        assert model.count("all independent units say the same: the interval has no width") == 2
        pair = page.get_by_role("table", name="Preferences by pair").get_by_role(
            "row", name=unanimous
        )
        assert "1 independent units are too few for an interval" in pair.inner_text()
        assert pair.locator("circle").count() == 1
        assert pair.locator(".range").count() == 0
        bias = page.get_by_role("table", name="Users minus gold: Scores").get_by_role(
            "row", name=f"answered by {unanimous}"
        )
        assert "−0.500" in bias.inner_text()
        assert "no width" in bias.inner_text()
        assert bias.get_by_role("img", name="no clear bias").count() == 1


def test_hostile_names_do_nothing_in_charts(browser: Browser, shown: Shown, hostile: str) -> None:
    """A tooltip of a chart whose series is called by markup shows the markup."""
    with _looking(browser, shown.url) as page:
        rows = [{"created": time.time() - n, "seconds": 1.0} for n in range(8)]
        shown_rows = [
            {"decision_id": f"hostile-{n}", "endpoint": "route", "asked": "m", "model": hostile,
             "answered": hostile, "logging_propensity": 1.0, "bound": "gain", "reason": "r",
             "outcome": "ok", **row}
            for n, row in enumerate(rows)
        ]  # fmt: skip
        with shown.gateway.engine.begin() as connection:
            connection.execute(sa.insert(decisions), shown_rows)
        try:
            page.goto(f"{shown.url}/dashboard#/service")
            canvas = page.locator("#times ~ figure canvas, .chart canvas").first
            canvas.wait_for()
            box = canvas.bounding_box()
            assert box is not None
            for part in (0.9, 0.95, 0.98):
                page.mouse.move(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
                page.wait_for_timeout(100)
            assert page.locator(".tip").count() > 0
            assert page.evaluate("window.hacked") is None
            assert page.locator(".tip img, .tip script").count() == 0
        finally:
            with shown.gateway.engine.begin() as connection:
                gone = sa.delete(decisions).where(decisions.c.decision_id.like("hostile-%"))
                connection.execute(gone)


def test_who_signs_in_with_the_key_of_an_admin_sees_pages(browser: Browser, locked: Shown) -> None:
    """Other keys are refused with a reason; the key stays in the tab and in no address."""
    with _looking(browser, locked.url) as page:
        page.goto(f"{locked.url}/dashboard")
        for key, message in (("mr-wrong", "no valid API key"), (locked.other, "admin")):
            page.get_by_label("Key of an admin").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("alert").get_by_text(message).wait_for()
        page.get_by_label("Key of an admin").fill(locked.admin)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Traffic", level=1).wait_for()
        page.get_by_role("link", name="Decisions").click()
        page.get_by_role("heading", name="Decisions", level=1).wait_for()
        assert locked.admin not in page.url
        assert page.evaluate("JSON.stringify(localStorage)").find(locked.admin) == -1
        assert page.context.cookies() == []
        page.reload()
        page.get_by_role("heading", name="Decisions", level=1).wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key of an admin").wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_key_that_is_revoked_ends_the_visit(browser: Browser, locked: Shown) -> None:
    """The next question after it brings back the form, which says why."""
    key, record = create_key(locked.gateway.engine, "brief", is_admin=True)
    locked.gateway.keyring.refresh()
    with _looking(browser, locked.url) as page:
        page.goto(f"{locked.url}/dashboard")
        page.get_by_label("Key of an admin").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Traffic", level=1).wait_for()
        revoke_key(locked.gateway.engine, record.key_id)
        locked.gateway.keyring.refresh()
        # by its address: the live page may have asked already, and have put the form up
        page.evaluate("location.hash = '#/feedback'")
        page.get_by_role("alert").get_by_text("sign in again").wait_for()


def test_a_key_is_made_shown_once_and_revoked(browser: Browser, locked: Shown) -> None:
    """What the form says is what the key may do; revoking asks once more."""
    with _looking(browser, locked.url) as page:
        page.goto(f"{locked.url}/dashboard#/keys")
        page.get_by_label("Key of an admin").fill(locked.admin)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Name", exact=True).fill("carol")
        page.get_by_label("Requests a minute").fill("5")
        page.get_by_label("Budget in dollars").fill("2.5")
        page.get_by_label("bolder").check()
        page.get_by_role("button", name="Make the key").click()
        made = page.get_by_role("region", name="The key of carol")
        key = made.locator("code").inner_text()
        headers = {"authorization": f"Bearer {key}"}
        known = httpx2.get(f"{locked.url}/v1/models", headers=headers).json()["data"]
        names = {model["id"] for model in known}
        assert "metarouter:bolder" in names
        assert "metarouter:default" not in names
        made.get_by_role("button", name="Done").click()
        assert key not in page.content()
        row = page.get_by_role("row", name=re.compile("carol ?key-"))
        assert "of $2.50" in row.inner_text()
        row.get_by_role("button", name="Revoke carol").click()
        row.get_by_role("button", name="Revoke carol").click()
        row.get_by_text("revoked").wait_for()
        assert httpx2.get(f"{locked.url}/v1/models", headers=headers).status_code == 401


def test_the_playground_shows_decision_answers_and_keeps_a_preference(
    browser: Browser, shown: Shown
) -> None:
    """One query: what was chosen and why, both answers as they stream, which one was better."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "playground")
        page.get_by_role("textbox", name="Query").fill("Prove that there is a bound of 17.")
        page.get_by_label("Ask the models too").check()
        page.get_by_role("button", name="Route").click()
        decision = page.get_by_role("region", name="Decision", exact=True)
        assert "the threshold" in decision.inner_text()
        assert decision.get_by_role("row").count() == 3
        for model in ("swift-8b", "atlas-400b"):
            answer = page.get_by_role("region", name=model)
            answer.get_by_text(f"{model} says:").wait_for()
            page.locator(".answer[aria-busy=true]").first.wait_for(state="detached")
            assert len(answer.inner_text().split()) > 12
        page.get_by_role("button", name="Equally good").click()
        page.get_by_text("Kept: thank you.").wait_for()
    with shown.gateway.engine.connect() as connection:
        newest = sa.select(feedback.c.content).order_by(feedback.c.created.desc()).limit(1)
        content = connection.execute(newest).scalar_one()
    assert (content["winner"], content["annotator"]) == ("tie", "playground")
    assert {content["model_a"], content["model_b"]} == {"swift-8b", "atlas-400b"}


def test_a_decision_opens_and_closes_by_keyboard(browser: Browser, shown: Shown) -> None:
    """Enter on a row's link opens it, Escape closes it, and the skip link leads to the content."""
    with _looking(browser, shown.url, width=PHONE) as page:
        _open(page, shown.url, "decisions")
        page.locator("body").press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.locator("tbody a").first.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Decision")
        dialog.get_by_role("heading", name="Prompt").wait_for()
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")


def test_filters_and_pages_are_in_the_address(browser: Browser, shown: Shown) -> None:
    """A filtered list can be bookmarked; going older and newer comes back to the same rows."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "decisions")
        first = page.locator("tbody tr").first.inner_text()
        page.get_by_role("button", name="Older").click()
        page.get_by_text("Page 2").wait_for()
        page.wait_for_function("t => document.querySelector('tbody tr').innerText !== t", arg=first)
        page.get_by_role("button", name="Newer").click()
        page.wait_for_function("t => document.querySelector('tbody tr').innerText === t", arg=first)
        page.get_by_label("Model").select_option("atlas-400b")
        page.wait_for_function("() => location.hash.includes('model=atlas-400b')")
        rows = "[...document.querySelectorAll('tbody tr')]"
        page.wait_for_function(f"() => {rows}.every(row => row.innerText.includes('atlas'))")
        page.reload()
        assert page.get_by_label("Model").input_value() == "atlas-400b"


def test_the_slider_shows_what_the_gateway_computed(browser: Browser, shown: Shown) -> None:
    """Each step of the slider is one point of the answer; the numbers are that point's."""
    question = f"{shown.url}/dashboard/api/what-if?policy=default&seconds=86400"
    found = httpx2.get(question).json()
    shares = sorted(point["premium_share"] for point in found["points"])
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "what-if")
        # the answer for the day, not the one for the hour that the page opened with
        page.get_by_text(f"The newest {found['n']} decisions").wait_for()
        slider = page.get_by_role("slider", name="Premium share")
        slider.focus()
        for key, share in (("End", shares[-1]), ("Home", shares[0]), ("ArrowRight", shares[1])):
            page.keyboard.press(key)
            assert page.locator("output").inner_text() == f"{100 * share:.0f} %"
        assert f"{100 * shares[1]:.1f} %" in page.locator(".stats").inner_text()
        assert "premium share" in (slider.get_attribute("aria-valuetext") or "")


def test_a_theme_is_kept(browser: Browser, shown: Shown) -> None:
    """The choice goes before the system's and outlives the page."""
    is_dark = f"getComputedStyle(document.body).backgroundColor === '{DARK}'"
    with _looking(browser, shown.url, color_scheme="light") as page:
        _open(page, shown.url, "traffic")
        assert not page.evaluate(is_dark)
        page.get_by_label("Theme").select_option("dark")
        page.wait_for_function(f"() => {is_dark}")
        page.reload()
        page.locator("h1").wait_for()
        assert page.evaluate(is_dark)
        page.get_by_label("Theme").select_option("system")
        page.wait_for_function(f"() => !({is_dark})")


def test_pages_are_live_only_while_they_are_to_be(browser: Browser, shown: Shown) -> None:
    """A live page asks again by itself, one that is not does not."""
    asked: list[str] = []
    with _looking(browser, shown.url) as page:
        page.clock.install()
        page.on("request", lambda sent: asked.append(sent.url))
        _open(page, shown.url, "traffic")
        page.clock.run_for(31_000)
        page.wait_for_timeout(300)
        live = sum("/traffic" in url for url in asked)
        page.get_by_label("Live").uncheck()
        page.wait_for_timeout(300)
        asked.clear()
        page.clock.run_for(120_000)
        page.wait_for_timeout(300)
        assert live >= 3  # at first, for the other span, and once more
        assert not [url for url in asked if "/traffic" in url]


def test_nothing_moves_for_who_wants_no_motion(browser: Browser, shown: Shown) -> None:
    with _looking(browser, shown.url, reduced_motion="reduce") as page:
        _open(page, shown.url, "traffic")
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i class=caret></i>')")
        style = "getComputedStyle(document.querySelector('.caret'))"
        assert page.evaluate(f"{style}.animationName") == "none"


def test_the_phone_has_a_menu(browser: Browser, shown: Shown) -> None:
    """Pages are behind one button, which says whether it is open."""
    with _looking(browser, shown.url, width=PHONE) as page:
        _open(page, shown.url, "traffic")
        menu = page.get_by_role("button", name="Traffic")
        assert menu.get_attribute("aria-expanded") == "false"
        assert not page.get_by_role("link", name="Keys").is_visible()
        menu.click()
        page.get_by_role("link", name="Keys").click()
        page.get_by_role("heading", name="Keys", level=1).wait_for()
        assert not page.get_by_role("link", name="Traffic").is_visible()


def test_an_error_is_shown_and_the_page_goes_on(browser: Browser, shown: Shown) -> None:
    """When a question fails, the page says so and keeps what it had."""
    with _looking(browser, shown.url) as page:
        _open(page, shown.url, "what-if")
        body = json.dumps({"error": {"message": "the store does not answer"}})
        answer = {"status": 400, "content_type": "application/json", "body": body}
        page.route("**/what-if*", lambda route: route.fulfill(**answer))
        page.locator(".controls select").select_option("3600")
        page.get_by_role("alert").get_by_text("store does not answer").wait_for()
        assert page.get_by_role("slider").is_visible()
