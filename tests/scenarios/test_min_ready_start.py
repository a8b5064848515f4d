"""No node too many is kept ready where launchers start: what another asked for, or left, is seen first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from nodelaunch.clock import WallClock
from nodelaunch.engine.nodelocks import rewrite_node
from nodelaunch.engine.supply.minready import MinReady
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import NodeRequest, PoolRegistration
from nodelaunch.protocol.registrations import Presence, keeper_of
from nodelaunch.store.embedded.store import EmbeddedStore
from support.builders import a_node, a_request

pytestmark = pytest.mark.looptime

WANTED = {"small": 2}
PROCESSES = [Presence(id=letter, min_ready=WANTED) for letter in "ab"]
KEEPER = keeper_of("small", PROCESSES)


@asynccontextmanager
async def keeping(processes: Sequence[Presence]) -> AsyncIterator[tuple[EmbeddedStore, ClusterView]]:
    """Yield the component that keeps two nodes ready, on a store on which *processes* are present."""
    assert KEEPER is not None
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        for presence in processes:
            await store.create(f"{paths.PRESENCES}/", presence.to_bytes(), ephemeral=True, sequence=True)
        async with open_view(store) as view:
            await view.synced()
            min_ready = MinReady(store, view, WallClock(), KEEPER.id)
            min_ready.want(WANTED)
            task = asyncio.create_task(min_ready.run())
            try:
                yield store, view
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def asked(store: EmbeddedStore) -> int:
    return len(await store.children(paths.REQUESTS))


async def ask(store: EmbeddedStore) -> NodeRequest:
    """Ask for a node to be kept ready, as another process does."""
    request = a_request("small").changed(requestor=paths.MIN_READY_REQUESTOR, reuse=False)
    await store.create(paths.new_request(paths.MIN_READY_PRIORITY), request.to_bytes(), sequence=True)
    return request


async def test_what_a_process_asked_for_that_did_not_know_of_us_counts() -> None:
    async with asyncio.timeout(1000), keeping(PROCESSES) as (store, _):
        await asyncio.sleep(0.3)
        await ask(store)
        await ask(store)
        await asyncio.sleep(100)
        assert await asked(store) == WANTED["small"]


async def test_nodes_that_are_left_of_requests_that_have_gone_count() -> None:
    async with asyncio.timeout(1000), keeping([KEEPER] if KEEPER else []) as (store, view):
        entries = [
            await store.create(paths.NEW_NODE, a_node(number, allocated_to="100-0000000007").to_bytes(), sequence=True)
            for number in range(2)
        ]
        await asyncio.sleep(0.3)
        for entry in entries:
            seen = view.nodes[paths.node_id_at(entry.path) or NodeId("")]
            assert await rewrite_node(store, seen, seen.record.deallocated())
        await asyncio.sleep(100)
        assert await asked(store) == 0


async def test_what_is_missing_is_asked_for() -> None:
    async with asyncio.timeout(1000), keeping(PROCESSES) as (store, _):
        await asyncio.sleep(100)
        assert await asked(store) == WANTED["small"]


async def test_new_pool_ends_the_pause_after_refusals() -> None:
    async with asyncio.timeout(10_000), keeping([KEEPER] if KEEPER else []) as (store, _):
        tries = 0
        for _ in range(600):  # every pool declines
            await asyncio.sleep(1)
            for name in await store.children(paths.REQUESTS):
                entry = await store.get(f"{paths.REQUESTS}/{name}")
                if b'"requested"' in entry.data:
                    tries += 1
                    failed = entry.data.replace(b'"requested"', b'"failed"')
                    await store.put(entry.path, failed, version=entry.stat.version)
        before = tries
        assert before < 60
        pool = PoolRegistration(hostname="new", id="p", name="main", provider_name="new")
        await store.create(f"{paths.POOLS}/new", pool.to_bytes(), ephemeral=True, sequence=True)
        await asyncio.sleep(5)
        assert await asked(store) == WANTED["small"]
