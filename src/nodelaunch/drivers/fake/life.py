"""The life of the fake cloud's instances: each step is one transaction, does first what is due, and is told afterwards.

What only takes time (booting, being deleted) is kept with the time it is due, and done by whoever looks next.
What does *not* belong here: what may be refused and why (cloud.py), how it is kept (ledger.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nodelaunch.drivers.fake.ledger import CloudLedger, FakeServer, node_of

TICK_S = 1e-3
"""What is due within this is due now: timers of an event loop may fire a hair early."""


class Life:
    """Makes, moves and drops instances of *ledger*, at the times that *now* gives."""

    def __init__(self, ledger: CloudLedger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now
        self._touched: set[str] = set()
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    @contextmanager
    def step(self) -> Iterator[float]:
        """One transaction, at the time it gives; what is due by then is done first. Listeners hear of it afterwards."""
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
        """Do what is due. Not to be used within a step."""
        if self._ledger.has_due(self._now() + TICK_S):
            with self.step():
                pass

    def settle(self, now: float) -> None:
        """Within a step: do what is due, in the order of its times."""
        for server in self._ledger.due(now + TICK_S):
            at = server.next_at or now
            if server.next_state == "gone":
                self.drop(server, at)
            else:
                self.move(server, server.next_state or server.state, at)

    def insert(self, server: FakeServer) -> str:
        """Within a step: have *server*, whose number does not matter; its id."""
        kept = replace(server, metadata=dict(server.metadata), resources=dict(server.resources))
        self._ledger.insert(kept)
        self._note(kept.created_at, "create", kept, {"metadata": kept.metadata, "resources": kept.resources})
        self.settle(kept.created_at)
        return kept.id

    def move(
        self, server: FakeServer, state: str, at: float, next_state: str | None = None, next_at: float | None = None
    ) -> None:
        """Within a step: let *server* be in *state*, and in *next_state* later."""
        self._ledger.move(server, state, next_state, next_at)
        self._note(at, state, server)

    def drop(self, server: FakeServer, at: float) -> None:
        """Within a step: let *server* be gone."""
        self._ledger.drop(server)
        self._note(at, "gone", server)

    def _note(self, at: float, what: str, server: FakeServer, detail: Any = None) -> None:
        self._touched.add(server.id)
        self._ledger.note(at, what, server.id, node_of(server.metadata), detail)

    def subscribe(self, instance_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Have *listener* called after each change of the instance, until the function given back is called."""
        self._listeners.setdefault(instance_id, []).append(listener)

        def unsubscribe() -> None:
            self._listeners[instance_id].remove(listener)
            if not self._listeners[instance_id]:
                del self._listeners[instance_id]

        return unsubscribe
