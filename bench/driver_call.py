"""Measures a call of a driver in its own process against the same call within the launcher.

    python bench/driver_call.py [--calls 10000] [--at-once 1]

The driver is ``test``, which does nothing, so that the difference is the way to it: both kinds are called in turns in
one run, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence

from nodelaunch.driverhost.process.plugin import isolated
from nodelaunch.drivers import DriverRegistry
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.driver import Driver, DriverContext

CONFIG = {"name": "cloud", "driver": "test", "pools": [{"name": "main", "labels": ["small"]}]}
BATCH = 100
"""Calls of one kind before the next turn of the other kind."""


async def timed(driver: Driver) -> float:
    began = time.perf_counter()
    await driver.label_ready("main", "small")
    return time.perf_counter() - began


async def batch(driver: Driver, calls: int, at_once: int) -> list[float]:
    took: list[float] = []
    while len(took) < calls:
        took += await asyncio.gather(*(timed(driver) for _ in range(at_once)))
    return took


def told(kind: str, took: Sequence[float]) -> str:
    cuts = statistics.quantiles(took, n=100)
    return f"{kind:<10} {len(took):>6} calls  median {cuts[49] * 1e3:8.3f} ms  p99 {cuts[98] * 1e3:8.3f} ms"


async def measure(calls: int, at_once: int) -> None:
    plugin = DriverRegistry().get("test")
    config = plugin.config_model.model_validate(CONFIG)
    context = DriverContext(SshScanner())
    inline, process = plugin.open(config, context), isolated(plugin).open(config, context)
    took: dict[str, list[float]] = {"inline": [], "process": []}
    try:
        await batch(process, BATCH, 1)  # it is started by the first call
        while len(took["process"]) < calls:
            took["inline"] += await batch(inline, BATCH, at_once)
            took["process"] += await batch(process, BATCH, at_once)
    finally:
        await process.aclose()
    for kind, each in took.items():
        print(told(kind, each))
    median = statistics.median(took["process"]) - statistics.median(took["inline"])
    print(f"overhead   median {median * 1e3:.3f} ms, {at_once} at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=1)
    args = parser.parse_args()
    asyncio.run(measure(args.calls, args.at_once))


if __name__ == "__main__":
    main()
