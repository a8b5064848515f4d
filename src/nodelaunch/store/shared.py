"""The parts that all stores share: listeners for session states and lost locks, and a tree's copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from nodelaunch.errors import StoreUnavailableError
from nodelaunch.protocol.paths import contender_sequence
from nodelaunch.protocol.store import Changed, Entry, Removed, SessionState, Stale, Synced, TreeEvent, Unsubscribe


class SessionStates:
    """The states of the port's session, and their listeners."""

    def __init__(self) -> None:
        self.epoch = 0
        self.state: SessionState = SessionState.CONNECTING
        self._listeners: list[Callable[[SessionState], None]] = []
        self._changed = asyncio.Event()

    def enter(self, state: SessionState) -> None:
        """Set *state*, and notify the listeners."""
        self.state = state
        for listener in tuple(self._listeners):
            listener(state)
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next state."""
        await self._changed.wait()

    async def connected(self) -> int:
        while self.state is not SessionState.CONNECTED:
            if self.state is SessionState.CLOSED:
                raise StoreUnavailableError(detail="the store is closed")
            await self.changed()
        return self.epoch

    def subscribe(self, listener: Callable[[SessionState], None]) -> Unsubscribe:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


class LossListeners:
    """Listeners for the loss of one lock."""

    def __init__(self) -> None:
        self.is_lost: bool = False
        self._listeners: list[Callable[[], None]] = []

    def on_lost(self, listener: Callable[[], None]) -> Unsubscribe:
        if self.is_lost:
            asyncio.get_running_loop().call_soon(listener)
            return lambda: None
        self._listeners.append(listener)

        def stop() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def lose(self) -> None:
        """Mark the lock as lost, and notify every listener once."""
        self.is_lost = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()


class TreeCopy:
    """The entries of the port's tree, and their listeners."""

    def __init__(self, root: str, wants_data: Callable[[str], bool]) -> None:
        self.root = root
        self.is_synced: bool = False
        self._wants_data = wants_data
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, set[str]] = {}
        self._listeners: list[Callable[[TreeEvent], None]] = []
        self._synced = asyncio.Event()

    async def synced(self) -> None:
        while not self.is_synced:
            await self._synced.wait()

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def children(self, path: str) -> Collection[str]:
        return self._children.get(path, frozenset())

    def entries(self) -> Iterable[Entry]:
        return list(self._entries.values())

    def subscribe(self, listener: Callable[[TreeEvent], None]) -> Unsubscribe:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def hurry(self) -> None:
        """Do nothing: no change lags here."""

    def put_entry(self, entry: Entry) -> None:
        """Put an entry that is new or has new data; unwanted data is left out."""
        kept = entry if self._wants_data(entry.path) else Entry(entry.path, b"", entry.stat)
        old = self._entries.get(entry.path)
        self._entries[entry.path] = kept
        parent, _, name = entry.path.rpartition("/")
        self._children.setdefault(parent, set()).add(name)
        self._notify(Changed(kept, old))

    def drop_entry(self, path: str) -> None:
        """Remove the entry, if it exists."""
        old = self._entries.pop(path, None)
        if old is not None:
            parent, _, name = path.rpartition("/")
            children = self._children[parent]
            children.discard(name)
            if not children:
                del self._children[parent]
            self._notify(Removed(old))

    def set_synced(self, is_synced: bool) -> None:
        """Set whether the tree is in sync."""
        if is_synced == self.is_synced:
            return
        self.is_synced = is_synced
        if is_synced:
            self._synced.set()
            self._synced = asyncio.Event()
        self._notify(Synced() if is_synced else Stale())

    def _notify(self, event: TreeEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the contenders among *names*, the holder first; other names are ignored."""
    return sorted((name for name in names if contender_sequence(name)), key=lambda name: contender_sequence(name) or "")


def contenders_in(path: str, names: Iterable[str]) -> list[str]:
    """Return the full paths of the contenders among the children *names* of lock directory *path*, the holder first."""
    return [f"{path}/{name}" for name in in_order(names)]
