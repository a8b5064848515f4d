"""The same with real processes: ``nodelaunch serve`` kills itself by SIGKILL at a point.

On a real ZooKeeper, and on the embedded store's file; the fake cloud is in a file that outlives the process.

``NODELAUNCH_CRASH=all`` takes all points there are, which takes long.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pytest

from nodelaunch.connecting import build_client_store
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.errors import StoreError
from nodelaunch.launcher import load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.protocol.store import Store
from support import killed
from support.builders import a_request
from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
{store}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0.5
    delete-time: 0.2
    cloud-file: {cloud_file}
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        priority: {priority}
        max-servers: 4
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""
T = TypeVar("T")

LABELS = ("small", "small")
SESSION_S = 4
DEADLINE_S = 150.0

IS_WHOLE = os.environ.get("NODELAUNCH_CRASH") == "all"
SERVING = (
    *(f"{when} create_instance {number}" for when in ("before", "after") for number in (1, 2)),
    *(f"{when} wait_until_active {number}" for when in ("before", "after") for number in (1, 2)),
    *(f"{when} write {number}" for when in ("before", "after") for number in range(1, 5)),
)
DELETING = tuple(f"{when} delete_instance {number}" for when in ("before", "after") for number in (1, 2))
FEW_SERVING = ("before write 1", "after write 2", "after create_instance 1", "after wait_until_active 2")
FEW_DELETING = ("after delete_instance 1",)
BEFORE_GIVEN, AFTER_GIVEN = (SERVING, DELETING) if IS_WHOLE else (FEW_SERVING, FEW_DELETING)

pytestmark = pytest.mark.long


class RealSite:
    """A configuration, and the processes that run on it."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.cloud_file = folder / "cloud.sqlite"
        self.servers: list[Serve] = []
        self._store = store

    def config(self, name: str = "nodepool.yaml", priority: int = 100) -> Path:
        path = self.folder / name
        path.write_text(CONFIG.format(store=self._store, cloud_file=self.cloud_file, priority=priority))
        return path

    def serve(self, config: Path, point: str | None = None) -> Serve:
        """*point*: where it kills itself."""
        python: Sequence[str] = ("-m", "nodelaunch") if point is None else (killed.__file__, point)
        self.servers.append(Serve(config, python=python))
        return self.servers[-1]

    def check(self) -> None:
        """No instance is left, and no node had two at once."""
        cloud = FakeCloud(self.cloud_file, patience_s=10.0)
        assert cloud.servers() == []
        alive: defaultdict[str, set[str]] = defaultdict(set)
        for event in cloud.log():
            if event["what"] == "create":
                alive[event["node_id"]].add(event["id"])
                assert len(alive[event["node_id"]]) == 1, cloud.log()
            elif event["what"] == "gone":
                alive[event["node_id"]].discard(event["id"])
        cloud.close()
        survivors = [server for server in self.servers if server.process.returncode is None]
        assert [server.complaints for server in survivors] == [[] for _ in survivors]

    def close(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture
def zk_site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[tuple[RealSite, Requestor]]:
    tls, where = zookeeper_server.certificates.client, zookeeper_server
    store = (
        f"zookeeper-servers: [{{host: {where.host}, port: {where.tls_port}, chroot: {zk_chroot}}}]\n"
        f"zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}\nzookeeper-timeout: {SESSION_S}"
    )
    client = zookeeper_server.kazoo(zk_chroot)
    client.ensure_path("/")
    made = RealSite(tmp_path, store)
    yield made, Requestor(client, deadline_s=DEADLINE_S)
    made.close()
    client.stop()
    client.close()


def _run_job(requestor: Requestor) -> None:
    """Run a job to its end, and check that it leaves nothing in ZooKeeper."""
    nodes = requestor.run_job(*LABELS)
    assert len({node["id"] for node in nodes}) == len({node["external_id"] for node in nodes}) == len(LABELS)
    requestor.await_children("/nodepool/nodes", lambda names: not names)
    requestor.await_children("/nodepool/requests", lambda names: not names)
    for name in requestor.children("/nodepool/requests-lock"):
        requestor.await_children(f"/nodepool/requests-lock/{name}", lambda names: not names)


@pytest.mark.zookeeper
@pytest.mark.parametrize("point", [*BEFORE_GIVEN, *AFTER_GIVEN])
def test_killed_launcher_is_back(zk_site: tuple[RealSite, Requestor], point: str) -> None:
    site, requestor = zk_site
    config = site.config()
    first = site.serve(config, point)
    first.await_log("pool_registered")

    def restart() -> None:
        first.process.wait()
        site.serve(config)

    restarting = Thread(target=restart)
    restarting.start()
    _run_job(requestor)
    restarting.join(timeout=DEADLINE_S)
    assert first.process.returncode == -9
    requestor.await_children("/nodepool/components/pool", lambda names: len(names) == 1)
    site.check()


@pytest.mark.zookeeper
@pytest.mark.parametrize("point", BEFORE_GIVEN)
def test_killed_launcher_stays_away_and_another_takes_over(zk_site: tuple[RealSite, Requestor], point: str) -> None:
    """The other launcher runs from the beginning; its pool comes second as long as the first launcher runs."""
    site, requestor = zk_site
    other = site.serve(site.config("other.yaml", priority=200))
    other.await_log("pool_registered")
    first = site.serve(site.config(), point)
    first.await_log("pool_registered")
    requestor.await_children("/nodepool/components/pool", lambda names: len(names) == 2)
    _run_job(requestor)
    assert first.process.wait(timeout=DEADLINE_S) == -9
    requestor.await_children("/nodepool/components/pool", lambda names: len(names) == 1)
    site.check()


# -- the embedded store: its clients use the launcher's socket, and lose their session with the launcher ------------


@pytest.fixture
def embedded_site(tmp_path: Path) -> Iterator[RealSite]:
    made = RealSite(tmp_path, f"embedded-store: {{path: {tmp_path / 'store.sqlite'}}}")
    yield made
    made.close()


async def _until(store: Store, root: str, is_enough: Callable[[], Awaitable[T | None]]) -> T:
    """Return the first result of *is_enough* that is not None; called after each change below *root*. Raises:
    StoreError.
    """
    changed = asyncio.Event()
    async with store.tree(root) as tree:
        tree.subscribe(lambda _event: changed.set())
        store.session.subscribe(lambda _state: changed.set())
        while True:
            changed.clear()
            if (answer := await is_enough()) is not None:
                return answer
            await changed.wait()


async def _answered(store: Store, request_id: RequestId) -> NodeRequest | None:
    entry = await store.get(paths.request(request_id))
    request = NodeRequest.from_bytes(entry.path, entry.data, request_id=request_id)
    return request if request.state in REQUEST_FINAL else None


async def _use(store: Store, request: NodeRequest) -> None:
    """Use the nodes as Zuul does."""
    locks = [await store.lock(paths.node_lock(node_id), timeout_s=DEADLINE_S) for node_id in request.nodes]
    await store.delete(paths.request(request.id))
    for state in (NodeState.IN_USE, NodeState.USED):
        for node_id in request.nodes:
            entry = await store.get(paths.node(node_id))
            node = Node.from_bytes(entry.path, entry.data, node_id=node_id)
            await store.put(entry.path, node.into(state, node.state_time).to_bytes())
    for lock in locks:
        await lock.release()


async def _submit(store: Store) -> None:
    await store.create(paths.new_request("200"), a_request(*LABELS).to_bytes(), sequence=True)


async def _job(store: Store) -> bool:
    """Follow the request to its end, if it still exists; return whether it was fulfilled."""
    names = await store.children(paths.REQUESTS)
    if not names:
        return False
    request = await _until(store, paths.REQUESTS, partial(_answered, store, RequestId(names[0])))
    assert request.state is RequestState.FULFILLED
    with suppress(StoreError):
        await _use(store, request)
    return True


async def _no_nodes(store: Store) -> bool | None:
    return None if await store.children(paths.NODES) else True


@pytest.mark.parametrize("point", [*BEFORE_GIVEN, *AFTER_GIVEN])
async def test_killed_launcher_with_an_embedded_store_is_back(embedded_site: RealSite, point: str) -> None:
    site, is_fulfilled = embedded_site, False
    config = site.config()
    first = site.serve(config, point)
    await asyncio.to_thread(first.await_log, "pool_registered")
    with suppress(StoreError):
        async with build_client_store(load_config(config)) as store:
            await _submit(store)
            is_fulfilled = await _job(store)
    assert await asyncio.to_thread(first.process.wait, DEADLINE_S) == -9
    second = site.serve(config)
    await asyncio.to_thread(second.await_log, "pool_registered")
    async with asyncio.timeout(DEADLINE_S), build_client_store(load_config(config)) as store:
        assert await _job(store) or is_fulfilled
        await _until(store, paths.NODES, partial(_no_nodes, store))
        for name in await store.children(paths.REQUEST_LOCKS):
            assert await store.contenders(paths.request_lock(RequestId(name))) == []
    site.check()
