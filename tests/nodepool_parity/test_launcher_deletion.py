"""Nodes that go: used, deleted by hand, too old, held for too long, leaked. A test bears the name of Nodepool's test of
the same behaviour."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from support.sites import Data, Site, config, launched, pool, provider

pytestmark = pytest.mark.looptime


def _kept_ready(*, count: int = 1, max_ready_age: int = 0, **more: Any) -> Data:
    small = {"min-ready": count, "max-ready-age": max_ready_age}
    return config(provider(pool("small", "big"), delete_time=0.5), labels={"small": small}, **more)


async def _replaced(site: Site, node: Node) -> None:
    """Wait until *node* is gone, with its instance, and another one is ready in its place."""
    await site.until(lambda: node.id not in site.view.nodes and [n.type for n in site.idle] == [node.type])
    assert [server.id for server in site.cloud.servers()] == [site.idle[0].external_id]


async def test_node_delete_success(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        await site.set_node(node, NodeState.DELETING)
        await _replaced(site, node)


async def test_node_delete_DELETED_success(tmp_path: Path) -> None:  # noqa: N802  Nodepool's name
    """An instance that another client deleted counts as deleted."""
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        site.cloud.remove(node.external_id)
        await site.set_node(node, NodeState.DELETING)
        await _replaced(site, node)


async def test_node_delete_failure(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        site.cloud.fail("delete", times=1000)
        await site.set_node(node, NodeState.DELETING)
        await site.until(lambda: len(site.idle) == 1)
        await site.a_while()
        assert site.view.nodes[node.id].record.state is NodeState.DELETING
        assert len(site.cloud.servers()) == 2
        site.cloud.clear_faults()
        await _replaced(site, node)


async def test_node_delete_error(tmp_path: Path) -> None:
    """A deletion that the cloud began and does not finish: the instance stays in sight, as does its record."""
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        site.cloud.fail("delete", kind="never")
        await site.set_node(node, NodeState.DELETING)
        await site.a_while()
        assert site.view.nodes[node.id].record.state is NodeState.DELETING
        stuck = site.cloud.server(node.external_id)
        assert stuck is not None
        assert stuck.state == "deleting"
        await _replaced(site, node)  # once the deletion's ten minutes are over it is asked for again


async def test_leaked_node(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        await site.store.delete_tree(paths.node(node.id))
        await site.until(lambda: site.cloud.server(node.external_id) is None)
        await _replaced(site, node)
        await site.a_while()
        assert len(site.creates()) == 2, "one replacement"


async def test_empty_node_deleted(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        empty = await site.add_node(b"")
        await site.store.ensure(paths.node_lock(empty))
        await site.until(lambda: paths.node(empty) not in site.view.unreadable)
        assert await site.store.children(paths.NODES) == [node.id]


async def test_deleteRawNode_exception(tmp_path: Path) -> None:  # noqa: N802  Nodepool's name
    """A record in `deleted`, left by an interrupted deletion, is removed later."""
    async with launched(tmp_path, _kept_ready()) as site:
        (node,) = await site.until_idle(1)
        await site.set_node(node, NodeState.DELETED)
        await _replaced(site, node)


async def test_max_ready_age(tmp_path: Path) -> None:
    async with launched(tmp_path, _kept_ready(max_ready_age=300)) as site:
        (node,) = await site.until_idle(1)
        ready_at = site.now
        await _replaced(site, node)
        assert site.now - ready_at > 300
        (replacement,) = site.idle
        await site.fulfilled("small")
        await site.a_while(400)
        assert replacement.id in site.view.nodes, "one that is allocated is not unused"


# -- held nodes -----------------------------------------------------------------------------------------------------


async def _kept_for(site: Site, expiration: Any) -> float | None:
    """Hold a node as Zuul does, with *expiration* as it stands in the record; after how long it was deleted, if so."""
    request = await site.fulfilled("big")
    jobs = await site.take(request)
    (node_id,) = request.nodes
    node, version, lock = jobs.nodes[node_id]
    record = json.loads(node.into(NodeState.HOLD, site.now).to_bytes())
    record |= {"hold_expiration": expiration, "comment": "to look at"}
    await site.client.store.put(paths.node(node_id), json.dumps(record).encode(), version=version, under=(lock,))
    await lock.release()
    held_at = site.now
    try:
        async with asyncio.timeout(5000):
            await site.until(lambda: node_id not in site.view.nodes, within_s=10_000)
    except TimeoutError:
        assert site.view.nodes[node_id].record.state is NodeState.HOLD
        return None
    return site.now - held_at


def _soon_after(limit_s: float, kept_s: float | None) -> bool:
    """Return whether the node was deleted at one of the first sweeps after its time."""
    return kept_s is not None and limit_s < kept_s < limit_s + 150


def _holding(max_hold_age: int | None = None) -> Data:
    more = {} if max_hold_age is None else {"max_hold_age": max_hold_age}
    return config(provider(pool("big")), **more)


async def test_max_hold_age(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding(1000)) as site:
        assert _soon_after(1000, await _kept_for(site, None))


async def test_hold_expiration_no_default(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding()) as site:
        assert _soon_after(500, await _kept_for(site, 500))
        assert await _kept_for(site, None) is None


async def test_hold_expiration_str_type(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding()) as site:
        assert _soon_after(500, await _kept_for(site, "500"))


async def test_hold_expiration_bad_type_coercion(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding()) as site:
        assert await _kept_for(site, "for ever") is None
    async with launched(tmp_path, _holding(1000)) as site:
        assert _soon_after(1000, await _kept_for(site, "for ever"))


async def test_hold_expiration_lower_than_default(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding(1000)) as site:
        assert _soon_after(500, await _kept_for(site, 500))


async def test_hold_expiration_higher_than_default(tmp_path: Path) -> None:
    async with launched(tmp_path, _holding(1000)) as site:
        assert _soon_after(1000, await _kept_for(site, 3000))
