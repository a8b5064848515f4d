"""Records come back as they were, with every key, and nothing but records is taken for one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.records import (
    Claim,
    ImageBuild,
    ImageUpload,
    KnownPool,
    LauncherComponent,
    Lease,
    Node,
    NodeRequest,
    PoolRegistration,
    Presence,
    keeper_of,
)
from nodelaunch.protocol.states import ComponentState, ImageState, NodeState, RequestState
from support.builders import a_node, a_request

REQUEST_KEYS = {
    "state", "state_time", "declined_by", "node_types", "nodes", "reuse", "requestor", "requestor_data", "provider",
    "relative_priority", "event_id", "created_time", "tenant_name",
}  # fmt: skip
NODE_KEYS = {
    "state", "state_time", "cloud", "provider", "pool", "type", "allocated_to", "az", "region", "public_ipv4",
    "private_ipv4", "public_ipv6", "host_id", "interface_ip", "connection_port", "ssh_port", "image_id", "launcher",
    "created_time", "external_id", "hostname", "comment", "user_data", "hold_job", "host_keys", "username",
    "connection_type", "shell_type", "hold_expiration", "resources", "slot", "attributes", "python_path",
    "tenant_name", "driver_data", "requestor", "node_properties",
}  # fmt: skip
SUBMITTED_BY_ZUUL = {
    "requestor_data": {
        "build_set_uuid": "c1f0b9d2c4e54b0d8a6e7f8091a2b3c4",
        "span_info": {"trace_id": 206015695541625575178169608723763992776, "start_time": 1795219218669054464},
    },
    "node_types": ["ubuntu-jammy", "ubuntu-jammy-small"],
    "requestor": "0d8f2c6e5b7a4f1c9e3d2b1a0f9e8d7c",
    "created_time": 1795219218.6690545,
    "provider": None,
    "state": "requested",
    "state_time": 1795219218.6690495,
    "relative_priority": 0,
    "event_id": "9a8b7c6d5e4f40312233445566778899",
    "tenant_name": "openstack",
}


def read_request(data: bytes) -> NodeRequest:
    return NodeRequest.from_bytes("/p", data, request_id=RequestId("200-0000000001"), modified_at=7.0)


def read_node(data: bytes) -> Node:
    return Node.from_bytes("/p", data, node_id=NodeId("0000000001"), modified_at=7.0)


def as_json(**body: Any) -> bytes:
    return json.dumps(body).encode()


# -- requests -------------------------------------------------------------------------------------------------------


def test_zuuls_request_gains_only_the_keys_it_lacks() -> None:
    written = json.loads(read_request(json.dumps(SUBMITTED_BY_ZUUL).encode()).to_bytes())
    assert written == {**SUBMITTED_BY_ZUUL, "nodes": [], "declined_by": [], "reuse": True}
    assert written.keys() == REQUEST_KEYS
    assert read_request(as_json(state="requested", created_time=None)).created_time is None


def test_unknown_keys_are_kept() -> None:
    written = json.loads(read_request(as_json(state="requested", future={"a": [1]})).to_bytes())
    assert written["future"] == {"a": [1]}
    node = json.loads(read_node(as_json(state="ready", id="0000000001", other=None)).to_bytes())
    assert (node["id"], node["other"]) == ("0000000001", None)


def test_absent_state_time_is_the_znodes() -> None:
    assert read_request(as_json(state="requested")).state_time == 7.0


def test_order_is_priority_text_then_relative_then_sequence() -> None:
    requests = [
        a_request(number=3, priority="300"),
        a_request(number=2, relative_priority=5),
        a_request(number=4),
        a_request(number=1, priority="100", relative_priority=9),
    ]
    assert [r.order[2][-1] for r in sorted(requests, key=lambda r: r.order)] == ["1", "4", "2", "3"]


def test_into_stamps_state_and_time() -> None:
    moved = a_request(state_time=1.0).into(RequestState.FULFILLED, 9.0, nodes=(NodeId("0000000001"),))
    assert (moved.state, moved.state_time, moved.nodes) == (RequestState.FULFILLED, 9.0, ("0000000001",))


def test_templates_see_the_safe_attributes() -> None:
    values = a_request("a", "b", tenant_name="t").template_values
    assert (values["labels"], values["tenant_name"]) == (["a", "b"], "t")
    assert values.keys() == {
        "id", "labels", "requestor", "requestor_data", "relative_priority", "event_id", "created_time", "tenant_name",
    }  # fmt: skip


def test_requestor_data_is_written_back_byte_for_byte() -> None:
    sent = b'{"span_info" : {"trace_id":206015695541625575178169608723763992776,  "z": 1.50, "a": "\\u00e4"}}'
    request = read_request(b'{"state": "requested", "requestor_data": ' + sent + b"}")
    assert sent in request.into(RequestState.PENDING, 1.0).to_bytes()
    assert request.requestor_data["span_info"]["trace_id"] == 206015695541625575178169608723763992776
    assert request == read_request(b'{"requestor_data": ' + sent + b', "state": "requested"}')
    assert request == request.changed(requestor_data=request.requestor_data)
    assert request != request.changed(requestor_data={})
    assert request.requestor_data == request.template_values["requestor_data"]
    assert repr(request.requestor_data) in repr(request)


def test_requestor_data_is_kept_beside_unknown_keys() -> None:
    request = read_request(json.dumps(SUBMITTED_BY_ZUUL).encode()).changed(extra={"future": 1})
    body = json.loads(request.to_bytes())
    assert (body["requestor_data"], body["future"]) == (SUBMITTED_BY_ZUUL["requestor_data"], 1)
    assert read_request(request.to_bytes()) == request


@pytest.mark.parametrize("value", [None, "text", 2**127, {"a": [True]}])
def test_requestor_data_may_be_anything(value: Any) -> None:
    request = read_request(as_json(state="requested", requestor_data=value))
    assert request.requestor_data == value
    assert request == a_request(requestor_data=value).changed(
        id=request.id, node_types=(), requestor=None, state_time=7.0
    )
    assert json.loads(request.to_bytes())["requestor_data"] == value


def test_msgspec_keeps_integers_of_128_bits_and_raw_bytes() -> None:
    number = 2**128 - 1
    assert msgspec.json.decode(msgspec.json.encode({"a": [number, -number]})) == {"a": [number, -number]}
    assert msgspec.json.decode(str(number).encode(), type=int | None) == number
    raw = msgspec.json.decode(b'{"a": [ 1.0,%d ]}' % number, type=dict[str, msgspec.Raw])["a"]
    assert msgspec.json.encode([raw]) == b"[[ 1.0,%d ]]" % number


def test_a_changed_record_is_another() -> None:
    request = a_request()
    assert request.changed(reuse=False).reuse is False
    assert request.reuse
    assert request.changed() == request
    assert repr(request) == repr(request.changed(extra={"secret": 1}))
    with pytest.raises(TypeError, match="resue"):
        request.changed(resue=False)
    with pytest.raises(AttributeError):
        request.reuse = False  # type: ignore[misc]


# -- nodes ----------------------------------------------------------------------------------------------------------


def test_a_node_has_its_37_keys_always() -> None:
    assert json.loads(a_node().to_bytes()).keys() == NODE_KEYS
    assert len(NODE_KEYS) == 37


def test_a_node_reads_what_older_and_other_writers_wrote() -> None:
    node = read_node(as_json(state="ready", type="small", ssh_port=2222, host_keys=None))
    assert (node.type, node.connection_port, node.username, node.host_keys) == (("small",), 2222, "zuul", ())
    port = {"host": "https://k8s", "token": "t"}
    kept = read_node(as_json(state="in-use", connection_port=None, ssh_port=port, external_id={"instance": "i"}))
    assert (kept.connection_port, kept.ssh_port, kept.external_id) == (None, port, {"instance": "i"})
    assert json.loads(kept.to_bytes())["connection_port"] is None


@pytest.mark.parametrize("user_data", [None, {"zuul_system": "z"}, '{"owner": "NodePool:metastatic:m"}'])
def test_user_data_comes_in_three_shapes(user_data: Any) -> None:
    assert json.loads(read_node(as_json(state="ready", user_data=user_data)).to_bytes())["user_data"] == user_data


@pytest.mark.parametrize(("written", "read"), [(None, None), (60, 60), ("60", 60), ("soon", 0), ([], 0), (1.9, 1)])
def test_hold_expiration_is_seconds_or_nothing(written: Any, read: int | None) -> None:
    assert read_node(as_json(state="hold", hold_expiration=written)).hold_expiration == read


def test_allocation_and_its_end() -> None:
    request = a_request(tenant_name="t")
    node = a_node(state_time=3.0).allocated(request)
    assert (node.allocated_to, node.tenant_name, node.requestor, node.state_time) == (request.id, "t", "someone", 3.0)
    assert not node.is_idle
    free = node.deallocated()
    assert (free.allocated_to, free.tenant_name, free.requestor, free.is_idle) == (None, None, None, True)
    assert not a_node(state=NodeState.BUILDING).is_idle


def test_resources_are_usage() -> None:
    assert a_node(resources={"cores": 4}).usage == Usage(cores=4)
    assert a_node().usage is None
    assert read_node(a_node(resources=None, attributes=None).to_bytes()).resources is None
    assert read_node(as_json(state="ready", resources={"cores": 2, "ram": None})).usage == Usage(cores=2)


def test_port_is_written_under_both_keys() -> None:
    body = json.loads(a_node().with_port(5986).to_bytes())
    assert (body["connection_port"], body["ssh_port"]) == (5986, 5986)
    assert a_node().into(NodeState.USED, 5.0).state_time == 5.0


def test_a_node_is_written_as_json_even_where_msgspec_would_not() -> None:
    odd = {"nan": float("nan"), 1: (2,), False: "\ud800"}
    written = a_node(attributes=odd, comment="\u00e4", extra={"state": "x", "other": 1}).to_bytes()
    body = json.loads(written)
    assert json.dumps(body["attributes"]) == json.dumps(odd)
    assert (body["state"], body["other"], body["comment"]) == ("ready", 1, "\u00e4")
    assert written.isascii()
    for value in ({1}, b"x", {"a": {"b": object()}}):
        with pytest.raises(TypeError):
            a_node(driver_data=value).to_bytes()
    with pytest.raises(TypeError):
        a_node(comment=object()).to_bytes()
    assert read_node(as_json(state="ready", resources=None, other=1)).resources is None


def test_equal_words_of_many_records_are_one_object() -> None:
    words = {
        "provider": "p", "pool": "m", "type": ["small"], "cloud": "c", "az": "a", "region": "r", "launcher": "l",
        "image_id": "i", "username": "u", "connection_type": "ssh", "python_path": "auto", "requestor": "q",
        "tenant_name": "t",
    }  # fmt: skip
    one, two = (read_node(as_json(state="ready", state_time=float(n), **words)) for n in (1, 2))
    for name in words:
        assert getattr(one, name) is getattr(two, name), name


# -- components and images ------------------------------------------------------------------------------------------


def test_a_registration_is_written_sorted_and_whole() -> None:
    pool = PoolRegistration(
        hostname="nl01", state=ComponentState.RUNNING, version="11.0.0", id="x", name="main", provider_name="rax",
        supported_labels=("a",),
    )  # fmt: skip
    data = pool.to_bytes()
    assert data == (
        b'{"hostname": "nl01", "id": "x", "kind": "pool", "model_api": 0, "name": "main", "paused": false, '
        b'"priority": 100, "provider_name": "rax", "state": "running", "supported_labels": ["a"], "version": "11.0.0"}'
    )
    assert PoolRegistration.from_bytes("/p", data) == pool
    launcher = json.loads(LauncherComponent(hostname="nl01").to_bytes())
    assert launcher.keys() == {"hostname", "kind", "model_api", "state", "version"}
    assert launcher["kind"] == "launcher"


def test_an_upload_takes_its_names_from_its_path() -> None:
    data = as_json(state="ready", state_time=5, external_id="img")
    upload = ImageUpload.from_bytes("/p", data, parts=("jammy", "b", "rax", "0000000001"))
    assert (upload.image, upload.provider, upload.state, upload.external_id) == (
        "jammy",
        "rax",
        ImageState.READY,
        "img",
    )
    assert upload.python_path == "/usr/bin/python2"
    with pytest.raises(RecordInvalidError, match="state: missing"):
        ImageUpload.from_bytes("/p", b"{}", parts=("a", "b", "c", "d"))


# -- what is no record ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "a JSON object was expected, found list"),
        (b"null", "a JSON object was expected, found null"),
        (b"{}", "state: missing"),
        (b'{"state": "fancy"}', "state: 'fancy' is not a valid"),
        (b'{"state": null}', "state: None is not a valid"),
        (as_json(state="requested", state_time="now"), "state_time: a number was expected"),
        (b'{"state": "requested", "state_time": NaN}', "state_time: a number was expected"),
        (b'{"state": "requested", "state_time": 1' + b"0" * 400 + b"}", "state_time: "),
        (as_json(state="requested", node_types="a"), "node_types: a list of texts was expected"),
        (as_json(state="requested", node_types=[1]), "node_types: a list of texts was expected"),
        (as_json(state="requested", reuse=1), "reuse: true or false was expected"),
        (as_json(state="requested", relative_priority=True), "relative_priority: a whole number was expected"),
        (as_json(state="requested", requestor=5), "requestor: text or null was expected"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_anything_else_is_no_request(data: bytes, detail: str) -> None:
    with pytest.raises(RecordInvalidError) as caught:
        read_request(data)
    assert caught.value.path == "/p"
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "body",
    [
        {"state": "ready", "attributes": []},
        {"state": "ready", "resources": [1]},
        {"state": "ready", "resources": {"cores": "4"}},
        {"state": "ready", "slot": 1.5},
        {"state": "ready", "created_time": "x"},
        {},
    ],
)
def test_anything_else_is_no_node(body: dict[str, Any]) -> None:
    with pytest.raises(RecordInvalidError):
        read_node(json.dumps(body).encode())


def test_a_build_takes_its_names_from_its_path() -> None:
    path = "/nodepool/images/jammy/builds/d1fd"
    build = ImageBuild.from_bytes(path, b'{"state": "building", "builder": "nb01"}', parts=("jammy", "d1fd"))
    assert (build.image, build.build_id, build.state) == ("jammy", "d1fd", ImageState.BUILDING)
    with pytest.raises(RecordInvalidError, match="state: missing"):
        ImageBuild.from_bytes(path, b"{}", parts=("jammy", "d1fd"))


def test_a_known_pool_takes_its_names_from_its_path() -> None:
    known = KnownPool(provider="cloud", pool="main", labels=("a", "b"))
    assert KnownPool.from_bytes("/p", known.to_bytes(), names=("cloud", "main")) == known


def test_a_presence_is_read_as_it_is_written() -> None:
    presence = Presence(id="1", hostname="here", version="1", min_ready={"small": 2}, pools=("x",))
    assert Presence.from_bytes("/p", presence.to_bytes()) == presence
    with pytest.raises(RecordInvalidError, match="id: text was expected, found null"):
        Presence.from_bytes("/p", b'{"id": null}')


def test_one_of_those_who_would_keeps_a_label_ready() -> None:
    would = [Presence(id=str(n), min_ready={"small": 1}) for n in range(5)]
    drains = Presence(id="5", min_ready={"small": 1}, state=ComponentState.STOPPED)
    never = Presence(id="6", min_ready={"big": 1})
    keeper = keeper_of("small", [*would, drains, never, Presence(id="7")])
    assert keeper in would
    assert keeper_of("small", [never, *reversed(would)]) == keeper
    left = [presence for presence in would if presence != keeper]
    assert keeper_of("small", left) in left
    assert keeper_of("big", would) is None
    keepers = [keeper_of(f"l{n}", [Presence(id=p.id, min_ready={f"l{n}": 1}) for p in would]) for n in range(40)]
    assert len({keeper.id for keeper in keepers if keeper}) > 3


# -- metastatic providers -------------------------------------------------------------------------------------------

OWNER = "NodePool:metastatic:meta"
BY_NODEPOOL = {"owner": OWNER, "label": "meta-small", "slots": 2, "failed": False, "launched": 1795219304.5257163}


def test_lease_comes_back_as_it_was() -> None:
    lease = Lease(node_id=NodeId("1"), label="a", slots=3, is_failed=True, launched_at=5.0, used_at=6.0)
    assert Lease.from_bytes("/p", lease.to_bytes(), node_id=NodeId("1")) == lease
    assert json.loads(lease.to_bytes()) == {"label": "a", "slots": 3, "failed": True, "launched": 5.0, "used": 6.0}


def test_lease_is_told_and_read_as_nodepool_has_it() -> None:
    node = a_node(7, user_data=json.dumps(BY_NODEPOOL))
    lease = Lease.from_user_data(node, OWNER)
    assert lease == Lease(
        node_id=node.id, label="meta-small", slots=2, launched_at=1795219304.5257163, used_at=1795219304.5257163
    )
    assert lease.user_data(OWNER) == node.user_data


@pytest.mark.parametrize(
    "user_data",
    [
        None, {"zuul_system": OWNER}, "", OWNER, f'["{OWNER}"]', json.dumps({**BY_NODEPOOL, "owner": OWNER + "2"}),
        json.dumps({**BY_NODEPOOL, "slots": "two"}),
    ],
)  # fmt: skip
def test_user_data_of_others_is_no_lease(user_data: Any) -> None:
    assert Lease.from_user_data(a_node(user_data=user_data), OWNER) is None


def test_claim_comes_back_as_it_was() -> None:
    claim = Claim(node_id=NodeId("2"), label="a", metadata={"k": "v"}, backing=NodeId("1"), slot=0)
    assert Claim.from_bytes("/p", claim.to_bytes(), node_id=NodeId("2")) == claim
    assert claim.driver_data == {"metadata": {"k": "v"}, "backing_node": "1", "slot": 0, "node": "2"}
    for body in ({"metadata": 5}, {"label": None}, {"node": 2}):
        with pytest.raises(RecordInvalidError, match=next(iter(body))):
            Claim.from_bytes("/p", as_json(**body), node_id=NodeId("2"))


@pytest.mark.parametrize(
    ("driver_data", "slot"),
    [
        ({"metadata": {}, "backing_node": "1", "slot": 1, "node": "2"}, 1),
        ({"metadata": {}, "backing_node": None, "slot": None, "node": "2"}, None),
        ({"metadata": {}, "backing_node": 1, "slot": 1}, None),
        ("text", None),
        (None, None),
    ],
)
def test_claim_is_read_from_a_nodes_record(driver_data: Any, slot: int | None) -> None:
    claim = Claim.from_node(a_node(2, driver_data=driver_data, type=("slot",)))
    assert (claim and (claim.slot, claim.node_id, claim.label)) == (slot and (slot, "0000000002", "slot"))


def test_values_of_wrong_kinds_are_named_with_their_keys() -> None:
    for key, value in (("host_keys", "text"), ("attributes", [1]), ("node_properties", 7), ("slot", True)):
        data = json.dumps({"state": "ready", key: value}).encode()
        with pytest.raises(RecordInvalidError, match=key):
            Node.from_bytes("/n", data, node_id=NodeId("1"))


def test_data_kept_raw_is_equal_to_what_it_stands_for() -> None:
    data = b'{"state": "requested", "requestor_data": {"a": 1}}'
    spaced = b'{"state": "requested", "requestor_data": {"a":  1}}'
    one, two = (NodeRequest.from_bytes("/r", each, request_id=RequestId("1")) for each in (data, spaced))
    assert one == two
    assert one.requestor_data == {"a": 1}
    assert one == one.changed(requestor_data={"a": 1})


def test_record_with_unknown_keys_is_read_as_others_are() -> None:
    body = {"state": "hold", "hold_expiration": None, "attributes": {"a": 1}, "our-own": 1}
    node = Node.from_bytes("/n", json.dumps(body).encode(), node_id=NodeId("1"))
    assert (node.hold_expiration, node.attributes, node.extra) == (None, {"a": 1}, {"our-own": 1})


def test_free_values_of_all_kinds_are_written_as_they_are() -> None:
    data = b'{"state": "requested", "requestor_data": null}'
    assert NodeRequest.from_bytes("/r", data, request_id=RequestId("1")).requestor_data is None
    attributes = {"half": 0.5, "list": [1, [2.5, "x"]], "nested": {"deep": {"deeper": [None]}}}
    node = a_node(attributes=attributes, driver_data=[0.25, "y"])
    body = json.loads(node.to_bytes())
    assert (body["attributes"], body["driver_data"]) == (attributes, [0.25, "y"])


def test_long_free_values_are_read_as_short_ones_are() -> None:
    long = {"text": "x" * 100_000}
    data = json.dumps({"state": "requested", "requestor_data": long}).encode()
    assert NodeRequest.from_bytes("/r", data, request_id=RequestId("1")).requestor_data == long


def test_short_request_holds_little() -> None:
    sent = {"state": "requested", "requestor": "zuul", "node_types": ["a"], "requestor_data": {"job_name": "unit"}}
    for more, is_short in (
        ({}, True),
        ({"requestor_data": None}, True),
        ({"requestor_data": {"job_name": "x" * 1000}}, False),
        ({"tenant_name": "x" * 1000}, False),
        ({"node_types": ["x" * 10] * 100}, False),
        ({"future": 1}, False),
    ):
        assert read_request(as_json(**{**sent, **more})).is_short is is_short, more
