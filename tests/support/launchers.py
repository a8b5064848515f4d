"""Whole launchers on an embedded store in memory and a fake cloud, in this process, on the loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nodelaunch.client.nodes import NodeClient
from nodelaunch.engine.view import ClusterView
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.driver import HostScanner
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.invariants import check_invariants

EPOCH = 1_700_000_000.0
CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: {min_ready}}}, {{name: big, max-ready-age: {max_ready_age}}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    delete-time: {delete_time}
    launch-retries: 2
    launch-timeout: 300
    max-concurrency: {max_concurrency}
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: {max_servers}
        labels:
          - {{name: small, cloud-image: image, min-ram: 8192}}
          - {{name: big, cloud-image: image, min-ram: 8192}}
"""
DEFAULTS = {
    "boot_time": 1.0, "delete_time": 0.5, "max_servers": 10, "min_ready": 0, "max_ready_age": 0, "max_concurrency": -1,
}  # fmt: skip


class LoopClock:
    """Wall time that follows the loop's, which may be virtual."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()


class Running:
    """A launcher at work, and a client of its store."""

    def __init__(self, launcher: Launcher, client: NodeClient, store: EmbeddedStore) -> None:
        self.launcher = launcher
        self.client = client
        self.store = store

    @property
    def view(self) -> ClusterView:
        return self.launcher.view

    @property
    def cloud(self):
        return self.launcher.providers["cloud"].driver.cloud  # type: ignore[attr-defined]

    @property
    def is_ready(self) -> bool:
        """Return whether pool ``cloud/main`` can work."""
        pool = self.launcher.pools.get(("cloud", "main"))
        return pool is not None and pool.is_registered and pool.ctx.provider.down is None

    def nodes(self, *states: NodeState) -> list[Node]:
        return [seen.record for seen in self.view.nodes.values() if not states or seen.record.state in states]

    async def until(self, holds: Callable[[], bool], *, within_s: float = 600.0) -> None:
        """Wait for a change of the view, or of nothing for a second, after which *holds*."""
        changed = asyncio.Event()
        stop = self.view.subscribe(lambda _note: changed.set())
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    try:
                        async with asyncio.timeout(1.0):
                            await changed.wait()
                    except TimeoutError:
                        pass
                    changed.clear()
        finally:
            stop()

    async def finished(self, *labels: str, **options: object) -> NodeRequest:
        handle = await self.client.submit(list(labels), **options)  # type: ignore[arg-type]
        return await handle.finished()

    async def job(self, *labels: str, **options: object) -> list[Node]:
        """Ask, wait, use, give back."""
        request = await self.finished(*labels, **options)
        assert request.state is RequestState.FULFILLED
        async with self.client.hold(request) as nodes:
            return nodes

    async def until_empty(self) -> None:
        await self.until(lambda: not self.view.nodes and not self.view.requests)


def written(
    folder: Path, config: str = CONFIG, *, more: str = "", name: str = "nodepool.yaml", **values: object
) -> Path:
    """The configuration with its blanks filled in, as a file."""
    path = folder / name
    path.write_text(config.format(**{**DEFAULTS, **values}) + more)
    return path


@asynccontextmanager
async def running(
    folder: Path, config: str = CONFIG, *, more: str = "", scanner: HostScanner | None = None, **values: object
) -> AsyncIterator[Running]:
    path = written(folder, config, more=more, **values)
    store = EmbeddedStore(None, clock=LoopClock().now)
    async with (
        at_work(path, store, scanner=scanner) as launcher,
        store.connect() as session,
        NodeClient(session, clock=LoopClock()) as client,
    ):
        made = Running(launcher, client, store)
        await made.until(lambda: made.is_ready)
        yield made


@asynccontextmanager
async def at_work(
    path: Path, store: EmbeddedStore, *, hostname: str = "here", **options: Any
) -> AsyncIterator[Launcher]:
    """A launcher that runs on *store* with the configuration in *path*; ended without draining."""
    async with Launcher(load_config(path), store=store, clock=LoopClock(), hostname=hostname, **options) as launcher:
        task = asyncio.ensure_future(launcher.run())
        try:
            yield launcher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        check_invariants(launcher.view)
