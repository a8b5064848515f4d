"""Records and views with everything filled in that a test does not care about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodelaunch.decisions.triage import IdleNode, IdleNodes, LabelView, MachineView, PoolView
from nodelaunch.protocol.access import Allowed
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.pauses import Pause, Target
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.states import NodeState, RequestState

POOL_ID = "host-PoolWorker.cloud-main-1"


def a_request(*labels: str, number: int = 1, priority: str = "200", **fields: Any) -> NodeRequest:
    fields.setdefault("state", RequestState.REQUESTED)
    request_id = RequestId(f"{priority}-{number:010d}")
    return NodeRequest(id=request_id, node_types=labels or ("small",), requestor="someone", **fields)


def a_node(number: int = 1, state: NodeState = NodeState.READY, **fields: Any) -> Node:
    fields = {"provider": "cloud", "pool": "main", "type": ("small",), **fields}
    return Node(id=NodeId(f"{number:010d}"), state=state, **fields)


def an_idle_node(number: int = 1, *labels: str, **fields: Any) -> IdleNode:
    return IdleNode(NodeId(f"{number:010d}"), frozenset(labels or ("small",)), Usage(instances=1), **fields)


def a_machine(*labels: str, allowed_tenants: Allowed = None) -> MachineView:
    return MachineView(frozenset(labels or ("small",)), allowed_tenants)


def a_peer(name: str = "other", *labels: str, **fields: Any) -> RegisteredPool:
    known = {"provider": "elsewhere", "priority": 100, "is_paused": False, **fields}
    return RegisteredPool(name, labels=frozenset(labels or ("small", "big")), **known)


def a_pool_view(pool: str = "main", **fields: Any) -> PoolView:
    """A pool of provider ``cloud`` with labels ``small`` (one instance) and ``big`` (one instance, four cores), and
    with limits of ten instances and 40 cores."""
    provider = fields.pop("provider", "cloud")
    known: dict[str, Any] = {
        "key": (provider, pool),
        "pool_id": POOL_ID if (provider, pool) == ("cloud", "main") else f"{provider}-{pool}",
        "priority": 100,
        "labels": {"small": LabelView(Usage(instances=1)), "big": LabelView(Usage(instances=1, cores=4))},
        "ceiling": Limits(instances=10, cores=40),
        "limits": Limits(instances=10, cores=40),
    }
    return PoolView(**{**known, **fields})


def a_pause(name: str = "cloud", **fields: Any) -> Pause:
    """Return the pause of a provider, unless *fields* name another target."""
    return Pause(**{"target": Target.provider(name), "by": "ann@desk", "at": 1_700_000_000.0, **fields})


def some_idle(*nodes: IdleNode) -> IdleNodes:
    """Return these idle nodes of a pool."""
    return _Idle(nodes)


class _Idle:
    def __init__(self, nodes: Sequence[IdleNode]) -> None:
        self._nodes = sorted(nodes, key=lambda node: (node.ready_at, node.id))

    def first(self, label: str, count: int) -> Sequence[IdleNode]:
        found: list[IdleNode] = []
        for node in self._nodes:
            if label in node.labels and sum(other.zone == node.zone for other in found) < count:
                found.append(node)
        return found
