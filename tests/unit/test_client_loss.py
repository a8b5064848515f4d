"""A client that loses its nodes with its session is notified during any operation on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.errors import NodesLostError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore


@asynccontextmanager
async def fulfilled() -> AsyncIterator[tuple[EmbeddedStore, NodeClient, NodeRequest]]:
    """A request with one node, both still where a launcher left them."""
    async with EmbeddedStore(None) as store, NodeClient(store) as client:
        await store.ensure(*paths.ALWAYS_THERE)
        handle = await client.submit(["small"])
        node = Node(id=NodeId(""), state=NodeState.READY, allocated_to=handle.id, type=("small",))
        entry = await store.create(paths.NEW_NODE, node.to_bytes(), sequence=True)
        node_id = paths.node_id_at(entry.path)
        assert node_id is not None
        yield store, client, handle.request.changed(state=RequestState.FULFILLED, nodes=(node_id,))


async def test_block_is_cancelled() -> None:
    async with fulfilled() as (store, client, request):
        with pytest.raises(NodesLostError, match="nodes lost while in use: 0000000000") as caught:  # noqa: PT012
            async with client.hold(request):
                await store.expire_session()
                await asyncio.Event().wait()
        assert caught.value.node_ids == request.nodes
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_block_that_ends_in_that_moment_is_told() -> None:
    async with fulfilled() as (store, client, request):
        with pytest.raises(NodesLostError):
            async with client.hold(request):
                await store.expire_session()
        await asyncio.sleep(0)  # no cancellation is left behind


async def test_error_of_the_block_goes_before() -> None:
    async with fulfilled() as (store, client, request):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with client.hold(request):
                await store.expire_session()
                raise ZeroDivisionError
        await asyncio.sleep(0)


async def test_cancellation_from_outside_stays_one() -> None:
    async with fulfilled() as (store, client, request):
        entered = asyncio.Event()

        async def use() -> None:
            async with client.hold(request):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await entered.wait()
        task.cancel()
        await store.expire_session()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_nodes_that_are_kept_are_given_back() -> None:
    async with fulfilled() as (store, client, request):
        async with client.hold(request) as (node,):
            assert node.state is NodeState.IN_USE
        entry = await store.get(paths.node(node.id))
        assert Node.from_bytes(entry.path, entry.data, node_id=node.id).state is NodeState.USED
