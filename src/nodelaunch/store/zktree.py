"""One cached tree on a persistent recursive watch.

With each connection the watch is set anew, then everything is walked in pipelined reads; what was not met on the walk
is gone. Events and replies come in one order, and are taken in in that order. An event is followed by a read, except
where it tells of our own write: `OwnWrites` knows those, and puts in what was written when the reply comes.
What does *not* belong here: what the entries mean, and anything but reading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from nodelaunch.protocol.paths import contender_sequence
from nodelaunch.protocol.store import Changed, Cooled, Create, Entry, Put, Removed, Stat, TreeEvent, Unsubscribe, Warmed
from nodelaunch.store.zkclient import ZkSession
from nodelaunch.store.zkwire import (
    EVENT_CHANGED,
    EVENT_CREATED,
    EVENT_DELETED,
    OP_ADD_WATCH,
    OP_CHILDREN2,
    OP_GET,
    PlainOp,
    encode_add_watch,
    encode_path,
    read_children,
    read_entry,
)

log = structlog.get_logger(__name__)


class OwnWrite:
    """One write of ours that is under way, and the events taken to be its own.

    Each change makes one event, which comes before the reply. So at most one event for each path we write is ours; if a
    peer writes the same path meanwhile there is one event more, and that one is followed by a read.
    """

    def __init__(self, ops: Sequence[PlainOp]) -> None:
        self._paths = {op.path for op in ops if isinstance(op, Put) or (isinstance(op, Create) and not op.sequence)}
        self._prefixes = [op.path for op in ops if isinstance(op, Create) and op.sequence]
        self.swallowed: list[str] = []

    def is_own(self, kind: int, path: str) -> bool:
        """Whether the event may be ours; then no read follows for now."""
        if kind == EVENT_DELETED:
            return False
        if path in self._paths:
            self._paths.discard(path)
        elif not any(_is_numbered(path, prefix) for prefix in self._prefixes):
            return False
        self.swallowed.append(path)
        return True


def _is_numbered(path: str, prefix: str) -> bool:
    rest = path[len(prefix) :]
    return path.startswith(prefix) and rest.isdigit()


class ZkTree:
    """The port's tree."""

    def __init__(self, session: ZkSession, root: str, chroot: str, wants_data: Callable[[str], bool]) -> None:
        self.root = root
        self.is_warm = False
        self._session = session
        self._chroot = chroot
        self._wants_data = wants_data
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, set[str]] = {}
        self._listeners: list[Callable[[TreeEvent], None]] = []
        self._warmed = asyncio.Event()
        self._walk = 0
        """Number of the present walk; answers to earlier ones are stale."""
        self._outstanding = 0
        self._met: set[str] = set()
        self._reading: dict[str, bool] = {}
        """Paths with a read under way; true: read once more after it."""

    # -- the port ---------------------------------------------------------------------------------------------------

    async def warm(self) -> None:
        while not self.is_warm:
            await self._warmed.wait()

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def children(self, path: str) -> Collection[str]:
        return self._children.get(path, frozenset())

    def entries(self) -> Iterable[Entry]:
        return list(self._entries.values())

    def subscribe(self, listener: Callable[[TreeEvent], None]) -> Unsubscribe:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, event: TreeEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    # -- walking ----------------------------------------------------------------------------------------------------

    def cool(self) -> None:
        """The connection broke."""
        self._walk += 1
        if self.is_warm:
            self.is_warm = False
            self._tell(Cooled())

    def begin_walk(self) -> None:
        """A new connection: watch, then read everything."""
        self.cool()
        self._met, self._reading, self._outstanding = set(), {}, 1
        walk = self._walk
        self._session.post(
            "watch", OP_ADD_WATCH, encode_add_watch(self._chroot + self.root), path=self.root,
            take_in=lambda _zxid, _body: self._answered(walk), on_failure=lambda: self._answered(walk),
        )  # fmt: skip
        self._list(self.root, walk)

    def _answered(self, walk: int) -> None:
        """One read of the walk is done; after the last one all is known."""
        if walk != self._walk:
            return
        self._outstanding -= 1
        if self._outstanding == 0:
            for path in sorted(self._entries.keys() - self._met, reverse=True):
                self._drop(path)
            self._met = set()
            self.is_warm = True
            self._warmed.set()
            self._warmed = asyncio.Event()
            self._tell(Warmed())

    def _list(self, path: str, walk: int) -> None:
        self._outstanding += 1

        def take_in(_zxid: int, body: bytes) -> None:
            if walk == self._walk:
                names, stat = read_children(body)
                if path != self.root and not self._wants_data(path):
                    self._keep(Entry(path, b"", stat))
                for name in names:
                    self._visit(f"{path}/{name}", walk)
            self._answered(walk)

        self._session.post(
            "children", OP_CHILDREN2, encode_path(self._chroot + path), path=path,
            take_in=take_in, on_failure=lambda: self._answered(walk),
        )  # fmt: skip

    def _visit(self, path: str, walk: int) -> None:
        if not self._wants_data(path) and contender_sequence(path) is not None:
            self._keep(Entry(path, b"", _unread()))
            return
        if self._wants_data(path):
            self._read(path, walk)
        self._list(path, walk)

    def _read(self, path: str, walk: int | None = None) -> None:
        """Read one entry, for the walk or after an event."""
        if walk is not None:
            self._outstanding += 1
        at = self._walk

        def done() -> None:
            again = self._reading.pop(path, False)
            if again and at == self._walk:
                self._read(path)
            if walk is not None:
                self._answered(walk)

        def take_in(_zxid: int, body: bytes) -> None:
            if at == self._walk:
                self._keep(read_entry(path, body))
            done()

        self._reading.setdefault(path, False)
        self._session.post("get", OP_GET, encode_path(self._chroot + path), path=path, take_in=take_in, on_failure=done)

    # -- events -----------------------------------------------------------------------------------------------------

    def covers(self, path: str) -> bool:
        return path.startswith(self.root + "/")

    def on_event(self, kind: int, path: str) -> None:
        """Something happened to *path*, below the root, that is not known to be our own doing."""
        if kind == EVENT_DELETED:
            self._drop(path)
        elif kind in (EVENT_CREATED, EVENT_CHANGED):
            if not self._wants_data(path):
                self._keep(Entry(path, b"", _unread()))
            elif path in self._reading:
                self._reading[path] = True
            else:
                self._read(path)

    def on_own_write(self, entry: Entry) -> None:
        """Our write had its effect."""
        self._keep(entry if self._wants_data(entry.path) else Entry(entry.path, b"", entry.stat))

    def _keep(self, entry: Entry) -> None:
        if not self.is_warm:
            self._met.add(entry.path)
        old = self._entries.get(entry.path)
        if old is not None and old.stat.modified_zxid >= entry.stat.modified_zxid and entry.stat.modified_zxid:
            return
        if old is not None and not entry.stat.modified_zxid:
            return  # known to be there already, and nothing new is known of it
        self._entries[entry.path] = entry
        parent, _, name = entry.path.rpartition("/")
        self._children.setdefault(parent, set()).add(name)
        self._tell(Changed(entry, old))

    def _drop(self, path: str) -> None:
        self._met.discard(path)
        old = self._entries.pop(path, None)
        if old is not None:
            parent, _, name = path.rpartition("/")
            self._children.get(parent, set()).discard(name)
            self._tell(Removed(old))


def _unread() -> Stat:
    """The stat of an entry that is known to be there, and no more."""
    now = time.time()
    return Stat(0, 0, 0, now, now)
