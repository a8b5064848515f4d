"""A launcher killed at any step of a node's life: the next one serves every request, and nothing is left or doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState
from support.openstack import DEADLINE_S, Beside, Found, Lab, Start, pool, provider

pytestmark = pytest.mark.openstack

MORTAL = str(Path(__file__).with_name("mortal.py"))
CREATING = ("create_server", "ports", "floating_ips", "create_floating_ip", "mark_volume")
DELETING = ("delete_floating_ip", "delete_server")
WHEN = ("before", "after")


def names_made(lab: Lab, since: str) -> Counter[str]:
    """Return how many servers of each name the project has had *since*, a time in Nova's format."""
    cloud = lab.cloud("devcloud-admin")
    project_id = lab.cloud().current_project_id
    made: Counter[str] = Counter()
    for is_deleted in (True, False):
        listed = cloud.compute.servers(
            all_projects=True, deleted=is_deleted, project_id=project_id, changes_since=since
        )
        made.update(server.name for server in listed if server.created_at >= since)
    return made


async def launcher_at(site: Beside, when: str, call: str) -> None:
    """Start a launcher that dies at *call*."""
    await site.start(MORTAL, when, call)


@pytest.mark.parametrize("call", CREATING)
@pytest.mark.parametrize("when", WHEN)
async def test_killed_while_it_creates(lab: Lab, launcher: Start, when: str, call: str) -> None:
    site = await launcher(provider(pool(["everything"])), is_started=False)
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await launcher_at(site, when, call)
    handle = await site.client.submit(["everything"])
    await site.died()
    await site.start()
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    assert request.state is RequestState.FULFILLED
    async with site.client.hold(request) as nodes:
        assert all(node.interface_ip for node in nodes)
    await site.until_empty()
    assert lab.found() == Found()
    made = await asyncio.to_thread(names_made, lab, since)
    assert max(made.values()) == 1, made
    assert site.complaints == []


@pytest.mark.parametrize("call", DELETING)
@pytest.mark.parametrize("when", WHEN)
async def test_killed_while_it_deletes(lab: Lab, launcher: Start, when: str, call: str) -> None:
    site = await launcher(provider(pool(["everything"])), is_started=False)
    await launcher_at(site, when, call)
    request = await site.finished("everything")
    async with site.client.hold(request) as nodes:
        assert len(nodes) == 1
    await site.died()
    await site.start()
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


async def test_killed_with_a_server_building_goes_on_with_it(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_delay=20")
    site = await launcher(provider(pool(["plain"])))
    handle = await site.client.submit(["plain", "plain"])
    nodes: list[Node] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(nodes) < 2 or not all(node.external_id for node in nodes):
            await asyncio.sleep(0.1)
            node_ids = [path for path in await site.client.store.children(paths.NODES) if path != "lock"]
            entries = await site.client.store.get_many([f"{paths.NODES}/{node_id}" for node_id in node_ids])
            nodes = [Node.from_bytes(e.path, e.data, node_id=paths.node_id_at(e.path)) for e in entries if e]
    begun = {node.external_id for node in nodes}
    await site.kill()
    await site.start()
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    async with site.client.hold(request) as ready:
        assert {node.external_id for node in ready} == begun
    await site.until_empty()
    assert lab.found() == Found()
