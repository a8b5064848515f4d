"""Which nodes an instance is recorded for.

What does *not* belong here: launches whose instance no record tells of yet (engine/provider/owners.py).
"""

from __future__ import annotations

from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node

_Key = tuple[str, str]
"""Of the provider, and of the instance in it."""


class InstanceIndex:
    """Nodes by their provider and external id. Those whose id is an object, or that have none, are not in it."""

    def __init__(self) -> None:
        self._nodes: dict[_Key, tuple[NodeId, ...]] = {}

    def of(self, provider: str, external_id: str) -> tuple[NodeId, ...]:
        """More than one where machines are shared out, or somebody made a mistake."""
        return self._nodes.get((provider, external_id), ())

    def change(self, old: Node | None, new: Node | None) -> None:
        """A node is there, is different, or is gone."""
        if old is not None and new is not None and old.external_id == new.external_id and old.provider == new.provider:
            return
        before, now = _key(old), _key(new)
        if before == now:
            return
        if before is not None and old is not None:
            left = tuple(node_id for node_id in self._nodes[before] if node_id != old.id)
            if left:
                self._nodes[before] = left
            else:
                del self._nodes[before]
        if now is not None and new is not None:
            self._nodes[now] = (*self._nodes.get(now, ()), new.id)


def _key(node: Node | None) -> _Key | None:
    if node is None or not node.external_id or not isinstance(node.external_id, str) or node.provider is None:
        return None
    return (node.provider, node.external_id)
