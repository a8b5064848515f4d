"""A node that goes to ``hold`` leaves one line in the log of each launcher that has its provider."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Put, ReleaseLock
from support.builders import a_node
from support.sites import config, launched, pool, provider, shared_store

pytestmark = pytest.mark.looptime

Logs = list[MutableMapping[str, Any]]
JOB, COMMENT = "lab example.org/app unit .*", "look at it"


@pytest.fixture(autouse=True)
def _all_is_logged() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))


def held(logs: Logs) -> list[MutableMapping[str, Any]]:
    return [entry for entry in logs if entry["event"] == "node_held"]


def line(node: Node) -> dict[str, Any]:
    facts = {"node_id": node.id, "provider": "cloud", "label": "small", "hold_job": JOB, "comment": COMMENT}
    return {"event": "node_held", "log_level": "info", **facts}


@pytest.mark.parametrize("at_once", [False, True], ids=["unlocked-after", "unlocked-with-it"])
async def test_node_held_by_zuul_is_told_once(tmp_path: Path, at_once: bool) -> None:
    """Zuul writes the node it uses, then unlocks it; a client of ours does both in one step."""
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        (node,) = await site.got("small")
        store = site.client.store
        lock = await store.lock(paths.node_lock(node.id))
        await store.put(paths.node(node.id), node.into(NodeState.IN_USE, site.now).to_bytes(), under=(lock,))
        await site.a_while()
        with capture_logs() as logs:
            kept = node.into(NodeState.HOLD, site.now, hold_job=JOB, comment=COMMENT).to_bytes()
            steps = [Put(paths.node(node.id), kept), ReleaseLock(lock)] if at_once else [Put(paths.node(node.id), kept)]
            await store.commit(steps, under=(lock,))
            await lock.release()
            await site.a_while()
            await site.set_node(site.view.nodes[node.id].record, comment="another word")
            await site.a_while()
    assert held(logs) == [line(node)]


async def test_node_held_by_an_operator_is_told_once(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")), labels={"small": {"min-ready": 1}})) as site:
        (node,) = await site.until_idle(1)
        with capture_logs() as logs:
            await site.set_node(node, NodeState.HOLD, hold_job=JOB, comment=COMMENT)
            await site.a_while()
    assert held(logs) == [line(node)]


async def test_node_held_again_is_told_again(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")), labels={"small": {"min-ready": 1}})) as site:
        (node,) = await site.until_idle(1)
        with capture_logs() as logs:
            for state in (NodeState.HOLD, NodeState.READY, NodeState.HOLD):
                await site.set_node(node, state, hold_job=JOB, comment=COMMENT)
                await site.a_while()
    assert held(logs) == [line(node)] * 2


async def test_node_that_was_held_while_no_launcher_ran_is_told_at_the_start(tmp_path: Path) -> None:
    async with shared_store() as store:
        async with launched(tmp_path, config(provider(pool("small"))), store=store) as site:
            (node,) = await site.got("small")
            await site.set_node(node, NodeState.HOLD, hold_job=JOB, comment=COMMENT)
            await site.a_while()
        with capture_logs() as logs:
            async with launched(tmp_path, config(provider(pool("small"))), store=store) as site:
                await site.a_while()
    assert held(logs) == [line(node)]


async def test_held_node_of_a_provider_that_is_not_ours_is_not_told(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        with capture_logs() as logs:
            node = await site.add_node(a_node(state=NodeState.HOLD, provider="elsewhere").to_bytes())
            await site.a_while()
        assert node in site.view.nodes
    assert held(logs) == []
