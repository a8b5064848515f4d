"""Behaviour when limits of a pool, a cloud or a tenant are reached. A test has the name of Nodepool's test of the same
behaviour.

All tests have the same difference: a request without free capacity stays `requested`, unlocked, where Nodepool sets it
to `pending` and stops the whole pool. Apart from that state, its requestor sees the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.protocol import paths
from nodelaunch.protocol.quota import CORES, Limits
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.protocol.verdicts import Defer, TenantFull
from support.sites import Site, config, is_paused, label, launched, pool, provider

pytestmark = pytest.mark.looptime
VOLUME = label("small", boot_from_volume=True, volume_size=50)


@asynccontextmanager
async def _two_nodes_fit(
    folder: Path,
    what: Mapping[str, Any] | str = "small",
    *,
    of_pool: Mapping[str, Any] | None = None,
    of_cloud: Mapping[str, Any] | None = None,
) -> AsyncIterator[Site]:
    cloud = provider(pool(dict(what) if isinstance(what, Mapping) else what, **(of_pool or {})))
    cloud["limits"] = dict(of_cloud or {})
    async with launched(folder, config(cloud)) as site:
        yield site


async def _served_two_by_two(site: Site) -> None:
    """Serve two requests of two nodes where only two fit: the second waits, blocks no other request, and is served
    when both nodes are free.
    """
    first = await site.fulfilled("small", "small")
    second = await site.ask("small", "small")
    states = site.states_of(second)
    jobs = await site.take(first)
    await site.until(lambda: is_paused(site))
    await site.a_while()
    assert len(site.cloud.servers()) == 2
    await jobs.give_back(first.nodes[0])
    await site.a_while()
    assert (states, len(site.cloud.servers())) == ([RequestState.REQUESTED], 1)
    await jobs.give_back(first.nodes[1])
    assert (await second.finished()).state is RequestState.FULFILLED
    await site.until(lambda: not is_paused(site))
    assert len(site.creates()) == 4
    assert site.cloud.peak()["instances"] == 2


# -- limits of a pool -----------------------------------------------------------------------------------------------


async def test_node_assignment_at_pool_quota_cores(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_pool={"max_cores": 8}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_pool_quota_instances(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_pool={"max_servers": 2}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_pool_quota_ram(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_pool={"max_ram": 2 * 8192}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_pool_quota_volumes(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, VOLUME, of_pool={"max_volumes": 2}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_pool_quota_volume_gb(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, VOLUME, of_pool={"max_volume_gb": 100}) as site:
        await _served_two_by_two(site)
        await site.failed("small", "small", "small")  # more than could ever fit; Nodepool pauses for it for ever


# -- limits of the cloud --------------------------------------------------------------------------------------------


async def test_node_assignment_at_cloud_cores_quota(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_cloud={"max-cores": 8}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_cloud_instances_quota(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_cloud={"max-servers": 2}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_cloud_ram_quota(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, of_cloud={"max-ram": 2 * 8192}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_cloud_volumes_quota(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, VOLUME, of_cloud={"max-volumes": 2}) as site:
        await _served_two_by_two(site)


async def test_node_assignment_at_cloud_volume_gb_quota(tmp_path: Path) -> None:
    async with _two_nodes_fit(tmp_path, VOLUME, of_cloud={"max-volume-gb": 100}) as site:
        await _served_two_by_two(site)


# -- limits of a tenant ---------------------------------------------------------------------------------------------


async def _tenant_waits(folder: Path, what: Mapping[str, Any] | str = "small", **limits: int) -> None:
    """A tenant that has two nodes and may have no more waits, alone, until one of them is free."""
    wanted = dict(what) if isinstance(what, Mapping) else what
    rows = [{"tenant-name": "acme", **{name.replace("_", "-"): value for name, value in limits.items()}}]
    async with launched(folder, config(provider(pool(wanted)), tenant_resource_limits=rows)) as site:
        first = await site.fulfilled("small", "small", tenant="acme")
        second = await site.ask("small", tenant="acme")
        states = site.states_of(second)
        await site.fulfilled("small", tenant="other")
        await site.fulfilled("small")
        jobs = await site.take(first)
        await site.a_while()
        assert states == [RequestState.REQUESTED]
        assert site.request(second).declined_by == ()
        assert not is_paused(site), "a full tenant is nobody else's matter"
        verdict = site.launcher.scheduler.explainer.verdict(second.id, ("cloud", "main"))
        assert isinstance(verdict, Defer)
        assert all(isinstance(reason, TenantFull) for reason in verdict.reasons)
        await jobs.give_back(first.nodes[0])
        assert (await second.finished()).state is RequestState.FULFILLED


async def test_node_assignment_at_tenant_quota_cores(tmp_path: Path) -> None:
    await _tenant_waits(tmp_path, max_cores=8)


async def test_node_assignment_at_tenant_quota_instances(tmp_path: Path) -> None:
    await _tenant_waits(tmp_path, max_servers=2)


async def test_node_assignment_at_tenant_quota_ram(tmp_path: Path) -> None:
    await _tenant_waits(tmp_path, max_ram=2 * 8192)


async def test_node_assignment_at_tenant_quota_volumes(tmp_path: Path) -> None:
    await _tenant_waits(tmp_path, VOLUME, max_volumes=2)


async def test_node_assignment_at_tenant_quota_volume_gb(tmp_path: Path) -> None:
    await _tenant_waits(tmp_path, VOLUME, max_volume_gb=100)


async def test_node_assignment_at_tenant_quota_min_ready(tmp_path: Path) -> None:
    top = config(
        provider(pool("small")),
        labels={"small": {"min-ready": 3}},
        tenant_resource_limits=[{"tenant-name": "acme", "max-servers": 1}],
    )
    async with launched(tmp_path, top) as site:
        ready = {node.id for node in await site.until_idle(3)}
        first = await site.fulfilled("small", tenant="acme")
        assert set(first.nodes) < ready
        second = await site.ask("small", tenant="acme")
        states = site.states_of(second)
        jobs = await site.take(first)
        await site.a_while()
        assert states == [RequestState.REQUESTED], "nodes that are ready count like those that are made"
        assert len(site.idle) == 3
        await jobs.give_all_back()
        assert (await second.finished()).state is RequestState.FULFILLED


# -- at quota -------------------------------------------------------------------------------------------------------


async def test_decline_at_quota(tmp_path: Path) -> None:
    top = config(provider(pool("small", max_servers=1)), labels={"elsewhere": {}})
    async with launched(tmp_path, top) as site:
        await site.fulfilled("small")
        waiting = await site.ask("small")
        states = site.states_of(waiting)
        await site.until(lambda: is_paused(site))
        await site.failed("elsewhere")
        assert (states, is_paused(site)) == ([RequestState.REQUESTED], True)


async def test_over_quota(tmp_path: Path) -> None:
    """The cloud gives less than it says: the node is aborted, the request waits as pending, nothing is left over."""
    async with launched(tmp_path, config(provider(pool("small")))) as site:
        site.cloud.fail("create", kind="quota", times=2)
        handle = await site.ask("small")
        states = site.states_of(handle)
        aborted = _seen_in(site, NodeState.ABORTED)
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert states == [RequestState.REQUESTED, RequestState.PENDING, RequestState.FULFILLED]
        await site.until(lambda: list(site.view.nodes) == list(request.nodes))
        assert len(aborted) == 2
        assert aborted.isdisjoint(request.nodes)
        assert len(site.cloud.servers()) == 1


def _seen_in(site: Site, state: NodeState) -> set[str]:
    """Filled with the nodes that are in *state* at some time."""
    found: set[str] = set()
    site.view.subscribe(lambda _note: found.update(node.id for node in site.nodes(state)))
    return found


class NoCores(FakeDriver):
    """Its cloud says that it has no cores, and gives them all the same."""

    async def quota_limits(self) -> Limits:
        return Limits({CORES: 0})


NO_CORES = DriverRegistry([DriverPlugin("fake", FakeProvider, NoCores)])


async def test_ignore_provider_quota_false(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"))), drivers=NO_CORES) as site:
        await site.failed("small")
        assert site.creates() == []


async def test_ignore_provider_quota_true(tmp_path: Path) -> None:
    top = config(provider(pool("small", ignore_provider_quota=True, max_servers=1)))
    async with launched(tmp_path, top, drivers=NO_CORES) as site:
        first = await site.fulfilled("small")
        second = await site.ask("small")
        states = site.states_of(second)
        await site.until(lambda: is_paused(site))
        await site.failed("small", "small")
        assert states == [RequestState.REQUESTED]
        await (await site.take(first)).give_all_back()
        assert (await second.finished()).state is RequestState.FULFILLED


async def test_ignore_provider_quota_true_with_provider_error(tmp_path: Path) -> None:
    top = config(provider(pool("small", ignore_provider_quota=True)))
    async with launched(tmp_path, top) as site:
        site.cloud.set("max-servers", 0)
        handle = await site.ask("small")
        aborted = _seen_in(site, NodeState.ABORTED)
        await site.until(lambda: bool(aborted))
        assert site.request(handle).state is RequestState.PENDING
        assert site.cloud.servers() == []
        site.cloud.set("max-servers", None)
        assert (await handle.finished()).state is RequestState.FULFILLED


async def test_multiple_paused_requests(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=1)))) as site:
        first = await site.fulfilled("small")
        waiting = [await site.ask("small") for _ in range(3)]
        await site.until(lambda: is_paused(site))
        served: list[NodeRequest] = [first]
        for handle in waiting:
            assert [site.request(each).state for each in waiting[len(served) - 1 :]] == (
                [RequestState.REQUESTED] * (4 - len(served))
            )
            await (await site.take(served[-1])).give_all_back()
            request = await handle.finished()
            assert request.state is RequestState.FULFILLED
            served.append(request)
        await site.until(lambda: not is_paused(site))


async def test_provider_wont_wedge(tmp_path: Path) -> None:
    top = config(provider(pool("small", "big", max_servers=2)), labels={"small": {"min-ready": 2}})
    async with launched(tmp_path, top) as site:
        before = {node.id for node in await site.until_idle(2)}
        (node,) = await site.got("big")
        assert node.type == ("big",)
        left = {node.id for node in site.nodes() if node.type == ("small",) and node.state is NodeState.READY}
        assert len(left) == 1, "one idle node gave way, no more than was needed"
        assert left < before


async def test_fail_minready_request_at_capacity(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", max_servers=1)))) as site:
        await site.fulfilled("small")
        spare = NodeRequest(
            id=paths.RequestId(""), node_types=("small",), reuse=False, requestor=paths.MIN_READY_REQUESTOR,
            state_time=site.now,
        )  # fmt: skip
        where = paths.new_request(paths.MIN_READY_PRIORITY)
        entry = await site.client.store.create(where, spare.to_bytes(), sequence=True)
        request_id = paths.request_id_at(entry.path)
        assert request_id is not None
        await site.until(lambda: site.view.requests[request_id].record.state is RequestState.FAILED)
        assert len(site.view.requests[request_id].record.declined_by) == 1


async def test_launchNode_node_fault_message(tmp_path: Path) -> None:  # noqa: N802  Nodepool's name
    """A server that breaks for lack of quota is no failed launch; the limits are fetched again."""
    async with launched(tmp_path, config(provider(pool("small"), launch_retries=1))) as site:
        runtime = site.launcher.providers["cloud"]
        assert runtime.cloud.limits["instances"] == 20
        site.cloud.set("max-servers", 7)
        site.cloud.fail("boot", kind="quota")
        handle = await site.ask("small")
        states = site.states_of(handle)
        assert (await handle.finished()).state is RequestState.FULFILLED
        assert states == [RequestState.REQUESTED, RequestState.PENDING, RequestState.FULFILLED]
        assert runtime.cloud.limits["instances"] == 7
        assert len(site.creates()) == 2
        assert len(site.cloud.servers()) == 1
