"""Choice of the pool for a request, of its nodes, and order of requests."""

from __future__ import annotations

import pytest
from kazoo.recipe.lock import Lock

from peers.site import Site, pool, provider
from support.upstream import ZuulPeer

pytestmark = pytest.mark.zookeeper


def provider_of(zuul: ZuulPeer, request_id: str) -> str:
    """The provider that served a request; its nodes are in use from then on."""
    (name,) = {node["provider"] for node in zuul.take(request_id)}
    return str(name)


@pytest.mark.parametrize("labels", [["nobodys"], ["small", "nobodys"], ["small", "big"]], ids="+".join)
def test_c04_request_nobody_can_serve_fails_with_every_pool_named(
    site: Site, zuul: ZuulPeer, labels: list[str]
) -> None:
    site.serve(provider("one", pool("main", "small"), pool("more", "small")), provider("two", pool("main", "big")))
    request_id = zuul.ask(*labels)
    answer = zuul.answer(request_id)
    assert answer["state"] == "failed"
    record = site.record(f"/nodepool/requests/{request_id}")
    assert sorted(record["declined_by"]) == site.pool_ids()
    assert len(site.pool_ids()) == 3
    assert (record["nodes"], record["node_types"]) == ([], labels)
    assert site.requestor.children("/nodepool/nodes") == []
    assert zuul("delete_failed", request_id=request_id)


@pytest.mark.newest_zuul
def test_c05_pool_of_better_priority_serves_until_it_is_full(site: Site, zuul: ZuulPeer) -> None:
    """Pools of one launcher need not tell each other: the better one is paused only if a request has to wait for it."""
    site.serve(
        provider("worse", pool("main", "small"), priority=20),
        provider("better", pool("main", "small", max_servers=1), priority=10),
    )
    (node,) = zuul.take(first := zuul.ask("small"))
    assert node["provider"] == "better"
    assert provider_of(zuul, zuul.ask("small")) == "worse"
    zuul("give_back", request_id=first)
    zuul("await_no_node", node_id=node["id"])
    site.await_paused("better", is_paused=False)
    assert provider_of(zuul, zuul.ask("small")) == "better"
    paused = [w.record["paused"] for w in site.history().of(site.component("better"))]
    assert paused == [False]


def test_c06_wanted_provider_serves_unless_it_is_not_there_or_has_declined(site: Site, zuul: ZuulPeer) -> None:
    site.serve(
        provider("preferred", pool("main", "small"), priority=10),
        provider("wanted", pool("main", "small"), priority=20, launch_retries=1),
    )
    assert provider_of(zuul, zuul.ask("small")) == "preferred"
    assert provider_of(zuul, zuul.ask("small", provider="wanted")) == "wanted"
    assert provider_of(zuul, zuul.ask("small", provider="elsewhere")) == "preferred"
    with site.cloud("wanted") as cloud:
        cloud.fail("create")
    declined = zuul.ask("small", provider="wanted")
    assert provider_of(zuul, declined) == "preferred"
    (by,) = site.history().of(f"/nodepool/requests/{declined}")[-1].record["declined_by"]
    assert by == site.record(site.component("wanted"))["id"]


@pytest.mark.newest_zuul
def test_c15_only_idle_unlocked_nodes_of_the_pool_are_reused(site: Site, zuul: ZuulPeer) -> None:
    elsewhere = []
    for one in (provider("other", pool("main", "small")), provider("cloud", pool("side", "small"))):
        server = site.serve(one)
        elsewhere += zuul.spare("small")
        server.stop()
    main, side = pool("main", "small"), pool("side", "small", max_servers=0)
    site.serve(provider("cloud", main, side), provider("other", pool("main", "small", max_servers=0)))
    (allocated,) = zuul.answer(zuul.ask("small"))["nodes"]
    (idle,) = zuul.spare("small")
    assert len({*elsewhere, allocated, idle}) == 4
    lock = Lock(site.client, f"/nodepool/nodes/{idle}/lock")
    assert lock.acquire(timeout=30)
    (launched,) = zuul.answer(zuul.ask("small"))["nodes"]
    assert launched not in {*elsewhere, allocated, idle}
    lock.release()
    assert zuul.answer(zuul.ask("small"))["nodes"] == [idle]


@pytest.mark.newest_zuul
def test_c15_request_without_reuse_gets_new_nodes_only(site: Site, zuul: ZuulPeer) -> None:
    """Zuul never asks for this."""
    site.serve()
    idle = zuul.spare("small")
    for reuse in (False, True):
        request_id = site.requestor.submit("small", reuse=reuse)
        answer = site.requestor.await_state(request_id, "fulfilled", "failed")
        assert (answer["nodes"] == idle) is reuse


@pytest.mark.newest_zuul
def test_c15_nodes_of_one_request_are_reused_from_one_zone(site: Site, zuul: ZuulPeer) -> None:
    zones = {"small": "az1", "big": "az2"}
    for label, zone in zones.items():
        server = site.serve(provider("cloud", pool("main", "small", "big", availability_zones=[zone])))
        zuul.spare(label)
        server.stop()
    idle = {node["az"]: node["id"] for node in zuul("nodes").values()}
    assert idle.keys() == set(zones.values())
    site.serve(provider("cloud", pool("main", "small", "big", availability_zones=["az1", "az2"])))
    nodes = zuul.take(zuul.ask("small", "big"))
    assert {node["az"] for node in nodes} == {"az1"}
    assert nodes[0]["id"] == idle["az1"]


def test_c16_tenant_over_its_limit_waits_and_is_served_when_it_gave_nodes_back(site: Site, zuul: ZuulPeer) -> None:
    site.serve(tenant_resource_limits=[{"tenant-name": "tenant", "max-servers": 1}])
    (node,) = zuul.take(first := zuul.ask("small"))
    second = zuul.ask("small")
    zuul.take(zuul.ask("small", tenant="other"))
    zuul("give_back", request_id=first)
    zuul.take(second)
    history = site.history()
    returned = history.when(f"/nodepool/nodes/{node['id']}", state="used")
    assert history.when(f"/nodepool/requests/{second}", state="pending") > returned
    written = history.of(f"/nodepool/requests/{second}")
    assert [write.record["state"] for write in written] == ["requested", "pending", "fulfilled"]
    assert all(not write.record.get("declined_by") for write in written)


def test_c20_revised_priority_changes_the_order_of_those_that_wait(site: Site, zuul: ZuulPeer) -> None:
    site.serve(provider("cloud", pool("main", "small", max_servers=1)))
    zuul.take(current := zuul.ask("small"))
    waiting = [zuul.ask("small", relative_priority=5) for _ in range(3)]
    zuul("await_request", request_id=waiting[-1], states=["requested"])
    assert zuul("revise", request_id=waiting[2], relative_priority=1)
    assert zuul("revise", request_id=waiting[0], relative_priority=9)
    for expected in reversed(waiting):
        zuul("give_back", request_id=current)
        zuul.take(expected)
        current = expected
    history = site.history()
    accepted = [history.when(f"/nodepool/requests/{request_id}", state="pending") for request_id in waiting]
    assert accepted == sorted(accepted, reverse=True)
    last = history.of(f"/nodepool/requests/{waiting[0]}")[-1].record
    assert (last["state"], last["relative_priority"]) == ("fulfilled", 9)


def test_c20_revising_a_pending_request_has_no_effect(site: Site, zuul: ZuulPeer) -> None:
    site.serve(provider(boot_time=3600))
    zuul("await_request", request_id=(request_id := zuul.ask("small")), states=["pending"])
    assert not zuul("revise", request_id=request_id, relative_priority=7)
    site.boot_all()
    assert zuul.answer(request_id)["state"] == "fulfilled"
    assert {write.record["relative_priority"] for write in site.history().of(f"/nodepool/requests/{request_id}")} == {0}
