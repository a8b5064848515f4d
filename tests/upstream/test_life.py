"""The life of a request and its nodes, from Zuul's submit to the end of the nodes."""

from __future__ import annotations

import pytest

from support.upstream import ZuulPeer
from upstream.site import Site

pytestmark = pytest.mark.zookeeper


def test_c02_nodes_are_unlocked_then_offered_taken_used_and_deleted(site: Site, zuul: ZuulPeer) -> None:
    site.serve()
    request_id = zuul("submit", labels=["small", "big"])["id"]
    answer = zuul("await_provisioned", request_id=request_id)
    assert answer["state"] == "fulfilled"
    history = site.history()
    fulfilled = history.when(f"/nodepool/requests/{request_id}", state="fulfilled")
    for node_id in answer["nodes"]:
        assert history.when_gone(f"/nodepool/nodes/{node_id}/lock")[-1] < fulfilled
    assert history.when_gone(f"/nodepool/requests-lock/{request_id}")[0] > fulfilled

    nodes = zuul("accept", request_id=request_id)
    assert [node["type"] for node in nodes] == [["small"], ["big"]]
    assert [node["id"] for node in nodes] == answer["nodes"]
    assert zuul("await_request", request_id=request_id, states=["gone"]) == {}
    assert {node["state"] for node in zuul("use", request_id=request_id)} == {"in-use"}
    with site.cloud() as cloud:
        assert {server.id for server in cloud.servers()} == {node["external_id"] for node in nodes}
        zuul("give_back", request_id=request_id)
        zuul("await_no_nodes")
        assert cloud.servers() == []
    for node in nodes:
        path = f"/nodepool/nodes/{node['id']}"
        assert site.history().states(path) == ["init", "building", "ready", "in-use", "used", "deleting"]
