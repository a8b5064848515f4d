"""Logs once for each node on hold: the reason, and the job. ages.py limits the time on hold."""

from __future__ import annotations

from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.states import NodeState

log: Logger = get_logger(__name__)


class HeldNodes:
    """The nodes whose hold was logged: nodes put on hold, and nodes found on hold at the start."""

    def __init__(self, ctx: SweepContext) -> None:
        self._ctx = ctx
        self._reported: set[NodeId] = set()

    def look(self, node_id: NodeId) -> None:
        """Log that an unlocked node is on hold, unless that was logged."""
        seen = self._ctx.view.nodes.get(node_id)
        if seen is None or seen.record.state is not NodeState.HOLD:
            self._reported.discard(node_id)
            return
        node = seen.record
        if node_id not in self._reported and node.provider in self._ctx.providers:
            self._reported.add(node_id)
            log.info(
                "node_held", node_id=node_id, provider=node.provider, label=",".join(node.type),
                hold_job=node.hold_job, comment=node.comment,
            )  # fmt: skip

    def forget(self, node_id: NodeId) -> None:
        """Forget a node that was deleted, or is no longer on hold."""
        self._reported.discard(node_id)

    def forget_the_gone(self) -> None:
        """Forget nodes whose removal was not seen."""
        self._reported = {node_id for node_id in self._reported if node_id in self._ctx.view.nodes}
