"""What decisions need of a record that this process never writes: a foreign provider's node, a finished request.

A digest takes much less memory than its record, and has no ``to_bytes``, so that it can't be written back by mistake.
What does *not* belong here: when a digest does, and when the whole record is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Self

from msgspec import UNSET, Struct
from msgspec.structs import astuple

from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.recordcoding import (
    NOT_HANDLED,
    REQUIRED,
    Amounts,
    Number,
    Text,
    Texts,
    Wire,
    labels,
    shared,
    text,
    texts,
)
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState


class NodeDigest(Struct, frozen=True, gc=False):
    """Part of a node's record; the names and values are `Node`'s."""

    id: NodeId
    state: Annotated[NodeState, NodeState] = NodeState.INIT
    state_time: Number = 0.0
    provider: Text = None
    pool: Text = None
    type: Annotated[tuple[str, ...], labels] = ()
    allocated_to: Annotated[RequestId | None, text] = None
    az: Text = None
    launcher: Text = None
    hostname: Text = None
    resources: Amounts = None
    tenant_name: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, node_id: NodeId, modified_at: float = 0.0) -> Self:
        """The digest of the node in *data*, as `Node.from_bytes` reads it.

        Other keys are skipped, so an error in one of them may stay unseen.
        Raises: RecordInvalidError when it is no node.
        """
        try:
            wire = _NODE.decode(data)
        except NOT_HANDLED:
            return cls.of(Node.from_bytes(path, data, node_id=node_id, modified_at=modified_at))
        if wire.state_time is UNSET:
            wire.state_time = modified_at
        wire.provider = shared(wire.provider)
        wire.pool = shared(wire.pool)
        wire.type = shared(wire.type)
        wire.az = shared(wire.az)
        wire.launcher = shared(wire.launcher)
        wire.tenant_name = shared(wire.tenant_name)
        if wire.resources is not None:
            wire.resources = _shared_amounts(tuple(wire.resources.items()))
        return cls(node_id, *astuple(wire))

    @classmethod
    def of(cls, node: Node) -> Self:
        """The digest of a *node* that is known in full."""
        return cls(*(getattr(node, name) for name in cls.__struct_fields__))

    @property
    def is_idle(self) -> bool:
        """Ready and nobody's: for reuse, for max-ready-age, for making room."""
        return self.state is NodeState.READY and not self.allocated_to

    @property
    def usage(self) -> Usage | None:
        """What it takes of quota; None while the record doesn't say."""
        return None if self.resources is None else Usage(self.resources)


class RequestDigest(Struct, frozen=True, gc=False):
    """Part of a node request's record; the names and values are `NodeRequest`'s."""

    id: RequestId
    state: Annotated[RequestState, RequestState] = RequestState.REQUESTED
    state_time: Number = 0.0
    node_types: Texts = ()
    nodes: Annotated[tuple[NodeId, ...], texts] = ()
    requestor: Text = None
    tenant_name: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, request_id: RequestId, modified_at: float = 0.0) -> Self:
        """The digest of the request in *data*, as `NodeRequest.from_bytes` reads it.

        Other keys are skipped, so an error in one of them may stay unseen.
        Raises: RecordInvalidError when it is no node request.
        """
        try:
            wire = _REQUEST.decode(data)
        except NOT_HANDLED:
            return cls.of(NodeRequest.from_bytes(path, data, request_id=request_id, modified_at=modified_at))
        if wire.state_time is UNSET:
            wire.state_time = modified_at
        wire.node_types = shared(wire.node_types)
        wire.requestor = shared(wire.requestor)
        wire.tenant_name = shared(wire.tenant_name)
        return cls(request_id, *astuple(wire))

    @classmethod
    def of(cls, request: NodeRequest) -> Self:
        """The digest of a *request* that is known in full."""
        return cls(*(getattr(request, name) for name in cls.__struct_fields__))


@lru_cache(maxsize=1024)
def _shared_amounts(amounts: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    """One object for all nodes of the same size."""
    return dict(amounts)


_NODE = Wire(NodeDigest, is_partial=True, state=REQUIRED, state_time=UNSET)
_REQUEST = Wire(RequestDigest, is_partial=True, state=REQUIRED, state_time=UNSET)
