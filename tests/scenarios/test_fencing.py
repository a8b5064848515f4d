"""Calls that arrive at the cloud after another launcher took over their node: the cloud refuses them, by their fences.

A launcher can check its lock right before a call, but it does not control how long the call takes to arrive. Here a
call arrives when the test says so, even if its process has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nodelaunch.client.nodes import NodeClient, RequestHandle
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.engine.view import NodeSeen
from nodelaunch.errors import LaunchFailedError, StaleFenceError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import DriverContext, ExternalId, Fence, Instance, InstanceSpec
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import LoopClock, Running, at_work, running, written

pytestmark = pytest.mark.looptime

T = TypeVar("T")
DEADLINE_S = 900.0


class LateDriver(FakeDriver):
    """Driver of a launcher whose node is taken over: its first call named *late* is held back until the test releases
    it.
    """

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud, late: str) -> None:
        super().__init__(config, context, cloud=cloud)
        self.sent = asyncio.Event()
        self.arrives = asyncio.Event()
        self.outcome: asyncio.Task[Any] | None = None
        self._late = late

    async def _as_sent(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        if call != self._late or self.outcome is not None:
            return await work()

        async def on_its_way() -> T:
            self.sent.set()
            await self.arrives.wait()
            return await work()

        self.outcome = asyncio.ensure_future(on_its_way())
        return await asyncio.shield(self.outcome)

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        return await self._as_sent("create", lambda: super(LateDriver, self).create_instance(spec))

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        if self._late == "delete":
            raise LaunchFailedError("it does not answer", provider="cloud", external_id=external_id)
        return await super().wait_until_active(external_id)

    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._as_sent("delete", lambda: super(LateDriver, self).delete_instance(external_id))

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await self._as_sent("delete", lambda: super(LateDriver, self).delete_fenced(external_id, fence))


@dataclass
class Site:
    """A store and a cloud, with launchers that come and go."""

    folder: Path
    cloud: FakeCloud = field(default_factory=FakeCloud)
    store: EmbeddedStore = field(default_factory=lambda: EmbeddedStore(None, clock=LoopClock().now))
    late: LateDriver | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[NodeClient]:
        async with (
            asyncio.timeout(DEADLINE_S),
            self.store,
            self.store.connect() as session,
            NodeClient(session, clock=LoopClock()) as client,
        ):
            yield client

    def launcher(self, name: str, store: EmbeddedStore | None = None, *, late: str = "", behind: bool = False) -> Any:
        """Run a launcher. *late*: its call that is held back. *behind*: its creates are sent after the late call has
        arrived.
        """

        def make(config: FakeProvider, context: DriverContext) -> FakeDriver:
            if behind:
                return DriverBehind(config, context, self)
            if not late:
                return FakeDriver(config, context, cloud=self.cloud)
            self.late = LateDriver(config, context, self.cloud, late)
            return self.late

        registry = DriverRegistry([DriverPlugin("fake", FakeProvider, make)])
        return at_work(written(self.folder), store or self.store.connect(), hostname=name, drivers=registry)

    def creates(self) -> list[str]:
        return [event["id"] for event in self.cloud.log() if event["what"] == "create"]

    async def arrive(self) -> None:
        """Let the late call arrive; it is refused."""
        assert self.late is not None
        assert self.late.outcome is not None
        self.late.arrives.set()
        with pytest.raises(StaleFenceError):
            await self.late.outcome


class DriverBehind(FakeDriver):
    """Driver of a launcher that looks for the instance before the late call arrives, and creates after it."""

    def __init__(self, config: FakeProvider, context: DriverContext, site: Site) -> None:
        super().__init__(config, context, cloud=site.cloud)
        self._site = site

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        await self._site.arrive()
        return await super().create_instance(spec)


async def overtaken(site: Site, client: NodeClient, late: str) -> RequestHandle:
    """Return a request whose launcher has died while its call *late* is under way. The session ends before the
    launcher notices, so the launcher cleans nothing up.
    """
    store = site.store.connect()
    async with site.launcher("first", store, late=late):
        handle = await client.submit(["small"])
        while site.late is None or not site.late.sent.is_set():
            await asyncio.sleep(0.1)
        await store.expire_session()
    return handle


async def test_late_create_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.client() as client:
        handle = await overtaken(site, client, "create")
        async with site.launcher("second"):
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            await site.arrive()
            assert len(site.creates()) == 1


async def test_late_create_is_refused_before_the_other_creates(tmp_path: Path) -> None:
    """The late create arrives right after the other launcher has checked whether there is an instance."""
    site = Site(tmp_path)
    async with site.client() as client:
        handle = await overtaken(site, client, "create")
        async with site.launcher("second", behind=True):
            assert (await handle.finished()).state is RequestState.FULFILLED
            assert len(site.creates()) == 1


async def test_late_delete_leaves_what_another_goes_on_with(tmp_path: Path) -> None:
    """The first launcher gave the launch up, and deletes; the second one finds an instance that is well."""
    site = Site(tmp_path)
    async with site.client() as client:
        handle = await overtaken(site, client, "delete")
        async with site.launcher("second"):
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            await site.arrive()
            assert [server.id for server in site.cloud.servers()] == site.creates()
            (node_id,) = request.nodes
            entry = await client.store.get(paths.node(node_id))
            assert site.creates()[0].encode() in entry.data


async def test_late_create_is_refused_after_the_node_was_deleted(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.client() as client:
        handle = await overtaken(site, client, "create")
        await client.store.delete(paths.request(handle.id))
        async with site.launcher("second") as second:
            while second.view.nodes:
                await asyncio.sleep(1.0)
            await site.arrive()
            assert site.creates() == []


# -- a launcher whose call is refused ---------------------------------------------------------------------------------


def note_states(site: Running) -> list[NodeState]:
    """Record the states that are written to nodes, from now on."""
    states: list[NodeState] = []

    def note(what: object) -> None:
        if isinstance(what, NodeSeen):
            states.append(site.view.nodes[what.id].record.state)

    site.view.subscribe(note)
    return states


async def test_launch_that_is_refused_as_stale_writes_and_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is left as it is; the next owner of its lock, here the same launcher, resumes the launch."""
    async with running(tmp_path) as site:
        states, nodes = note_states(site), list[str]()
        driver = site.launcher.providers["cloud"].driver
        create = driver.create_instance

        async def overtaken_once(spec: InstanceSpec) -> ExternalId:
            assert spec.fence is not None
            if not nodes:
                site.cloud.raise_fence(replace(spec.fence, number=spec.fence.number + 1))
            nodes.append(spec.node_id)
            return await create(spec)

        monkeypatch.setattr(driver, "create_instance", overtaken_once)
        assert (await site.finished("small")).state is RequestState.FULFILLED
        assert nodes == [nodes[0]] * 2
        assert set(states) == {NodeState.BUILDING, NodeState.READY}
        assert [entry["what"] for entry in site.cloud.log()] == ["refused", "create", "active"]


async def test_what_a_failed_launch_left_is_not_forgotten_when_its_deletion_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher that resumes the launch needs the instance's id."""
    async with running(tmp_path) as site:
        driver, waits = site.launcher.providers["cloud"].driver, list[str]()
        wait = driver.wait_until_active

        async def overtaken_once(external_id: ExternalId) -> Instance:
            waits.append(external_id)
            if len(waits) == 1:
                await asyncio.sleep(1.0)
                (node,) = site.nodes()
                (made_at,) = [seen.record.created_time for seen in site.view.nodes.values()]
                site.cloud.raise_fence(Fence(f"{node.id}@{made_at:.6f}", 1 << 40))
                raise LaunchFailedError("it broke", provider="cloud", external_id=external_id)
            return await wait(external_id)

        monkeypatch.setattr(driver, "wait_until_active", overtaken_once)
        monkeypatch.setattr(driver, "raise_fence", noop)
        assert (await site.finished("small")).state is RequestState.FULFILLED
        assert waits == [waits[0]] * 2
        assert [server.id for server in site.cloud.servers()] == [waits[0]]


async def noop(_fence: Fence) -> None:
    """Do nothing, as if no launcher had to be fenced off."""


async def test_deletion_that_is_refused_as_stale_is_tried_again_with_a_greater_fence(tmp_path: Path) -> None:
    """This happens after ZooKeeper was restored from a back-up: the deletion succeeds once the store's numbers have
    caught up.
    """
    async with running(tmp_path) as site:
        request = await site.finished("small")
        (seen,) = site.view.nodes.values()
        node = f"{seen.record.id}@{seen.record.created_time:.6f}"
        site.cloud.raise_fence(Fence(node, site.store._journal.visible.zxid + 8))
        async with site.client.hold(request):
            pass
        await site.until_empty()
        told = [entry["detail"]["kind"] for entry in site.cloud.log() if entry["what"] == "refused"]
        assert told
        assert set(told) == {"stale"}
        assert site.cloud.servers() == []
