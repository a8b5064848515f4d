"""200 nodes through requests of one to five, and nothing is left of any of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState
from support.openstack import LABELS, Beside, Found, Lab, Start, pool, provider

pytestmark = pytest.mark.openstack

NODES = 200
AT_ONCE = 40
"""Servers there are at most."""
KINDS = ("plain", "floating", "volume", "everything")
DEADLINE_S = 1500.0


def requests(rng: random.Random) -> Iterator[list[str]]:
    """Labels of each request, for `NODES` nodes in all."""
    left = NODES
    while left:
        count = min(left, rng.randint(1, 5))
        left -= count
        yield [rng.choice(KINDS) for _ in range(count)]


async def served(site: Beside, labels: list[str]) -> list[Node]:
    request = await (await site.client.submit(labels)).finished()
    assert request.state is RequestState.FULFILLED, await site.explain(request)
    async with site.client.hold(request) as nodes:
        return nodes


async def test_two_hundred_nodes_leave_nothing(lab: Lab, launcher: Start) -> None:
    assert set(KINDS) <= set(LABELS)
    site = await launcher(provider(pool(KINDS, max_servers=AT_ONCE), launch_timeout=900))
    async with asyncio.timeout(DEADLINE_S):
        given = await asyncio.gather(*(served(site, labels) for labels in requests(random.Random(4))))
        await site.until_empty()
    nodes = [node for each in given for node in each]
    assert len({node.external_id for node in nodes}) == NODES
    assert len({node.interface_ip for node in nodes if node.type == ("plain",)}) > 1
    assert await asyncio.to_thread(lab.found) == Found()
    assert site.complaints == []
