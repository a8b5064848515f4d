"""The client that asks for nodes: what it leaves on a real ZooKeeper when its user is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.protocol import paths
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper
TURNS = range(6)
"""Turns of the event loop; an answer of the server takes longer than most."""


@pytest.fixture
async def store(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    servers = [("127.0.0.1", zookeeper_server.port)]
    async with asyncio.timeout(60.0):
        async with ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=20.0) as opened:
            await opened.ensure(paths.REQUESTS)
            yield opened


async def requests_of(store: ZooKeeperStore) -> list[str]:
    """All requests, once everything is done that was sent before."""
    await store.create("/later")
    return list(await store.children(paths.REQUESTS))


@pytest.mark.parametrize("turns", TURNS)
async def test_request_does_not_stay_whose_author_is_cancelled_while_it_is_written(
    store: ZooKeeperStore, turns: int
) -> None:
    async with NodeClient(store) as client:
        submitting = asyncio.create_task(client.submit(["small"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        submitting.cancel()
        with suppress(asyncio.CancelledError):
            await (await submitting).cancel()
    assert await requests_of(store) == []


@pytest.mark.parametrize("turns", TURNS)
async def test_request_is_cancelled_even_if_who_cancels_it_is_cancelled_twice(
    store: ZooKeeperStore, turns: int
) -> None:
    async with NodeClient(store) as client:
        handle = await client.submit(["small"])

        async def use_it() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await handle.cancel()

        using = asyncio.create_task(use_it())
        await asyncio.sleep(0)
        using.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        using.cancel()
        with suppress(asyncio.CancelledError):
            await using
    left = await requests_of(store)
    assert left == [] if turns else len(left) <= 1  # cancelled twice in one turn, it never began
