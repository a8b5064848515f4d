"""The store in one SQLite file, or in memory, for a single process; the default if no ZooKeeper servers are given.

All data is held in memory. A change is visible, also to its own caller, only when it is on disk, so that no
acknowledged change is lost when the process is killed or the power fails (journal.py). Sessions end with the process:
ephemerals and locks found at opening are removed. Without a file there is no thread and no timer, and every call is
done within the turn of the loop that makes it.

`EmbeddedStore` owns the data and is itself one session on it; `EmbeddedStore.connect` gives further sessions, for other
clients in this process (a server of the socket, a second launcher in a simulation). While the file can't be written,
writes raise StoreUnavailableError, sessions are SUSPENDED and `EmbeddedStore.trouble` has the reason; reads continue.
socket.py gives access to other processes.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    RecordGoneError,
    SessionLostError,
    StoreError,
)
from nodelaunch.protocol.store import (
    ANY_VERSION,
    Create,
    Delete,
    Entry,
    Lock,
    Op,
    Put,
    ReleaseLock,
    SessionState,
    TakeLock,
    Tree,
)
from nodelaunch.store.embedded.journal import Journal, Outcome
from nodelaunch.store.embedded.znodes import Change, PlainOp, ZnodeTree, join
from nodelaunch.store.embedded.znodes import parents as parents_of
from nodelaunch.store.shared import LossListeners, SessionStates, TreeCopy, contenders_in, in_order

Result = Entry | Lock | None
Clock = Callable[[], float]

_ALIVE = (SessionState.CONNECTED, SessionState.SUSPENDED, SessionState.DOUBTFUL)


# -- sessions and locks ---------------------------------------------------------------------------------------------


class EmbeddedSession(SessionStates):
    """The port's session. It is connected as long as the store is open and can be written, unless a simulation changes
    its state."""

    def __init__(self) -> None:
        super().__init__()
        self.id: int = 0
        self.locks: set[EmbeddedLock] = set()

    def begin(self, journal: Journal) -> None:
        """Start a new session."""
        self.id = journal.next_session
        journal.next_session += 1
        self.epoch += 1
        self.enter(SessionState.CONNECTED)


class EmbeddedLock(LossListeners):
    """The port's lock. The session knows it from the creation of its contender, held or not."""

    def __init__(self, store: EmbeddedStore, path: str, contender: str, fence: int, *, is_held: bool = True) -> None:
        """*fence*: the zxid at which the contender was made."""
        super().__init__()
        self.path = path
        self.contender = contender
        self.fence = fence
        self.is_held: bool = is_held
        self._store = store
        store.session.locks.add(self)

    def lose(self) -> None:
        self.is_held = False
        super().lose()

    def forget(self) -> None:
        """Note that the lock was released."""
        self.is_held = False
        self._store.session.locks.discard(self)

    async def release(self) -> None:
        if not self.is_held:
            return
        self.forget()
        with suppress(StoreError):
            await self._store.drop(self.contender)


@dataclass(frozen=True, slots=True)
class _Contend:
    """Contend for the lock with directory *path*, which is made if it is missing. Result: `EmbeddedLock`."""

    path: str
    identifier: bytes
    ephemeral: bool = True
    waits: bool = False
    """True to contend even if others do."""


class _Exchange:
    """The locks that one transaction takes and releases. It also follows a transaction whose caller has stopped
    waiting."""

    def __init__(self, store: EmbeddedStore, znodes: ZnodeTree, ops: Sequence[Op | _Contend]) -> None:
        """Raises: LockBusyError, LockLostError, by *znodes*."""
        self.plain: list[PlainOp] = []
        """The plain operations of the transaction."""
        self.taken: EmbeddedLock | None = None
        self._store = store
        self._session_id = store.session.id
        self._released: list[Lock] = []
        self._contend: _Contend | None = None
        self._ends: list[int] = []
        """For each operation, the end of its results in `plain`."""
        self._contends_at = 0
        """The index in `plain` at which its contender is created."""
        self._is_abandoned = False
        for op in ops:
            self._add(op, znodes)
            self._ends.append(len(self.plain) - 1)
        for lock in self._released:
            if isinstance(lock, EmbeddedLock):
                lock.is_held = False

    def _add(self, op: Op | _Contend, znodes: ZnodeTree) -> None:
        match op:
            case TakeLock(path, identifier):
                self._take(_Contend(path, identifier), znodes)
            case _Contend():
                self._take(op, znodes)
            case ReleaseLock(lock):
                if not lock.is_held or znodes.find(lock.contender) is None:
                    raise LockLostError(lock.contender)
                self._released.append(lock)
                self.plain.append(Delete(lock.contender))
            case _:
                self.plain.append(op)

    def _take(self, op: _Contend, znodes: ZnodeTree) -> None:
        if znodes.find(op.path) is None:
            self.plain.append(Create(op.path))
        elif not op.waits and in_order(znodes.children(op.path)):
            raise LockBusyError(op.path)
        self._contend = op
        name = f"{op.path}/{uuid.uuid4().hex}__lock__"
        self._contends_at = len(self.plain)
        self.plain.append(Create(name, op.identifier, op.ephemeral, sequence=True))

    def settle(self, outcome: Outcome) -> None:
        """Handle the end of the transaction, in the turn in which it becomes visible."""
        for lock in self._released:
            if isinstance(lock, EmbeddedLock):
                self._give_back(lock, is_done=not isinstance(outcome, StoreError))
        if self._contend is None or isinstance(outcome, StoreError):
            return
        contender = cast("Entry", outcome[self._contends_at])
        if self._is_abandoned:
            self._store.drop(contender.path).add_done_callback(_swallow)
        elif self._store.session.id == self._session_id:
            path, fence, is_held = self._contend.path, contender.stat.created_zxid, not self._contend.waits
            self.taken = EmbeddedLock(self._store, path, contender.path, fence, is_held=is_held)

    @staticmethod
    def _give_back(lock: EmbeddedLock, *, is_done: bool) -> None:
        if is_done:
            lock.forget()
        else:
            lock.is_held = not lock.is_lost

    def abandon(self) -> None:
        """Note that the caller does not wait any more."""
        self._is_abandoned = True
        if self.taken is not None:
            self.taken.forget()
            self._store.drop(self.taken.contender).add_done_callback(_swallow)

    def results(self, plain: Sequence[Entry | None]) -> list[Result]:
        """Return the port's result for each operation."""
        found: list[Result] = [plain[end] for end in self._ends]
        if self._contend is not None:
            if self.taken is None:
                raise SessionLostError(self._contend.path)
            found[self._ends.index(self._contends_at)] = self.taken
        return found


# -- trees ----------------------------------------------------------------------------------------------------------


class EmbeddedTree(TreeCopy):
    """The port's tree. It is in sync as long as the session lives."""

    def __init__(self, root: str, entries: Iterable[Entry], wants_data: Callable[[str], bool]) -> None:
        super().__init__(root, wants_data)
        for entry in entries:
            self.put_entry(entry)
        self.set_synced(True)

    def on_change(self, change: Change) -> None:
        if change.new is None:
            self.drop_entry(change.path)
        else:
            self.put_entry(change.new.entry)


# -- the store ------------------------------------------------------------------------------------------------------


class EmbeddedStore:
    """The port's store on one file, or in memory (*path* None). *clock* gives seconds since 1970."""

    def __init__(self, path: Path | None, *, clock: Clock = time.time, _journal: Journal | None = None) -> None:
        self.path = path
        self.session: EmbeddedSession = EmbeddedSession()
        self._journal = _journal or Journal(path, clock)
        self._owns_journal = _journal is None
        self._is_entered = False
        self._trees: list[EmbeddedTree] = []
        self._operations: Counter[str] = Counter()

    def connect(self) -> EmbeddedStore:
        """Return another session on the same data; use it as a context manager inside this one's."""
        return EmbeddedStore(self.path, _journal=self._journal)

    @property
    def trouble(self) -> str | None:
        """The reason why no write is possible, and what to do; None while writes work."""
        return self._journal.trouble

    async def __aenter__(self) -> Self:
        """Open the file. Raises: StoreUnavailableError if the file can't be used; RuntimeError if the store is open
        already."""
        if self._is_entered:
            raise RuntimeError("this store is open already; connect() gives another session on the same data")
        self._is_entered = True
        if self._owns_journal:
            await self._journal.open()
        self._journal.trouble_listeners.append(self._on_trouble)
        self.session.begin(self._journal)
        self._on_trouble()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._end_session()
        if self._on_trouble in self._journal.trouble_listeners:
            self._journal.trouble_listeners.remove(self._on_trouble)
        self.session.enter(SessionState.CLOSED)
        if self._owns_journal:
            await self._journal.close()

    async def _end_session(self) -> None:
        ended, self.session.id = self.session.id, 0
        locks, self.session.locks = self.session.locks, set()
        for lock in locks:
            lock.lose()
        with suppress(StoreError):
            await self._journal.discard(self._journal.newest.owned_by(ended))

    async def expire_session(self) -> None:
        """Lose the session, as a ZooKeeper client may at any time, and start a new one. For simulations and tests."""
        self.session.enter(SessionState.LOST)
        for tree in self._trees:
            tree.set_synced(False)
        await self._end_session()
        self.session.begin(self._journal)
        for tree in self._trees:
            tree.set_synced(True)

    def _on_trouble(self) -> None:
        """Update the states of all sessions when the file can't be written, or can be written again."""
        before, after = SessionState.CONNECTED, SessionState.SUSPENDED
        if self._journal.trouble is None:
            before, after = after, before
        if self.session.state is before:
            self.session.enter(after)

    def _count(self, name: str) -> None:
        if self.session.state not in _ALIVE:
            raise SessionLostError(detail=f"the session is {self.session.state.value}")
        self._operations[name] += 1

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self._operations)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> Entry:
        self._count("get")
        entry = self._journal.visible.find(path)
        if entry is None:
            raise RecordGoneError(path)
        return entry

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        for _ in paths:
            self._count("get")
        return [self._journal.visible.find(path) for path in paths]

    async def children(self, path: str) -> list[str]:
        self._count("children")
        return self._journal.visible.children(path)

    async def contenders(self, path: str) -> list[str]:
        with suppress(RecordGoneError):
            return contenders_in(path, await self.children(path))
        return []

    # -- writing ----------------------------------------------------------------------------------------------------

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        self._count("create")
        ops = [*(_missing(self._journal.newest, path) if parents else ()), Create(path, data, ephemeral, sequence)]
        return cast("Entry", (await self._transact(ops))[-1])

    async def ensure(self, *paths: str) -> None:
        self._count("create")
        newest = self._journal.newest
        ops = list(dict.fromkeys(op for path in paths for op in _missing(newest, f"{path}/")))
        if ops or any(self._journal.visible.find(path) is None for path in paths):
            await self._transact(ops)

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        self._count("put")
        return cast("Entry", (await self._transact([Put(path, data, version)], under))[0])

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        self._count("delete")
        await self._transact([Delete(path, version)], under)

    async def delete_tree(self, path: str) -> None:
        self._count("delete")
        below = [Delete(entry.path) for entry in reversed(self._journal.newest.below(path))]
        with suppress(RecordGoneError):
            await self._transact([*below, Delete(path)])

    async def create_locked(self, path: str, data: bytes, *, record: object = None) -> tuple[Entry, Lock] | None:
        self._count("commit")
        made = self._journal.newest.next_at(path)
        if made is None:
            raise RecordGoneError(path.rpartition("/")[0])
        entry, lock = await self._transact([Create(made, data, record=record), TakeLock(f"{made}/lock")])
        return cast("Entry", entry), cast("Lock", lock)

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Result]:
        self._count("commit")
        return await self._transact(ops, under)

    async def _transact(self, ops: Sequence[Op | _Contend], under: Collection[Lock] = ()) -> list[Result]:
        for lock in under:
            if not lock.is_held:
                raise LockLostError(lock.contender)
        journal, owner = self._journal, self.session.id
        if not any(isinstance(op, TakeLock | ReleaseLock | _Contend) for op in ops):
            return list(await journal.submit(cast("Sequence[PlainOp]", ops), owner=owner))
        try:
            exchange = _Exchange(self, journal.newest, ops)
        except StoreError as error:
            return list(await journal.refuse(error))
        try:
            return exchange.results(await journal.submit(exchange.plain, owner=owner, settle=exchange.settle))
        except asyncio.CancelledError:
            exchange.abandon()
            raise

    def drop(self, path: str) -> asyncio.Future[list[Entry | None]]:
        """Delete *path*, if it exists, in any state of the session; for locks that are released."""
        self._operations["delete"] += 1
        return self._journal.discard([path])

    # -- locks ------------------------------------------------------------------------------------------------------

    async def lock(
        self,
        path: str,
        *,
        timeout_s: float = 0.0,
        identifier: bytes = b"",
        ephemeral: bool = True,
        parents: bool = False,
    ) -> Lock:
        self._count("create")
        if parents:
            await self.ensure(path.rpartition("/")[0])
        waits = timeout_s > 0
        if self._journal.path is None:
            await _let_others_run()
        (lock,) = await self._transact([_Contend(path, identifier, ephemeral, waits)])
        assert isinstance(lock, EmbeddedLock)  # noqa: S101
        if not waits:
            return lock
        try:
            await _until_first(self._journal, lock, timeout_s)
        except BaseException as error:
            lock.forget()
            with suppress(StoreError):
                await self.drop(lock.contender)
            if isinstance(error, TimeoutError):
                raise LockBusyError(path) from None
            raise
        lock.is_held = True
        return lock

    # -- trees ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,  # noqa: ARG002  it never has to
        keeps_data: bool = True,  # noqa: ARG002  they are there anyway
    ) -> AsyncIterator[Tree]:
        self._count("watch")
        tree = EmbeddedTree(root, self._journal.visible.below(root), wants_data)
        self._trees.append(tree)
        try:
            with self._journal.audience.below(root, tree.on_change):
                yield tree
        finally:
            self._trees.remove(tree)


def _missing(znodes: ZnodeTree, path: str) -> list[Create]:
    """Return operations that create the missing parents of *path*."""
    return [Create(above) for above in parents_of(path) if znodes.find(above) is None]


async def _until_first(journal: Journal, lock: EmbeddedLock, timeout_s: float) -> None:
    """Wait until *lock* is the first in its line. Raises: TimeoutError, LockLostError, SessionLostError."""
    if _is_first(journal.visible, lock):
        return
    changed = asyncio.Event()
    stop = lock.on_lost(changed.set)
    try:
        with journal.audience.vacant(lock.path, changed.set):
            async with asyncio.timeout(timeout_s):
                while not _is_first(journal.visible, lock):
                    await changed.wait()
                    changed.clear()
    finally:
        stop()


def _is_first(znodes: ZnodeTree, lock: EmbeddedLock) -> bool:
    if lock.is_lost:
        raise SessionLostError(lock.path)
    if znodes.find(lock.contender) is None:
        raise LockLostError(lock.contender)
    return join(lock.path, in_order(znodes.children(lock.path))[0]) == lock.contender


async def _let_others_run() -> None:
    """Give other tasks a turn: in memory no call waits, so a caller that takes many locks in a row would block the
    loop."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _swallow(done: asyncio.Future[list[Entry | None]]) -> None:
    """Drop the error of a deletion that no caller waits for."""
    if not done.cancelled():
        done.exception()
