"""The context that all parts of the sweeper share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodelaunch.clock import Clock
from nodelaunch.engine.cleanup.queue import WorkQueue
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import turn_of
from nodelaunch.protocol.store import Store


@dataclass(frozen=True, slots=True)
class SweepContext:
    """*providers*: the providers whose nodes this launcher can delete, as of now."""

    store: Store
    view: ClusterView
    clock: Clock
    providers: Mapping[str, ProviderRuntime]
    queue: WorkQueue
    wake: Callable[[], None]
    """Called when a deadline is set that comes before all others of its kind."""
    own_id: str = ""
    """This process's id among the launchers that repair the same things."""

    def is_our_turn(self, request_id: RequestId) -> bool:
        """Return True if this process cleans up after a request, or can't tell which process does."""
        launchers = self.view.launchers
        return self.own_id not in launchers or launchers[turn_of(request_id, len(launchers))] == self.own_id

    async def is_there(self, path: str) -> bool:
        """Return True if the store itself has a record at *path*. Raises: StoreError.

        A record in the view may be newer than the events reported so far, so that the lock under which it was written
        is not known yet. The lock is known as soon as the store has answered any call: answers and events arrive in one
        order.
        """
        return (await self.store.get_many([path]))[0] is not None
