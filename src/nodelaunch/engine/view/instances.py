"""The nodes for which an instance is recorded. engine/provider/owners.py has launches without a recorded instance."""

from __future__ import annotations

from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node

_Key = tuple[str, str]
"""The provider's name, and the instance's id at the provider."""


class InstanceIndex:
    """Nodes by their provider and external id. Nodes whose id is an object, or that have none, are left out."""

    def __init__(self) -> None:
        self._nodes: dict[_Key, tuple[NodeId, ...]] = {}

    def of(self, provider: str, external_id: str) -> tuple[NodeId, ...]:
        """Return the nodes of one instance: several if machines are shared, or records are wrong."""
        return self._nodes.get((provider, external_id), ())

    def change(self, old: Node | None, new: Node | None) -> None:
        """Handle a node that is new, changed, or gone."""
        if old is None:
            before = None
        elif new is not None and old.external_id == new.external_id and old.provider == new.provider:
            return
        else:
            before = _key(old)
        now = None if new is None else _key(new)
        if before == now:
            return
        if before is not None and old is not None:
            left = [node_id for node_id in self._nodes[before] if node_id != old.id]
            if left:
                self._nodes[before] = tuple(left)
            else:
                del self._nodes[before]
        if now is not None and new is not None:
            self._nodes[now] = (*self._nodes.get(now, ()), new.id)


def _key(node: Node) -> _Key | None:
    if not node.external_id or not isinstance(node.external_id, str) or node.provider is None:
        return None
    return (node.provider, node.external_id)
