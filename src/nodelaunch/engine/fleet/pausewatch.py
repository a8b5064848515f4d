"""Watches operators' pauses: logs each change once, and has the launcher act on it at once.

decisions/triage.py, offers.py and inventory.py define the effect of a pause.
"""

from __future__ import annotations

from collections.abc import Callable

from nodelaunch.engine.view import ClusterView, PausesChanged, ViewSynced
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.pauses import Pause, Target
from nodelaunch.protocol.store import Unsubscribe

log: Logger = get_logger(__name__)


class PauseWatch:
    """The pause watch of one launcher."""

    def __init__(self, view: ClusterView, is_ours: Callable[[Target], bool], on_change: Callable[[], None]) -> None:
        """*is_ours*: returns True if a paused target runs here. *on_change* is called after a change of such a
        target."""
        self._view = view
        self._is_ours = is_ours
        self._on_change = on_change
        self._known: dict[Target, Pause] = {}

    def open(self) -> Unsubscribe:
        """Watch from now on. Return a function that ends that."""
        if self._view.is_synced:
            self._look()
        return self._view.subscribe(lambda _event: self._look(), PausesChanged, ViewSynced)

    def _look(self) -> None:
        now = {target: seen.record for target, seen in self._view.pauses.items() if self._is_ours(target)}
        before, self._known = self._known, now
        for target in before.keys() - now.keys():
            log.info("resumed_by_operator", target=str(target))
        for target in [target for target in now if now[target] != before.get(target)]:
            pause = now[target]
            event = "drained_by_operator" if pause.drains else "paused_by_operator"
            log.info(event, target=str(target), by=pause.by, reason=pause.reason)
        if now != before:
            self._on_change()
