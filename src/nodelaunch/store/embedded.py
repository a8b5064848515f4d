"""The store in one SQLite file, or in memory, for a single process; the default where no ZooKeeper is named.

All of it is held in memory; the file is written behind by one thread, in order, several transactions at a time where
they come together. A change is seen, by its maker or anybody, only once it is on disk, so nothing acknowledged is lost
when the process is killed or the power goes. Sessions end with the process: ephemerals and locks found at opening are
removed. In memory there is no thread, no timer, and every call is done within the turn of the loop that makes it.

`EmbeddedStore` owns the data and is itself one session on it; `EmbeddedStore.connect` gives further ones, for other
clients in this process (a server of the socket, a second launcher in a simulation).
What does *not* belong here: access from other processes (socket.py).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    RecordExistsError,
    RecordGoneError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
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
from nodelaunch.store.shared import LossListeners, SessionStates, TreeCopy, contenders_in, in_order
from nodelaunch.store.sqlite import SqliteFile
from nodelaunch.store.znodes import Change, PlainOp, ZnodeTree, join, parents

Result = Entry | Lock | None
Clock = Callable[[], float]


# -- the owner of the data ------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Pending:
    """A transaction on its way to disk."""

    apply: Callable[[], tuple[list[Result], list[Change]]]
    done: asyncio.Future[list[Result]]


class _Engine:
    """The tree, what is on its way to disk, and who listens. Shared by all sessions on one store."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self.znodes = ZnodeTree()
        self.clock = clock
        self.listeners: list[Callable[[Sequence[Change]], None]] = []
        self.next_session = 1
        self._path = path
        self._disk: SqliteFile | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._queue: list[_Pending] = []
        self._flusher: asyncio.Task[None] | None = None

    @property
    def is_persistent(self) -> bool:
        return self._path is not None

    async def open(self) -> None:
        if self._path is not None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="nodelaunch-store")
            loop = asyncio.get_running_loop()
            try:
                self._disk = await loop.run_in_executor(self._worker, SqliteFile, self._path)
            except OSError as error:
                self._worker.shutdown()
                raise StoreUnavailableError(str(self._path), f"can't be opened: {error.strerror}") from None
            except StoreUnavailableError:
                self._worker.shutdown()
                raise
            nodes, zxid = await loop.run_in_executor(self._worker, self._disk.load)
            self.znodes.load(nodes, zxid)
            self.next_session = zxid + 1  # never a number an earlier process used for its ephemerals
        stale = self.znodes.ephemerals()
        if stale:
            await self.submit(lambda: self._remove(stale))

    async def close(self) -> None:
        while self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._worker is not None and self._disk is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._disk.close)
            self._worker.shutdown()
            self._disk = self._worker = None

    def _remove(self, paths: Iterable[str]) -> tuple[list[Result], list[Change]]:
        ops = [Delete(path) for path in sorted(paths, reverse=True)]
        _, changes = self.znodes.apply(ops, owner=0, now=self.clock())
        return [], changes

    async def end_session(self, session_id: int) -> None:
        """Remove the ephemerals of a session that is over."""
        owned = self.znodes.owned_by(session_id)
        if owned:
            await self.submit(lambda: self._remove(self.znodes.owned_by(session_id)))

    def submit(self, apply: Callable[[], tuple[list[Result], list[Change]]]) -> asyncio.Future[list[Result]]:
        """Apply a transaction after those submitted before it; done when it is visible."""
        done: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        if self._disk is None:
            self._apply_now(_Pending(apply, done))
        else:
            self._queue.append(_Pending(apply, done))
            if self._flusher is None:
                self._flusher = asyncio.ensure_future(self._flush())
        return done

    def _apply_now(self, pending: _Pending) -> None:
        try:
            results, changes = pending.apply()
        except StoreError as error:
            pending.done.set_exception(error)
        else:
            self._tell(changes)
            pending.done.set_result(results)

    async def settled(self) -> None:
        """Wait until what is in the tree is on disk, so that it may be read."""
        while self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _flush(self) -> None:
        """Bring what is queued to disk, all that has come together in one go, then let it be seen."""
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                applied = [(pending, *self._try(pending)) for pending in batch]
                changes = [change for _, _, made in applied for change in made]
                if changes and self._worker is not None and self._disk is not None:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._worker, self._disk.write, changes, self.znodes.zxid)
                for pending, outcome, made in applied:
                    self._tell(made)
                    _answer(pending.done, outcome)
        finally:
            self._flusher = None

    @staticmethod
    def _try(pending: _Pending) -> tuple[list[Result] | StoreError, list[Change]]:
        try:
            return pending.apply()
        except StoreError as error:
            return error, []

    def _tell(self, changes: Sequence[Change]) -> None:
        for listener in tuple(self.listeners):
            listener(changes)


def _answer(done: asyncio.Future[list[Result]], outcome: list[Result] | StoreError) -> None:
    if done.cancelled():
        return
    if isinstance(outcome, StoreError):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)


# -- sessions and locks ---------------------------------------------------------------------------------------------


class EmbeddedSession(SessionStates):
    """The port's session. It is connected as long as the store is open, unless a simulation says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.id = 0
        self.locks: set[EmbeddedLock] = set()


class EmbeddedLock(LossListeners):
    """The port's lock."""

    def __init__(self, store: EmbeddedStore, path: str, contender: str) -> None:
        super().__init__()
        self.path = path
        self.contender = contender
        self.is_held = True
        self._store = store

    def lose(self) -> None:
        self.is_held = False
        super().lose()

    def forget(self) -> None:
        """It was given back."""
        self.is_held = False
        self._store.session.locks.discard(self)

    async def release(self) -> None:
        if not self.is_held:
            return
        self.forget()
        with suppress(StoreError):
            await asyncio.shield(self._store.drop(self.contender))


# -- trees ----------------------------------------------------------------------------------------------------------


class EmbeddedTree(TreeCopy):
    """The port's tree. It is warm as long as the session is connected."""

    def __init__(self, root: str, entries: Iterable[Entry], wants_data: Callable[[str], bool]) -> None:
        super().__init__(root, wants_data)
        for entry in entries:
            self.put_entry(entry)
        self.set_warm(True)

    def on_changes(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not self.covers(change.path):
                continue
            if change.new is None:
                self.drop_entry(change.path)
            elif change.old is None or change.old.entry != change.new.entry:
                self.put_entry(change.new.entry)


# -- the store ------------------------------------------------------------------------------------------------------


class EmbeddedStore:
    """The port's store on one file, or in memory (*path* None). *clock* gives seconds since 1970."""

    def __init__(self, path: Path | None, *, clock: Clock = time.time, _engine: _Engine | None = None) -> None:
        self.path = path
        self.session = EmbeddedSession()
        self._engine = _engine or _Engine(path, clock)
        self._owns_engine = _engine is None
        self._trees: list[EmbeddedTree] = []
        self._operations: Counter[str] = Counter()

    def connect(self) -> EmbeddedStore:
        """Another session on the same data; use it as a context manager inside this one's."""
        return EmbeddedStore(self.path, _engine=self._engine)

    async def __aenter__(self) -> Self:
        if self._owns_engine:
            await self._engine.open()
        self._begin_session()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._end_session()
        self.session.enter(SessionState.CLOSED)
        if self._owns_engine:
            await self._engine.close()

    def _begin_session(self) -> None:
        self.session.id = self._engine.next_session
        self._engine.next_session += 1
        self.session.epoch += 1
        self.session.enter(SessionState.CONNECTED)

    async def _end_session(self) -> None:
        locks, self.session.locks = self.session.locks, set()
        for lock in locks:
            lock.lose()
        with suppress(StoreError):
            await self._engine.end_session(self.session.id)

    async def expire_session(self) -> None:
        """Lose the session, as a ZooKeeper client may at any time, and begin a new one. For simulations and tests."""
        self.session.enter(SessionState.LOST)
        for tree in self._trees:
            tree.set_warm(False)
        await self._end_session()
        self._begin_session()
        for tree in self._trees:
            tree.set_warm(True)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _count(self, name: str) -> None:
        if self.session.state not in (SessionState.CONNECTED, SessionState.SUSPENDED, SessionState.DOUBTFUL):
            raise SessionLostError(detail=f"the session is {self.session.state.value}")
        self._operations[name] += 1

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self._operations)

    async def get(self, path: str) -> Entry:
        self._count("get")
        await self._engine.settled()
        entry = self._engine.znodes.find(path)
        if entry is None:
            raise RecordGoneError(path)
        return entry

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        for _ in paths:
            self._count("get")
        await self._engine.settled()
        return [self._engine.znodes.find(path) for path in paths]

    async def children(self, path: str) -> list[str]:
        self._count("children")
        await self._engine.settled()
        return self._engine.znodes.children(path)

    async def contenders(self, path: str) -> list[str]:
        with suppress(RecordGoneError):
            return contenders_in(path, await self.children(path))
        return []

    # -- writing ----------------------------------------------------------------------------------------------------

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        if parents:
            await self._ensure_parents(path)
        self._count("create")
        (entry,) = await self._transact([Create(path, data, ephemeral, sequence)])
        assert isinstance(entry, Entry)  # noqa: S101
        return entry

    async def ensure(self, *paths: str) -> None:
        for path in paths:
            await self._ensure_parents(path)
            await self._ensure(path)

    async def _ensure_parents(self, path: str) -> None:
        for above in parents(path):
            await self._ensure(above)

    async def _ensure(self, path: str) -> None:
        if self._engine.znodes.find(path) is None:
            self._count("create")
            with suppress(RecordExistsError):
                await self._transact([Create(path)])

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        self._count("put")
        (entry,) = await self._transact([Put(path, data, version)], under)
        assert isinstance(entry, Entry)  # noqa: S101
        return entry

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        self._count("delete")
        await self._transact([Delete(path, version)], under)

    async def delete_tree(self, path: str) -> None:
        await self._engine.settled()
        below = [entry.path for entry in self._engine.znodes.below(path)]
        for each in [*reversed(below), path]:
            with suppress(RecordGoneError):
                await self.delete(each)

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Result]:
        self._count("commit")
        return await self._transact(ops, under)

    def drop(self, path: str) -> asyncio.Future[list[Result]]:
        """Delete *path* whatever state the session is in; for locks that are given back."""
        self._operations["delete"] += 1
        return self._engine.submit(lambda: self._apply([Delete(path)], (), self.session.epoch))

    async def _transact(self, ops: Sequence[Op], under: Collection[Lock] = ()) -> list[Result]:
        epoch = self.session.epoch
        return await asyncio.shield(self._engine.submit(lambda: self._apply(ops, under, epoch)))

    def _apply(self, ops: Sequence[Op], under: Collection[Lock], epoch: int) -> tuple[list[Result], list[Change]]:
        """One transaction, in the turn of the loop in which it takes effect."""
        if self.session.epoch != epoch:
            raise SessionLostError
        for lock in under:
            if not lock.is_held:
                raise LockLostError(lock.contender)
        plain = [self._plain(op) for op in ops]
        flat = [each for group in plain for each in group]
        results, changes = self._engine.znodes.apply(flat, owner=self.session.id, now=self._engine.clock())
        rest = iter(results)
        answers = [self._answer(op, [next(rest) for _ in group]) for op, group in zip(ops, plain, strict=True)]
        return answers, changes

    def _answer(self, op: Op, results: list[Entry | None]) -> Result:
        """What the port promises for *op*; locks change hands here."""
        last = results[-1]
        if isinstance(op, TakeLock) and last is not None:
            return self._hold(op.path, last.path)
        if isinstance(op, ReleaseLock) and isinstance(op.lock, EmbeddedLock):
            op.lock.forget()
        return last

    def _plain(self, op: Op) -> list[PlainOp]:
        znodes = self._engine.znodes
        match op:
            case TakeLock(path, identifier):
                directory: list[PlainOp] = []
                if znodes.find(path) is None:
                    directory.append(Create(path))
                elif in_order(znodes.children(path)):
                    raise LockBusyError(path)
                return [*directory, Create(_new_contender(path), identifier, ephemeral=True, sequence=True)]
            case ReleaseLock(lock):
                if not lock.is_held or znodes.find(lock.contender) is None:
                    raise LockLostError(lock.contender)
                return [Delete(lock.contender)]
            case _:
                return [op]

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
        if parents:
            await self._ensure_parents(path)
        contending = asyncio.ensure_future(self._contend(path, identifier, ephemeral=ephemeral))
        try:
            contender = await asyncio.shield(contending)
        except asyncio.CancelledError:
            contending.add_done_callback(self._drop_unclaimed)
            raise
        try:
            async with asyncio.timeout(timeout_s):
                await self._lead(path, contender)
        except BaseException as error:
            with suppress(StoreError):
                await asyncio.shield(self.drop(contender))
            if isinstance(error, TimeoutError):
                raise LockBusyError(path) from None
            raise
        return self._hold(path, contender)

    def _drop_unclaimed(self, contending: asyncio.Future[str]) -> None:
        """Remove the contender of somebody who was cancelled while it was made."""
        if not contending.cancelled() and contending.exception() is None:
            self.drop(contending.result()).add_done_callback(lambda done: done.exception())

    async def _contend(self, path: str, identifier: bytes, *, ephemeral: bool) -> str:
        with suppress(RecordExistsError):
            if self._engine.znodes.find(path) is None:
                self._count("create")
                await self._transact([Create(path)])
        self._count("create")
        (entry,) = await self._transact([Create(_new_contender(path), identifier, ephemeral, sequence=True)])
        assert isinstance(entry, Entry)  # noqa: S101
        return entry.path

    async def _lead(self, path: str, contender: str) -> None:
        """Wait until *contender* is the first one."""
        changed = asyncio.Event()
        epoch = self.session.epoch
        listener = _wake_for(path, changed)
        self._engine.listeners.append(listener)
        unsubscribe = self.session.subscribe(lambda _state: changed.set())
        try:
            while join(path, in_order(self._engine.znodes.children(path))[0]) != contender:
                await changed.wait()
                changed.clear()
                if self.session.epoch != epoch:
                    raise SessionLostError(path)
        finally:
            unsubscribe()
            self._engine.listeners.remove(listener)

    def _hold(self, path: str, contender: str) -> EmbeddedLock:
        lock = EmbeddedLock(self, path, contender)
        self.session.locks.add(lock)
        return lock

    # -- trees ------------------------------------------------------------------------------------------------------

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,  # noqa: ARG002  it never has to
        keeps_data: bool = True,  # noqa: ARG002  they are there anyway
    ) -> AbstractAsyncContextManager[Tree]:
        return self._tree(root, wants_data)

    @asynccontextmanager
    async def _tree(self, root: str, wants_data: Callable[[str], bool]) -> AsyncIterator[Tree]:
        self._count("watch")
        await self._engine.settled()
        tree = EmbeddedTree(root, self._engine.znodes.below(root), wants_data)
        self._trees.append(tree)
        self._engine.listeners.append(tree.on_changes)
        try:
            yield tree
        finally:
            self._engine.listeners.remove(tree.on_changes)
            self._trees.remove(tree)


def _new_contender(path: str) -> str:
    return f"{path}/{uuid.uuid4().hex}__lock__"


def _wake_for(path: str, event: asyncio.Event) -> Callable[[Sequence[Change]], None]:
    def listener(changes: Sequence[Change]) -> None:
        if any(change.new is None and change.path.startswith(path + "/") for change in changes):
            event.set()

    return listener
