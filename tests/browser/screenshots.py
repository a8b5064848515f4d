"""Makes the pictures of the status page in docs/images: ``python -m browser.screenshots``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from browser.scene import browsing, opened, shown

IMAGES = Path(__file__).parents[2] / "docs" / "images"


async def make() -> None:
    async with shown(60) as scene, browsing() as browser:
        for name, width, height, is_dark in (("status", 1280, 1500, False), ("status-phone", 375, 1200, True)):
            async with opened(browser, scene.address, width=width, height=height, is_dark=is_dark) as page:
                await page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(make())
