"""Nodes that were ready, on hold or being created for too long, and idle nodes that no pool hands out any more.

abandoned.py has the nodes whose launcher died.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from nodelaunch.config.models import Config
from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.deadlines import Deadlines
from nodelaunch.engine.cleanup.queue import STORE, NodeKey
from nodelaunch.engine.nodelocks import discard_node
from nodelaunch.engine.view import Versioned
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState

log: Logger = get_logger(__name__)

ORPHAN_S = 300.0
"""Seconds after which an unlocked ``init`` node counts as abandoned: its creator locks it within milliseconds."""

RETRY_S = 5.0
"""Seconds until a node that could not be discarded is looked at again."""

_AGING = frozenset({NodeState.INIT, NodeState.READY, NodeState.HOLD})


@dataclass(frozen=True, slots=True)
class AgeLimits:
    """How long nodes are kept, in seconds; 0: no limit."""

    max_ready_age: Mapping[str, float]
    """Seconds by label."""
    max_hold_age: float = 0.0

    @classmethod
    def configured(cls, config: Config) -> Self:
        """Return the limits that *config* sets."""
        ready = {label.name: float(label.max_ready_age) for label in config.labels}
        return cls(max_ready_age=ready, max_hold_age=float(config.max_hold_age or 0))

    def of(self, node: Node) -> float:
        """Return the seconds that the node may stay in its state; 0: no limit."""
        if node.is_idle:
            limits = [self.max_ready_age.get(label, 0) for label in node.type]
        elif node.state is NodeState.HOLD:
            limits = [float(node.hold_expiration or 0), self.max_hold_age]
        else:
            return 0
        return min((limit for limit in limits if limit > 0), default=0)


class OldNodes:
    """The times when nodes become too old.

    Invariant: a node of this launcher that is unlocked and will be too old is in ``deadlines``, unless it is being
    discarded. A node in it may be locked, in another state or deleted by its deadline; that is checked then.
    """

    def __init__(self, ctx: SweepContext, ages: AgeLimits, is_served: Callable[[Node], bool]) -> None:
        self.ages = ages
        self.deadlines: Deadlines[NodeId] = Deadlines(ctx.wake)
        """Deadlines by the wall clock."""
        self._ctx = ctx
        self._is_served = is_served

    def look(self, node_id: NodeId) -> None:
        """Note when an unlocked node will be too old."""
        seen = self._ctx.view.nodes.get(node_id)
        if seen is None:
            self.deadlines.forget(node_id)
        elif seen.record.state in _AGING and (when := self._too_old_at(seen)) is not None:
            self.deadlines.set(node_id, when)

    def refill(self) -> None:
        """Compute the deadlines of all nodes again, because limits or nodes have changed."""
        self.deadlines.clear()
        for provider in list(self._ctx.providers):
            for seen in self._ctx.view.nodes_of(provider):
                self.look(seen.record.id)

    def look_at_idle(self, node_id: NodeId) -> None:
        """Discard an idle node at once if no pool hands it out."""
        seen = self._ctx.view.nodes.get(node_id)
        if seen is None or not self._is_unserved(seen.record):
            return
        if self._ctx.view.is_node_locked(node_id):
            self._try_again(node_id)
        else:
            self._discard_unserved(seen)

    def look_at_all_idle(self) -> None:
        """Discard idle nodes that no pool hands out any more, after a change of pools."""
        for provider in list(self._ctx.providers):
            for seen in self._ctx.view.nodes_of(provider):
                if seen.record.is_idle:
                    self.look_at_idle(seen.record.id)

    def discard_due(self) -> None:
        """Discard nodes that are too old."""
        now = self._ctx.clock.now()
        for node_id in self.deadlines.due(now):
            seen = self._ctx.view.nodes.get(node_id)
            if seen is None:
                continue
            if self._ctx.view.is_node_locked(node_id):
                self.look_at_idle(node_id)
                continue  # its age is checked again when it is unlocked
            when = self._too_old_at(seen)
            if when is not None and when <= now:
                log.info("node_too_old", node_id=node_id, state=seen.record.state.value, limit_s=self._limit(seen))
                self._discard(seen)
            elif self._is_unserved(seen.record):
                self._discard_unserved(seen)
            elif when is not None:
                self.deadlines.set(node_id, when)

    def _is_unserved(self, node: Node) -> bool:
        return node.is_idle and node.provider in self._ctx.providers and not self._is_served(node)

    def _limit(self, seen: Versioned[Node]) -> float:
        return ORPHAN_S if seen.record.state is NodeState.INIT else self.ages.of(seen.record)

    def _too_old_at(self, seen: Versioned[Node]) -> float | None:
        """Return the time when the node will be too old, in seconds since 1970; None: never, or the node is another
        launcher's."""
        node = seen.record
        state = node.state
        if state is NodeState.INIT:
            when = seen.modified_at + ORPHAN_S
        elif state is NodeState.HOLD or (state is NodeState.READY and not node.allocated_to):
            limit = self.ages.of(node)
            if not limit:
                return None
            when = node.state_time + limit
        else:
            return None
        return when if node.provider in self._ctx.providers else None

    def _discard_unserved(self, seen: Versioned[Node]) -> None:
        node = seen.record
        log.info("unserved_node_found", node_id=node.id, pool=node.pool, labels=list(node.type))
        self._discard(seen)

    def _discard(self, seen: Versioned[Node]) -> None:
        if not self._ctx.queue.start(NodeKey(seen.record.id), STORE, self._mark, seen):
            self._try_again(seen.record.id)

    async def _mark(self, seen: Versioned[Node]) -> None:
        """Mark a node for deletion."""
        self._try_again(seen.record.id)  # dropped if the node is discarded, as it is not too old then
        await discard_node(self._ctx.store, self._ctx.view, seen, self._ctx.clock)

    def _try_again(self, node_id: NodeId) -> None:
        self.deadlines.set(node_id, self._ctx.clock.now() + RETRY_S)
