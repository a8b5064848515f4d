"""Requests cancelled half-way, launchers that die or lose their session, clouds that refuse."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from itertools import groupby

import pytest

from peers.site import Site
from support.process import Serve
from support.upstream import ZuulPeer
from support.zookeeper import Proxy, ZooKeeperServer

pytestmark = pytest.mark.zookeeper
CONTENDER = re.compile(r"/nodepool/nodes/(\d+)/lock/.+")


def half_way(site: Site, zuul: ZuulPeer, idle: str) -> tuple[str, str]:
    """A request that has got the *idle* node and waits for another to boot, for an hour; its id, and the other's."""
    with site.cloud() as cloud:
        cloud.set("boot-time", 3600)
        request_id = zuul.ask("small", "big")
        node_ids = site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 2)
        (building,) = {*node_ids} - {idle}
        site.requestor.await_data(f"/nodepool/nodes/{building}", lambda node: node["external_id"] is not None)
        site.requestor.await_data(f"/nodepool/nodes/{idle}", lambda node: node["allocated_to"] == request_id)
        zuul("await_request", request_id=request_id, states=["pending"])
        cloud.set("boot-time", None)  # of those still to come
    return request_id, building


def await_let_go(site: Site, request_id: str) -> None:
    """Wait until no launcher works on the request, and the pool reports free capacity."""
    site.requestor.await_children("/nodepool/requests-lock", lambda names: request_id not in names)
    site.await_paused("cloud", is_paused=False)


def assert_taken_over(site: Site, request_id: str, idle: str) -> None:
    """The request went back, with the idle node freed, before it was served."""
    history = site.history()
    path = f"/nodepool/requests/{request_id}"
    assert history.states(path) == ["requested", "pending", "requested", "pending", "fulfilled"]
    reset = [write.record for write in history.of(path) if write.record["state"] == "requested"][-1]
    assert (reset["nodes"], reset["declined_by"]) == ([], [])
    allocations = (write.record["allocated_to"] for write in history.of(f"/nodepool/nodes/{idle}"))
    assert [to for to, _ in groupby(allocations)][-4:] == [None, request_id, None, request_id]


def test_c07_cancelled_while_building_leaves_ready_nodes_free_and_no_lock(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    (idle,) = zuul.spare("small")
    request_id, _ = half_way(site, zuul, idle)
    zuul("cancel", request_id=request_id)
    assert list(zuul("await_idle", count=1)) == [idle]
    await_let_go(site, request_id)
    assert zuul.answer(zuul.ask("small", "big"))["nodes"][0] == idle
    with site.cloud() as cloud:
        assert len(cloud.servers()) == 2


def test_c07_cancelled_while_it_waits_for_room_leaves_the_pool_open(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    with site.cloud() as cloud:
        cloud.fail("create", kind="quota", times=1000)
        request_id = zuul.ask("small")
        site.await_paused("cloud", is_paused=True)
        assert zuul("await_request", request_id=request_id, states=["pending"])["nodes"] == []
        zuul("cancel", request_id=request_id)
        await_let_go(site, request_id)
        zuul("await_no_nodes")
        cloud.clear_faults()
        zuul.take(zuul.ask("small"))


def test_c08_request_of_a_killed_launcher_is_served_by_another(site: Site, zuul: ZuulPeer) -> None:
    """Nodepool's launchers delete building nodes and start again; nodelaunch resumes their launch."""
    first = site.serve()
    (idle,) = zuul.spare("small")
    servers = {server.await_log("pool_registered")["pool_id"]: server for server in (first, site.serve())}
    request_id, building = half_way(site, zuul, idle)
    killed = site.requestor.node(building)["launcher"]
    servers.pop(killed).kill()
    (left,) = servers.values()
    left.await_log("launch_resumed", node_id=building)
    site.boot_all()
    answer = zuul.answer(request_id)
    assert (answer["state"], answer["nodes"]) == ("fulfilled", [idle, building])
    nodes = zuul.take(request_id)
    with site.cloud() as cloud:
        assert {server.id for server in cloud.servers()} == {node["external_id"] for node in nodes}
    assert_taken_over(site, request_id, idle)


def test_c08_building_node_whose_request_is_gone_with_its_launcher_is_deleted(site: Site, zuul: ZuulPeer) -> None:
    first = site.serve()
    (idle,) = zuul.spare("small")
    request_id, building = half_way(site, zuul, idle)
    first.kill()
    zuul("cancel", request_id=request_id)
    site.serve()
    zuul("await_no_node", node_id=building)
    zuul("await_idle", count=1)
    with site.cloud() as cloud:
        assert len(cloud.servers()) == 1


@pytest.mark.newest_zuul
def test_c08_launchers_leave_alone_what_another_is_building(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    site.serve()
    requests = [zuul.ask("small", "big") for _ in range(5)]
    assert [zuul.answer(request_id)["state"] for request_id in requests] == ["fulfilled"] * 5
    makers = defaultdict(set)
    for write in site.history():
        if write.kind == "create" and (found := CONTENDER.match(write.path)):
            makers[found[1]].add(write.session)
    assert len(makers) == 10
    assert [node_id for node_id, sessions in makers.items() if len(sessions) > 1] == []


@pytest.mark.newest_zuul
async def test_c09_launcher_cut_off_writes_nothing_under_its_old_locks_and_comes_back(
    site: Site, zuul: ZuulPeer, zookeeper_server: ZooKeeperServer
) -> None:
    """All its packets are held back until another has taken over; then what it sent meanwhile arrives, too late."""
    async with Proxy(zookeeper_server.port) as proxy:
        cut_off = await asyncio.to_thread(site.serve, port=proxy.port)
        (idle,) = await asyncio.to_thread(zuul.spare, "small")
        request_id, building = await asyncio.to_thread(half_way, site, zuul, idle)
        (session,) = {w.session for w in site.history().of(f"/nodepool/nodes/{building}")}
        other = await asyncio.to_thread(site.serve)
        proxy.passing.clear()
        site.boot_all()  # to the one cut off its launch is done now
        assert (await asyncio.to_thread(zuul.take, request_id))[0]["id"] == idle
        proxy.passing.set()
        await asyncio.to_thread(_serves_again, site, zuul, cut_off, other)
    assert_taken_over(site, request_id, idle)
    writes = site.history().writes
    end = max(place for place, write in enumerate(writes) if write.session == session)
    assert writes[end].kind == "delete"  # the last of what went with the session
    returned = [write for write in writes[end:] if write.kind == "create" and "/components/" in write.path]
    assert len({write.path.rpartition("/")[0] for write in returned}) == len(returned) > 0


def _serves_again(site: Site, zuul: ZuulPeer, cut_off: Serve, other: Serve) -> None:
    """Wait until the launcher that was cut off is registered again, and let it serve alone."""
    cut_off.await_log("pool_registered", count=2)
    other.stop()
    zuul.take(zuul.ask("big"))
    assert cut_off.stop() == 0


@pytest.mark.newest_zuul
def test_c17_launch_refused_for_quota_is_tried_again_and_the_request_stays_pending(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    with site.cloud() as cloud:
        cloud.fail("create", kind="quota")
    request_id = zuul.ask("small")
    (node,) = zuul.take(request_id)
    history = site.history()
    assert history.states(f"/nodepool/requests/{request_id}") == ["requested", "pending", "fulfilled"]
    (refused,) = {write.path for write in history if write.path.startswith("/nodepool/nodes/") and write.data} - {
        f"/nodepool/nodes/{node['id']}"
    }
    assert history.states(refused)[:2] == ["building", "aborted"]
    assert history.when_gone(refused)
    assert [w.record["paused"] for w in history.of(site.component("cloud"))] == [False, True, False]
