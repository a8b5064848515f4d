"""The subject of a measurement: launchers of one kind on their own part of the store, with a load generator."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench import proc
from bench.foreign import populate
from bench.launchers import Kind, Process, Setup, processes
from bench.zk.client import Client, connected
from bench.zk.server import BenchServer
from bench.zuul import NODES, POOLS, Zuul

SETTLE_S = 2.0
"""Pause between registration and the load, so that a launcher's work after its start is not measured."""
REGISTER_TIMEOUT_S = 300.0
POLL_S = 0.01
_numbers = itertools.count(1)


class Sample(NamedTuple):
    """Counters at one moment, or between two; seconds and packets."""

    wall_s: float
    launcher_s: float
    zookeeper_s: float
    generator_s: float
    machine_s: float
    received: float
    sent: float

    def since(self, earlier: Sample) -> Sample:
        return Sample(*(now - then for now, then in zip(self, earlier, strict=True)))

    def per_request(self, requests: int) -> dict[str, Any]:
        """Return the cost of *requests* requests, by name of the figure: milliseconds of CPU, and ZooKeeper packets."""
        count = max(requests, 1)
        busy = self.machine_s - self.launcher_s - self.zookeeper_s - self.generator_s
        return {
            "requests": requests,
            "wall_s": round(self.wall_s, 3),
            "cpu_ms_per_request": round(1e3 * self.launcher_s / count, 4),
            "zookeeper_cpu_ms_per_request": round(1e3 * self.zookeeper_s / count, 4),
            "generator_cpu_ms_per_request": round(1e3 * self.generator_s / count, 4),
            "operations_per_request": round(self.received / count, 3),
            "replies_and_events_per_request": round(self.sent / count, 3),
            "other_cpu_percent": max(0, round(100 * busy / max(self.wall_s, 1e-9))),
        }


@dataclass
class Subject:
    """Launchers that have registered all of their pools, and the scheduler that sends them requests."""

    kind: Kind
    setup: Setup
    server: BenchServer
    client: Client
    root: str
    zuul: Zuul
    processes: Sequence[Process]
    registered_s: float = 0.0
    """Time from the first process's start to the last pool's registration."""

    def sample(self) -> Sample:
        pids = [process.pid for process in self.processes]
        packets = [self.server.packets(pid) for pid in pids]
        return Sample(
            time.monotonic(),
            sum(map(proc.cpu_s, pids)),
            self.server.cpu_s,
            time.process_time(),
            proc.machine_cpu_s(),
            sum(each.received for each in packets),
            sum(each.sent for each in packets),
        )

    def memory(self) -> dict[str, float]:
        """Return the memory of the largest process."""
        found = max(proc.memory(process.pid) for process in self.processes)
        return {"rss_mib": found.rss_mib, "peak_mib": found.peak_mib}

    async def until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until *is_done*; return False after the time limit. Raises: LauncherEndedError."""
        deadline = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline:
                return False
            for process in self.processes:
                process.check()
            await asyncio.sleep(POLL_S)
        return True

    async def nodes_left(self, timeout_s: float) -> int:
        """Wait until the launchers' own nodes are gone; return the number of remaining nodes."""
        deadline = time.monotonic() + timeout_s
        while (left := await self.client.count(self.root + NODES) - self.setup.foreign_nodes - self.setup.hosts) > 0:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        return max(left, 0)

    async def _register(self) -> None:
        pools = self.setup.pools * len(self.processes)
        deadline = time.monotonic() + REGISTER_TIMEOUT_S
        while await self.client.count(self.root + POOLS) < pools:
            for process in self.processes:
                process.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.kind.name}: not all of {pools} pools registered in {REGISTER_TIMEOUT_S:g} s")
            await asyncio.sleep(POLL_S)
        self.registered_s = round(time.monotonic() - self.processes[0].started_at, 3)
        if self.setup.hosts:
            await self._hosts()

    async def _hosts(self) -> None:
        """Wait for the nodes of static machines."""
        deadline = time.monotonic() + REGISTER_TIMEOUT_S
        while await self.client.count(self.root + NODES) < self.setup.hosts and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def opened(
    server: BenchServer,
    kind: Kind,
    setup: Setup,
    folder: Path,
    *,
    hold_s: float = 0.0,
    watches_nodes: bool = False,
    first_request: str = "",
    settle_s: float = SETTLE_S,
) -> AsyncIterator[Subject]:
    """Start *setup*'s launchers and wait for them; end them, and clear what they wrote, at the end.

    *first_request*: a label that is asked for before the launchers start.
    """
    name = f"{kind.name}-{next(_numbers)}"
    root = f"/bench-{os.getpid()}-{name}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(server.host, server.port))
        stack.push_async_callback(_clear, server, root)
        await populate(client, root, setup.foreign_nodes, setup.foreign_requests)
        zuul = Zuul(client, root, hold_s=hold_s, watches_nodes=watches_nodes)
        await zuul.start()
        stack.callback(zuul.stop)
        if first_request:
            zuul.submit(first_request)
        started = processes([kind] * setup.launchers, setup, server, root, folder / name)
        for process in started:
            stack.push_async_callback(process.stop)
        subject = Subject(kind, setup, server, client, root, zuul, started)
        await subject._register()  # noqa: SLF001
        await asyncio.sleep(settle_s)
        yield subject


async def _clear(server: BenchServer, root: str) -> None:
    """Delete the records, on a connection without watches, so that no deletion causes an event."""
    async with connected(server.host, server.port) as client:
        await client.delete_tree(root)
