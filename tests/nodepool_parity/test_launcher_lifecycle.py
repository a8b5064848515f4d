"""Recovery from failures, and changes while the launcher runs. A test has the name of Nodepool's test of the same
behaviour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import QuotaExceededError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import ExternalId, InstanceSpec
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState, RequestState
from support.launchers import LoopClock
from support.sites import config, is_paused, launched, pool, provider, shared_store

pytestmark = pytest.mark.looptime


def _ready_node(**fields: object) -> Node:
    known = {"provider": "cloud", "pool": "main", "type": ("small",), "external_id": "from-before", **fields}
    return Node(id=paths.NodeId(""), state=NodeState.READY, created_time=0.0, **known)  # type: ignore[arg-type]


async def test_lost_requests(tmp_path: Path) -> None:
    """A request whose launcher is gone gets the node that launcher had allocated to it."""
    async with shared_store() as store, store.connect() as user, NodeClient(user, clock=LoopClock()) as client:
        handle = await client.submit(["small"])
        pending = handle.request.changed(state=RequestState.PENDING)
        await user.put(paths.request(handle.id), pending.to_bytes())
        await user.ensure(paths.NODES)
        entry = await user.create(paths.NEW_NODE, _ready_node(allocated_to=handle.id).to_bytes(), sequence=True)
        async with launched(tmp_path, config(provider(pool("small"))), store=store) as site:
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            assert request.nodes == (paths.node_id_at(entry.path),)
            assert site.creates() == []


async def test_node_deallocation(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        node_id = await site.add_node(_ready_node(allocated_to="200-0000009999").to_bytes())
        await site.until(lambda: [node.id for node in site.idle] == [node_id])
        assert [node.id for node in await site.got("small")] == [node_id]


class RefusesThenExplodes(FakeDriver):
    """Reports no quota at first, and raises an unforeseen error afterwards."""

    created = 0

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self.created += 1
        if self.created == 1:
            raise QuotaExceededError("not now", provider=self.config.name)
        raise ZeroDivisionError(spec.name)


async def test_exception_causing_decline_of_paused_request(tmp_path: Path) -> None:
    drivers = DriverRegistry([DriverPlugin("fake", FakeProvider, RefusesThenExplodes)])
    async with launched(tmp_path, config(provider(pool("small"))), drivers=drivers) as site:
        handle = await site.ask("small")
        await site.until(lambda: is_paused(site))
        assert site.request(handle).state is RequestState.PENDING
        assert (await handle.finished()).state is RequestState.FAILED
        await site.until(lambda: not is_paused(site))
        await site.launcher.pools["cloud", "main"].drain(0)  # which waits for every handler
        await site.until(lambda: not site.view.nodes)


async def test_handler_poll_session_expired(tmp_path: Path) -> None:
    """A handler ends with its session; the next handler resumes with the request's nodes, ready or not."""
    async with launched(tmp_path, config(provider(pool("small", "big"), boot_time=5))) as site:
        handle = await site.ask("small", "big")
        await site.until(lambda: len(site.cloud.servers()) == 2)
        site.cloud.set("boot-time", 1000)
        first, _ = site.cloud.servers()
        site.cloud.set_state(first.id, "active")
        await site.until(lambda: len(site.nodes(NodeState.READY)) == 1)
        before = set(site.view.nodes)
        site.cloud.set("boot-time", 1)
        await site.store.expire_session()
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert before == set(request.nodes)
        await site.until(lambda: set(site.view.nodes) == set(request.nodes))
        assert len(site.cloud.servers()) == 2


# -- another configuration while it runs ----------------------------------------------------------------------------


async def test_paused_gets_declined(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=2)))) as site:
        await site.fulfilled("small", "small")
        waiting = await site.ask("small", "small")
        await site.until(lambda: is_paused(site))
        await site.reload(config(provider(pool("small", max_servers=1))))
        request = await waiting.finished()
        assert (request.state, len(request.declined_by)) == (RequestState.FAILED, 1)
        await site.until(lambda: not is_paused(site))


async def test_provider_removal(tmp_path: Path) -> None:
    clouds = provider(pool("small"), name="cloud"), provider(pool("big"), name="other")
    async with launched(tmp_path, config(*clouds)) as site:
        assert site.registered == {("cloud", "main"): ("small",), ("other", "main"): ("big",)}
        await site.reload(config(clouds[0]))
        await site.until(lambda: site.registered == {("cloud", "main"): ("small",)})
        await site.until(lambda: set(site.launcher.providers) == {"cloud"})
        await site.failed("big")


async def test_launcher_registers_config_change(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        before = dict(site.view.pools)
        await site.reload(config(provider(pool("small", "big")), labels={"nowhere": {}}))
        await site.until(lambda: site.registered == {("cloud", "main"): ("small", "big")})
        assert site.view.pools.keys() == before.keys(), "it is the same registration, changed"
