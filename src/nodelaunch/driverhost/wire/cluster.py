"""The calls of a driver with the capability ``cluster`` to its launcher: the port of `protocol/cluster.py` on the wire.

Here the driver calls and the launcher answers. Messages carry records as the JSON objects in the store; both ends
decode them with the same code. driverhost/process answers the calls, and the sdk makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from nodelaunch import errors
from nodelaunch.driverhost.wire.messages import CLUSTER, Call, Empty, Message, Method
from nodelaunch.driverhost.wire.peer import RpcError
from nodelaunch.errors import NodelaunchError, RequestFailedError, StoreError
from nodelaunch.protocol.cluster import Backing
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Claim, Lease, Node, NodeRequest

CLUSTER_ERROR: Final = -32001
"""Code of the errors of these calls; their ``data`` is a ClusterFault."""


class ClusterFault(Message):
    """A call failed. ``kind``: the class in `nodelaunch.errors`; an unknown kind counts as StoreError."""

    kind: str = "StoreError"
    path: str = ""
    detail: str = ""
    request_id: str = ""
    """Only with ``RequestFailedError``, like ``declined_by``."""
    declined_by: tuple[str, ...] = ()


class ClaimInfo(Message):
    node_id: str
    record: dict[str, Any]


class BackingInfo(Message):
    """The fields of `nodelaunch.protocol.cluster.Backing`; ``record`` is the lease's record, ``node`` the node's."""

    node_id: str
    record: dict[str, Any]
    node: dict[str, Any] | None = None
    taken: dict[str, str] = Field(default_factory=dict)
    """Node ids by slot."""


class StateParams(Call):
    since: int | None = None
    """Version of the state that the driver has."""
    cursor: str | None = None
    """``next_cursor`` of the previous page."""


class StateResult(Message):
    version: int
    now: float
    """Seconds since 1970, by the clock of the times in leases."""
    is_unchanged: bool = False
    """True if the driver has this version already."""
    backings: tuple[BackingInfo, ...] = ()
    claims: tuple[ClaimInfo, ...] = ()
    next_cursor: str | None = None


class ClaimParams(Call):
    claim: ClaimInfo


class ClaimResult(Message):
    claim: ClaimInfo | None = None


class ClaimIdParams(Call):
    node_id: str


class PlaceParams(Call):
    claim: ClaimInfo
    backing: BackingInfo
    slot: int


class BackingParams(Call):
    backing: BackingInfo


class DoneResult(Message):
    is_done: bool


class ObtainParams(Call):
    backing_label: str
    label: str
    slots: int


class ObtainResult(Message):
    node_id: str


class ChangedNote(Message):
    version: int


class OrderNote(Message):
    call: int
    """Id of the driver's ``cluster.obtain`` request."""
    request_id: str
    record: dict[str, Any]


LEASES = Method("cluster.leases", Call, Empty, "Open the provider's leases until cancelled; the first call.", CLUSTER)
STATE = Method("cluster.state", StateParams, StateResult, "Return all current leases and claims.", CLUSTER)
ENTER = Method("cluster.enter", ClaimParams, Empty, "Record a claim that has no slot yet.", CLUSTER, makes=True)
FIND = Method("cluster.find", ClaimIdParams, ClaimResult, "Return the claim of a node.", CLUSTER)
PLACE = Method(
    "cluster.place", PlaceParams, ClaimResult, "Give a claim a slot if the records are unchanged.", CLUSTER, makes=True
)
FREE = Method("cluster.free", ClaimIdParams, Empty, "Free a claim and its slot.", CLUSTER, makes=True)
OBTAIN = Method("cluster.obtain", ObtainParams, ObtainResult, "Request a node and lease it.", CLUSTER, makes=True)
FAIL = Method("cluster.fail", BackingParams, Empty, "Accept no more claims on a node.", CLUSTER, makes=True)
RELEASE = Method("cluster.release", BackingParams, DoneResult, "Return an empty node.", CLUSTER, makes=True)
FORGET = Method(
    "cluster.forget", BackingParams, DoneResult, "Remove a lease of a node that no longer exists.", CLUSTER, makes=True
)
ADOPT = Method("cluster.adopt", Call, Empty, "Adopt the records of Nodepool's launcher.", CLUSTER, makes=True)

CLUSTER_METHODS: Final[Mapping[str, Method[Any, Any]]] = {
    method.name: method for method in (LEASES, STATE, ENTER, FIND, PLACE, FREE, OBTAIN, FAIL, RELEASE, FORGET, ADOPT)
}
CHANGED, ORDER = "cluster.changed", "cluster.order"
CLUSTER_NOTES: Final[Mapping[str, tuple[type[Message], str]]] = {
    CHANGED: (
        ChangedNote,
        "From the launcher: the leases are open, or the state changed. Sent once until the driver reads the state.",
    ),
    ORDER: (OrderNote, "From the launcher: a new version of the request that cluster.obtain made."),
}


# -- records ----------------------------------------------------------------------------------------------------------


def claim_info(claim: Claim) -> ClaimInfo:
    return ClaimInfo(node_id=claim.node_id, record=json.loads(claim.to_bytes()))


def claim_from(info: ClaimInfo) -> Claim:
    """Raises: RecordInvalidError."""
    return Claim.from_bytes("claim", json.dumps(info.record).encode(), node_id=NodeId(info.node_id))


def backing_info(backing: Backing) -> BackingInfo:
    return BackingInfo(
        node_id=backing.id,
        record=json.loads(backing.lease.to_bytes()),
        node=None if backing.node is None else json.loads(backing.node.to_bytes()),
        taken={str(slot): node_id for slot, node_id in backing.taken.items()},
    )


def backing_from(info: BackingInfo) -> Backing:
    """Raises: RecordInvalidError."""
    node_id = NodeId(info.node_id)
    lease = Lease.from_bytes("lease", json.dumps(info.record).encode(), node_id=node_id)
    node = None if info.node is None else Node.from_bytes("node", json.dumps(info.node).encode(), node_id=node_id)
    return Backing(lease, node, {int(slot): NodeId(taker) for slot, taker in info.taken.items() if slot.isdecimal()})


def order_note(call: int, request: NodeRequest) -> OrderNote:
    return OrderNote(call=call, request_id=request.id, record=json.loads(request.to_bytes()))


def request_from(note: OrderNote) -> NodeRequest:
    """Raises: RecordInvalidError."""
    return NodeRequest.from_bytes("request", json.dumps(note.record).encode(), request_id=RequestId(note.request_id))


# -- errors -----------------------------------------------------------------------------------------------------------


def refusal(error: NodelaunchError) -> RpcError:
    """Return *error* as an error on the wire."""
    kind = type(error).__name__
    if isinstance(error, RequestFailedError):
        fault = ClusterFault(kind=kind, request_id=error.request_id, declined_by=error.declined_by)
    elif isinstance(error, StoreError):
        fault = ClusterFault(kind=kind, path=error.path, detail=error.detail)
    else:
        fault = ClusterFault(detail=str(error))
    return RpcError(CLUSTER_ERROR, str(error), fault.model_dump(mode="json"))


def error_from(refused: RpcError) -> NodelaunchError:
    """Return the error from which `refusal` was made."""
    fault = ClusterFault.model_validate(refused.data)
    if fault.kind == RequestFailedError.__name__:
        return RequestFailedError(fault.request_id, fault.declined_by)
    found = getattr(errors, fault.kind, None)
    kind = found if isinstance(found, type) and issubclass(found, StoreError) else StoreError
    return kind(fault.path, fault.detail or ("" if fault.path else str(refused)))
