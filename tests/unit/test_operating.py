"""Actions of an operator by hand, on records of the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import NodelaunchError
from nodelaunch.operations.nodes import (
    NodeBusyError,
    NodeNotFoundError,
    Operator,
    ProviderNotFoundError,
    ProviderRecords,
    ProviderServedError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, PoolRegistration, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Put, Store
from nodelaunch.store.embedded.store import EmbeddedStore

UPLOAD = b'{"state": "ready", "state_time": 1, "external_id": "x"}'


class Site:
    def __init__(self, store: EmbeddedStore, view: ClusterView, sessions: AsyncExitStack) -> None:
        self.store = store
        self.view = view
        self.operator = Operator(store, view)
        self.sessions = sessions

    async def node(self, state: NodeState = NodeState.READY, **fields: Any) -> NodeId:
        node = Node(id=NodeId(""), state=state, provider="cloud", type=("small",), external_id="vm-1", **fields)
        entry = await self.store.create(paths.NEW_NODE, node.to_bytes(), sequence=True, parents=True)
        node_id = paths.node_id_at(entry.path)
        assert node_id is not None
        return node_id

    async def present(self, process: str, hostname: str, *pools: str, provider: str = "cloud") -> None:
        """A process of nodelaunch's, in a session of its own, that serves these pools."""
        session = await self.sessions.enter_async_context(self.store.connect())
        presence = Presence(id=process, hostname=hostname, providers=(provider,))
        await session.create(f"{paths.PRESENCES}/{hostname}", presence.to_bytes(), ephemeral=True, sequence=True)
        for pool in pools:
            await self.registered(f"{process}-{pool}", hostname, pool, provider=provider, session=session)

    async def registered(
        self, pool_id: str, hostname: str, pool: str, *, provider: str = "cloud", session: Store | None = None
    ) -> None:
        """A pool that a launcher on *hostname* has registered; without *session* one of another program."""
        record = PoolRegistration(id=pool_id, hostname=hostname, provider_name=provider, name=pool)
        where = f"{paths.POOLS}/{hostname}"
        await (session or self.store).create(where, record.to_bytes(), ephemeral=True, sequence=True)

    async def stored(self, node_id: NodeId) -> Node:
        path = paths.node(node_id)
        return Node.from_bytes(path, (await self.store.get(path)).data, node_id=node_id)


@asynccontextmanager
async def opened() -> AsyncIterator[Site]:
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        async with open_view(store) as view:
            await view.synced()
            async with AsyncExitStack() as sessions:
                yield Site(store, view, sessions)


async def test_hold_keeps_a_ready_node_and_says_why() -> None:
    async with opened() as site:
        node_id = await site.node()
        await site.operator.hold(node_id, reason="broken disk", expires_s=60)
        node = await site.stored(node_id)
        assert (node.state, node.comment, node.hold_expiration) == (NodeState.HOLD, "broken disk", 60)
        assert not site.view.is_node_locked(node_id)


async def test_hold_keeps_what_was_written_where_nothing_is_said() -> None:
    async with opened() as site:
        node_id = await site.node(comment="earlier")
        assert (await site.operator.hold(node_id)).comment == "earlier"


async def test_hold_takes_no_promised_node_unless_forced() -> None:
    async with opened() as site:
        node_id = await site.node(allocated_to=RequestId("200-0000000001"))
        with pytest.raises(NodeBusyError, match="allocated to request 200-0000000001; use force to take it anyway"):
            await site.operator.hold(node_id)
        assert (await site.operator.hold(node_id, force=True)).state is NodeState.HOLD


async def test_node_that_somebody_uses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation returns at once: it would wait for the lock in vain."""
    monkeypatch.setattr("nodelaunch.operations.nodes.LOCK_TIMEOUT_S", 3600)
    async with opened() as site:
        node_id = await site.node(NodeState.IN_USE, requestor="zuul")
        lock = await site.store.lock(paths.node_lock(node_id))
        for act in (site.operator.hold, site.operator.delete, site.operator.unhold):
            with pytest.raises(NodeBusyError, match="is locked: it is in use by zuul"):
                await act(node_id)
        await lock.release()
        assert (await site.stored(node_id)).state is NodeState.IN_USE


async def test_lock_that_a_launcher_has_for_a_moment_is_waited_for() -> None:
    async with opened() as site:
        node_id = await site.node()
        lock = await site.store.lock(paths.node_lock(node_id))
        holding = asyncio.create_task(site.operator.hold(node_id))
        while len(await site.store.children(paths.node_lock(node_id))) < 2:
            await asyncio.sleep(0)
        await lock.release()
        assert (await holding).state is NodeState.HOLD


async def test_there_is_no_such_node() -> None:
    async with opened() as site:
        for act in (site.operator.hold, site.operator.delete, site.operator.unhold):
            with pytest.raises(NodeNotFoundError, match="there is no node '0000000042'"):
                await act("0000000042")
        assert await site.store.children(paths.NODES) == []


async def test_unhold_has_the_node_deleted_or_offered_again() -> None:
    async with opened() as site:
        used, again = await site.node(NodeState.HOLD, hold_job="job"), await site.node(NodeState.HOLD)
        assert (await site.operator.unhold(used)).state is NodeState.USED
        assert (await site.operator.unhold(again, reuse=True)).state is NodeState.READY
        with pytest.raises(NodelaunchError, match="is not held; it is ready"):
            await site.operator.unhold(again)


async def test_delete_marks_the_node() -> None:
    async with opened() as site:
        node_id = await site.node(NodeState.HOLD)
        assert (await site.operator.delete(node_id)).state is NodeState.DELETING


async def test_gone_waits_for_the_record() -> None:
    async with opened() as site:
        node_id = await site.node()
        with pytest.raises(TimeoutError):
            await site.operator.gone(node_id, timeout_s=0.01)
        await site.store.delete_tree(paths.node(node_id))
        await site.operator.gone(node_id)


async def test_node_that_is_offered_again_says_nothing_of_its_hold() -> None:
    async with opened() as site:
        node_id = await site.node(
            NodeState.HOLD, comment="broken disk", hold_job="t p j .*", hold_expiration=60, tenant_name="t",
            allocated_to="200-0000000001", requestor="zuul", user_data={"project_name": "p"},
        )  # fmt: skip
        await site.operator.unhold(node_id, reuse=True)
        node = await site.stored(node_id)
        assert node == (await site.stored(await site.node(NodeState.READY))).changed(
            id=node_id, state_time=node.state_time
        )


async def test_unknown_provider_is_an_error_that_names_those_that_are_known() -> None:
    async with opened() as site:
        with pytest.raises(ProviderNotFoundError, match=r"there is no provider 'cloud'.* known are: none"):
            site.operator.records_of("cloud")
        await site.node()
        await site.store.create(f"{paths.uploads('debian', '7', 'removed')}/1", UPLOAD, parents=True)
        registered = PoolRegistration(id="a", provider_name="offered", name="main")
        await site.store.create(f"{paths.POOLS}/a", registered.to_bytes(), parents=True)
        with pytest.raises(ProviderNotFoundError, match=r"'clod'.* known are: cloud, offered, removed"):
            site.operator.records_of("clod")
        assert site.operator.records_of("offered") == ProviderRecords()
        assert site.operator.records_of("removed").uploads


async def test_erase_removes_what_is_recorded_of_one_provider() -> None:
    async with opened() as site:
        mine, other = await site.node(), await site.node()
        moved = (await site.stored(other)).changed(provider="other")
        await site.store.commit([Put(paths.node(other), moved.to_bytes(), 0)])
        for provider in ("cloud", "other"):
            await site.store.create(f"{paths.uploads('debian', '7', provider)}/1", UPLOAD, parents=True)
        found = site.operator.records_of("cloud")
        assert found.uploads == {"debian": {"7": ["1"]}}
        assert [node.id for node in found.nodes] == [mine]
        await site.operator.erase("cloud", found)
        assert await site.store.children(paths.NODES) == [other]
        assert await site.store.children(f"{paths.IMAGES}/debian/builds/7/providers") == ["other"]


async def test_records_of_a_provider_that_launchers_serve_are_not_erased() -> None:
    async with opened() as site:
        await site.node()
        found = site.operator.records_of("cloud")
        await site.present("aaaaaaaa11", "ci-1", "main")
        await site.present("bbbbbbbb22", "ci-1", "main", "spare")
        await site.registered("nodepool-PoolWorker", "nodepool", "main")
        with pytest.raises(ProviderServedError) as refused:
            await site.operator.erase("cloud", found)
        assert str(refused.value).startswith(
            "provider 'cloud' is served by ci-1 (aaaaaaaa), ci-1 (bbbbbbbb), nodepool: "
        )
        with pytest.raises(ProviderServedError, match="take it out of their configuration, or stop them"):
            site.operator.erasable("cloud")
        assert len(await site.store.children(paths.NODES)) == 1


async def test_records_are_erased_beside_launchers_that_serve_other_providers() -> None:
    async with opened() as site:
        await site.node()
        await site.present("aaaaaaaa11", "ci-1", "main", provider="other")
        await site.operator.erase("cloud", site.operator.erasable("cloud"))
        assert await site.store.children(paths.NODES) == []
