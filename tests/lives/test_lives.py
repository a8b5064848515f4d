"""20,000 whole lives of requests leave nothing behind in a launcher: no task, no descriptor, no znode, no entry of any
container, no memory.

`NODELAUNCH_LIVES` sets how many there are on the embedded store, `NODELAUNCH_ZOOKEEPER_LIVES` on ZooKeeper.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.drivers.fake import ledger
from nodelaunch.engine.view import ClusterView
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import Store
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.growth import Count, blocks, grown
from support.launchers import LoopClock, written
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.timeout(3600)
EMBEDDED_LIVES = int(os.environ.get("NODELAUNCH_LIVES", "20000"))
ZOOKEEPER_LIVES = int(os.environ.get("NODELAUNCH_ZOOKEEPER_LIVES", "2000"))
WARM_UP = 4000
"""Lives after which every cache and every history is full."""
AT_ONCE = 40
READY = 2
QUIET_S = 2000.0
"""Virtual seconds after which all that waits for a time has had it."""
MOST_MORE = 16
"""Entries that a container may have more: timers that are cancelled stay in the loop's heap until they are due."""
BLOCKS_PER_LIFE = 0.3
"""Blocks of memory that one life may leave behind, for what the allocator and caches do. A forgotten entry has two."""
DEADLINE_S = 180.0
"""Time limit for coming to rest on ZooKeeper, in real time: a node to be kept ready is retried after a minute at
most.
"""


class Site:
    """A launcher, and a client that asks it for nodes of a label two of which are kept ready."""

    def __init__(self, launcher: Launcher, client: NodeClient, rest: Callable[[], Awaitable[None]]) -> None:
        self.launcher, self.client = launcher, client
        self._rest = rest

    async def live(self, count: int) -> None:
        """*count* requests from their beginning to when nothing is left of them."""
        numbers = iter(range(count))

        async def keep_on() -> None:
            for number in numbers:
                await self._one(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(keep_on())
        await self._rest()

    async def _one(self, number: int) -> None:
        """Make a request. Most are fulfilled and used. Of twenty one asks for two nodes, one fails, one is
        withdrawn at once, and one that no provider can serve is withdrawn.
        """
        kind = number % 20
        if kind == 1:
            await (await self.client.submit(["small"])).cancel()
        elif kind == 2:
            await (await self.client.submit(["no such label"])).cancel()
        elif kind == 3:
            handle = await self.client.submit(["bad"])
            assert (await handle.finished()).state is RequestState.FAILED
            await handle.cancel()
        else:
            async with self.client.nodes(["small"] * (2 if kind == 4 else 1)):
                pass

    async def znodes(self) -> int:
        return await _count(self.client.store, "/")


async def _count(store: Store, path: str) -> int:
    names = await store.children(path)
    return 1 + sum([await _count(store, f"{path.rstrip('/')}/{name}") for name in names])


CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: 2}}, {{name: bad}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0
    launch-retries: 2
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 60
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
  - name: broken
    driver: fake
    boot-time: 0
    failure-rate: 1
    launch-retries: 1
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 60
        labels: [{{name: bad, cloud-image: image, min-ram: 8192}}]
"""


@asynccontextmanager
async def site(
    folder: Path, store: Store, client_store: Store, rest: Callable[[Launcher], Awaitable[None]]
) -> AsyncIterator[Site]:
    path = written(folder, CONFIG)
    async with (
        Launcher(load_config(path), store=store, clock=LoopClock(), hostname="here") as launcher,
        client_store,
        NodeClient(client_store, clock=LoopClock()) as client,
    ):
        task = asyncio.ensure_future(launcher.run())
        try:
            yield Site(launcher, client, lambda: rest(launcher))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def leave_nothing(site: Site, lives: int) -> None:
    """Check two halves separately: the count of containers keeps these alive, so memory is compared first."""
    await site.live(WARM_UP)
    before = blocks()
    await site.live(lives // 2)
    more = blocks() - before
    then, znodes = Count.now(), await site.znodes()
    await site.live(lives // 2)
    now = Count.now()
    assert not grown(then, now, by=MOST_MORE)
    assert (now.tasks, now.descriptors, await site.znodes()) == (then.tasks, then.descriptors, znodes)
    assert more < BLOCKS_PER_LIFE * lives // 2


@pytest.fixture(autouse=True)
def _short_cloud_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the cloud's log, so that it is full after the warm-up."""
    monkeypatch.setattr(ledger, "LOG_KEPT", 100)


@pytest.mark.looptime
async def test_lives_leave_nothing_behind_with_the_embedded_store(tmp_path: Path) -> None:
    async def rest(_launcher: Launcher) -> None:
        await asyncio.sleep(QUIET_S)

    store = EmbeddedStore(None, clock=LoopClock().now)
    async with site(tmp_path, store, store.connect(), rest) as made:
        await leave_nothing(made, EMBEDDED_LIVES)


def _left(view: ClusterView) -> str:
    """Return a description of all records and instances that are still to be deleted; empty if there are none."""
    ready = view.idle_by_label.get("small", 0)
    if view.requests or view.request_lock_dirs or len(view.nodes) != READY or ready != READY:
        return f"requests {list(view.requests)}, locks {list(view.request_lock_dirs)}, nodes {list(view.nodes)}"
    return ""


@pytest.mark.zookeeper
async def test_lives_leave_nothing_behind_with_zookeeper(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path
) -> None:
    async def rest(launcher: Launcher) -> None:
        view, changed = launcher.view, asyncio.Event()
        stop = view.subscribe(lambda _note: changed.set())
        left = ""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while left := _left(view):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pytest.fail(f"not at rest: {left}")
        finally:
            stop()

    store, other = (ZooKeeperStore([(zookeeper_server.host, zookeeper_server.port)], chroot=zk_chroot) for _ in "ab")
    async with site(tmp_path, store, other, rest) as made:
        await leave_nothing(made, ZOOKEEPER_LIVES)
