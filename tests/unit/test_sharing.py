"""Records of launchers that share limits, written by one launcher, with the other played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.sharing import SharedCapacity, TenantLedgers
from nodelaunch.engine.view import open_view
from nodelaunch.errors import SessionLostError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import Node, PoolRegistration, Presence
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Create, Put
from nodelaunch.store.embedded.store import EmbeddedStore

LIMITED: Mapping[str, Limits] = {"tenant": Limits({"instances": 1})}


class Books:
    tenants = LIMITED

    def is_overbooked(self, _key: PoolKey) -> bool:
        return False

    def is_tenant_overbooked(self, _tenant: str) -> bool:
        return False


async def test_node_is_not_created_for_a_request_whose_lock_went_with_the_session() -> None:
    """While it is waited until another launcher knows of this one, the session ends, and all locks with it."""
    presence, pool = f"{paths.PRESENCES}/other", f"{paths.POOLS}/other"
    registration = PoolRegistration(id="p", name="main", provider_name="cloud")
    async with EmbeddedStore(None) as store, store.connect() as other:
        await store.ensure(*paths.ALWAYS_THERE)
        await other.create(presence, Presence(id="other", pools=("p",)).to_bytes(), ephemeral=True)
        await other.create(pool, registration.to_bytes(), ephemeral=True)
        async with open_view(store) as view:
            await view.synced()
            free = SharedCapacity(store, view, "cloud", "own", TenantLedgers(store, view), Books())
            creating = asyncio.ensure_future(free.create("main", None, Create(paths.NEW_NODE, b"{}", sequence=True)))
            await asyncio.sleep(0)
            assert not creating.done()
            await store.expire_session()
            knowing = Presence(id="other", pools=("p",), knows=("own",))
            await other.commit([Put(presence, knowing.to_bytes(), 0)])
            with pytest.raises(SessionLostError):
                await creating
            assert await store.children(paths.NODES) == []


async def test_nodes_are_followed_only_while_another_launcher_shares_limits() -> None:
    """A launcher that is alone does nothing at a change of a node; beside another, it forgets stale versions."""
    presence, pool = f"{paths.PRESENCES}/other", f"{paths.POOLS}/other"
    registration = PoolRegistration(id="p", name="main", provider_name="cloud")
    knowing = Presence(id="other", pools=("p",), knows=("own",))
    theirs = Node(id=NodeId(""), state=NodeState.INIT, provider="cloud", pool="main", launcher="other")
    async with EmbeddedStore(None) as store, store.connect() as other:
        await store.ensure(*paths.ALWAYS_THERE)
        async with open_view(store) as view:
            await view.synced()
            free = SharedCapacity(store, view, "cloud", "own", TenantLedgers(store, view), Books())
            close = free.open()
            assert not free.is_shared
            assert "cloud" not in view._by_provider
            await other.create(presence, knowing.to_bytes(), ephemeral=True)
            await other.create(pool, registration.to_bytes(), ephemeral=True)
            assert free.is_shared
            assert "cloud" in view._by_provider
            await free.create("main", None, Create(paths.NEW_NODE, b"{}", sequence=True))
            assert free._ledger.version is not None
            await other.create(paths.NEW_NODE, theirs.to_bytes(), sequence=True)
            assert free._ledger.version is None
            close()
            assert "cloud" not in view._by_provider


async def test_launcher_that_goes_is_no_sharer_although_no_pool_is_registered() -> None:
    """Two launchers drain, so that neither has a pool registered; then one ends."""
    presence = f"{paths.PRESENCES}/other"
    async with EmbeddedStore(None) as store, store.connect() as other:
        await store.ensure(*paths.ALWAYS_THERE)
        await other.create(presence, Presence(id="other", providers=("cloud",)).to_bytes(), ephemeral=True)
        async with open_view(store) as view:
            await view.synced()
            free = SharedCapacity(store, view, "cloud", "own", TenantLedgers(store, view), Books())
            assert free.is_shared
            await other.delete(presence)
            assert not free.is_shared
