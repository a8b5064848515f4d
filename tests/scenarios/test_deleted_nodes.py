"""Nodes that another client has written ``deleting`` or ``deleted``: the client finishes first, then the launcher."""

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


async def write(site: Running, state: NodeState) -> None:
    await site.store.create(paths.node(NODE), a_node(state=state).to_bytes(), parents=True)


async def test_peer_removes_a_deleted_node_without_a_contender_in_its_way(tmp_path: Path) -> None:
    """Nodepool removes its contender, the lock's directory, the node, in three steps that each may take a while."""
    async with running(tmp_path) as site, site.store.connect() as peer, asyncio.timeout(60):
        await write(site, NodeState.DELETED)
        lock = await peer.lock(paths.node_lock(NODE))
        await site.until(lambda: site.view.is_node_locked(NODE))
        await lock.release()
        await asyncio.sleep(1)
        await peer.delete(lock.path)
        await peer.delete(paths.node(NODE))
        await site.until_empty()


async def test_operator_can_look_once_more_at_a_node_just_marked_for_deletion(tmp_path: Path) -> None:
    """Nodepool's command line writes ``deleting``, unlocks, then lists the node and who contends for its lock."""
    async with running(tmp_path) as site, site.store.connect() as peer, asyncio.timeout(60):
        await write(site, NodeState.HOLD)
        lock = await peer.lock(paths.node_lock(NODE))
        await peer.put(paths.node(NODE), a_node(state=NodeState.DELETING).to_bytes(), under=(lock,))
        await lock.release()
        await asyncio.sleep(0.5)
        assert await peer.children(lock.path) == []
        await site.until_empty()


@pytest.mark.parametrize("state", [NodeState.DELETING, NodeState.DELETED])
async def test_node_that_its_deleter_leaves_is_removed(tmp_path: Path, state: NodeState) -> None:
    async with running(tmp_path) as site, asyncio.timeout(60):
        await write(site, state)
        await site.until_empty()


async def test_node_discarded_by_ourselves_is_deleted_at_once(tmp_path: Path) -> None:
    """Capacity is freed for a request without waiting for a timer."""
    async with running(tmp_path, boot_time=0, delete_time=0, max_servers=1, min_ready=1) as site:
        await site.until(lambda: [node.is_idle for node in site.nodes()] == [True])
        started = asyncio.get_running_loop().time()
        await site.finished("big")
        assert asyncio.get_running_loop().time() == started
