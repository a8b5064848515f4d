"""Marks the effects of a change: lines to be decided on, and pools to be looked at after the next pass."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from nodelaunch.decisions.scheduling import Schedule
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.serve.facts import EngineFacts, OwnPools
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState

LAUNCHING = frozenset({NodeState.INIT, NodeState.BUILDING})


class Marks:
    """Marks lines and pools. *wake* is called after each mark."""

    def __init__(self, schedule: Schedule, own: OwnPools, facts: EngineFacts, wake: Callable[[], None]) -> None:
        self.touched: dict[PoolKey, None] = {}
        """Pools to be looked at after the next pass, in the order in which they were touched."""
        self.capacity_listeners: list[Callable[[PoolKey], None]] = []
        """Called, often, with each pool that may have more capacity; each listener must return at once."""
        self._schedule = schedule
        self._own = own
        self._facts = facts
        self._wake = wake

    def take_touched(self) -> dict[PoolKey, None]:
        """Return the pools touched so far, and clear them."""
        touched, self.touched = self.touched, {}
        return touched

    def capacity_changed(self, key: PoolKey) -> None:
        """Note that the pool, or its provider, may have more capacity."""
        self.touched[key] = None
        if key in self._own.pools:
            self._schedule.pool_changed(key)
        self._schedule.provider_changed(key[0])
        self._wake()
        for listener in self.capacity_listeners:
            listener(key)

    def tenant_changed(self, name: str) -> None:
        """Note that the tenant may have more capacity."""
        if name in self._facts.books.tenants:
            self._schedule.tenant_changed(name)
            self._wake()

    def given_back(self, key: PoolKey, tenant: str | None) -> None:
        """Note that a reservation in the pool, and for the tenant, was released."""
        self.capacity_changed(key)
        if tenant is not None:
            self.tenant_changed(tenant)

    def node_changed(self, old: Node | None, new: Node) -> None:
        """Mark the effects of a changed node: a request can be served now only if the node is idle, or uses less than
        before."""
        if new.is_idle:
            self.capacity_changed((new.provider or "", new.pool or ""))
            if old is not None and old.tenant_name:
                self.tenant_changed(old.tenant_name)
        elif old is not None and _takes_other_capacity(old, new):
            self.node_freed(old)
        if old is not None and old.state in LAUNCHING and new.state not in LAUNCHING:
            self._launch_ended(old)

    def node_unlocked(self, node: Node | None) -> None:
        """Note that an idle node can be taken again, or a launch was interrupted."""
        if node is not None and node.is_idle:
            self.capacity_changed((node.provider or "", node.pool or ""))
        elif node is not None and node.state in LAUNCHING:
            self._launch_ended(node)

    def _launch_ended(self, node: Node) -> None:
        """Note a launch that ended: if launchers share a provider, another's launch counts like our own."""
        if self._facts.launchers > 1:
            for key, view in self._own.views.items():
                if key[0] == node.provider and view.max_concurrency >= 0:
                    self.capacity_changed(key)

    def node_freed(self, node: Node) -> None:
        """Note that the usage of *node* is free."""
        if node.state in LAUNCHING:
            self._launch_ended(node)
        self.capacity_changed((node.provider or "", node.pool or ""))
        if node.tenant_name:
            self.tenant_changed(node.tenant_name)

    def wake_all(self) -> None:
        """Mark all that waits."""
        self._schedule.time_passed(inf)
        self._schedule.wake_all()
        self.touched.update(dict.fromkeys(self._own.pools))
        self._wake()


def _takes_other_capacity(old: Node, new: Node) -> bool:
    return (
        old.resources != new.resources
        or old.tenant_name != new.tenant_name
        or old.provider != new.provider
        or old.pool != new.pool
    )
