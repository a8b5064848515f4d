"""Metastatic nodes on a virtual clock: slots given, shared by launchers, given back; backing nodes kept and let go."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.client.nodes import NodeClient
from nodelaunch.errors import KeyScanError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.store import EmbeddedStore
from support.launchers import EPOCH, LoopClock, Running
from support.mortal import MortalStore

pytestmark = pytest.mark.looptime

CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: backing}}, {{name: slot}}]
providers:
  - name: cloud
    driver: fake
    region-name: north
    boot-time: 1.0
    delete-time: 0.5
    cloud-images: [{{name: image, username: ci, python-path: /usr/bin/python3, connection-port: 2222}}]
    pools:
      - name: main
        max-servers: {max_servers}
        node-attributes: {{site: cloud, rack: r1}}
        labels: [{{name: backing, cloud-image: image, min-ram: 8192}}]
  - name: meta
    driver: metastatic
    max-concurrency: {max_concurrency}
    pools:
      - name: main
        max-servers: 30
        node-attributes: {{site: meta}}
        labels: [{labels}]
"""
LABEL = "{{name: slot, backing-label: backing, max-parallel-jobs: 2, {more}}}"
EXAMPLE = Path(__file__).parents[2] / "examples" / "metastatic.yaml"
OWNER = "NodePool:metastatic:meta"
GRACE_S = 60.0


class Hosts:
    """A scanner of hosts, some of which don't answer."""

    def __init__(self) -> None:
        self.broken: Collection[str] = ()
        self.seen: list[str] = []

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        await self.reach(host, port, timeout_s=timeout_s)
        return ("ssh-ed25519 AAAAscanned",)

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        self.seen.append(host)
        if host in self.broken:
            raise KeyScanError(f"{host}:{port} not usable within {timeout_s:g} s")


class Site(Running):
    """A launcher of a provider ``meta`` that lives on a provider ``cloud``."""

    @property
    def slots(self) -> list[Node]:
        return [node for node in self.nodes() if node.provider == "meta"]

    @property
    def backings(self) -> list[NodeId]:
        return sorted(node.id for node in self.nodes() if node.provider == "cloud")

    def node(self, node_id: NodeId) -> Node:
        return self.view.nodes[node_id].record

    async def given(self, *labels: str) -> NodeRequest:
        request = await self.finished(*labels)
        assert request.state is RequestState.FULFILLED
        return request

    def backing_of(self, request: NodeRequest) -> list[NodeId]:
        return [self.node(node_id).driver_data["backing_node"] for node_id in request.nodes]

    async def give_back(self, *requests: NodeRequest) -> None:
        """Use the nodes and return them; wait until they are gone."""
        for request in requests:
            async with self.client.hold(request):
                pass
        gone = {node_id for request in requests for node_id in request.nodes}
        await self.until(lambda: not gone & self.view.nodes.keys())

    async def until_backings(self, *node_ids: NodeId) -> float:
        """Wait until just these are left; for how long that was, in seconds."""
        started = asyncio.get_running_loop().time()
        await self.until(lambda: self.backings == sorted(node_ids))
        return asyncio.get_running_loop().time() - started


def configured(
    folder: Path, *, label: str = "", labels: str | None = None, max_servers: int = 10, max_concurrency: int = -1
) -> Path:
    path = folder / "nodepool.yaml"
    wanted = LABEL.format(more=label) if labels is None else labels
    path.write_text(CONFIG.format(labels=wanted, max_servers=max_servers, max_concurrency=max_concurrency))
    return path


@asynccontextmanager
async def running(path: Path, session: EmbeddedStore, hosts: Hosts | None = None) -> AsyncIterator[Launcher]:
    """A launcher that is at work in *session*."""
    launcher = Launcher(load_config(path), store=session, clock=LoopClock(), scanner=hosts or Hosts(), hostname="here")
    async with launcher:
        at_work = asyncio.ensure_future(launcher.run())
        try:
            yield launcher
        finally:
            at_work.cancel()
            await asyncio.gather(at_work, return_exceptions=True)


@asynccontextmanager
async def site(
    folder: Path, store: EmbeddedStore, *, hosts: Hosts | None = None, **options: Any
) -> AsyncIterator[Site]:
    """A launcher, and a client whose requests live as long as *store*."""
    path, session = configured(folder, **options), store.connect()
    async with running(path, session, hosts) as launcher, NodeClient(store, clock=LoopClock()) as client:
        made = Site(launcher, client, session)
        await made.until(lambda: not launcher.readiness())
        yield made


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(None, clock=LoopClock().now) as opened:
        yield opened


async def table(store: EmbeddedStore) -> dict[str, list[str]]:
    """Leased nodes with their taken slots, and, under ``nodes``, the claims."""
    names = await store.children(paths.leases("meta"))
    taken = {name: await store.children(paths.lease("meta", NodeId(name))) for name in names}
    return {**taken, "nodes": await store.children(paths.claims("meta"))}


NOTHING: dict[str, list[str]] = {"nodes": []}


# -- as Nodepool's driver does --------------------------------------------------------------------------------------


async def test_metastatic(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        first = await here.given("slot")
        second = await here.given("slot")
        third = await here.given("slot")
        (one,), (also_one,), (two,) = (here.backing_of(request) for request in (first, second, third))
        assert (one, here.backings) == (also_one, sorted([one, two]))
        assert await table(store) == {
            one: ["0", "1"], two: ["0"], "nodes": sorted([*first.nodes, *second.nodes, *third.nodes])
        }  # fmt: skip

        await here.give_back(first)
        fourth = await here.given("slot")
        assert here.backing_of(fourth) == [one]
        assert here.node(fourth.nodes[0]).slot == 0

        await here.give_back(third)
        assert await here.until_backings(one) == pytest.approx(GRACE_S, abs=2)
        await here.give_back(second, fourth)
        assert await here.until_backings() == pytest.approx(GRACE_S, abs=2)
        assert await table(store) == NOTHING
        assert here.cloud.servers() == []
        assert not here.view.requests


async def test_slot_mirrors_its_backing_node(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        handle = await here.client.submit(["slot"])
        await here.until(lambda: bool(here.slots) and here.slots[0].state is NodeState.BUILDING)
        (building,) = here.slots
        assert building.image_id == "unused"
        placeholders = (
            building.username, building.python_path, building.shell_type, building.connection_port,
            building.connection_type,
        )  # fmt: skip
        assert placeholders == ("unknown",) * 5
        request = await handle.finished()
        node, backing = here.node(request.nodes[0]), here.node(here.backings[0])
        for name in (
            "interface_ip", "public_ipv4", "private_ipv4", "public_ipv6", "cloud", "region", "az", "username",
            "python_path", "shell_type", "connection_port", "ssh_port", "connection_type", "host_keys",
        ):  # fmt: skip
            assert getattr(node, name) == getattr(backing, name), name
        assert (node.username, node.connection_port, node.region) == ("ci", 2222, "north")
        assert node.attributes == {"site": "meta", "rack": "r1"}
        assert node.resources == {"cores": 0, "instances": 1, "ram": 0}
        assert (node.external_id, node.slot, node.hostname, node.host_id) == (node.id, 0, None, None)
        assert node.driver_data == {
            "metadata": {
                "nodepool_node_id": node.id, "nodepool_pool_name": "main", "nodepool_provider_name": "meta",
            },
            "backing_node": backing.id, "slot": 0, "node": node.id,
        }  # fmt: skip


async def test_backing_node_says_whose_it_is(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        requests: list[NodeRequest] = []
        here.view.subscribe(lambda _note: requests.extend(seen.record for seen in here.view.requests.values()))
        await here.given("slot")
        (asked,) = {request.id: request for request in requests if request.requestor == OWNER}.values()
        assert asked.id.startswith("100-")
        assert (asked.node_types, asked.tenant_name, asked.requestor_data) == (("backing",), None, None)
        (backing,) = map(here.node, here.backings)
        assert (backing.state, backing.requestor, backing.allocated_to) == (NodeState.IN_USE, OWNER, asked.id)
        user_data = json.loads(backing.user_data)
        assert user_data == {"owner": OWNER, "label": "slot", "slots": 2, "failed": False, "launched": EPOCH + 1}
        (contender,) = await store.contenders(paths.node_lock(backing.id))
        entry = await store.get(contender)
        assert (entry.data, entry.stat.owner) == (OWNER.encode(), 0)


async def test_metastatic_startup(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as before:
        first = await before.given("slot")
        (backing,) = before.backings
    async with site(tmp_path, store) as after:
        second = await after.given("slot")
        assert (after.backing_of(second), after.node(second.nodes[0]).slot) == ([backing], 1)
        third = await after.given("slot")
        assert after.backing_of(third) != [backing]
        await after.give_back(first, second, third)
        await after.until_backings()
        assert await table(store) == NOTHING


async def test_metastatic_config_change(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, label="min-retention-time: 86400") as before:
        request = await before.given("slot")
        (backing,) = before.backings
    async with site(tmp_path, store, labels="") as after:
        await asyncio.sleep(2 * GRACE_S)
        assert after.backings == [backing]
        await after.give_back(request)
        assert await after.until_backings() < 2
        assert await table(store) == NOTHING


async def test_provider_taken_out_lets_its_backing_nodes_go(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, label="min-retention-time: 86400") as here:
        request = await here.given("slot")
        (backing,) = here.backings
        config = load_config(configured(tmp_path))
        others = tuple(provider for provider in config.providers if provider.name != "meta")
        await here.launcher.reload(config.model_copy(update={"providers": others}), grace_s=0)
        await asyncio.sleep(2 * GRACE_S)
        assert here.backings == [backing]
        assert "meta" in here.launcher.providers
        await here.give_back(request)
        await here.until_backings()
        await here.until(lambda: "meta" not in here.launcher.providers)
        assert await table(store) == NOTHING


async def test_provider_put_back_keeps_its_backing_node(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        request = await here.given("slot")
        config = here.launcher.config
        others = tuple(provider for provider in config.providers if provider.name != "meta")
        await here.launcher.reload(config.model_copy(update={"providers": others}), grace_s=0)
        await here.launcher.reload(config, grace_s=0)
        again = await here.given("slot")
        assert here.backing_of(again) == here.backing_of(request)
        await here.give_back(request, again)
        await here.until_backings()


async def test_metastatic_nodescan(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    async with site(tmp_path, store, hosts=hosts, label="host-key-checking: true") as here:
        first = await here.given("slot")
        (node,) = (here.node(node_id) for node_id in first.nodes)
        assert node.host_keys == ("ssh-ed25519 AAAAscanned",)
        hosts.broken = {node.interface_ip or ""}
        second = await here.given("slot")
        (bad,), (good,) = here.backing_of(first), here.backing_of(second)
        assert bad != good
        assert json.loads(here.node(bad).user_data)["failed"] is True
        assert json.loads(here.node(good).user_data)["failed"] is False
        hosts.broken = ()
        third, fourth = await here.given("slot"), await here.given("slot")
        assert bad not in here.backing_of(third) + here.backing_of(fourth)
        await here.give_back(first)
        assert await here.until_backings(*{good, *here.backing_of(fourth)}) < 2


async def test_without_host_key_checking_nothing_is_scanned(tmp_path: Path, store: EmbeddedStore) -> None:
    hosts = Hosts()
    async with site(tmp_path, store, hosts=hosts) as here:
        await here.given("slot")
        assert hosts.seen == []


async def test_metastatic_min_retention(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, label="min-retention-time: 300") as here:
        request = await here.given("slot")
        started = asyncio.get_running_loop().time()
        await here.give_back(request)
        await here.until_backings()
        assert asyncio.get_running_loop().time() - started == pytest.approx(300, abs=2)


async def test_metastatic_max_age(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, label="max-age: 300") as here:
        first = await here.given("slot")
        (old,) = here.backings
        await asyncio.sleep(299)
        assert json.loads(here.node(old).user_data)["failed"] is False
        await asyncio.sleep(2)
        assert json.loads(here.node(old).user_data)["failed"] is True
        second = await here.given("slot")
        (new,) = here.backing_of(second)
        assert new != old
        await here.give_back(first)
        assert await here.until_backings(new) < 2


async def test_metastatic_invalid_node_state(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        request = await here.given("slot")
        (lost,) = here.backings
        await store.delete_tree(paths.node(lost))
        await here.until(lambda: not here.backings)
        again = await here.given("slot")
        assert here.backing_of(again) != [lost]
        assert lost not in await table(store)
        assert (await table(store))["nodes"] == list(again.nodes)
        await here.give_back(request, again)
        await here.until_backings()
        assert await table(store) == NOTHING


async def test_example_does_what_it_says(store: EmbeddedStore) -> None:
    async with running(EXAMPLE, store.connect()) as launcher, NodeClient(store, clock=LoopClock()) as client:
        here = Site(launcher, client, store)
        async with client.nodes(["small"] * 5) as nodes:
            machines = Counter(node.driver_data["backing_node"] for node in nodes)
            assert sorted(machines.values()) == [1, 4]
            assert {node.username for node in nodes} == {"debian"}
            assert all(node.attributes == {"shared": True} for node in nodes)
        await here.until_backings()


# -- asking for backing nodes ---------------------------------------------------------------------------------------


async def test_as_many_backing_nodes_as_are_needed(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        requests = await asyncio.gather(*(here.given("slot") for _ in range(7)))
        assert len(here.backings) == 4
        await here.give_back(*requests)
        await here.until_backings()


async def test_failed_backing_request_is_deleted_and_fails_the_allocation(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, max_servers=0) as here:
        request = await here.finished("slot")
        assert request.state is RequestState.FAILED
        assert list(here.view.requests) == [request.id]
        await here.until(lambda: not here.nodes())
        assert await table(store) == NOTHING


async def test_backing_request_that_nobody_needs_any_more_is_withdrawn(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, max_servers=1) as here:
        first = await here.given("slot", "slot")
        waiting = await here.client.submit(["slot"])
        await here.until(lambda: any(request_id.startswith("100-") for request_id in here.view.requests))
        await waiting.cancel()
        await here.until(lambda: not here.view.requests.keys() - {first.id} and len(here.slots) == 2)
        assert (await table(store))["nodes"] == sorted(first.nodes)


async def test_freed_slots_go_to_who_waits_in_their_order(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, max_servers=1) as here:
        held = [await here.given("slot"), await here.given("slot")]
        waiting = [await here.client.submit(["slot"]) for _ in range(6)]
        await here.until(lambda: len(here.slots) == 8)
        served = []
        for handle in waiting:
            oldest, *held = held
            await here.give_back(oldest)
            held.append(await handle.finished())
            served.append(here.backing_of(held[-1]))
            later = [here.view.requests[each.id].record.state for each in waiting[len(served) :]]
            assert RequestState.FULFILLED not in later
        assert served == [here.backing_of(held[-1])] * 6
        await here.until(lambda: not any(request_id.startswith("100-") for request_id in here.view.requests))


async def test_backing_node_is_left_alone_by_the_sweeper(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store, label="min-retention-time: 7200") as here:
        await here.give_back(await here.given("slot"))
        (backing,) = here.backings
        await asyncio.sleep(3600)
        assert here.node(backing).state is NodeState.IN_USE


# -- what Nodepool's launcher left ----------------------------------------------------------------------------------


async def test_backing_node_of_nodepools_launcher_is_adopted(tmp_path: Path, store: EmbeddedStore) -> None:
    user_data = {"owner": OWNER, "label": "slot", "slots": 2, "failed": False, "launched": EPOCH}
    backing = Node(
        id=NodeId(""), state=NodeState.IN_USE, provider="cloud", pool="main", type=("backing",),
        interface_ip="192.0.2.1", user_data=json.dumps(user_data), requestor=OWNER,
    )  # fmt: skip
    await store.ensure(paths.NODES)
    ids = []
    for name in (OWNER, "NodePool:metastatic:other"):
        entry = await store.create(paths.NEW_NODE, backing.to_bytes(), sequence=True)
        ids.append(NodeId(entry.path[-10:]))
        await store.create(
            paths.contender(paths.node_lock(ids[-1]), "0" * 32), name.encode(), sequence=True, parents=True
        )
    ours, _others = ids
    user = backing.changed(
        provider="meta", type=("slot",), user_data=None,
        driver_data={"metadata": {"nodepool_provider_name": "meta"}, "backing_node": ours, "slot": 0, "node": "x"},
    )  # fmt: skip
    entry = await store.create(paths.NEW_NODE, user.to_bytes(), sequence=True)
    user_id = NodeId(entry.path[-10:])
    lock = await store.lock(paths.node_lock(user_id))
    async with site(tmp_path, store) as here:
        request = await here.given("slot")
        assert (here.backing_of(request), here.node(request.nodes[0]).slot) == ([ours], 1)
        assert await table(store) == {ours: ["0", "1"], "nodes": sorted([user_id, *request.nodes])}
        await lock.release()
        await here.give_back(request)
        await here.until(lambda: ours not in here.view.nodes)


# -- several launchers, and their ends ------------------------------------------------------------------------------


async def test_two_launchers_never_give_a_slot_twice(tmp_path: Path, store: EmbeddedStore) -> None:
    """No two nodes in use have the same slot of the same machine, with either launcher serving the requests."""
    draw = random.Random(4)
    async with (
        site(tmp_path, store, max_concurrency=3) as here,
        running(tmp_path / "nodepool.yaml", store.connect()) as other,
    ):
        await here.until(lambda: not other.readiness())
        most: Counter[tuple[str, int]] = Counter()
        makers: set[str | None] = set()

        def look(_note: object) -> None:
            held = [node for node in here.slots if node.state in (NodeState.READY, NodeState.IN_USE)]
            makers.update(node.launcher for node in held)
            now = Counter((node.driver_data["backing_node"], node.slot or 0) for node in held)
            for slot, count in now.items():
                most[slot] = max(most[slot], count)

        here.view.subscribe(look)

        async def job() -> None:
            await asyncio.sleep(draw.random() * 20)
            request = await here.given(*["slot"] * draw.randint(1, 3))
            async with here.client.hold(request):
                await asyncio.sleep(draw.random() * 10)

        await asyncio.gather(*(job() for _ in range(40)))
        assert set(most.values()) == {1}
        assert (len({backing for backing, _ in most}) > 2, len(makers)) == (True, 2)
        await here.until(lambda: not here.view.nodes and not here.view.requests)
        assert await table(store) == NOTHING


async def test_slots_in_use_survive_a_restart(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as before:
        first = await before.given("slot", "slot")
        async with store.connect() as session, NodeClient(session, clock=LoopClock()) as user:
            keeping = user.hold(first)
            await keeping.__aenter__()
            waiting = await user.submit(["slot"])
            await before.until(lambda: len(before.backings) == 2)
            await before.launcher.drain(0.0)
            async with site(tmp_path, store) as after:
                second = await waiting.finished()
                assert second.state is RequestState.FULFILLED
                assert after.backing_of(second)[0] not in after.backing_of(first)
                await keeping.__aexit__(None, None, None)
                await after.give_back(second)
                await after.until(lambda: not after.slots)
                assert (await table(store))["nodes"] == []


async def test_lost_session_costs_nobody_a_slot(tmp_path: Path, store: EmbeddedStore) -> None:
    async with site(tmp_path, store) as here:
        first = await here.given("slot")
        waiting = [await here.client.submit(["slot"]) for _ in range(3)]
        await here.until(lambda: any(request_id.startswith("100-") for request_id in here.view.requests))
        await here.store.expire_session()
        requests = [first, *[await handle.finished() for handle in waiting]]
        assert {request.state for request in requests} == {RequestState.FULFILLED}
        taken = Counter((here.backing_of(each)[0], here.node(each.nodes[0]).slot) for each in requests)
        assert set(taken.values()) == {1}
        await here.give_back(*requests)
        await here.until(lambda: not here.slots and all(node.is_idle for node in here.nodes()))
        assert await table(store) == NOTHING


async def test_launcher_killed_between_any_two_writes_leaves_nothing_behind(tmp_path: Path) -> None:
    """At any step in the life of a slot and its backing node, a launcher may end: the next one serves all and
    cleans up.
    """
    for writes in itertools.count(1):
        if not await _dies_after(writes, configured(tmp_path)):
            break
    assert writes > 20


async def _dies_after(writes: int, path: Path) -> bool:
    """Let a launcher die after so many *writes*; return whether it died before all was done and cleaned up."""
    async with EmbeddedStore(None, clock=LoopClock().now) as store, NodeClient(store, clock=LoopClock()) as client:
        doomed = MortalStore(store)
        async with running(path, doomed) as launcher:
            first = Site(launcher, client, doomed)
            await first.until(lambda: not launcher.readiness())
            doomed.die_after(writes)
            job = asyncio.create_task(_job(first))
            lived = asyncio.create_task(first.until(lambda: job.done() and not first.view.nodes))
            died = asyncio.create_task(doomed.dead.wait())
            await asyncio.wait([lived, died], return_when=asyncio.FIRST_COMPLETED)
            lived.cancel()
            died.cancel()
        async with running(path, store.connect()) as launcher:
            second = Site(launcher, client, store)
            await job
            # A backing node that the first launcher asked for may have come, and be a spare, as after any lost request.
            await second.until(lambda: all(node.is_idle for node in second.nodes()))
            assert second.slots == [], writes
            assert await table(store) == NOTHING, writes
            assert not any(second.view.is_node_locked(node_id) for node_id in second.backings), writes
        return doomed.dead.is_set()


async def _job(here: Site) -> None:
    request = await here.given("slot")
    async with here.client.hold(request):
        await asyncio.sleep(1)
