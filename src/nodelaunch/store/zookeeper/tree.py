"""A cached tree, and the walk that fills it.

On each new connection everything is walked again; an entry that the walk did not meet no longer exists. A znode is
listed only if it may have children: its own stat has their number. All trees share one window of requests, so that
other calls and pings are not delayed. A tree whose watch or reads are refused stays stale, and is walked again later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import contender_sequence
from nodelaunch.protocol.store import Changed, Entry, Removed, Stale, Stat, Synced, TreeEvent, Unsubscribe
from nodelaunch.store.zookeeper.session import ZkSession
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    NO_NODE,
    OP_ADD_WATCH,
    OP_CHILDREN2,
    OP_GET,
    encode_add_watch,
    encode_path,
    read_child_count,
    read_children,
    read_entry,
    store_error,
)

log: Logger = get_logger(__name__)

WINDOW: Final = 500
"""Requests of walks in flight at a time."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""Seconds before a tree is walked again after a refusal; doubling."""


def _nothing() -> None:
    """Do nothing: while the tree is in no forest, no change lags."""


class ZkTree:
    """The port's tree."""

    def __init__(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool],
        may_lag: Callable[[str], bool],
        keeps_data: bool,
    ) -> None:
        self.root = root
        self.prefix: str = root.rstrip("/") + "/"
        """The prefix of every path in the tree."""
        self.is_synced: bool = False
        self.wants_data = wants_data
        self.may_lag = may_lag
        self.walk: Walk | None = None
        """The walk under way."""
        self.retry_s: float = 0.0
        """Pause before the next walk, after a refusal."""
        self.retry: asyncio.TimerHandle | None = None
        self.read_laggards: Callable[[], None] = _nothing
        """Reads lagging paths at once, in all trees."""
        self._keeps_data = keeps_data
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, set[str]] = {}
        self._listeners: tuple[Callable[[TreeEvent], None], ...] = ()
        self._synced = asyncio.Event()

    # -- the port ---------------------------------------------------------------------------------------------------

    async def synced(self) -> None:
        while not self.is_synced:
            await self._synced.wait()

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def children(self, path: str) -> Collection[str]:
        return self._children.get(path, frozenset())

    def entries(self) -> Iterable[Entry]:
        return list(self._entries.values())

    def hurry(self) -> None:
        self.read_laggards()

    def subscribe(self, listener: Callable[[TreeEvent], None]) -> Unsubscribe:
        self._listeners = (*self._listeners, listener)

        def stop() -> None:
            left = list(self._listeners)
            left.remove(listener)
            self._listeners = tuple(left)

        return stop

    # -- changes ----------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, *, is_wanted: bool, is_current: bool = False) -> None:
        """Put an entry that is new or has new data; unwanted data is left out.

        An entry older than the tree's is ignored, except if it *is_current*: ZooKeeper may have been restored from a
        backup.
        """
        path = entry.path
        entries = self._entries
        old = entries.get(path)
        if self.walk is not None:
            self.walk.met.add(path)
        if old is None:
            parent, _, name = path.rpartition("/")
            children = self._children.get(parent)
            if children is None:
                self._children[parent] = {name}
            else:
                children.add(name)
        elif not is_wanted or not _is_news(old.stat, entry.stat, is_current=is_current):
            return
        if not is_wanted:
            entry = Entry(path, b"", entry.stat)
        entries[path] = entry if self._keeps_data else Entry(path, b"", entry.stat)
        self._notify(Changed(entry, old))

    def drop(self, path: str) -> None:
        """Remove the entry, if it exists."""
        if self.walk is not None:
            self.walk.met.discard(path)
        old = self._entries.pop(path, None)
        if old is None:
            return
        parent, _, name = path.rpartition("/")
        children = self._children.get(parent)
        if children is not None:
            children.discard(name)
            if not children:
                del self._children[parent]
        self._notify(Removed(old))

    def mark_stale(self) -> None:
        """Mark the tree as stale."""
        self.walk = None
        if self.is_synced:
            self.is_synced = False
            self._notify(Stale())

    def complete(self, met: set[str]) -> None:
        """End the walk: remove entries that it has not *met*, and mark the tree as in sync."""
        self.walk = None
        self.retry_s = 0.0
        for path in self._entries.keys() - met:
            self.drop(path)
        self.is_synced = True
        self._synced.set()
        self._synced = asyncio.Event()
        self._notify(Synced())

    def _notify(self, event: TreeEvent) -> None:
        """Notify the listeners. An error in one is logged, and does not affect the others."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("tree_listener_failed", tree_event=type(event).__name__)


def _is_news(old: Stat, new: Stat, *, is_current: bool) -> bool:
    if is_current:
        return old.modified_zxid != new.modified_zxid or old.version != new.version
    return new.modified_zxid > old.modified_zxid


def unread(path: str) -> Entry:
    """Return an entry that is known to exist, without data."""
    now = time.time()
    return Entry(path, b"", Stat(0, 0, 0, now, now))


# -- walking --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Walk:
    """A walk through one tree."""

    tree: ZkTree
    met: set[str] = field(default_factory=set)
    """Paths that exist."""
    outstanding: int = 0
    refusal: str = ""
    """The request that the server refused, if any, as a text."""

    @property
    def is_current(self) -> bool:
        return self.tree.walk is self


class Walker:
    """Walks through trees, all in one window. *on_end*: called with each walk that ended. *on_counted*: called with the
    number of children ever created below a tree's root, by the root's path with a slash."""

    def __init__(
        self,
        session: ZkSession,
        prefix: bytes,
        on_end: Callable[[Walk], None],
        on_counted: Callable[[str, int], None],
    ) -> None:
        self._session = session
        self._prefix = prefix
        self._on_end = on_end
        self._on_counted = on_counted
        self._lists: deque[tuple[Walk, str]] = deque()
        self._reads: deque[tuple[Walk, str]] = deque()
        self._in_flight = 0

    def begin(self, tree: ZkTree) -> None:
        """Watch *tree*, then read everything."""
        tree.mark_stale()
        walk = tree.walk = Walk(tree, outstanding=2)
        body = encode_add_watch(self._prefix, tree.root)
        self._session.send("watch", OP_ADD_WATCH, body, self._on_watched, walk)
        self._lists.append((walk, tree.root))
        self._pump()

    def stop(self) -> None:
        """Stop all walks: the connection has ended."""
        self._lists.clear()
        self._reads.clear()
        self._in_flight = 0

    def _pump(self) -> None:
        send, prefix, reads, lists = self._session.send, self._prefix, self._reads, self._lists
        while self._in_flight < WINDOW and (reads or lists):
            self._in_flight += 1
            if reads:
                step = reads.popleft()
                send("get", OP_GET, encode_path(prefix, step[1]), self._on_read, step)
            else:
                step = lists.popleft()
                send("children", OP_CHILDREN2, encode_path(prefix, step[1]), self._on_listed, step)

    def _on_watched(self, walk: Walk, error: int, _zxid: int, _data: bytes, _at: int) -> None:
        if error != BROKEN:
            self._answered(walk, error, walk.tree.root, "be watched")

    def _on_read(self, step: tuple[Walk, str], error: int, _zxid: int, data: bytes, at: int) -> None:
        if error == BROKEN:
            return
        self._in_flight -= 1
        walk, path = step
        if not error and walk.is_current:
            walk.tree.put(read_entry(path, data, at), is_wanted=True, is_current=True)
            if read_child_count(data, at):
                walk.outstanding += 1
                self._lists.append(step)
        self._answered(walk, error, path, "be read")
        self._pump()

    def _on_listed(self, step: tuple[Walk, str], error: int, _zxid: int, data: bytes, at: int) -> None:
        if error == BROKEN:
            return
        self._in_flight -= 1
        walk, path = step
        if not error and walk.is_current:
            names, stat, created = read_children(data, at)
            if path != walk.tree.root and not walk.tree.wants_data(path):
                walk.tree.put(Entry(path, b"", stat), is_wanted=False)
            if path == walk.tree.root:
                self._on_counted(f"{path}/", created)
            self._visit(walk, path.rstrip("/"), names)
        self._answered(walk, error, path, "be listed")
        self._pump()

    def _visit(self, walk: Walk, parent: str, names: Iterable[str]) -> None:
        wants_data = walk.tree.wants_data
        for name in names:
            path = f"{parent}/{name}"
            if wants_data(path):
                walk.outstanding += 1
                self._reads.append((walk, path))
            elif contender_sequence(name) is not None:
                walk.tree.put(unread(path), is_wanted=False)
            else:
                walk.outstanding += 1
                self._lists.append((walk, path))

    def _answered(self, walk: Walk, error: int, path: str, what: str) -> None:
        """Count the answer to one request of the walk; after the last one the tree is complete, unless a request was
        refused."""
        if error and error != NO_NODE:
            walk.refusal = walk.refusal or f"{path} can't {what}: {store_error(error, path).detail}"
        walk.outstanding -= 1
        if not walk.outstanding and walk.is_current:
            self._on_end(walk)
