"""Deletions, when the state changes between the decision and the lock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.engine.cleanup.deletion import delete_node
from nodelaunch.protocol.states import NodeState
from support.launchers import LoopClock, running

pytestmark = pytest.mark.looptime


async def test_node_that_became_ready_before_it_was_locked_is_not_deleted(tmp_path: Path) -> None:
    """A view may consider a building node unlocked: the record it read was newer than the contenders it knows. By the
    time such a node can be locked, its maker has released it, ready and possibly assigned to a request.
    """
    async with running(tmp_path, min_ready=1) as site, asyncio.timeout(60):
        await site.until(lambda: bool(site.nodes(NodeState.READY)))
        (node,) = site.nodes(NodeState.READY)
        provider = site.launcher.providers["cloud"]
        assert not await delete_node(site.launcher.store, site.view, LoopClock(), provider, node.id)
        assert site.nodes() == [node]
        assert len(site.cloud.servers()) == 1
