"""The records in znodes, converted from and to JSON bytes.

Every known key is always written, null included, because Zuul writes only the keys that it has read; unknown keys are
kept. ``requestor_data`` has 128-bit integers, which most fast codecs lose; msgspec keeps them.

Source: Nodepool 11, its record classes; Zuul 11.3 to 14.3, which read them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple, replace

from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol.images import ImageBuild, ImageUpload
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.recordcoding import (
    NOT_HANDLED,
    REQUIRED,
    Amounts,
    Anything,
    Flag,
    JsonObject,
    Number,
    NumberOrNone,
    Object,
    ObjectOrNone,
    Record,
    Text,
    Texts,
    Unread,
    Whole,
    WholeOrNone,
    Wire,
    Word,
    expiration,
    labels,
    shared,
    text,
    texts,
    texts_or_none,
    word,
)
from nodelaunch.protocol.registrations import (
    Component,
    KnownPool,
    LauncherComponent,
    PoolRegistration,
    Presence,
    keeper_of,
    turn_of,
)
from nodelaunch.protocol.states import NodeState, RequestState

__all__ = [
    "Claim",
    "Component",
    "ImageBuild",
    "ImageUpload",
    "JsonObject",
    "KnownPool",
    "LauncherComponent",
    "Lease",
    "Node",
    "NodeRequest",
    "PoolRegistration",
    "Presence",
    "RequestOrder",
    "keeper_of",
    "turn_of",
]

RequestOrder = tuple[str, int, str]


# -- node requests --------------------------------------------------------------------------------------------------


class NodeRequest(Record, frozen=True):
    """A request for nodes: an ordered list of labels, with one node for each. Times are seconds since 1970."""

    id: RequestId
    state: Annotated[RequestState, RequestState] = RequestState.REQUESTED
    state_time: Number = 0.0
    declined_by: Texts = ()
    node_types: Texts = ()
    nodes: Annotated[tuple[NodeId, ...], texts] = ()
    reuse: Flag = True
    requestor: Text = None
    requestor_data: Anything = None
    provider: Text = None
    relative_priority: Whole = 0
    event_id: Text = None
    created_time: NumberOrNone = None
    tenant_name: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, request_id: RequestId, modified_at: float = 0.0) -> Self:
        """Return the node request in *data*, the body of the znode at *path*, last written *modified_at*.

        Raises: RecordInvalidError when it is anything else.
        """
        try:
            wire = _REQUEST.decode(data)
            wire.requestor_data = Unread.of(wire.requestor_data)
        except NOT_HANDLED:
            return cls._read(path, data, id=request_id, state=REQUIRED, state_time=modified_at)
        if wire.state_time is UNSET:
            wire.state_time = modified_at
        wire.node_types = shared(wire.node_types)
        wire.requestor = shared(wire.requestor)
        wire.tenant_name = shared(wire.tenant_name)
        return cls(request_id, *astuple(wire))

    def to_bytes(self) -> bytes:
        return _REQUEST.encode(self) or super().to_bytes()

    @property
    def is_short(self) -> bool:
        """True if the request takes little memory. Most do; a malformed one may take a megabyte."""
        data = _requestor_data.__get__(self)
        if self.extra or not (data is None or (type(data) is Unread and len(data.data) <= Unread.SHORT)):
            return False
        texts = (self.requestor or "", self.provider or "", self.tenant_name or "", *self.node_types)
        return sum(map(len, texts)) <= Unread.SHORT

    @property
    def order(self) -> RequestOrder:
        """The order of service: priority as text, relative priority, sequence. Smaller is first."""
        priority, _, sequence = self.id.partition("-")
        return (priority, self.relative_priority, sequence)

    def into(self, state: RequestState, now: float, **changes: Any) -> Self:
        """Return this request in *state* as of *now*, with other *changes*."""
        return replace(self, state=state, state_time=now, **changes)

    @property
    def template_values(self) -> JsonObject:
        """Return the values for an operator's tag templates. Source: Nodepool 11, NodeRequest.getSafeAttributes."""
        return {
            "id": self.id,
            "labels": list(self.node_types),
            "requestor": self.requestor,
            "requestor_data": self.requestor_data,
            "relative_priority": self.relative_priority,
            "event_id": self.event_id,
            "created_time": self.created_time,
            "tenant_name": self.tenant_name,
        }


_REQUEST = Wire(
    NodeRequest,
    types={"requestor_data": msgspec.Raw},
    state=REQUIRED, state_time=UNSET, requestor_data=msgspec.Raw(b"null"),
)  # fmt: skip
_requestor_data = NodeRequest.requestor_data
"""The field itself, for the codec: here, a decoded value stays `Unread`."""


def _read_requestor_data(request: NodeRequest) -> Any:
    value = _requestor_data.__get__(request)
    return value.read() if type(value) is Unread else value


NodeRequest.requestor_data = property(_read_requestor_data)


# -- nodes ----------------------------------------------------------------------------------------------------------


class Node(Record, frozen=True):
    """A machine that is offered or being launched. Times are seconds since 1970; ``resources`` as in quota.py."""

    id: NodeId
    state: Annotated[NodeState, NodeState] = NodeState.INIT
    state_time: Number = 0.0
    cloud: Text = None
    provider: Text = None
    pool: Text = None
    type: Annotated[tuple[str, ...], labels] = ()
    allocated_to: Annotated[RequestId | None, text] = None
    az: Text = None
    region: Text = None
    public_ipv4: Text = None
    private_ipv4: Text = None
    public_ipv6: Text = None
    host_id: Text = None
    interface_ip: Text = None
    connection_port: Anything = 22
    ssh_port: Anything = 22
    image_id: Text = None
    launcher: Text = None
    created_time: NumberOrNone = None
    external_id: Anything = None
    hostname: Text = None
    comment: Text = None
    user_data: Anything = None
    hold_job: Text = None
    host_keys: Annotated[tuple[str, ...], texts_or_none] = ()
    username: Text = None
    connection_type: Text = None
    shell_type: Text = None
    hold_expiration: Annotated[int | None, expiration] = None
    resources: Amounts = None
    slot: WholeOrNone = None
    attributes: ObjectOrNone = None
    python_path: Text = None
    tenant_name: Text = None
    driver_data: Anything = None
    requestor: Text = None
    node_properties: ObjectOrNone = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId, modified_at: float = 0.0) -> Self:
        """Return the node in *data*, the body of the znode at *path*, last written *modified_at*.

        An absent ``connection_port`` falls back to ``ssh_port``, an absent ``username`` to ``zuul``. Raises:
        RecordInvalidError when it is anything else.
        """
        try:
            wire = _NODE.decode(data)
        except NOT_HANDLED:
            return cls._read_tolerantly(path, data, node_id, modified_at)
        if wire.state_time is UNSET:
            wire.state_time = modified_at
        if wire.connection_port is UNSET:
            wire.connection_port = wire.ssh_port
        wire.cloud = shared(wire.cloud)
        wire.provider = shared(wire.provider)
        wire.pool = shared(wire.pool)
        wire.type = shared(wire.type)
        wire.az = shared(wire.az)
        wire.region = shared(wire.region)
        wire.launcher = shared(wire.launcher)
        wire.image_id = shared(wire.image_id)
        wire.username = shared(wire.username)
        wire.connection_type = shared(wire.connection_type)
        wire.python_path = shared(wire.python_path)
        wire.requestor = shared(wire.requestor)
        wire.tenant_name = shared(wire.tenant_name)
        return cls(node_id, *astuple(wire))

    @classmethod
    def _read_tolerantly(cls, path: str, data: bytes, node_id: NodeId, modified_at: float) -> Self:
        node = cls._read(
            path, data, id=node_id, state=REQUIRED, state_time=modified_at, connection_port=UNSET, username="zuul"
        )
        return node.changed(connection_port=node.ssh_port) if node.connection_port is UNSET else node

    def to_bytes(self) -> bytes:
        return _NODE.encode(self) or super().to_bytes()

    def into(self, state: NodeState, now: float, **changes: Any) -> Self:
        """Return this node in *state* as of *now*, with other *changes*."""
        return replace(self, state=state, state_time=now, **changes)

    def allocated(self, request: NodeRequest) -> Self:
        """Return this node tied to *request*; its state, and so its age, stays."""
        return replace(self, allocated_to=request.id, tenant_name=request.tenant_name, requestor=request.requestor)

    def deallocated(self) -> Self:
        """Return this node free for any request; it no longer counts for a tenant."""
        return replace(self, allocated_to=None, tenant_name=None, requestor=None)

    @property
    def is_idle(self) -> bool:
        """True if ready and unallocated: for reuse, for max-ready-age, for freeing capacity."""
        return self.state is NodeState.READY and not self.allocated_to

    @property
    def usage(self) -> Usage | None:
        """The node's usage; None if the record doesn't have it."""
        return None if self.resources is None else Usage(self.resources)

    def with_port(self, port: Any) -> Self:
        """Return this node with the port under both of its keys: the old one is kept for old readers."""
        return replace(self, connection_port=port, ssh_port=port)


_NODE = Wire(Node, state=REQUIRED, state_time=UNSET, connection_port=UNSET, username="zuul")


# -- metastatic providers -------------------------------------------------------------------------------------------


class Lease(Record, frozen=True):
    """A metastatic provider's record of a backing node it holds. Times are seconds since 1970."""

    node_id: NodeId
    label: Word = ""
    slots: Whole = 1
    is_failed: Flag = msgspec.field(default=False, name="failed")
    """True if the node takes no more claims, and is released when it is empty."""
    launched_at: Number = msgspec.field(default=0.0, name="launched")
    """The time when the node was leased."""
    used_at: Number = msgspec.field(default=0.0, name="used")
    """The time when a slot of the node was last given back; until then, the time when the node was leased."""

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId) -> Self:
        """Return the lease in *data*. Raises: RecordInvalidError."""
        return cls._read(path, data, node_id=node_id)

    def user_data(self, owner: str) -> str:
        """Return the note for the backing node's own record: JSON, as text. Source: Nodepool 11, metastatic driver."""
        return json.dumps({
            "owner": owner, "label": self.label, "slots": self.slots, "failed": self.is_failed,
            "launched": self.launched_at,
        })  # fmt: skip

    @classmethod
    def from_user_data(cls, node: Node, owner: str) -> Self | None:
        """Return the lease in the record of *node*, if it is *owner*'s; None if it is not, or has nothing readable."""
        if not isinstance(node.user_data, str) or owner not in node.user_data:
            return None
        try:
            lease = cls._read(f"user_data of {node.id}", node.user_data.encode(), node_id=node.id)
        except RecordInvalidError:
            return None
        is_owners = lease.extra.get("owner") == owner
        return lease.changed(used_at=max(lease.used_at, lease.launched_at), extra={}) if is_owners else None


class Claim(Record, frozen=True):
    """A metastatic provider's record of one of its own nodes, with its slot if it has one yet."""

    node_id: Annotated[NodeId, word] = msgspec.field(name="node")
    label: Word = ""
    metadata: Object = msgspec.field(default_factory=dict)
    backing: Annotated[NodeId | None, text] = msgspec.field(default=None, name="backing_node")
    slot: WholeOrNone = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId) -> Self:
        """Return the claim in *data*. Raises: RecordInvalidError."""
        return cls._read(path, data, node_id=node_id)

    @classmethod
    def from_node(cls, node: Node) -> Self | None:
        """Return the claim in the record of *node*; None if it has none. Source: Nodepool 11, metastatic driver."""
        data = node.driver_data
        if not isinstance(data, dict):
            return None
        try:
            claim = cls._read(f"driver_data of {node.id}", json.dumps(data).encode(), node_id=node.id)
        except RecordInvalidError:
            return None
        return claim.changed(node_id=node.id, label=next(iter(node.type), ""), extra={}) if claim.is_placed else None

    @property
    def is_placed(self) -> bool:
        return self.backing is not None and self.slot is not None

    @property
    def driver_data(self) -> JsonObject:
        """Return the data for the node's own record. Source: Nodepool 11, metastatic driver."""
        return {
            "metadata": dict(self.metadata), "backing_node": self.backing, "slot": self.slot, "node": self.node_id,
        }  # fmt: skip
