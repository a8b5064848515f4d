"""Loading times of the status page: ``python -m browser.paint [NODES] [LOADS]``, on this machine.

Prints, in milliseconds, when a fresh browser page has painted first, and when it has shown all data.
"""

from __future__ import annotations

import asyncio
import sys
from statistics import median, quantiles

import structlog

from browser.scene import browsing, opened, shown

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


async def measure(nodes: int, loads: int) -> None:
    painted, complete = [], []
    async with shown(nodes) as scene, browsing() as browser:
        for _ in range(loads):
            async with opened(browser, scene.address) as page:
                complete.append(await page.evaluate("window.shownAt"))
                painted.append(await page.evaluate(FIRST_PAINT))
    for name, values in (("first paint", painted), ("all shown", complete)):
        p95 = quantiles(values, n=20, method="inclusive")[-1]
        print(f"{name}: p50 {median(values):.0f} ms, p95 {p95:.0f} ms, {nodes} nodes, {loads} loads")  # noqa: T201


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(measure(*(int(each) for each in (sys.argv[1:] + ["5000", "20"][len(sys.argv) - 1 :]))))
