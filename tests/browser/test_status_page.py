"""The status page in a real browser: what it shows, live; at any width; for readers of screens and for keyboards."""

from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from browser.scene import CHROMIUM, browsing, opened, shown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

WIDTHS = {"desktop": 1280, "phone": 375}


@pytest.mark.parametrize("nodes", [0, 10, 5000])
async def test_page_has_no_violations_at_any_width(nodes: int) -> None:
    async with shown(nodes) as scene, browsing() as browser:
        for width in WIDTHS.values():
            for is_dark in (False, True):
                async with opened(browser, scene.address, width=width, is_dark=is_dark, allows_scripts=True) as page:
                    found = await Axe().run(page)
                    assert found.violations_count == 0, found.generate_report()
                    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                    assert await page.evaluate(overflow) == 0


async def test_page_shows_what_there_is() -> None:
    async with shown(10) as scene, browsing() as browser, opened(browser, scene.address) as page:
        text = await page.inner_text("main")
        for expected in ("main: instances", "10 of 12", "debian-12", "unit-tests, check", "launcher-1"):
            assert expected in text or expected in await page.inner_text("header")
        assert "fedora-41" in await page.inner_text("#waiting")
        assert await page.locator("#labels tbody tr").count() == 2


async def test_page_follows_what_happens() -> None:
    async with shown(10) as scene, browsing() as browser, opened(browser, scene.address) as page:
        await expect(page.locator("#live")).to_have_text("live")
        await expect(page.locator("#list tbody tr")).to_have_count(10)
        await page.evaluate("window.notReloaded = true")
        await page.fill("#text", "fedora")
        await expect(page.locator("#list tbody tr")).to_have_count(2)
        await page.fill("#text", "")
        await page.select_option("#state", "hold")
        await expect(page.locator("#list")).to_have_text("No node matches.")
        await page.select_option("#state", "")
        await scene.client.submit(["debian-12"])
        await expect(page.locator("#list tbody tr")).to_have_count(11)
        assert await page.evaluate("window.notReloaded")


async def test_everything_is_reached_with_the_keyboard() -> None:
    async with shown(10) as scene, browsing() as browser, opened(browser, scene.address) as page:
        reached = []
        for _ in range(10):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert reached[:7] == ["skip", "waiting", "labels", "launchers", "text", "state", "list"]
