"""The port to the coordination store: a tree of small versioned documents with sessions, watches and locks.

It is shaped after ZooKeeper, because ZooKeeper is what peers share with us; the embedded store keeps the same promises
on one SQLite file. ``tests/conformance/store_suite.py`` is the executable form of what stands here.

Paths are absolute, below the chroot, without a trailing slash, except that a sequential create may end in ``/``.

Promises every store keeps:

* **Order.** Calls take effect, and tree listeners are told, in one order: whoever sees a change has been told of every
  earlier one.
* **No doubt.** A call that returns had its effect, exactly once; a call that raises had none, except with
  `OutcomeUnknownError`, or when its session was lost under way. A break of the connection is survived inside the call
  as long as the session lives.
* **Bounded.** No call outlives the end of its session: it then raises `SessionLostError`. So every call ends within
  the session timeout, and callers set shorter deadlines with ``asyncio.timeout``. A call made while there is no
  session raises `SessionLostError` at once; wait with ``session.connected()``.
* **Cancellation** passes at once; the cancelled call may or may not have had its effect.
* **Fencing.** A write ``under`` locks goes out only while each of them is held, and only in the session that took
  them.

What does *not* belong here: what the documents mean (records.py), and who may write them when (the engine).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self, final

from msgspec import Struct

ANY_VERSION = -1
"""Write or delete whatever version is there."""

LAG_S = 2.0
"""How late a tree may tell of a change it may lag behind with, in seconds."""

Unsubscribe = Callable[[], None]


class Stat(Struct, frozen=True, gc=False):
    """What the store knows of one znode. ``*_zxid`` order all changes; ``*_at`` are seconds since 1970."""

    version: int
    created_zxid: int
    modified_zxid: int
    created_at: float
    modified_at: float
    owner: int = 0
    """Session id an ephemeral znode lives and dies with; 0: persistent."""


class Entry(Struct, frozen=True, gc=False, eq=False):
    """One znode: where, what, and as of when."""

    path: str
    data: bytes
    stat: Stat
    record: object = None
    """What *data* was made from, where this process wrote it and said so: nobody here has to decode it again."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return (self.path, self.data, self.stat) == (other.path, other.data, other.stat)

    def __hash__(self) -> int:
        return hash((self.path, self.stat))

    def __repr__(self) -> str:
        return f"Entry({self.path!r}, {self.data!r}, {self.stat!r})"


# -- transactions ---------------------------------------------------------------------------------------------------


@final
class Create(Struct, frozen=True, gc=False):
    """Create *path*; its parent must exist. With *sequence* the store appends ten digits. Result: `Entry`."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequence: bool = False
    record: object = None
    """What *data* was made from; handed on in `Entry.record`. For a sequential create it lacks the id."""


@final
class Put(Struct, frozen=True, gc=False):
    """Replace the data of *path* if it is at *version*. Result: `Entry`."""

    path: str
    data: bytes
    version: int = ANY_VERSION
    record: object = None
    """What *data* was made from; handed on in `Entry.record`."""


@final
class Delete(Struct, frozen=True, gc=False):
    """Delete *path*, which must have no children, if it is at *version*. Result: None."""

    path: str
    version: int = ANY_VERSION


@final
class CheckVersion(Struct, frozen=True, gc=False):
    """Let the transaction fail unless *path* exists and is at *version*. Result: None."""

    path: str
    version: int = ANY_VERSION


@final
class TakeLock(Struct, frozen=True, gc=False):
    """Take the lock whose directory is *path* together with the rest of the transaction. Result: `Lock`.

    The directory's parent must exist; only the directory itself is made. Where the directory is new, all is one atomic
    step. Where it exists and is empty, a store either replaces it in the same step, or takes the lock first and gives
    it back if the rest fails. Fails with `LockBusyError` when anybody contends. At most one per transaction, and it
    comes first.
    """

    path: str
    identifier: bytes = b""


@final
class ReleaseLock(Struct, frozen=True, gc=False):
    """Give *lock* back together with the rest of the transaction. Result: None. No error if its contender is gone
    only by `Lock.release`; in a transaction a vanished contender fails it with `LockLostError`."""

    lock: Lock


Op = Create | Put | Delete | CheckVersion | TakeLock | ReleaseLock


# -- locks, sessions, trees -----------------------------------------------------------------------------------------


class Lock(Protocol):
    """An exclusive lock, in kazoo's format on the wire, held by one session of this process."""

    @property
    def path(self) -> str:
        """The lock directory."""

    @property
    def contender(self) -> str:
        """Full path of our znode in it."""

    @property
    def fence(self) -> int:
        """A number above 0, greater than that of every earlier holder of the lock at ``path``, whatever was deleted
        and made anew meanwhile; lower than that of every later one."""

    @property
    def is_held(self) -> bool:
        """False once released or lost. Turns false, without any call, when the session is lost *or in doubt for so
        long that it may have been lost*."""

    def on_lost(self, listener: Callable[[], None]) -> Unsubscribe:
        """Call *listener* once, on the event loop, when the lock is lost (not when it is released). A lock lost
        already: the listener is called soon."""

    async def release(self) -> None:
        """Give the lock back. Harmless when released or lost already; shielded against cancellation of the caller."""


class SessionState(Enum):
    """What we know of our session with the store."""

    CONNECTING = "connecting"
    """No session yet, or the last one was lost and a new one is being made."""
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    """The connection broke; the session, with its locks, probably lives."""
    DOUBTFUL = "doubtful"
    """Unanswered for two thirds of the session timeout: locks count as lost from the full timeout on."""
    LOST = "lost"
    """The session is over. Always reported before a new one begins."""
    CLOSED = "closed"


class Session(Protocol):
    """The session under which this process holds locks and ephemeral znodes."""

    @property
    def state(self) -> SessionState: ...

    @property
    def epoch(self) -> int:
        """Grows by one with each new session; what was taken in one epoch is gone in the next."""

    async def connected(self) -> int:
        """Wait until there is a connected session; its epoch. Raises StoreUnavailableError when the store is
        closed."""

    def subscribe(self, listener: Callable[[SessionState], None]) -> Unsubscribe:
        """Call *listener* on the event loop with every new state, in order."""


@final
class Changed(Struct, frozen=True, gc=False):
    """*entry* is there, new or with new data. ``old`` is what the tree had before."""

    entry: Entry
    old: Entry | None


@final
class Removed(Struct, frozen=True, gc=False):
    """*entry*, in its last known form, is gone."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Warmed:
    """The tree is complete and current: first after opening, then after each reconnect."""


@dataclass(frozen=True, slots=True)
class Cooled:
    """The connection broke: what the tree has may be stale; don't conclude anything from what it lacks."""


TreeEvent = Changed | Removed | Warmed | Cooled


class Tree(Protocol):
    """A live copy of everything below one path, the root itself left out."""

    @property
    def root(self) -> str: ...

    @property
    def is_warm(self) -> bool:
        """Complete and current. While false, absence means nothing."""

    async def warm(self) -> None:
        """Wait until warm."""

    def get(self, path: str) -> Entry | None: ...

    def children(self, path: str) -> Collection[str]:
        """Names (not paths) of the known children of *path*, in no order."""

    def entries(self) -> Iterable[Entry]:
        """Every entry, in no order; take a copy before awaiting."""

    def hurry(self) -> None:
        """Have read at once what may lag: with the answer to the next read, it has been told."""

    def subscribe(self, listener: Callable[[TreeEvent], None]) -> Unsubscribe:
        """Call *listener* on the event loop with every event from now on. An own write is told before the call that
        made it returns."""


class Store(Protocol):
    """The coordination store. Use as an async context manager: entering connects (and waits, within the caller's
    deadline, for the first session), leaving ends the session, and with it all locks and ephemeral znodes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    @property
    def session(self) -> Session: ...

    async def get(self, path: str) -> Entry:
        """Raises: RecordGoneError."""

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        """Like `get`, all sent at once; None where there is no such znode."""

    async def children(self, path: str) -> list[str]:
        """Names of the children, sorted. Raises: RecordGoneError."""

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        """Create one znode; with *parents*, missing parents as empty persistent ones.

        Raises: RecordExistsError; RecordGoneError when the parent is missing.
        """

    async def create_locked(self, path: str, data: bytes, *, record: object = None) -> tuple[Entry, Lock] | None:
        """Create, in one transaction, what a sequential create at *path* would, with the lock ``lock`` below it taken.

        None, with nothing done, where the store can't tell the number beforehand. Only for a directory whose children
        are all created at *path*, and for a process that alone creates there: a number might be used again. *record*:
        what *data* was made from. Raises: StoreError.
        """

    async def ensure(self, *paths: str) -> None:
        """Make sure the znodes and their parents exist (empty and persistent where made)."""

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        """Replace the data. Raises: RecordGoneError, VersionConflictError, LockLostError."""

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        """Raises: RecordGoneError, VersionConflictError, NotEmptyError, LockLostError."""

    async def delete_tree(self, path: str) -> None:
        """Delete *path* and all below it; no error when it is gone already. Not atomic."""

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Entry | Lock | None]:
        """Perform all of *ops*, in their order, or none.

        Raises: the error of the first operation that can't be done, as the single calls do; LockLostError when a lock
        of *under* is not held.
        """

    async def lock(
        self,
        path: str,
        *,
        timeout_s: float = 0.0,
        identifier: bytes = b"",
        ephemeral: bool = True,
        parents: bool = False,
    ) -> Lock:
        """Take the lock whose directory is *path*; wait for it up to *timeout_s* (0: don't wait).

        The directory itself is made where missing, its parents only with *parents*: a lock on a deleted node must not
        bring the node back. Raises: LockBusyError; RecordGoneError when the parent is missing.
        """

    async def contenders(self, path: str) -> list[str]:
        """Full paths of the contenders below lock directory *path*, the holder first; empty when there is none or no
        directory."""

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,
        keeps_data: bool = True,
    ) -> AbstractAsyncContextManager[Tree]:
        """Open a live copy of everything below *root*, which need not exist yet. Entering doesn't wait for `Tree.warm`.

        Entries whose path *wants_data* refuses are known to exist, with empty data, without being read. Where
        *may_lag* is true of a path at the time its data changes, the change may be told up to `LAG_S` later, but is
        told before any later event below the same path; several changes may then be told as one. Without *keeps_data*
        the entries of events carry their data, those the tree keeps may be empty, as may ``Changed.old``.
        """

    @property
    def operations(self) -> Mapping[str, int]:
        """How often each kind of operation was sent to the store so far, by name: create, get, put, delete, children,
        commit, watch, sync, ping."""


__all__ = [
    "ANY_VERSION", "LAG_S", "Changed", "CheckVersion", "Cooled", "Create", "Delete", "Entry", "Lock", "Op", "Put",
    "ReleaseLock",
    "Removed", "Session", "SessionState", "Stat", "Store", "TakeLock", "Tree", "TreeEvent", "Unsubscribe", "Warmed",
]  # fmt: skip
