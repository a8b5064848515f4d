"""Nodes that somebody else has written ``deleted``: theirs to remove first, ours when they don't."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.states import NodeState
from support.builders import a_node
from support.launchers import Running, running

pytestmark = pytest.mark.looptime

NODE = NodeId("0000000001")


async def write_deleted(site: Running) -> None:
    record = a_node(state=NodeState.DELETED)
    await site.store.create(paths.node(NODE), record.to_bytes(), parents=True)


async def test_peer_removes_a_deleted_node_without_a_contender_in_its_way(tmp_path: Path) -> None:
    """Nodepool removes its contender, the lock's directory, the node, in three steps that each may take a while."""
    async with running(tmp_path) as site, site.store.connect() as peer, asyncio.timeout(60):
        await write_deleted(site)
        lock = await peer.lock(paths.node_lock(NODE))
        await site.until(lambda: site.view.is_node_locked(NODE))
        await lock.release()
        await asyncio.sleep(1)
        await peer.delete(lock.path)
        await peer.delete(paths.node(NODE))
        await site.until_empty()


async def test_deleted_node_that_stays_is_removed(tmp_path: Path) -> None:
    async with running(tmp_path) as site, asyncio.timeout(60):
        await write_deleted(site)
        await site.until_empty()
