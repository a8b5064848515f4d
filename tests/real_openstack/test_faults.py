"""Faults of an OpenStack: each ends as the driver's contract says, with a log line that names the fault, and an
entry in the output of ``nodelaunch explain`` for the request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodelaunch.client.nodes import RequestHandle
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from support.openstack import DEADLINE_S, PROVIDER, Beside, Found, Lab, Start, label, pool, provider
from support.proxy import Answer, Proxy

pytestmark = pytest.mark.openstack


async def ended(handle: RequestHandle) -> NodeRequest:
    async with asyncio.timeout(DEADLINE_S):
        return await handle.finished()


async def served(site: Beside, handle: RequestHandle, *, told: str | None = None) -> None:
    """Check that the request is fulfilled, its nodes are used and returned, and nothing is left. ``told``: the final
    explanation of the request by explain.
    """
    request = await ended(handle)
    assert request.state is RequestState.FULFILLED, await site.explain(request)
    async with site.client.hold(request) as nodes:
        assert nodes
    await site.until_empty()
    assert await asyncio.to_thread(site.lab.found) == Found()
    assert site.complaints == []
    assert told is None or told in await site.explain(request)


async def failed(site: Beside, handle: RequestHandle) -> str:
    """The request failed, and nothing is left; what explain says."""
    request = await ended(handle)
    assert request.state is RequestState.FAILED
    told = await site.explain(request)
    await site.until_empty()
    assert await asyncio.to_thread(site.lab.found) == Found()
    assert site.complaints == []
    return told


async def until(holds: Callable[[], Any]) -> Any:
    """Wait until *holds*, which may take a while to find out; what it says."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await asyncio.to_thread(holds)):
            await asyncio.sleep(0.2)
    return found


def broken(name: str = "broken", **metadata: str) -> dict[str, Any]:
    """A label whose servers have trouble of their own."""
    return label(name, instance_properties=metadata)


# -- the knobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knob", ["lab_spawn_abort", "lab_spawn_fail"])
async def test_boot_that_fails_spends_the_retries(launcher: Start, knob: str) -> None:
    site = await launcher(provider(pool([broken(**{knob: "1"})])))
    told = await failed(site, await site.client.submit(["broken"]))
    entry = await site.logged("launch_failed")
    assert "server went to ERROR: " in entry["detail"]
    assert "server went to ERROR: " in told


async def test_boot_that_fails_once_is_tried_again(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_abort=1")
    site = await launcher(provider(pool(["plain"])))
    handle = await site.client.submit(["plain"])
    await site.logged("launch_failed")
    await lab.fault("clear")
    await served(site, handle, told="launch of node 1 failed, attempt 1: server went to ERROR: ")


async def test_slow_boot_and_slow_deletion_are_waited_for(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_delay=12", "destroy_delay=8")
    site = await launcher(provider(pool(["plain"])))
    await served(site, await site.client.submit(["plain"]))
    assert (await site.logged("node_ready"))["took_s"] >= 12
    assert (await site.logged("node_deleted"))["took_s"] >= 8


@pytest.mark.parametrize("times", [2, 4])
async def test_deletion_that_fails_is_told_of_and_done_later(lab: Lab, launcher: Start, times: int) -> None:
    site = await launcher(provider(pool([broken(lab_destroy_fail_times=str(times))])))
    await served(site, await site.client.submit(["broken"]), told="deletion failed: ")
    entry = await site.logged("delete_failed", times)
    assert "deletion failed: " in entry["detail"]
    assert entry["retry_in_s"] > 5


async def test_server_that_halts_in_use_is_deleted_like_any_other(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool([broken(lab_power_off_after="1")])))
    request = await ended(await site.client.submit(["broken"]))
    async with site.client.hold(request):
        await until(lambda: [each.status for each in lab.cloud().compute.servers()] == ["SHUTOFF"])
    await site.until_empty()
    assert lab.found() == Found()


async def test_console_is_shown_when_a_server_does_not_answer(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "console=kernel panic: no init found")
    site = await launcher(provider(pool(["silent"]), boot_timeout=2, launch_retries=1))
    told = await failed(site, await site.client.submit(["silent"]))
    assert "kernel panic: no init found" in (await site.logged("console"))["text"]
    assert "port 28022 not usable within 2 s: Connection refused" in told


async def test_hosts_that_hang_end_at_the_launch_timeout(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool(["plain"]), launch_timeout=15))
    for host in ("a1", "a2", "b1"):
        await lab.fault("pause", f"nova-compute-compute-{host}")
    handle = await site.client.submit(["plain"])
    entry = await site.logged("launch_failed")
    assert entry["detail"] == "not ready within launch-timeout (15 s)"
    for host in ("a1", "a2", "b1"):
        await lab.fault("resume", f"nova-compute-compute-{host}")
    await served(site, handle, told=f"failed, attempt 1: {entry['detail']}")


# -- services that are away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["nova", "neutron", "keystone", "glance"])
async def test_service_that_is_down_is_waited_for(lab: Lab, launcher: Start, service: str) -> None:
    """No launch attempt is spent: there is just one."""
    site = await launcher(provider(pool(["everything"]), launch_retries=1))
    await lab.fault("stop", service)
    handle = await site.client.submit(["everything"])
    told = None
    if service in ("nova", "neutron"):
        entry = await site.logged("provider_unavailable")
        told = entry["detail"]
        assert entry["provider"] == PROVIDER
        assert "HTTP 5" in entry["detail"] or "Connection re" in entry["detail"], entry
    await lab.fault("start")
    await served(site, handle, told=told)


async def test_cloud_that_is_away_for_a_minute(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_delay=10")
    site = await launcher(provider(pool(["plain"]), launch_retries=1))
    begun = await site.client.submit(["plain"])
    await until(lambda: lab.found().servers)
    await lab.fault("stop", "nova", "neutron", "keystone", "glance")
    asked_meanwhile = await site.client.submit(["plain"])
    await asyncio.sleep(60)  # how long it is away is what is tested
    told = await site.explain(begun.id) + await site.explain(asked_meanwhile.id)
    await lab.fault("start")
    assert "Connection refused" in told or "HTTP 5" in told, told
    assert (await ended(begun)).state is RequestState.FULFILLED
    assert (await ended(asked_meanwhile)).state is RequestState.FULFILLED
    for handle in (begun, asked_meanwhile):
        async with site.client.hold(handle.request):
            pass
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


async def test_requests_that_hang_end_at_the_api_timeout(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool(["plain"]), launch_retries=1), cloud={"api_timeout": 3})
    await lab.fault("pause", "nova")
    handle = await site.client.submit(["plain"])
    entry = await site.logged("provider_unavailable")
    assert "timed out" in entry["detail"] or "no answer within" in entry["detail"]
    await lab.fault("resume", "nova")
    await served(site, handle, told=entry["detail"])


async def test_answers_that_take_20_seconds_are_waited_for(lab: Lab, launcher: Start) -> None:
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(
            provider(pool(["plain"]), launch_retries=1), cloud={"compute_endpoint_override": proxy.url}
        )
        await served(site, await site.client.submit(["plain"]))
        proxy.delay_s = 20.0
        await served(site, await site.client.submit(["plain"]))


# -- single answers -------------------------------------------------------------------------------------------------


async def test_retry_after_is_kept_to(lab: Lab, launcher: Start) -> None:
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(
            provider(pool(["plain"]), launch_retries=1), cloud={"compute_endpoint_override": proxy.url}
        )
        proxy.answers = [Answer("POST", "/servers$", 503, {"Retry-After": "4"}, b"maintenance", times=8)]
        handle = await site.client.submit(["plain"])
        entry = await site.logged("provider_unavailable")
        assert "HTTP 503" in entry["detail"]
        proxy.answers = []
        await served(site, handle, told=f"waits for the provider: {entry['detail']}")
        assert (await site.logged("node_ready"))["took_s"] >= 4


@pytest.mark.parametrize("status", [429, 500, 502])
async def test_passing_error_spends_no_retry(lab: Lab, launcher: Start, status: int) -> None:
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(
            provider(pool(["plain"]), launch_retries=1), cloud={"compute_endpoint_override": proxy.url}
        )
        proxy.answers = [Answer("POST", "/servers$", status)]
        handle = await site.client.submit(["plain"])
        entry = await site.logged("provider_unavailable")
        assert f"HTTP {status}" in entry["detail"]
        await served(site, handle, told=f"waits for the provider: {entry['detail']}")


async def test_token_that_is_refused_is_renewed(lab: Lab, launcher: Start) -> None:
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(
            provider(pool(["plain"]), launch_retries=1), cloud={"compute_endpoint_override": proxy.url}
        )
        proxy.answers = [Answer("POST", "/servers$", 401), Answer("GET", "/servers/detail", 401)]
        await served(site, await site.client.submit(["plain"]))
        assert [status for _, status in proxy.given] == [401, 401]


async def test_token_that_is_revoked_meanwhile_is_renewed(lab: Lab, launcher: Start) -> None:
    """Tokens are revoked once at rest, and once while a server boots. That server may break: Nova boots it with the
    same token.
    """
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(
            provider(pool(["plain"]), launch_retries=2), cloud={"compute_endpoint_override": proxy.url}
        )
        await served(site, await site.client.submit(["plain"]))
        revoked = set(proxy.tokens)
        await asyncio.to_thread(lab.revoke, sorted(revoked))
        await served(site, await site.client.submit(["plain"]))
        refused = [call for call, status in proxy.passed if status == 401]
        assert refused
        await lab.fault("set", "spawn_delay=10")
        handle = await site.client.submit(["plain"])
        await until(lambda: lab.found().servers)
        await asyncio.to_thread(lab.revoke, sorted(proxy.tokens - revoked))
        await served(site, handle)
        assert len([call for call, status in proxy.passed if status == 401]) > len(refused)


async def test_project_that_is_locked_out_is_waited_for(lab: Lab, launcher: Start) -> None:
    with Proxy(lab.endpoint("compute")) as proxy:
        site = await launcher(provider(pool(["plain"])), cloud={"compute_endpoint_override": proxy.url})
        proxy.answers = [Answer("POST", "/servers$", 401, times=2)]
        handle = await site.client.submit(["plain"])
        entry = await site.logged("provider_unavailable")
        assert "HTTP 401" in entry["detail"]
        await served(site, handle, told=f"waits for the provider: {entry['detail']}")


# -- capacity and quota ---------------------------------------------------------------------------------------------


async def test_flavor_that_fits_no_host_is_declined(launcher: Start) -> None:
    site = await launcher(provider(pool(["nofit"])))
    told = await failed(site, await site.client.submit(["nofit"]))
    assert "No valid host was found" in (await site.logged("launch_failed"))["detail"]
    assert "No valid host was found" in told


async def test_zone_under_maintenance_is_left_for_another(lab: Lab, launcher: Start) -> None:
    admin = lab.cloud("devcloud-admin").compute
    (service,) = admin.services(binary="nova-compute", host="compute-b1")
    admin.disable_service(service)
    try:
        site = await launcher(provider(pool(["plain"], availability_zones=["az-b", "az-a"]), launch_retries=2))
        for _ in range(3):
            handle = await site.client.submit(["plain"])
            request = await ended(handle)
            assert request.state is RequestState.FULFILLED, await site.explain(request)
            async with site.client.hold(request) as (node,):
                assert node.az == "az-a"
        await site.until_empty()
    finally:
        admin.enable_service(service)


async def test_flavor_beyond_the_quota_is_declined(launcher: Start) -> None:
    site = await launcher(provider(pool(["huge"])))
    told = await failed(site, await site.client.submit(["huge"]))
    assert "4096 cores wanted" in told


async def test_network_that_runs_out_of_addresses_is_declined(lab: Lab, launcher: Start) -> None:
    tiny = label("tiny", networks=["tinynet"])
    site = await launcher(provider(pool([tiny]), launch_retries=1))
    handles = [await site.client.submit(["tiny"]) for _ in range(9)]
    requests = [await ended(handle) for handle in handles]
    states = {request.state for request in requests}
    assert states == {RequestState.FULFILLED, RequestState.FAILED}
    entry = await site.logged("launch_failed")
    assert entry["error"] == "InsufficientCapacityError", entry
    told = await site.explain(next(each for each in requests if each.state is RequestState.FAILED))
    assert "No fixed IP addresses available" in told or "fixed" in told.lower(), told
    for request in requests:
        if request.state is RequestState.FULFILLED:
            async with site.client.hold(request):
                pass
    await site.until_empty()
    assert lab.found() == Found()


class Others:
    """Servers of another user in the project whose quota is three instances."""

    def __init__(self, lab: Lab) -> None:
        self.cloud = lab.cloud("devcloud-small")
        (image,) = self.cloud.image.images(name="debian-12")
        network, flavor = self.cloud.network.find_network("loopnet"), self.cloud.compute.find_flavor("lab.tiny")
        self._kind = {"image_id": image.id, "flavor_id": flavor.id, "networks": [{"uuid": network.id}]}

    def take(self, count: int) -> None:
        for _ in range(count):
            self.cloud.compute.create_server(name="other", **self._kind)

    def leave(self) -> None:
        for server in self.cloud.compute.servers(name="other"):
            self.cloud.compute.delete_server(server)

    def empty(self) -> None:
        """Delete all of the project's servers, whosever they are, and wait until they are gone."""
        deadline = time.monotonic() + DEADLINE_S
        while servers := list(self.cloud.compute.servers()):
            assert time.monotonic() < deadline
            for server in servers:
                self.cloud.compute.delete_server(server)
            time.sleep(0.5)


@pytest.fixture
def others(lab: Lab) -> Iterator[Others]:
    made = Others(lab)
    made.empty()
    yield made
    made.empty()


SMALL = {"cloud": "devcloud-small", "launch_retries": 1}


async def test_quota_that_others_use_up_is_waited_for(launcher: Start, others: Others) -> None:
    """The launcher has a node when two unknown servers appear; the next node waits until these are deleted."""
    site = await launcher(provider(pool(["plain"], security_groups=[]), **SMALL))
    request = await ended(await site.client.submit(["plain"]))
    async with site.client.hold(request):
        await asyncio.to_thread(others.take, 2)
        handle = await site.client.submit(["plain"])
        assert "uota" in (await site.logged("launch_aborted"))["detail"]
        async with asyncio.timeout(DEADLINE_S):
            while "node 1: plain: waiting" not in (told := await site.explain(handle.id)):
                await asyncio.sleep(0.5)
        assert "uota exceeded" in told
        await asyncio.to_thread(others.leave)
        request = await ended(handle)
        assert request.state is RequestState.FULFILLED
        async with site.client.hold(request):
            pass
    await site.until_empty()
    assert site.complaints == []


async def test_quota_that_leaves_no_room_for_us_at_all_is_declined(launcher: Start, others: Others) -> None:
    await asyncio.to_thread(others.take, 3)
    site = await launcher(provider(pool(["plain"], security_groups=[]), **SMALL))
    told = await failed(site, await site.client.submit(["plain"]))
    assert "needs 1 instance; the limit is 0" in told


# -- servers that others touch --------------------------------------------------------------------------------------


def spawning(lab: Lab) -> list[Any]:
    """All servers, if they are in their hypervisor's hands: one that is touched before may still become active."""
    servers = list(lab.cloud().compute.servers())
    return servers if all(server.task_state == "spawning" for server in servers) else []


async def test_server_that_vanishes_while_it_boots_is_made_again(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_delay=15")
    site = await launcher(provider(pool(["plain"])))
    handle = await site.client.submit(["plain"])
    for server in await until(lambda: spawning(lab)):
        lab.cloud().compute.delete_server(server)
    assert "it was deleted" in (await site.logged("launch_failed"))["detail"]
    await lab.fault("clear")
    await served(site, handle, told="it was deleted")


async def test_server_that_goes_to_error_while_it_boots_is_made_again(lab: Lab, launcher: Start) -> None:
    await lab.fault("set", "spawn_delay=15")
    site = await launcher(provider(pool(["plain"])))
    handle = await site.client.submit(["plain"])
    for server in await until(lambda: spawning(lab)):
        lab.cloud("devcloud-admin").compute.reset_server_state(server.id, "error")
    assert "server went to ERROR" in (await site.logged("launch_failed"))["detail"]
    await lab.fault("clear")
    await served(site, handle, told="server went to ERROR")


async def test_image_replaced_under_its_name_is_booted_from_then_on(lab: Lab, launcher: Start) -> None:
    images = lab.cloud().image
    kind = {"disk_format": "raw", "container_format": "bare", "visibility": "private"}
    old = images.create_image(name="replaced", data=b"old" * 100, **kind)
    site = await launcher(
        provider(pool([label("replaced", cloud_image="replaced")]), cloud_images=[{"name": "replaced"}])
    )
    try:
        await served(site, await site.client.submit(["replaced"]))
        images.delete_image(old)
        new = images.create_image(name="replaced", data=b"new" * 100, **kind)
        request = await ended(await site.client.submit(["replaced"]))
        assert request.state is RequestState.FULFILLED
        async with site.client.hold(request) as (node,):
            assert lab.cloud().compute.get_server(node.external_id).image.id == new.id
        await site.until_empty()
    finally:
        for image in images.images(name="replaced"):
            images.delete_image(image)
    assert site.complaints == []
