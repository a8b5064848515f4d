"""Znode paths are built and taken apart alike."""

from __future__ import annotations

import pytest

from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId

CONTENDER = "7c8fcac2d4ba4b44a4b15f9fd51a99b9__lock__0000000003"
UPLOAD = "/nodepool/images/jammy/builds/d1fd/providers/rax/images/0000000001"


def test_built_paths_are_those_of_nodepool() -> None:
    assert paths.request(RequestId("200-0000000001")) == "/nodepool/requests/200-0000000001"
    assert paths.new_request("900") == "/nodepool/requests/900-"
    assert paths.request_lock(RequestId("200-0000000001")) == "/nodepool/requests-lock/200-0000000001"
    assert paths.node(NodeId("0000000007")) == "/nodepool/nodes/0000000007"
    assert paths.node_lock(NodeId("0000000007")) == "/nodepool/nodes/0000000007/lock"
    assert paths.NEW_NODE == "/nodepool/nodes/"
    assert paths.uploads("jammy", "d1fd", "rax") == UPLOAD.rpartition("/")[0]


def test_what_metastatic_providers_keep_is_outside_nodepools_tree() -> None:
    backing = NodeId("0000000007")
    assert paths.lease("meta", backing) == "/nodelaunch/metastatic/meta/backing/0000000007"
    assert paths.slot("meta", backing, 1) == "/nodelaunch/metastatic/meta/backing/0000000007/1"
    assert paths.claim("meta", NodeId("0000000008")) == "/nodelaunch/metastatic/meta/nodes/0000000008"
    assert paths.backing_requestor("meta") == "NodePool:metastatic:meta"
    assert not paths.METASTATIC.startswith(paths.ROOT + "/")


def test_contenders_are_made_with_kazoos_names() -> None:
    made = paths.contender(paths.node_lock(NodeId("0000000007")), "7c8fcac2d4ba4b44a4b15f9fd51a99b9") + "0000000003"
    assert made == f"/nodepool/nodes/0000000007/lock/{CONTENDER}"


def test_records_are_known_by_depth() -> None:
    assert paths.request_id_at("/nodepool/requests/200-0000000001") == "200-0000000001"
    assert paths.request_id_at("/nodepool/requests/200-0000000001/x") is None
    assert paths.node_id_at("/nodepool/nodes/0000000007") == "0000000007"
    assert paths.node_id_at("/nodepool/nodes/0000000007/lock") is None
    assert paths.node_id_at("/nodepool/nodesx/7") is None


def test_contenders_are_known_by_kazoos_names() -> None:
    assert paths.node_id_of_contender(f"/nodepool/nodes/0000000007/lock/{CONTENDER}") == "0000000007"
    assert paths.node_id_of_contender("/nodepool/nodes/0000000007/lock") is None
    assert paths.node_id_of_contender("/nodepool/nodes/0000000007/lock/other") is None


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        (CONTENDER, "0000000003"),
        ("x__lock__-000000001", None),
        ("x__lock__-0000000001", "-0000000001"),
        ("lock-abc-0000000001", None),
        ("abc__lock__12", None),
    ],
)
def test_only_kazoos_contenders_have_a_sequence(name: str, sequence: str | None) -> None:
    assert paths.contender_sequence(name) == sequence


def test_uploads_are_known_by_depth_and_not_by_lock() -> None:
    assert paths.upload_at(UPLOAD) == ("jammy", "d1fd", "rax", "0000000001")
    assert paths.upload_at(UPLOAD.replace("0000000001", "lock")) is None
    assert paths.upload_at("/nodepool/images/jammy/builds/d1fd") is None


@pytest.mark.parametrize(("name", "is_one"), [("200-0000000001", True), ("2000-0000000001", False), ("200-1", False)])
def test_request_ids_have_their_dash_at_index_three(name: str, *, is_one: bool) -> None:
    assert paths.is_request_id(name) is is_one


def test_builds_and_known_pools_are_known_by_depth() -> None:
    assert paths.build_at("/nodepool/images/jammy/builds/d1fd") == ("jammy", "d1fd")
    assert paths.build_at("/nodepool/images/jammy/builds/lock") is None
    assert paths.build_at(UPLOAD) is None
    assert paths.known_pool_at(paths.known_pool("cloud", "main")) == ("cloud", "main")
    assert paths.known_pool_at(f"{paths.KNOWN_POOLS}/cloud") is None
    assert paths.ledger("cloud") == "/nodelaunch/limits/cloud"
    assert paths.tenant_ledger("acme") == "/nodelaunch/tenant-limits/acme"
    assert paths.tenant_ledger("a/b. ü") == "/nodelaunch/tenant-limits/a%2Fb%2E%20%C3%BC"


def test_what_lies_deeper_than_a_contender_is_none() -> None:
    assert paths.contender_sequence("odd/0__lock__0000000001") is None
    assert paths.node_id_of_contender(f"{paths.NODES}/0000000001/lock/odd/0__lock__0000000001") is None
