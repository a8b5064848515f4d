"""Nodes for some tenants only, in whole launchers: clouds, labels, static machines, ready nodes, and explanations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.client.nodes import RequestHandle
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import LabelNotAllowed, MachinesNotAllowed, NoFreeMachine, PoolNotAllowed, Reason
from support.sites import (
    Data,
    Hosts,
    Site,
    config,
    lab,
    label,
    launched,
    machine,
    pool,
    provider,
    shared_store,
)

pytestmark = pytest.mark.looptime
OPEN, CLOSED = "127.0.0.1", "127.0.0.2"
RACK = ("lab", "rack")
CLOUD = ("cloud", "main")


def reasons(site: Site, request: NodeRequest | RequestHandle, key: tuple[str, str]) -> list[Reason]:
    """Return the reasons that `explain` gives for the request and that pool."""
    standings = site.launcher.scheduler.explainer.explain(request.id)
    (standing,) = (each for each in standings if (each.provider, each.pool) == key)
    return list(standing.reasons)


# -- clouds -----------------------------------------------------------------------------------------------------------


async def test_pool_serves_its_tenants_only(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", allowed_tenants=["a", "b"])))) as site:
        (node,) = await site.got("small", tenant="a")
        assert node.tenant_name == "a"
        request = await site.failed("small", tenant="c")
        assert len(request.declined_by) == 1
        await site.failed("small")
        assert len(site.creates()) == 1


async def test_label_is_for_fewer_than_its_pool(tmp_path: Path) -> None:
    labels = [label("small"), label("signing", allowed_tenants=["a", "c"])]
    async with launched(tmp_path, config(provider(pool(*labels, allowed_tenants=["a", "b"])))) as site:
        await site.fulfilled("small", "signing", tenant="a")
        await site.fulfilled("small", tenant="b")
        for tenant in ("b", "c"):
            await site.failed("signing", tenant=tenant)


async def test_declined_request_goes_on_to_the_pool_that_is_open(tmp_path: Path) -> None:
    closed, opened = pool("small", name="closed", allowed_tenants=["a"], priority=1), pool("small", name="open")
    async with launched(tmp_path, config(provider(closed, opened))) as site:
        nodes = [(await site.got("small", tenant=tenant))[0].pool for tenant in ("a", "b", None)]
        assert nodes == ["closed", "open", "open"]


async def test_request_goes_on_to_another_launcher_and_fails_when_both_decline(tmp_path: Path) -> None:
    (here, there) = (tmp_path / name for name in ("here", "there"))
    here.mkdir()
    there.mkdir()
    closed = config(provider(pool("small", allowed_tenants=["a"], priority=1)))
    other = config(provider(pool("small", allowed_tenants=["b"]), name="other"))
    async with (
        shared_store() as store,
        launched(here, closed, store=store) as site,
        launched(there, other, store=store, hostname="there"),
    ):
        await site.until(lambda: len(site.view.peers) == 2)
        request = await site.fulfilled("small", tenant="b")
        assert [node.provider for node in site.nodes_of(request)] == ["other"]
        assert len((await site.failed("small", tenant="c")).declined_by) == 2


async def test_explain_says_which_list_it_was(tmp_path: Path) -> None:
    closed = pool(label("small"), allowed_tenants=["a"])
    half_open = pool(label("small", allowed_tenants=["a"]), name="half")
    waits = lab(machine(CLOSED, "small", allowed_tenants=["a"]), machine(OPEN, "small"))
    async with launched(tmp_path, config(provider(closed, half_open), waits), scanner=Hosts()) as site:
        await site.until(lambda: len(site.idle) == 2)
        await site.take(await site.fulfilled("small", provider="lab", tenant="b"))
        handle = await site.ask("small", tenant="b")
        await site.until(lambda: len(site.request(handle).declined_by) == 2)
        assert reasons(site, handle, CLOUD) == [PoolNotAllowed("b")]
        assert reasons(site, handle, ("cloud", "half")) == [LabelNotAllowed("b", "small")]
        assert reasons(site, handle, RACK) == [NoFreeMachine("small")]
        told = {(each["provider"], each["pool"]): each for each in _told(site, handle)}
        assert told[CLOUD]["reasons"] == [
            {
                "kind": "PoolNotAllowed",
                "text": "tenant b may not use the pool (allowed-tenants)",
                "remedy": "add b to allowed-tenants of the pool",
                "facts": {"tenant": "b"},
            }
        ]


def _told(site: Site, handle: RequestHandle) -> list[Data]:
    return [each.to_json() for each in site.launcher.scheduler.explainer.explain(handle.id)]


async def test_change_is_in_force_at_once(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        (node,) = await site.got("small", tenant="b")
        await site.reload(config(provider(pool("small", allowed_tenants=["a"]))))
        await site.until(lambda: site.is_ready)
        await site.failed("small", tenant="b")
        assert node.id in site.view.nodes, "who has a node keeps it"
        await site.reload(config(provider(pool("small"))))
        await site.until(lambda: site.is_ready)
        await site.fulfilled("small", tenant="b")


async def test_accepted_request_that_waits_for_room_is_declined_by_a_new_list(tmp_path: Path) -> None:
    refuses = {"failure_rate": 1.0, "failure_kind": "quota"}
    async with launched(tmp_path, config(provider(pool("small"), **refuses))) as site:
        waiting = await site.ask("small", tenant="b")
        await site.until(lambda: bool(site.launcher.scheduler.queue.waiters))
        states = site.states_of(waiting)
        await site.reload(config(provider(pool("small", allowed_tenants=["a"]), **refuses)))
        await waiting.finished()
        path = [RequestState.REQUESTED, RequestState.PENDING, RequestState.FAILED]
        assert states == path, "it is not handed back first"
        assert reasons(site, waiting, CLOUD) == [PoolNotAllowed("b")]


async def test_request_that_waits_is_declined_by_a_new_list(tmp_path: Path) -> None:
    limits = {"max-servers": 1}
    async with launched(tmp_path, config(provider(pool("small"), limits=limits))) as site:
        await site.fulfilled("small", tenant="a")
        waiting = await site.ask("small", tenant="b")
        await site.a_while(5)
        assert site.request(waiting).state is RequestState.REQUESTED
        await site.reload(config(provider(pool("small", allowed_tenants=["a"]), limits=limits)))
        assert (await waiting.finished()).state is RequestState.FAILED


# -- ready nodes of clouds --------------------------------------------------------------------------------------------


async def test_launcher_keeps_nodes_ready_for_tenants_that_may_have_them(tmp_path: Path) -> None:
    closed = config(provider(pool("small", allowed_tenants=["a"])), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, closed) as site:
        (ready,) = await site.until_idle(1)
        assert ready.tenant_name is None
        await site.failed("small", tenant="b")
        await site.failed("small")
        assert [node.id for node in site.idle] == [ready.id]
        (got,) = await site.got("small", tenant="a")
        assert got.id == ready.id


async def test_ready_node_is_not_for_tenants_that_may_not_use_its_label(tmp_path: Path) -> None:
    shut, opened = label("small", allowed_tenants=["a"]), label("small")
    content = config(
        provider(pool(shut, name="shut", priority=1), pool(opened, name="open")), labels={"small": {"min-ready": 1}}
    )
    async with launched(tmp_path, content) as site:
        (ready,) = await site.until_idle(1)
        assert ready.pool == "shut"
        (got,) = await site.got("small", tenant="b")
        assert (got.id != ready.id, got.pool) == (True, "open")


# -- static machines --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _lab(folder: Path, *machines: Data, min_ready: int = 0, **of_pool: object) -> AsyncIterator[Site]:
    top = config(lab(*machines, **of_pool), labels={"bare": {"min-ready": min_ready}})
    async with launched(folder, top, scanner=Hosts()) as site:
        await site.until(lambda: len(site.idle) == len(machines))
        yield site


def host_of(site: Site, request: NodeRequest) -> str | None:
    (node,) = site.nodes_of(request)
    return node.hostname


async def test_idle_machine_is_given_to_nobody_else(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"]), machine(OPEN)) as site:
        first = await site.fulfilled("bare", tenant="b")
        assert host_of(site, first) == OPEN
        waiting = [await site.ask("bare", tenant=tenant) for tenant in ("b", None)]
        job = await site.take(first)
        await site.a_while()
        for handle in waiting:
            assert site.request(handle).state is RequestState.REQUESTED
            assert reasons(site, handle, RACK) == [NoFreeMachine("bare")]
        assert [node.hostname for node in site.idle] == [CLOSED]
        await job.give_all_back()
        second = await waiting[0].finished()
        assert host_of(site, second) == OPEN
        assert host_of(site, await site.fulfilled("bare", tenant="a")) == CLOSED


async def test_allowed_machine_that_is_busy_is_waited_for(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"]), machine(OPEN, "bare", "open")) as site:
        jobs = [await site.take(await site.fulfilled("bare", tenant="a")) for _ in range(2)]
        waiting = await site.ask("bare", tenant="a")
        await site.a_while()
        assert reasons(site, waiting, RACK) == [NoFreeMachine("bare")]
        (closed,) = (job for job in jobs if [node.hostname for node, _, _ in job.nodes.values()] == [CLOSED])
        await closed.give_all_back()
        assert host_of(site, await waiting.finished()) == CLOSED


async def test_request_that_no_allowed_machine_can_serve_is_declined(tmp_path: Path) -> None:
    machines = [machine(CLOSED, allowed_tenants=["a"]), machine(OPEN, "other")]
    content = config(lab(*machines), provider(pool("bare")))
    async with launched(tmp_path, content, scanner=Hosts()) as site:
        handle = await site.ask("bare", tenant="b", provider="lab")
        await site.until(lambda: bool(site.request(handle).declined_by))
        assert reasons(site, handle, RACK) == [MachinesNotAllowed("b", "bare")]
        assert (await handle.finished()).state is RequestState.FULFILLED
        assert [node.provider for node in site.nodes_of(site.request(handle))] == ["cloud"]


async def test_more_than_the_tenant_may_use_at_once_is_declined(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"]), machine(OPEN)) as site:
        await site.failed("bare", "bare", tenant="b")
        await site.fulfilled("bare", "bare", tenant="a")


async def test_pool_and_machine_both_have_to_allow(tmp_path: Path) -> None:
    machines = [machine(CLOSED, allowed_tenants=["a", "c"]), machine(OPEN)]
    async with _lab(tmp_path, *machines, allowed_tenants=["a", "b"]) as site:
        assert host_of(site, await site.fulfilled("bare", tenant="b")) == OPEN
        await site.failed("bare", tenant="c")
        assert host_of(site, await site.fulfilled("bare", tenant="a")) == CLOSED


async def test_each_slot_and_user_of_a_machine_obeys_its_own_entry(tmp_path: Path) -> None:
    machines = [machine(OPEN, username="ci", max_parallel_jobs=2, allowed_tenants=["a"]), machine(OPEN)]
    top = config(lab(*machines))
    async with launched(tmp_path, top, scanner=Hosts()) as site:
        await site.until(lambda: len(site.idle) == 3)
        (node,) = await site.got("bare", tenant="b")
        assert node.username == "zuul"
        nodes = await site.got("bare", "bare", tenant="a")
        assert {(each.username, each.slot) for each in nodes} == {("ci", 0), ("ci", 1)}


async def test_machine_returns_to_those_that_may_use_it(tmp_path: Path) -> None:
    """The machine is registered again after use, for the same tenants."""
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"]), machine(OPEN, "bare", "open")) as site:
        await site.take(await site.fulfilled("open"))
        job = await site.take(await site.fulfilled("bare", tenant="a"))
        waiting = await site.ask("bare", tenant="b")
        before = {node.id for node in site.nodes()}
        await job.give_all_back()
        await site.until(lambda: any(node.id not in before for node in site.idle))
        await site.a_while()
        assert site.request(waiting).state is RequestState.REQUESTED
        assert host_of(site, await site.fulfilled("bare", tenant="a")) == CLOSED


async def test_restricted_machines_count_as_ready_and_a_launchers_request_gives_them_to_nobody(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"]), min_ready=1) as site:
        await site.a_while()
        assert not site.view.requests
        request = NodeRequest(
            id=paths.RequestId(""), state_time=site.now, node_types=("bare",), reuse=False,
            requestor=paths.MIN_READY_REQUESTOR,
        )  # fmt: skip
        entry = await site.client.store.create(paths.new_request("200"), request.to_bytes(), sequence=True)
        request_id = paths.request_id_at(entry.path)
        assert request_id is not None
        await site.until(lambda: site.view.requests[request_id].record.state is RequestState.FULFILLED)
        assert host_of(site, site.view.requests[request_id].record) == CLOSED


async def test_new_list_of_a_machine_is_in_force_for_its_record_of_before(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED), machine(OPEN, "open")) as site:
        (before,) = (node for node in site.idle if node.hostname == CLOSED)
        closed = config(lab(machine(CLOSED, allowed_tenants=["a"]), machine(OPEN, "open")))
        await site.reload(closed)
        await site.failed("bare", tenant="b")
        job = await site.take(await site.fulfilled("bare", tenant="a"))
        assert list(job.nodes) == [before.id]
        await job.give_all_back()
        await site.until(lambda: len(site.idle) == 2)
        await site.reload(config(lab(machine(CLOSED), machine(OPEN, "open"))))
        assert host_of(site, await site.fulfilled("bare", tenant="b")) == CLOSED


async def test_nothing_is_left_of_a_pool_that_is_gone(tmp_path: Path) -> None:
    async with _lab(tmp_path, machine(CLOSED, allowed_tenants=["a"])) as site:
        assert site.view.idle._splits
        await site.reload(config(provider(pool("small"))))
        await site.until(lambda: RACK not in site.launcher.scheduler.own.pools)
        assert not site.view.idle._splits
        assert not site.view.idle._shares


@pytest.mark.parametrize("is_closed_first", [True, False])
async def test_machine_that_is_ready_the_longest_is_given_first(tmp_path: Path, is_closed_first: bool) -> None:
    """The order is the same for machines with and without restrictions."""
    machines = [machine(CLOSED, allowed_tenants=["a"]), machine(OPEN)]
    async with _lab(tmp_path, *(machines if is_closed_first else machines[::-1])) as site:
        oldest = min(site.idle, key=lambda node: (node.state_time, node.id))
        assert (oldest.hostname == CLOSED) is is_closed_first
        assert host_of(site, await site.fulfilled("bare", tenant="a")) == oldest.hostname


async def test_record_of_a_machine_that_moved_to_a_closed_pool_is_nobodys(tmp_path: Path) -> None:
    """The record names the pool of before until it is updated, which takes an answer of the machine."""
    hosts = Hosts()
    racks = lab(machine(CLOSED), machine(OPEN))
    async with launched(tmp_path, config(racks), scanner=hosts) as site:
        await site.until(lambda: len(site.idle) == 2)
        (moving,) = (node for node in site.idle if node.hostname == CLOSED)
        hosts.failures = 1_000_000
        moved = lab(machine(OPEN))
        moved["pools"].append({"name": "vault", "allowed-tenants": ["a"], "nodes": [machine(CLOSED)]})
        await site.reload(config(moved))
        assert host_of_record(site, moving) == ("rack", CLOSED)
        assert len(site.view.idle_nodes(*RACK, "bare")) == 2
        hosts.failures = 0
        jobs = await site.take(await site.fulfilled("bare", tenant="b"))
        assert [node.hostname for node, _, _ in jobs.nodes.values()] == [OPEN]
        waiting = await site.ask("bare", tenant="b")
        await site.until(lambda: len(site.request(waiting).declined_by) == 1)
        assert reasons(site, waiting, RACK) == [NoFreeMachine("bare")]


def host_of_record(site: Site, node: Node) -> tuple[str | None, str | None]:
    now = site.view.nodes[node.id].record
    return now.pool, now.hostname


# -- metastatic -------------------------------------------------------------------------------------------------------


def _metastatic(**more: object) -> Data:
    slots = {"name": "slot", "backing-label": "big", "max-parallel-jobs": 2, **more}
    return {"name": "meta", "driver": "metastatic", "pools": [{"name": "main", "labels": [slots]}]}


async def test_metastatic_label_may_be_for_some_and_its_backing_pool_has_to_be_open(tmp_path: Path) -> None:
    some = _metastatic(**{"allowed-tenants": ["a"]})
    async with launched(tmp_path, config(provider(pool("big")), some)) as site:
        await site.failed("slot", tenant="b")
        await site.fulfilled("slot", tenant="a")
    async with launched(tmp_path, config(provider(pool("big", allowed_tenants=["a"])), _metastatic())) as site:
        await site.failed("slot", tenant="a")
