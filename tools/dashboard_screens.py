"""The pictures of docs/dashboard.md, from a gateway with made traffic.

./run python tools/dashboard_screens.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
# name, page, theme, width, height
PICTURES = (
    ("dashboard_traffic.png", "traffic", "light", 1280, 1010),
    ("dashboard_what_if.png", "what-if", "dark", 1280, 930),
)


def take(browser: Browser, url: str, page_name: str, theme: str, size: tuple[int, int]) -> bytes:
    """One page over the last day, as a PNG."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto(f"{url}/dashboard#/{page_name}")
    page.get_by_label("Theme").select_option(theme)
    page.locator(".controls select").select_option("86400")
    page.locator(".canvas canvas").first.wait_for()
    for slider in page.get_by_role("slider").all():
        for _ in range(12):
            slider.press("ArrowRight")
    page.wait_for_timeout(1500)  # the last chart is drawn
    return page.screenshot()


def main() -> None:
    """Take the pictures."""
    sys.path.insert(0, str(ROOT / "experiments"))
    from dashboard_demo import demo, fill

    with (
        tempfile.TemporaryDirectory() as folder,
        demo(Path(folder), port=0) as (gateway, url, prompts),
        sync_playwright() as driver,
    ):
        fill(gateway, url, prompts, 3000)
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, page, theme, width, height in PICTURES:
            (IMAGES / name).write_bytes(take(browser, url, page, theme, (width, height)))
        browser.close()


if __name__ == "__main__":
    main()
