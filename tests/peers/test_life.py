"""The life of a request and its nodes, from Zuul's submit to the end of the nodes."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from peers.site import Site, await_servers, pool, provider
from support import namespaces
from support.upstream import ZuulPeer
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICGczTVW5c86w/TCKPbsg/2K/PwUqxzxku+10TkUx4Jm"
LAB = {
    "name": "lab",
    "driver": "static",
    "pools": [
        {
            "name": "rack",
            "node-attributes": {"executor-zone": "rack"},
            "nodes": [{"name": "192.0.2.1", "labels": ["bare"], "host-key-checking": False, "host-key": KEY}],
        }
    ],
}


def test_c01_records_of_an_eventful_life_are_read_by_zuul_as_they_were_written(site: Site, zuul: ZuulPeer) -> None:
    """A static node, nodes kept ready, requests answered, cancelled, failed, a node held; the rest is in `zuul`."""
    labels = [{"name": "small", "min-ready": 1}, {"name": "big"}, {"name": "bare"}]
    site.serve(provider(launch_retries=1), LAB, labels=labels)
    zuul("await_idle", count=2)
    assert sorted(zuul("labels")) == [["bare"], ["big", "small"]]

    request_id = zuul.ask("bare")
    assert zuul.answer(request_id)["zone"] == "rack"
    (bare,) = zuul.take(request_id)
    assert (bare["interface_ip"], bare["host_keys"], bare["python_path"]) == ("192.0.2.1", [KEY], "auto")
    zuul("give_back", request_id=request_id)

    with site.cloud() as cloud:
        cloud.fail("create")
        failed = zuul.ask("big")
        assert zuul.answer(failed)["state"] == "failed"
        cloud.set("boot-time", 3600)
        cancelled = zuul.ask("big", "big")
        await_servers(cloud, 3)  # created from now on, they would boot at once, and be kept as idle nodes
        zuul("cancel", request_id=cancelled)
        cloud.set("boot-time", None)
    zuul("delete_failed", request_id=failed)

    zuul.take(held := zuul.ask("small"))
    hold_id = zuul("hold", request_id=held, expiration_s=None, reason="a look")
    zuul("give_back", request_id=held)
    zuul("remove_hold", hold_id=hold_id)

    cached = zuul("await_idle", count=2)
    node_ids = site.requestor.children("/nodepool/nodes")
    assert cached == {node_id: {"id": node_id, **site.requestor.node(node_id)} for node_id in node_ids}
    zuul("await_no_requests")


def test_c02_nodes_are_unlocked_then_offered_taken_used_and_deleted(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    request_id = zuul.ask("small", "big")
    answer = zuul.answer(request_id)
    assert answer["state"] == "fulfilled"
    history = site.history()
    fulfilled = history.when(f"/nodepool/requests/{request_id}", state="fulfilled")
    for node_id in answer["nodes"]:
        assert history.when_gone(f"/nodepool/nodes/{node_id}/lock")[-1] < fulfilled
    assert history.when_gone(f"/nodepool/requests-lock/{request_id}")[0] > fulfilled

    nodes = zuul("accept", request_id=request_id)
    assert [node["type"] for node in nodes] == [["small"], ["big"]]
    assert [node["id"] for node in nodes] == answer["nodes"]
    zuul("await_no_request", request_id=request_id)
    assert {node["state"] for node in zuul("use", request_id=request_id)} == {"in-use"}
    with site.cloud() as cloud:
        assert {server.id for server in cloud.servers()} == {node["external_id"] for node in nodes}
        zuul("give_back", request_id=request_id)
        zuul("await_no_nodes")
        assert cloud.servers() == []
    for node in nodes:
        path = f"/nodepool/nodes/{node['id']}"
        assert site.history().states(path) == ["building", "ready", "in-use", "used", "deleting"]


def test_c03_requestor_data_is_kept_to_the_byte(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    submitted = zuul("submit", labels=["small"])
    data = submitted["body"]["requestor_data"]
    assert data["span_info"]["trace_id"].bit_length() > 64
    zuul.answer(submitted["id"])
    written = site.history().of(f"/nodepool/requests/{submitted['id']}")
    assert [write.record["state"] for write in written] == ["requested", "pending", "fulfilled"]
    assert all(json.dumps(data).encode() in write.data for write in written)


def test_c10_nodes_of_a_dead_executor_are_deleted_or_if_unused_freed(
    site: Site, zuul: ZuulPeer, zookeeper_server: ZooKeeperServer, tmp_path: Path
) -> None:
    site.serve()
    in_use, unused = zuul.ask("small"), zuul.ask("big")
    node_ids = {}
    executor = ZuulPeer(zuul.version, tmp_path / "executor.log")
    executor.open(zookeeper_server, site.chroot, timeout_s=3)
    site.guests |= executor.sessions
    for request_id, label in ((in_use, "small"), (unused, "big")):
        (node_ids[label],) = zuul.answer(request_id)["nodes"]
        executor("accept_for", request_id=request_id, labels=[label])
    executor("use", request_id=in_use)
    zuul("await_node", node_id=node_ids["small"], states=["in-use"])
    executor.kill()
    (left,) = zuul("await_idle", count=1).values()
    assert left["id"] == node_ids["big"]
    assert (left["tenant_name"], left["requestor"]) == (None, None)
    with site.cloud() as cloud:
        assert [server.id for server in cloud.servers()] == [left["external_id"]]


def test_c11_node_returned_unused_is_freed_and_given_to_the_next(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    request_id = zuul.ask("small")
    (node_id,) = zuul.answer(request_id)["nodes"]
    zuul("accept", request_id=request_id)
    zuul("give_back", request_id=request_id)
    (idle,) = zuul("await_idle", count=1).values()
    assert (idle["id"], idle["tenant_name"]) == (node_id, None)
    freed = site.history().of(f"/nodepool/nodes/{node_id}")[-1]
    let_go = [w.path for w in site.history() if w.zxid == freed.zxid and w.kind == "delete"]
    assert len(let_go) == 1  # with its lock, lest the next request takes it for locked
    (again,) = zuul.take(zuul.ask("small", tenant="other"))
    assert (again["id"], again["tenant_name"]) == (node_id, "other")


def test_c12_held_node_keeps_its_expiration_and_goes_when_that_has_come(site: Site, zuul: ZuulPeer) -> None:
    first = site.serve()
    held = {}
    for expiration_s in (1, 3600):
        (node,) = zuul.take(request_id := zuul.ask("small"))
        zuul("hold", request_id=request_id, expiration_s=expiration_s, reason="a look")
        zuul("give_back", request_id=request_id)
        held[expiration_s] = zuul("await_node", node_id=node["id"], states=["hold"])
    assert [node["hold_expiration"] for node in held.values()] == [1, 3600]
    assert held[1]["hold_job"] == "tenant example.org/project unit-tests .*"
    assert held[1]["comment"] == "a look"
    first.stop()
    threading.Event().wait(held[1]["state_time"] + 1 - time.time())
    site.serve()  # ages are looked at on start, then once a minute
    zuul("await_no_node", node_id=held[1]["id"])
    assert list(zuul("nodes")) == [held[3600]["id"]]
    assert site.record(f"/nodepool/nodes/{held[3600]['id']}") == held[3600]


def test_c12_removing_an_autohold_deletes_its_nodes(site: Site, zuul: ZuulPeer) -> None:
    site.serve(provider("cloud", pool("main", "small", "big")))
    nodes = zuul.take(request_id := zuul.ask("small", "big"))
    hold_id = zuul("hold", request_id=request_id, expiration_s=3600, reason="a look")
    zuul("give_back", request_id=request_id)
    for node in nodes:
        zuul("await_node", node_id=node["id"], states=["hold"])
    zuul("remove_hold", hold_id=hold_id)
    zuul("await_no_nodes")
    assert site.client.exists(f"/zuul/hold-requests/{hold_id}") is None
    with site.cloud() as cloud:
        assert cloud.servers() == []


def test_c19_credentials_in_place_of_a_port_go_to_zuul_and_a_node_without_them_is_deleted(
    site: Site, zuul: ZuulPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = [namespaces.install(tmp_path / "outside"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    spaces = {"name": "cluster", "driver": namespaces.NAME, "pools": [{"name": "main", "labels": ["space"]}]}
    launcher = site.serve(spaces, labels=[{"name": "space"}])
    request_id = zuul.ask("space")
    (node_id,) = zuul.answer(request_id)["nodes"]
    (node,) = zuul("accept", request_id=request_id)
    zuul("use", request_id=request_id)
    secret = namespaces.credentials(node["external_id"])
    assert zuul("prepare", request_id=request_id) == [secret]
    assert (node["connection_type"], node["connection_port"]) == ("namespace", secret)
    zuul("give_back", request_id=request_id)
    zuul("await_no_node", node_id=node_id)
    launcher.await_log("node_deleted", external_id=node["external_id"])
    written = [write.record for write in site.history().of(f"/nodepool/nodes/{node_id}") if write.data]
    assert [record["connection_port"] for record in written if record["state"] == "used"] == [None]
