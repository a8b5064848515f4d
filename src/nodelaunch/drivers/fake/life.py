"""The life of the fake cloud's instances. Each step is one transaction, performs due changes first, and then notifies
listeners.

Actions that only take time (boot, deletion) are stored with the time when they are due, and the next process that reads
the cloud performs them. cloud.py decides what is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nodelaunch.drivers.fake.ledger import CloudLedger, FakeServer, node_of

TICK_S = 1e-3
"""Changes due within this time are due now: timers of an event loop may fire slightly early."""


class Life:
    """Creates, changes and removes instances of *ledger*, at the times that *now* returns."""

    def __init__(self, ledger: CloudLedger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now
        self._touched: set[str] = set()
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    @contextmanager
    def step(self) -> Iterator[float]:
        """Run one transaction after the changes that are due, and yield its time. Listeners are notified at the end."""
        self._touched = set()
        try:
            with self._ledger.transaction():
                now = self._now()
                self.settle(now)
                yield now
        finally:
            if self._touched and self._listeners:
                self._tell()

    def _tell(self) -> None:
        for instance_id in sorted(self._touched):
            for listener in tuple(self._listeners.get(instance_id, ())):
                listener()

    def catch_up(self) -> None:
        """Perform the changes that are due. Must not be called within a step."""
        if self._ledger.has_due(self._now() + TICK_S):
            with self.step():
                pass

    def settle(self, now: float) -> None:
        """Within a step, perform the changes that are due, in the order of their times."""
        for server in self._ledger.due(now + TICK_S):
            at = server.next_at or now
            if server.next_state == "gone":
                self.drop(server, at)
            else:
                self.move(server, server.next_state or server.state, at)

    def insert(self, server: FakeServer) -> str:
        """Within a step, add *server* with a new number; return its id."""
        kept = replace(server, metadata=dict(server.metadata), resources=dict(server.resources))
        self._ledger.insert(kept)
        self._note(kept.created_at, "create", kept, {"metadata": kept.metadata, "resources": kept.resources})
        self.settle(kept.created_at)
        return kept.id

    def move(
        self, server: FakeServer, state: str, at: float, next_state: str | None = None, next_at: float | None = None
    ) -> None:
        """Within a step, set *server* to *state* now, and to *next_state* at *next_at*."""
        self._ledger.move(server, state, next_state, next_at)
        self._note(at, state, server)

    def drop(self, server: FakeServer, at: float) -> None:
        """Within a step, remove *server*."""
        self._ledger.drop(server)
        self._note(at, "gone", server)

    def _note(self, at: float, what: str, server: FakeServer, detail: Any = None) -> None:
        self._touched.add(server.id)
        self._ledger.note(at, what, server.id, node_of(server.metadata), detail)

    def subscribe(self, instance_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* after each change of the instance, until the returned function is called."""
        self._listeners.setdefault(instance_id, []).append(listener)

        def unsubscribe() -> None:
            self._listeners[instance_id].remove(listener)
            if not self._listeners[instance_id]:
                del self._listeners[instance_id]

        return unsubscribe
