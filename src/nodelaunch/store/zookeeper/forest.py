"""Reports changes to the open trees, in the order in which they happen.

An event is followed by a read, unless the event reports a write of this process (`OwnWrite`): then the trees get the
written data when the reply arrives. A read, and an own write without a reply yet, keep their place in a line until
their result is known; later events wait behind them. So a lock is never reported free before the data that was written
under it. A path whose changes may lag is read once, later, or just before a path below it is reported.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nodelaunch.errors import StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import LAG_S, CheckVersion, Create, Delete, Entry, Lock
from nodelaunch.store.zookeeper.grove import Grove
from nodelaunch.store.zookeeper.numbers import DIGITS, Numbers
from nodelaunch.store.zookeeper.session import ZkSession
from nodelaunch.store.zookeeper.tree import FIRST_RETRY_S, LAST_RETRY_S, Walk, Walker, ZkTree, unread
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    EVENT_CHANGED,
    EVENT_CREATED,
    EVENT_DELETED,
    NO_NODE,
    OP_GET,
    PlainOp,
    encode_path,
    read_entry,
    store_error,
)

log: Logger = get_logger(__name__)

LOCK_DIRECTORY: Final = "/lock/"
"""Separates the path of the locked znode from the name of a contender."""
DELETION: Final = "-"
"""Prefix of the key for an own write that deletes a path, among the keys by which its events are found."""


@dataclass(slots=True, eq=False)
class EncodedWrite:
    """A write to send: *ops*, encoded as *body* of a request *code*, in session *epoch*.

    ``under``: locks that have to be held. ``released``: locks whose contenders the write deletes. ``contender``: the
    path, without its number, of the contender that the write creates. ``is_foreseen``: the first operation creates a
    path whose number was predicted; a prediction made before a break of the connection is not valid after it.
    """

    ops: Sequence[PlainOp]
    code: int
    body: bytes
    epoch: int
    under: Collection[Lock] = ()
    released: Collection[Lock] = ()
    contender: str = ""
    is_foreseen: bool = False
    numbered: Sequence[str] = field(init=False, default=())
    """Paths, without their number, of the znodes that the server numbers or whose number was predicted. The number of a
    contender is never predicted: its path is used once."""

    def __post_init__(self) -> None:
        if self.is_foreseen:
            self.numbered = (self.path[:-DIGITS],)
            return
        for op in self.ops:
            if type(op) is Create and op.sequence and op.path != self.contender:
                self.numbered = (*self.numbered, op.path)

    @property
    def path(self) -> str:
        """The path of the first operation; errors name it."""
        return self.ops[0].path


class OwnWrite:
    """A write of this process that is under way, and its place in the line.

    Each change makes one event, which arrives before the reply. So at most one event for each written path is ours. If
    a peer writes the same path meanwhile, there is one more event, and that event is followed by a read.
    """

    __slots__ = (
        "breaks", "error", "extra", "future", "in_line", "is_answered", "is_found", "keys", "numbered", "order",
        "pending", "ready", "results", "since", "swallowed",
    )  # fmt: skip

    def __init__(self, order: EncodedWrite, future: asyncio.Future[list[Entry | None]]) -> None:
        self.order: EncodedWrite = order
        self.future: asyncio.Future[list[Entry | None]] = future
        self.breaks: int = 0
        self.since: int = 0
        self.keys: list[str] = []
        """Keys by which events that may be ours are found: paths, and prefixes of paths before a sequence number."""
        self.swallowed: list[tuple[int, str]] = []
        """Kind and path of the events that were taken for ours, on exactly the paths of the write. If the write
        succeeded, these events are ours."""
        self.numbered: list[tuple[int, str]] = []
        """Kind and path of the events that were taken for ours because the path starts like a numbered path that the
        write creates. These events may be a peer's."""
        self.extra: list[ReadStep | NotifyStep] = []
        """Reads that follow because some of the events were not ours."""
        self.pending: int = 0
        self.in_line: bool = False
        self.ready: bool = False
        self.is_answered: bool = False
        self.is_found: bool = False
        self.results: list[Entry | None] = []
        self.error: StoreError | None = None

    def reset(self) -> None:
        """Reset because the write is sent again: none of its steps is in the line, none of its events has arrived."""
        self.keys, self.swallowed, self.numbered, self.extra = [], [], [], []
        self.pending = 0
        self.in_line = self.ready = False

    @property
    def replaced(self) -> PlainOp | None:
        """The deletion of a path that the same transaction creates again, if any: the path exists all the time."""
        ops = self.order.ops
        return ops[0] if len(ops) > 1 and ops[0].path == ops[1].path else None


class ReadStep:
    """A place in the line for an event that is followed by a read."""

    __slots__ = ("entry", "is_gone", "owner", "path", "ready")

    def __init__(self, path: str, owner: OwnWrite | None = None) -> None:
        self.path: str = path
        self.owner: OwnWrite | None = owner
        self.entry: Entry | None = None
        self.is_gone: bool = False
        self.ready: bool = False


class NotifyStep:
    """A place in the line for a known fact: a path exists or does not exist, or a walk has ended."""

    __slots__ = ("is_gone", "path", "ready", "walk")

    def __init__(self, path: str, *, is_gone: bool, walk: Walk | None = None) -> None:
        self.path: str = path
        self.is_gone: bool = is_gone
        self.walk: Walk | None = walk
        self.ready: bool = True


Step = OwnWrite | ReadStep | NotifyStep


class Laggards:
    """Paths that have changed and that *read* reads within `LAG_S`."""

    def __init__(self, read: Callable[[str], None]) -> None:
        self.paths: dict[str, None] = {}
        self._read = read
        self._timer: asyncio.TimerHandle | None = None

    def add(self, path: str) -> None:
        self.paths[path] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LAG_S, self._time_is_up)

    def hurry(self, kind: int, path: str) -> None:
        """Read the lagging paths above *path*, before a change of *path* is reported. A path that does not exist is not
        read."""
        at = path.rfind("/")
        while at > 0:
            above = path[:at]
            if above in self.paths:
                del self.paths[above]
                self._read(above)
            at = path.rfind("/", 0, at)
        if kind == EVENT_DELETED:
            self.paths.pop(path, None)

    def clear(self) -> None:
        self.paths.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        self.read_all()

    def read_all(self) -> None:
        """Read all lagging paths now."""
        paths, self.paths = self.paths, {}
        for path in paths:
            self._read(path)


class Forest:
    """Reports changes to the open trees of one store."""

    def __init__(self, session: ZkSession, chroot: str) -> None:
        self.grove: Grove = Grove()
        self.numbers: Numbers = Numbers()
        self.waiters: dict[str, list[asyncio.Future[None]]] = {}
        """Futures by path, for waiters on any change of the path. Each is resolved once; all are resolved when the
        connection changes."""
        self._session = session
        self._prefix = chroot.encode()
        self._skip = len(chroot)
        self._line: deque[Step] = deque()
        self._own: dict[str, list[OwnWrite]] = {}
        """Own writes under way, by the path, or the prefix of the path, of their events."""
        self._contended: dict[str, int] = {}
        """Paths with contended locks that are not reported to the trees yet."""
        self._lagging = Laggards(self._read)
        self._walker = Walker(session, self._prefix, self._on_walked, self.numbers.listed)

    def add(self, tree: ZkTree) -> None:
        self.grove.add(tree)
        tree.read_laggards = self._lagging.read_all
        if self._session.is_connected:
            self._walker.begin(tree)

    def remove(self, tree: ZkTree) -> None:
        self.grove.remove(tree)
        tree.mark_stale()
        if tree.retry is not None:
            tree.retry.cancel()

    # -- connections --------------------------------------------------------------------------------------------------

    def on_connected(self) -> None:
        """Read everything again on a new connection."""
        for tree in self.grove.trees:
            self._walker.begin(tree)

    def on_suspended(self) -> None:
        self._walker.stop()
        self._own.clear()
        self._contended.clear()
        self._lagging.clear()
        self.numbers.reset()
        line, self._line = self._line, deque()
        for step in line:
            if isinstance(step, OwnWrite) and step.is_answered:
                self._finish(step)
        for tree in tuple(self.grove.trees):
            tree.mark_stale()
        for path in tuple(self.waiters):
            self._wake(path)

    def _wake(self, path: str) -> None:
        for waiter in self.waiters.pop(path, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _on_walked(self, walk: Walk) -> None:
        self._line.append(NotifyStep(walk.tree.root, is_gone=False, walk=walk))
        self._advance()

    def _complete(self, walk: Walk) -> None:
        tree = walk.tree
        if not walk.is_current:
            return
        if walk.refusal:
            tree.mark_stale()
            self._retry(tree, walk.refusal)
        else:
            tree.complete(walk.met)

    def _retry(self, tree: ZkTree, why: str) -> None:
        """Walk again later. Until then the tree is marked as incomplete."""
        if tree.retry is not None:
            return
        tree.retry_s = min(max(FIRST_RETRY_S, tree.retry_s * 2), LAST_RETRY_S)
        log.error("zookeeper_tree_incomplete", root=tree.root, detail=why, retry_in_s=tree.retry_s)

        def again() -> None:
            tree.retry = None
            if tree in self.grove.trees and self._session.is_connected and not tree.is_synced and tree.walk is None:
                self._walker.begin(tree)

        tree.retry = asyncio.get_running_loop().call_later(tree.retry_s, again)

    # -- events -------------------------------------------------------------------------------------------------------

    def on_event(self, kind: int, path: str) -> None:
        path = path[self._skip :]
        if self.waiters:
            self._wake(path)
        if self._lagging.paths:
            self._lagging.hurry(kind, path)
        if self._own and self._is_own(kind, path):
            return
        if kind == EVENT_CREATED:
            self.numbers.created(path)
        trees = self.grove.covering(path)
        if not trees:
            return
        if kind == EVENT_DELETED:
            if self._line:
                self._line.append(NotifyStep(path, is_gone=True))
            else:
                for tree in trees:
                    tree.drop(path)
            return
        self._appeared(kind, path, trees)

    def _appeared(self, kind: int, path: str, trees: Sequence[ZkTree]) -> None:
        """Handle an event for *path*, in *trees*, that is new or has changed."""
        wanting = [tree for tree in trees if tree.wants_data(path)]
        if wanting:
            if kind == EVENT_CHANGED and (path in self._contended or all(tree.may_lag(path) for tree in wanting)):
                self._lagging.add(path)
            else:
                self._lagging.paths.pop(path, None)
                self._read(path)
        elif self._line:
            self._line.append(NotifyStep(path, is_gone=False))
            locked = path.rpartition(LOCK_DIRECTORY)[0]
            self._contended[locked] = self._contended.get(locked, 0) + 1
        else:
            for tree in trees:
                tree.put(unread(path), is_wanted=False)

    def _is_own(self, kind: int, path: str) -> bool:
        """Return True if the event may belong to an own write under way; then no read follows for now."""
        key = path if kind != EVENT_DELETED else DELETION + path
        writes = self._own.get(key)
        if writes is not None:
            write = writes[0]
            if write.in_line and self._line[-1] is not write:
                return False  # its place is before later events
            if len(writes) > 1:
                del writes[0]
            else:
                del self._own[key]
            swallowed = write.swallowed
        else:
            writes = self._own.get(path[:-DIGITS])
            if writes is None or kind != EVENT_CREATED or not path[-DIGITS:].isdigit():
                return False
            write = writes[0]
            if write.in_line and self._line[-1] is not write:
                return False
            swallowed = write.numbered
        swallowed.append((kind, path))
        self._lagging.paths.pop(path, None)
        if not write.in_line:
            write.in_line = True
            self._line.append(write)
        return True

    def _read(self, path: str, owner: OwnWrite | None = None) -> None:
        """Read the path of an event; later events are reported after it."""
        step = ReadStep(path, owner)
        if owner is None:
            self._line.append(step)
        self._session.send("get", OP_GET, encode_path(self._prefix, path), self._on_read, step)

    def _on_read(self, step: ReadStep, error: int, _zxid: int, data: bytes, at: int) -> None:
        owner = step.owner
        if error == BROKEN:
            return
        if not error:
            step.entry = read_entry(step.path, data, at)
        elif error == NO_NODE:
            step.is_gone = owner is not None  # otherwise the event of the deletion is still to come
        else:
            self._refused(step.path, error)
        step.ready = True
        if owner is not None:
            owner.extra.append(step)
            owner.pending -= 1
            owner.ready = not owner.pending
        self._advance()

    def _refused(self, path: str, error: int) -> None:
        for tree in self.grove.covering(path):
            tree.mark_stale()
            self._retry(tree, f"{path} can't be read: {store_error(error, path).detail}")

    # -- own writes ---------------------------------------------------------------------------------------------------

    def expect(self, write: OwnWrite) -> None:
        """Expect the events of *write*, which is about to be sent."""
        if not self.grove.trees:
            return
        own, keys = self._own, write.keys
        for op in write.order.ops:
            if type(op) is Delete:
                keys.append(DELETION + op.path)
            elif type(op) is not CheckVersion:
                keys.append(op.path)
        for key in keys:
            writes = own.get(key)
            if writes is None:
                own[key] = [write]
            else:
                writes.append(write)

    def settle(self, write: OwnWrite) -> None:
        """Handle the reply to *write*: report it to the trees in its turn, with the other changes that its events may
        mean."""
        write.is_answered = True
        own = self._own
        for key in write.keys:
            writes = own.get(key)
            if writes is None:
                continue
            if writes == [write]:
                del own[key]
            elif write in writes:
                writes.remove(write)
        if write.error is not None:
            self._read_for(write, [*write.swallowed, *write.numbered])
        elif write.numbered:
            known = {entry.path for entry in write.results if entry is not None}
            self._read_for(write, [event for event in write.numbered if event[1] not in known])
        write.ready = not write.pending
        if write.in_line:
            self._advance()
        elif self._line:
            self._line.append(write)
        else:
            self._finish(write)

    def settle_found(self, write: OwnWrite) -> None:
        """Handle a *write* that was found to be done after a lost reply. Peers may have changed its paths since, so
        they are read."""
        write.reset()
        write.is_answered = write.is_found = True
        self._read_for(write, [(0, entry.path) for entry in write.results if entry is not None])
        write.ready = not write.pending
        self._line.append(write)
        self._advance()

    def _read_for(self, write: OwnWrite, events: Iterable[tuple[int, str]]) -> None:
        """Report the changes of *events* in the place of *write*."""
        for kind, path in events:
            if any(tree.wants_data(path) for tree in self.grove.covering(path)):
                write.pending += 1
                self._read(path, write)
            else:
                write.extra.append(NotifyStep(path, is_gone=kind == EVENT_DELETED))

    def _finish(self, write: OwnWrite) -> None:
        """Report *write* to the trees, then to the waiters for the write."""
        if self.grove.trees:
            if not write.is_found:
                replaced = write.replaced
                for op, entry in zip(write.order.ops, write.results, strict=False):
                    if entry is not None:
                        self.grove.put(entry)
                    elif type(op) is Delete and op is not replaced:
                        self.grove.drop(op.path)
            for step in write.extra:
                self._notify(step)
        future = write.future
        if not future.done():
            if write.error is not None:
                future.set_exception(write.error)
            else:
                future.set_result(write.results)

    # -- the line -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        line = self._line
        while line and line[0].ready:
            self._notify(line.popleft())

    def _notify(self, step: Step) -> None:
        if isinstance(step, OwnWrite):
            self._finish(step)
        elif isinstance(step, ReadStep):
            if step.entry is not None:
                self.grove.put(step.entry)
            elif step.is_gone:
                self.grove.drop(step.path)
        elif step.walk is not None:
            self._complete(step.walk)
        elif step.is_gone:
            self.grove.drop(step.path)
        else:
            self.grove.put_unread(step.path)
            locked = step.path.rpartition(LOCK_DIRECTORY)[0]
            count = self._contended.pop(locked, 0)
            if count > 1:
                self._contended[locked] = count - 1
