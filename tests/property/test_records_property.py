"""The fast path of records and the tolerant one, which is Python's ``json``, agree on every input and output."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import records
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.recordcoding import Record
from nodelaunch.protocol.records import Node, NodeRequest

texts = st.text(st.characters(), max_size=6)
numbers = st.integers(-(2**130), 2**130) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
moments = st.none() | st.integers(0, 10**10) | st.floats()
lists = st.lists(texts, max_size=2)
common = {"state_time": moments, "tenant_name": values, "provider": texts, "unknown": values}
nodes = st.fixed_dictionaries(
    {"state": st.sampled_from(["ready", "in-use", "odd", None])},
    optional=common
    | {
        "type": lists | texts,
        "connection_port": values,
        "ssh_port": values,
        "external_id": values,
        "attributes": values,
        "driver_data": values,
        "resources": st.none() | st.dictionaries(texts, numbers | st.none(), max_size=2),
        "slot": values,
        "hold_expiration": values,
        "host_keys": st.none() | lists,
        "username": texts,
        "id": values,
    },
)
requests = st.fixed_dictionaries(
    {"state": st.sampled_from(["requested", "pending", "odd"])},
    optional=common
    | {"node_types": lists, "nodes": lists, "reuse": values, "requestor_data": values, "relative_priority": numbers},
)
bodies = st.builds(
    lambda body, is_ascii, form: json.dumps(body, ensure_ascii=is_ascii).encode(form, "surrogatepass"),
    nodes | requests,
    st.booleans(),
    st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16"]),
)


def outcome(read: Any, data: bytes, **ids: Any) -> Any:
    try:
        return read("/p", data, modified_at=7.0, **ids)
    except RecordInvalidError as error:
        return str(error)


def alike(one: Any, other: Any) -> bool:
    """Equal to the order of keys, NaN being equal to itself."""
    return json.dumps(one) == json.dumps(other)


def said(record: Record) -> Any:
    return json.loads(Record.to_bytes(record))


KINDS: tuple[tuple[type[Any], str, dict[str, str]], ...] = (
    (Node, "_NODE", {"node_id": NodeId("1")}),
    (NodeRequest, "_REQUEST", {"request_id": RequestId("1")}),
)


class HandlesNothing:
    """A fast path that leaves all to Python's ``json``."""

    def decode(self, data: bytes) -> None:
        raise ValueError


@settings(max_examples=300, deadline=None)
@given(bodies)
@example(b'{"state": "requested", "requestor_data": {"a": "\xff"}}')
@example(b'{"state": "requested", "requestor_data": ' + b"9" * 5000 + b"}")
@example(b'{"state": "requested", "requestor_data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}")
@example(b'{"state": "requested", "relative_priority": 1.0, "slot": -0}')
@example(b'{"state": "ready", "attributes": {"a": -0, "b": 1e400, "c": -0.0, "d": 1E5, "d": 2}}')
@example(b'{"state": "ready", "attributes": {"a": NaN}, "state_time": 1}')
@example(b'{"state": "ready", "comment": "\\ud800", "driver_data": {"a": "\\ud83d\\ude00"}}')
@example(b'{"state": "ready", "comment": "a\tb"}')
def test_the_fast_path_reads_and_writes_what_json_does(data: bytes) -> None:
    for kind, wire, ids in KINDS:
        fast = outcome(kind.from_bytes, data, **ids)
        with mock.patch.object(records, wire, HandlesNothing()):
            tolerant = outcome(kind.from_bytes, data, **ids)
        if isinstance(tolerant, str):
            assert fast == tolerant
            continue
        written = fast.to_bytes()
        assert alike(said(fast), said(tolerant))
        assert fast.extra.keys() == tolerant.extra.keys()
        assert written.isascii()
        assert alike(json.loads(written), said(tolerant))
