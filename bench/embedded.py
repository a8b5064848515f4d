"""Measures a request on the embedded store: launcher, fake clouds and `NodeClient` in one process.

    python bench/embedded.py [--providers 1 20] [--outstanding 50] [--seconds 5] [--memory] [--profile]

For each number of providers: p50 of request to fulfilled on an idle launcher, then a closed loop that keeps so many
requests outstanding; each is submitted, awaited, held and returned. CPU is that of the process, so it includes the
client. ``--profile`` runs the loop a second time under cProfile and prints the calls per request by owner; a builtin
belongs to its caller. ``fsync`` is the time of a 4 KiB append with fdatasync on the same disk.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import structlog

from nodelaunch.client.nodes import NodeClient
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.store.embedded.store import EmbeddedStore

IDLE = 60
WARM_UP_S = 1.0
PROFILED = 300
PROVIDER = """
  - name: cloud{number}
    driver: fake
    boot-time: 0
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 1000, labels: [{{name: node, cloud-image: image, min-ram: 100}}]}}]
"""


def owner_of(file: str) -> str:
    for part, owner in (
        ("nodelaunch/store/", "store"), ("nodelaunch/client/nodes.py", "client"), ("nodelaunch/drivers/", "driver"),
        ("nodelaunch/protocol/records", "records"), ("nodelaunch/protocol/paths", "paths"),
        ("nodelaunch/", "engine"), ("structlog", "log"), ("asyncio", "asyncio"),
    ):  # fmt: skip
        if part in file:
            return owner
    return "other"


def fsync_ms(folder: Path) -> float:
    """Median of 50."""
    took = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


class ClosedLoop:
    """Requests of one client, with a constant number outstanding."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client
        self.served = 0
        self.is_over = False

    async def serve(self, limit: int | None = None) -> None:
        while not self.is_over and (limit is None or self.served < limit):
            async with self.client.nodes(["node"]):
                pass
            self.served += 1

    async def run(self, outstanding: int, *, seconds: float | None = None, limit: int | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(outstanding):
                group.create_task(self.serve(limit))
            if seconds is not None:
                await asyncio.sleep(seconds)
                self.is_over = True


async def idle_p50_ms(client: NodeClient) -> float:
    took = []
    for _ in range(IDLE):
        started = time.perf_counter()
        handle = await client.submit(["node"])
        request = await handle.finished()
        took.append(time.perf_counter() - started)
        async with client.hold(request):
            pass
        await asyncio.sleep(0.02)  # deletion is not part of it
    return statistics.median(took) * 1e3


async def closed_loop(client: NodeClient, outstanding: int, seconds: float) -> str:
    await ClosedLoop(client).run(outstanding, seconds=WARM_UP_S)
    loop = ClosedLoop(client)
    cpu, started = time.process_time(), time.perf_counter()
    await loop.run(outstanding, seconds=seconds)
    cpu, took = time.process_time() - cpu, time.perf_counter() - started
    return f"{loop.served / took:6.0f} req/s  {cpu / loop.served * 1e3:6.2f} ms CPU per request  (n={loop.served})"


async def profiled(client: NodeClient, outstanding: int) -> None:
    loop = ClosedLoop(client)
    profile = cProfile.Profile()
    profile.enable()
    await loop.run(outstanding, limit=PROFILED)
    profile.disable()
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for (file, _, _), (_, number, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file == "~" and callers:
            for (caller, _, _), (_, count, spent, _) in callers.items():
                calls[owner_of(caller)] += count
                seconds[owner_of(caller)] += spent
        else:
            calls[owner_of(file)] += number
            seconds[owner_of(file)] += own
    for owner, number in calls.most_common():
        each = seconds[owner] / loop.served * 1e6
        print(f"    {owner:<8} {number / loop.served:8.0f} calls  {each:8.0f} us (profiled) per request")
    print(f"    {'all':<8} {sum(calls.values()) / loop.served:8.0f} calls")
    if path := os.environ.get("PROFILE_FILE"):
        profile.dump_stats(path)


async def measure(folder: Path, args: argparse.Namespace, providers: int) -> None:
    config = folder / f"{providers}.yaml"
    names = "".join(PROVIDER.format(number=number) for number in range(providers))
    head = "webapp: {port: 0, listen_address: 127.0.0.1}\nlabels: [{name: node}]\nproviders:\n"
    config.write_text(head + names)
    store = EmbeddedStore(None if args.memory else folder / f"{providers}.sqlite")
    async with Launcher(load_config(config), store=store) as launcher, NodeClient(store) as client:
        running = asyncio.create_task(launcher.run())
        while launcher.readiness():
            await asyncio.sleep(0.1)
        print(f"{providers:>3} providers: idle p50 {await idle_p50_ms(client):6.2f} ms", end="   ", flush=True)
        print(await closed_loop(client, args.outstanding, args.seconds), flush=True)
        if args.profile:
            await profiled(client, args.outstanding)
        running.cancel()
        await asyncio.wait([running])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--providers", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--outstanding", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--memory", action="store_true", help="the store in memory")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder:
        print(f"fsync of 4 KiB: {fsync_ms(Path(folder)):.3f} ms")
        for providers in args.providers:
            asyncio.run(measure(Path(folder), args, providers))


if __name__ == "__main__":
    main()
