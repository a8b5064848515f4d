"""One cached tree on a persistent recursive watch.

With each connection the watch is set anew, then everything is walked in pipelined reads; what was not met on the walk
is gone. Events and replies come in one order, and are told in that order (`EventLine`). An event is followed by a read,
except where it tells of our own write (`OwnWrite`): then what was written is put in when the reply comes.
What does *not* belong here: what the entries mean, and anything but reading.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from nodelaunch.protocol.paths import contender_sequence
from nodelaunch.protocol.store import Create, Entry, Put, Stat
from nodelaunch.store.shared import TreeCopy
from nodelaunch.store.zkclient import ZkSession
from nodelaunch.store.zkwire import (
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


class _Place:
    """A place in the line: something that is told in its turn, once it is known what."""

    __slots__ = ("apply", "done")

    def __init__(self, apply: Callable[[], None] | None) -> None:
        self.apply = apply
        self.done = asyncio.Event() if apply is None else None


class EventLine:
    """What the trees are still to be told, in the order in which it happened.

    An event that has to be followed by a read, and a write of ours whose reply is not here yet, hold their place until
    it is known what they are; what comes after them waits. So nobody is told that a lock is free before being told what
    was written under it.
    """

    def __init__(self) -> None:
        self._places: deque[_Place] = deque()

    def tell(self, apply: Callable[[], None]) -> None:
        """Tell it after all that came before."""
        self._places.append(_Place(apply))
        self._advance()

    def hold(self) -> _Place:
        """A place for what is not known yet."""
        place = _Place(None)
        self._places.append(place)
        return place

    def fill(self, place: _Place, apply: Callable[[], None]) -> None:
        """It is known now."""
        place.apply = apply
        self._advance()

    def clear(self) -> None:
        """A new connection begins with reading everything anew."""
        places, self._places = self._places, deque()
        for place in places:
            if place.done is not None:
                place.done.set()

    def _advance(self) -> None:
        while self._places and (apply := self._places[0].apply) is not None:
            place = self._places.popleft()
            apply()
            if place.done is not None:
                place.done.set()


class OwnWrite:
    """One write of ours that is under way, and the events taken to be its own.

    Each change makes one event, which comes before the reply. So at most one event for each path we write is ours; if a
    peer writes the same path meanwhile there is one event more, and that one is followed by a read.
    """

    def __init__(self, ops: Sequence[PlainOp]) -> None:
        self._paths = {op.path for op in ops if isinstance(op, Put) or (isinstance(op, Create) and not op.sequence)}
        self._prefixes = [op.path for op in ops if isinstance(op, Create) and op.sequence]
        self.swallowed: list[str] = []
        self.place: _Place | None = None

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

    async def told(self) -> None:
        """Wait until the trees have it."""
        if self.place is not None and self.place.done is not None:
            await self.place.done.wait()


def _is_numbered(path: str, prefix: str) -> bool:
    rest = path[len(prefix) :]
    return path.startswith(prefix) and rest.isdigit()


class ZkTree(TreeCopy):
    """The port's tree."""

    def __init__(self, session: ZkSession, root: str, chroot: str, wants_data: Callable[[str], bool]) -> None:
        super().__init__(root, wants_data)
        self._session = session
        self._chroot = chroot
        self._walk = 0
        """Number of the present walk; answers to earlier ones are stale."""
        self._outstanding = 0
        self._met: set[str] = set()

    # -- walking ----------------------------------------------------------------------------------------------------

    def cool(self) -> None:
        """The connection broke."""
        self._walk += 1
        self.set_warm(False)

    def begin_walk(self) -> None:
        """A new connection: watch, then read everything."""
        self.cool()
        self._met, self._outstanding = set(), 1
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
            self.set_warm(True)

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

    def _read(self, path: str, walk: int) -> None:
        self._outstanding += 1

        def take_in(_zxid: int, body: bytes) -> None:
            if walk == self._walk:
                self._keep(read_entry(path, body))
            self._answered(walk)

        self._session.post(
            "get", OP_GET, encode_path(self._chroot + path), path=path,
            take_in=take_in, on_failure=lambda: self._answered(walk),
        )  # fmt: skip

    # -- being told -------------------------------------------------------------------------------------------------

    def wants(self, path: str) -> bool:
        """Whether the tree has to know the data at *path*."""
        return self.covers(path) and self._wants_data(path)

    def on_gone(self, path: str) -> None:
        """*path* was deleted."""
        if self.covers(path):
            self._drop(path)

    def on_there(self, path: str) -> None:
        """*path* is there; its data is not known, and not wanted."""
        if self.covers(path):
            self._keep(Entry(path, b"", _unread()))

    def on_entry(self, entry: Entry) -> None:
        """The entry was read, or written by us."""
        if self.covers(entry.path):
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if not self.is_warm:
            self._met.add(entry.path)
        old = self._entries.get(entry.path)
        if old is not None and old.stat.modified_zxid >= entry.stat.modified_zxid and entry.stat.modified_zxid:
            return
        if old is not None and not entry.stat.modified_zxid:
            return  # known to be there already, and nothing new is known of it
        self.put_entry(entry)

    def _drop(self, path: str) -> None:
        self._met.discard(path)
        self.drop_entry(path)


def _unread() -> Stat:
    """The stat of an entry that is known to be there, and no more."""
    now = time.time()
    return Stat(0, 0, 0, now, now)
