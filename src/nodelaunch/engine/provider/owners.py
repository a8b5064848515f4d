"""The owner of each instance: if a driver names the same instance for two nodes, it is not deleted for the wrong one.

engine/cleanup/leaks.py has instances without a node; protocol/soundness.py checks the form of an id.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakValueDictionary

from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import ExternalId
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Lock

_GONE = (NodeState.DELETING, NodeState.DELETED)
"""States in which a node does not own its instance's id: the instance is deleted before the record."""


class Holder(Protocol):
    """A node that is being launched."""

    lock: Lock

    @property
    def id(self) -> NodeId: ...

    @property
    def external_id(self) -> ExternalId | None: ...


class Owners:
    """The owners of a provider's instances, recorded or about to be."""

    def __init__(self, provider: str, view: ClusterView) -> None:
        self._provider = provider
        self._view = view
        self._launching: WeakValueDictionary[ExternalId, Holder] = WeakValueDictionary()
        """Nodes whose instance the view may not have yet, by the instance."""

    def take(self, external_id: ExternalId, holder: Holder) -> None:
        """Make *holder* the owner of the instance. Raises: DriverError if another node owns it."""
        owner = self._owner_but(holder, external_id)
        if owner is not None:
            text = f"the driver gave an external_id that belongs to node {owner}: {external_id}"
            raise DriverError(text, provider=self._provider, may_exist=True)
        self._launching[external_id] = holder

    def left_by(self, error: DriverError, holder: Holder) -> ExternalId | None:
        """Return the instance that the failed call for *holder* may have left, if no other node owns it."""
        if error.external_id is None:
            return None
        external_id = ExternalId(error.external_id)
        return external_id if self._owner_but(holder, external_id) is None else None

    def _owner_but(self, holder: Holder, external_id: ExternalId) -> NodeId | None:
        """Return the owner of the instance, unless it is *holder*."""
        other = self._launching.get(external_id)
        if other is not None and other.id != holder.id and other.external_id == external_id and other.lock.is_held:
            return other.id
        for node_id in self._view.nodes_with(self._provider, external_id):
            if node_id != holder.id and self._view.nodes[node_id].record.state not in _GONE:
                return node_id
        return None
