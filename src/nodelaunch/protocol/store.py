"""The port to the coordination store: a tree of small versioned documents with sessions, watches and locks.

Its model is ZooKeeper, because peers share ZooKeeper with this project; the embedded store gives the same guarantees on
one SQLite file. ``tests/conformance/store_suite.py`` checks the guarantees.

Paths are absolute, below the chroot, without a trailing slash, except that a sequential create may end in ``/``.

Guarantees of every store:

* **Order.** Calls take effect, and tree listeners are notified, in one order: when a change is visible to a caller or
  listener, every earlier one has been reported.
* **No doubt.** A call that returns had its effect, exactly once; a call that raises had none, except with
  `OutcomeUnknownError`, or when its session was lost under way. If the connection breaks, the call continues on
  the next connection as long as the session lives.
* **Bounded.** No call outlives the end of its session: it then raises `SessionLostError`. So every call ends within
  the session timeout, and callers set shorter deadlines with ``asyncio.timeout``. A call made while there is no
  session raises `SessionLostError` at once; wait with ``session.connected()``.
* **Cancellation** passes at once; the cancelled call may or may not have had its effect.
* **Fencing.** A write ``under`` locks is sent only while each of them is held, and only in the session that took
  them.

records.py has the meaning of the documents; the engine decides when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self, final

from msgspec import Struct

from nodelaunch.oldnames import renamed

ANY_VERSION = -1
"""A version that matches any other: write or delete unconditionally."""

LAG_S = 2.0
"""Seconds by which a tree may report a change late, if the change may lag."""

Unsubscribe = Callable[[], None]


class Stat(Struct, frozen=True, gc=False):
    """The store's data about one znode. ``*_zxid`` order all changes; ``*_at`` are seconds since 1970."""

    version: int
    created_zxid: int
    modified_zxid: int
    created_at: float
    modified_at: float
    owner: int = 0
    """Id of the session that owns the znode: an ephemeral znode is deleted with its session. 0: the znode is
    persistent."""


class Entry(Struct, frozen=True, gc=False, eq=False):
    """A znode: path, data, and stat."""

    path: str
    data: bytes
    stat: Stat
    record: object = None
    """The record that *data* encodes, if this process wrote it and gave the record: readers here need not decode it
    again."""

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
    """The record that *data* encodes; passed on in `Entry.record`. For a sequential create it lacks the id."""


@final
class Put(Struct, frozen=True, gc=False):
    """Replace the data of *path* if it is at *version*. Result: `Entry`."""

    path: str
    data: bytes
    version: int = ANY_VERSION
    record: object = None
    """The record that *data* encodes; passed on in `Entry.record`."""


@final
class Delete(Struct, frozen=True, gc=False):
    """Delete *path*, which must have no children, if it is at *version*. Result: None."""

    path: str
    version: int = ANY_VERSION


@final
class CheckVersion(Struct, frozen=True, gc=False):
    """Fail the transaction unless *path* exists and is at *version*. Result: None."""

    path: str
    version: int = ANY_VERSION


@final
class TakeLock(Struct, frozen=True, gc=False):
    """Take the lock whose directory is *path* together with the rest of the transaction. Result: `Lock`.

    The directory's parent must exist; only the directory itself is made. If the directory is new, all is one atomic
    step. If it exists and is empty, a store either replaces it in the same step, or takes the lock first and releases
    it if the rest fails. Fails with `LockBusyError` if there is a contender. At most one per transaction, and it comes
    first.
    """

    path: str
    identifier: bytes = b""


@final
class ReleaseLock(Struct, frozen=True, gc=False):
    """Release *lock* together with the rest of the transaction. Result: None. Only `Lock.release` ignores a contender
    that no longer exists; a transaction fails with `LockLostError`."""

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
        """Full path of the lock's own znode in it."""

    @property
    def fence(self) -> int:
        """A number above 0 that is greater than for every earlier holder of the lock at ``path``, even if the path was
        deleted and created again meanwhile, and lower than for every later holder."""

    @property
    def is_held(self) -> bool:
        """True while the lock is held. Becomes false, without any call, when the session is lost *or in doubt for so
        long that it may have been lost*."""

    def on_lost(self, listener: Callable[[], None]) -> Unsubscribe:
        """Call *listener* once, on the event loop, when the lock is lost (not when it is released). If the lock is lost
        already, the listener is called soon."""

    async def release(self) -> None:
        """Release the lock. Harmless when released or lost already; shielded against cancellation of the caller."""


class SessionState(Enum):
    """The known state of the session with the store."""

    CONNECTING = "connecting"
    """There is no session yet, or the last one was lost and a new one is being made."""
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    """The connection broke; the session, with its locks, probably lives."""
    DOUBTFUL = "doubtful"
    """The store has not answered for two thirds of the session timeout: locks count as lost after the full timeout."""
    LOST = "lost"
    """The session has ended. Always reported before a new session begins."""
    CLOSED = "closed"


class Session(Protocol):
    """The session under which this process holds locks and ephemeral znodes."""

    @property
    def state(self) -> SessionState: ...

    @property
    def epoch(self) -> int:
        """The number of the session, one higher for each new session; a lock or ephemeral znode exists only in its own
        epoch."""

    async def connected(self) -> int:
        """Wait until there is a connected session. Return its epoch. Raises StoreUnavailableError when the store is
        closed."""

    def subscribe(self, listener: Callable[[SessionState], None]) -> Unsubscribe:
        """Call *listener* on the event loop with every new state, in order."""


@final
class Changed(Struct, frozen=True, gc=False):
    """An entry was added, or its data changed. ``old``: the tree's previous entry."""

    entry: Entry
    old: Entry | None


@final
class Removed(Struct, frozen=True, gc=False):
    """An entry was removed; *entry* is its last known form."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Synced:
    """The tree is in sync: first after opening, then after each reconnect."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The connection broke: the tree may be stale; don't conclude anything from a missing entry."""


TreeEvent = Changed | Removed | Synced | Stale


class Tree(Protocol):
    """A live copy of all znodes below one path, without the root itself."""

    @property
    def root(self) -> str: ...

    @property
    def is_synced(self) -> bool:
        """True if in sync, that is complete and current. While false, a missing entry means nothing."""

    async def synced(self) -> None:
        """Wait until the tree is in sync."""

    def get(self, path: str) -> Entry | None: ...

    def children(self, path: str) -> Collection[str]:
        """Return the names (not paths) of the known children of *path*, in no order."""

    def entries(self) -> Iterable[Entry]:
        """Return every entry, in no order; take a copy before awaiting."""

    def hurry(self) -> None:
        """Read lagging changes at once: they have been reported when the next read is answered."""

    def subscribe(self, listener: Callable[[TreeEvent], None]) -> Unsubscribe:
        """Call *listener* on the event loop with every event from now on. An own write is reported before the call that
        made it returns."""


class Store(Protocol):
    """The coordination store. Use as an async context manager: entering connects (and waits, within the caller's
    deadline, for the first session), leaving ends the session, and with it all locks and ephemeral znodes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    @property
    def session(self) -> Session: ...

    async def get(self, path: str) -> Entry:
        """Return the entry at *path*. Raises: RecordGoneError."""

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        """Return the entries like `get`, with all requests sent at once; None if there is no such znode."""

    async def children(self, path: str) -> list[str]:
        """Return the names of the children, sorted. Raises: RecordGoneError."""

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        """Create one znode; with *parents*, also missing parents, as empty persistent ones.

        Raises: RecordExistsError; RecordGoneError when the parent is missing.
        """

    async def create_locked(self, path: str, data: bytes, *, record: object = None) -> tuple[Entry, Lock] | None:
        """Create, in one transaction, the znode of a sequential create at *path*, with the lock ``lock`` below it
        taken.

        None, with nothing done, if the store can't predict the number. Only for a directory whose children are all
        created at *path*, and for a process that alone creates there: a number might be used again. *record*: the
        record that *data* encodes. Raises: StoreError.
        """

    async def ensure(self, *paths: str) -> None:
        """Create the znodes and their parents if they are missing (empty and persistent)."""

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        """Replace the data. Raises: RecordGoneError, VersionConflictError, LockLostError."""

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        """Delete *path*. Raises: RecordGoneError, VersionConflictError, NotEmptyError, LockLostError."""

    async def delete_tree(self, path: str) -> None:
        """Delete *path* and all znodes below it; no error if they don't exist. Not atomic."""

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

        The directory itself is made if it is missing, its parents only with *parents*: a lock on a deleted node must
        not create the node again. Raises: LockBusyError; RecordGoneError when the parent is missing.
        """

    async def contenders(self, path: str) -> list[str]:
        """Return the full paths of the contenders below lock directory *path*, the holder first; empty when there is
        none or no directory."""

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,
        keeps_data: bool = True,
    ) -> AbstractAsyncContextManager[Tree]:
        """Open a live copy of everything below *root*, which need not exist yet. Entering doesn't wait for
        `Tree.synced`.

        Entries whose path *wants_data* refuses are known to exist, with empty data, without being read. If *may_lag* is
        true of a path at the time its data changes, the change may be reported up to `LAG_S` later, but is reported
        before any later event below the same path; several changes may then be reported as one. Without *keeps_data*
        the entries of events carry their data, but the tree's own entries may have none, and so may ``Changed.old``.
        """

    @property
    def operations(self) -> Mapping[str, int]:
        """The number of operations sent to the store so far, by kind: create, get, put, delete, children, commit,
        watch, sync, ping."""


__all__ = [
    "ANY_VERSION", "LAG_S", "Changed", "CheckVersion", "Create", "Delete", "Entry", "Lock", "Op", "Put", "ReleaseLock",
    "Removed", "Session", "SessionState", "Stale", "Stat", "Store", "Synced", "TakeLock", "Tree", "TreeEvent",
    "Unsubscribe",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return renamed(__name__, name, {"Cooled": Stale, "Warmed": Synced})
