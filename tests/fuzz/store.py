"""A store server in memory, and sessions on it over a line that has delays, breaks, and loses sessions.

Each session's calls reach the server in the order they were made, each after a delay. Answers and notifications for its
trees return over a separate line, in order, again with delays. So a client's knowledge is always a little old, other
clients' calls take effect between any two of its own, and a session may be over for a while before its client knows.
``test_store.py`` checks the server against the port's promises. What does *not* belong here: when anything breaks
(scenario.py), and the meaning of the documents.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    NotEmptyError,
    RecordExistsError,
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
from nodelaunch.store.embedded.znodes import Change, PlainOp, ZnodeTree, parents
from nodelaunch.store.shared import LossListeners, SessionStates, TreeCopy, contenders_in

Result = Entry | Lock | None
Latency = Callable[[], float]
"""Function that returns the delay of the next message, in seconds."""

SESSION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Transaction:
    """Changes by one call, all at once. ``session`` is the writer's id; ``is_expiry``: its session ended."""

    client: SimStore
    session: int
    changes: Sequence[Change]
    is_expiry: bool = False


class SimServer:
    """The data, and who is connected."""

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self.znodes = ZnodeTree()
        self.rng = rng
        self.clock = clock
        self.listeners: list[Callable[[Transaction], None]] = []
        """Called with every transaction, in the turn in which it takes effect."""
        self._clients: dict[int, SimStore] = {}
        self._next_session = 1

    def connect(self, name: str, latency: Latency = lambda: 0.0) -> SimStore:
        """A client called *name*; use it as a context manager."""
        return SimStore(self, name, latency)

    def begin_session(self, client: SimStore) -> int:
        session, self._next_session = self._next_session, self._next_session + 1
        self._clients[session] = client
        return session

    def has_session(self, session: int) -> bool:
        return session in self._clients

    def end_session(self, session: int) -> None:
        """Remove the session's ephemerals; nothing of it takes effect afterwards."""
        client = self._clients.pop(session, None)
        if client is None:
            return
        owned = sorted(self.znodes.owned_by(session), reverse=True)
        if owned:
            _, changes = self.znodes.apply([Delete(path) for path in owned], owner=0, now=self.clock())
            self._tell(Transaction(client, session, changes, is_expiry=True))

    def write(self, client: SimStore, session: int, ops: Sequence[PlainOp]) -> list[Entry | None]:
        """Raises: StoreError, nothing changed."""
        if session not in self._clients:
            raise SessionLostError
        results, changes = self.znodes.apply(ops, owner=session, now=self.clock())
        self._tell(Transaction(client, session, changes))
        return results

    def _tell(self, transaction: Transaction) -> None:
        for client in self._clients.values():
            client.hear(transaction.changes)
        for listener in tuple(self.listeners):
            listener(transaction)

    def contender(self, lock_path: str) -> str:
        """Return the path for a new contender, named as kazoo does."""
        return f"{lock_path}/{self.rng.getrandbits(128):032x}__lock__"


class _Line:
    """A direction of a connection: messages arrive in the order sent, each after some time."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._messages: deque[Callable[[], None]] = deque()
        self._last_at = 0.0

    def send(self, arrive: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._last_at = max(self._last_at, loop.time() + self._latency())
        self._messages.append(arrive)
        loop.call_at(self._last_at, self._arrive)

    def _arrive(self) -> None:
        if self._messages:
            self._messages.popleft()()

    def clear(self) -> list[Callable[[], None]]:
        """Take all messages off the line."""
        messages, self._messages = list(self._messages), deque()
        return messages


class SimLock(LossListeners):
    """The port's lock."""

    def __init__(self, store: SimStore, path: str, contender: str, fence: int) -> None:
        super().__init__()
        self.path = path
        self.contender = contender
        self.fence = fence
        self._store = store
        self._epoch = store.session.epoch
        self._is_released = False

    @property
    def is_held(self) -> bool:
        return not self._is_released and not self.is_lost and self._store.session.epoch == self._epoch

    def forget(self) -> None:
        self._is_released = True
        self._store.locks.pop(self.contender, None)

    async def release(self) -> None:
        if not self.is_held:
            return
        self.forget()
        with suppress(StoreError):
            await asyncio.shield(self._store.drop(self.contender))


class SimTree(TreeCopy):
    """The port's tree."""

    is_watching = False
    """Set while the server notifies the client of changes below it."""

    def covers(self, path: str) -> bool:
        return path.startswith(self.root + "/")

    def take_in(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not self.covers(change.path):
                continue
            if change.new is None:
                self.drop_entry(change.path)
            elif change.old is None or change.old.entry != change.new.entry:
                self.put_entry(change.new.entry)

    def replace_all(self, entries: Sequence[Entry]) -> None:
        """Be as the server was when it was read as a whole."""
        there = {entry.path for entry in entries}
        for old in sorted(self.entries(), key=lambda entry: entry.path, reverse=True):
            if old.path not in there:
                self.drop_entry(old.path)
        for entry in entries:
            known = self.get(entry.path)
            if known is None or known.stat != entry.stat:
                self.put_entry(entry)
        self.set_synced(True)


class SimStore:
    """The port's store: one client of the server, session after session."""

    def __init__(self, server: SimServer, name: str, latency: Latency) -> None:
        self.server = server
        self.name = name
        self.session = SessionStates()
        self.session_id = 0
        self.locks: dict[str, SimLock] = {}
        self.is_dead = False
        """The process is gone: nothing it still does has any effect."""
        self._latency = latency
        self._up = _Line(latency)
        self._down = _Line(latency)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0
        self._is_cut = False
        """The connection is broken: nothing arrives until it is made again."""
        self._unsent: list[Callable[[], None]] = []
        self._unheard: list[Callable[[], None]] = []
        self._trees: list[SimTree] = []
        self._operations: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._begin_session()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.is_dead:
            self.server.end_session(self.session_id)
        self._drop_all()
        self.session.enter(SessionState.CLOSED)

    def _begin_session(self) -> None:
        self.session_id = self.server.begin_session(self)
        self.session.epoch += 1
        self.session.enter(SessionState.CONNECTED)

    # -- what befalls it --------------------------------------------------------------------------------------------

    def die(self) -> None:
        """The process is killed. The server finds out when the session times out."""
        session = self.session_id
        asyncio.get_running_loop().call_later(SESSION_TIMEOUT_S, self.server.end_session, session)
        self.is_dead = True
        self.session.enter(SessionState.LOST)
        self._drop_all()

    def expire(self, unaware_s: float, away_s: float) -> None:
        """The server ends the session; the client learns it after *unaware_s*, and connects again *away_s* later."""
        if self.is_dead or not self.server.has_session(self.session_id):
            return
        self.server.end_session(self.session_id)
        self._cut()
        asyncio.get_running_loop().call_later(unaware_s, self._lost, away_s)

    def suspend(self, away_s: float) -> None:
        """Break the connection; after *away_s* it is made again, and the session continues."""
        if self.is_dead or self._is_cut:
            return
        self._cut()
        self.session.enter(SessionState.SUSPENDED)
        self._mark_stale()
        asyncio.get_running_loop().call_later(away_s, self._resume)

    def _cut(self) -> None:
        self._is_cut = True
        self._unsent += self._up.clear()
        self._unheard += self._down.clear()
        for tree in self._trees:
            tree.is_watching = False

    def _mark_stale(self) -> None:
        for tree in self._trees:
            tree.set_synced(False)

    def _resume(self) -> None:
        if self.is_dead or not self._is_cut or self.session.state is not SessionState.SUSPENDED:
            return
        self._is_cut = False
        self.session.enter(SessionState.CONNECTED)
        for tree in self._trees:
            self._read_whole(tree)
        unsent, self._unsent = self._unsent, []
        unheard, self._unheard = self._unheard, []
        for message in unheard:
            self._up.send(lambda message=message: self._down.send(message))  # after what the trees have to catch up on
        for message in unsent:
            self._up.send(message)

    def _lost(self, away_s: float) -> None:
        if self.is_dead or self.session.state is SessionState.CLOSED:
            return
        self.session.enter(SessionState.LOST)
        self._mark_stale()
        self._drop_all()
        asyncio.get_running_loop().call_later(away_s, self._begin_again)

    def _begin_again(self) -> None:
        if self.is_dead or self.session.state is SessionState.CLOSED:
            return
        self._is_cut = False
        self._begin_session()
        for tree in self._trees:
            self._read_whole(tree)

    def _drop_all(self) -> None:
        """Let go of what belongs to a session that is over."""
        self._unsent, self._unheard = [], []
        self._up.clear()
        self._down.clear()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(SessionLostError())
                answer.exception()
        locks, self.locks = self.locks, {}
        for lock in locks.values():
            lock.lose()

    # -- the line ---------------------------------------------------------------------------------------------------

    def hear(self, changes: Sequence[Change]) -> None:
        """Receive the server's notification of changes."""
        trees = [tree for tree in self._trees if tree.is_watching and any(tree.covers(c.path) for c in changes)]
        for tree in trees:
            self._down.send(lambda tree=tree: tree.take_in(changes))

    def _read_whole(self, tree: SimTree) -> None:
        """Read the tree as a whole, and keep it in sync from then on."""

        def read() -> None:
            tree.is_watching = True
            entries = self.server.znodes.below(tree.root)
            self._down.send(lambda: tree.replace_all(entries))

        self._up.send(read)

    def call(self, name: str, act: Callable[[int], Any]) -> asyncio.Future[Any]:
        """Let the server do *act*; its result or exception arrives as the answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_dead or self.session.state in (
            SessionState.LOST, SessionState.CLOSED, SessionState.CONNECTING,
        ):  # fmt: skip
            answer.set_exception(SessionLostError())
            return answer
        self._operations[name] += 1
        self._calls += 1
        number, session = self._calls, self.session_id
        self._waiting[number] = answer

        def arrive() -> None:
            try:
                if not self.server.has_session(session):
                    raise SessionLostError
                outcome, error = act(session), None
            except StoreError as caught:
                outcome, error = None, caught
            if self._is_cut:  # the server ended this very session in the course of it
                return
            self._down.send(lambda: self._answered(number, outcome, error))

        (self._unsent.append if self._is_cut else self._up.send)(arrive)
        return answer

    def _answered(self, number: int, outcome: Any, error: StoreError | None) -> None:
        answer = self._waiting.pop(number, None)
        if answer is None or answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(outcome)

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def operations(self) -> Mapping[str, int]:
        return dict(self._operations)

    async def get(self, path: str) -> Entry:
        (entry,) = await self.get_many([path])
        if entry is None:
            raise RecordGoneError(path)
        return entry

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        answers = [self.call("get", lambda _s, path=path: self.server.znodes.find(path)) for path in paths]
        return list(await asyncio.gather(*answers))

    async def children(self, path: str) -> list[str]:
        return list(await self.call("children", lambda _s: self.server.znodes.children(path)))

    async def contenders(self, path: str) -> list[str]:
        with suppress(RecordGoneError):
            return contenders_in(path, await self.children(path))
        return []

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write(self, name: str, ops: Sequence[PlainOp], under: Collection[Lock] = ()) -> asyncio.Future[Any]:
        for lock in under:
            if not lock.is_held:
                failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                failed.set_exception(LockLostError(lock.contender))
                return failed
        return self.call(name, lambda session: self.server.write(self, session, ops))

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, parents: bool = False
    ) -> Entry:
        if parents:
            await self._ensure_parents(path)
        (entry,) = await self._write("create", [Create(path, data, ephemeral, sequence)])
        return entry  # type: ignore[no-any-return]

    async def ensure(self, *paths: str) -> None:
        for path in paths:
            await self._ensure_parents(path + "/x")

    async def _ensure_parents(self, path: str) -> None:
        for above in parents(path):
            with suppress(RecordExistsError):
                await self._write("create", [Create(above)])

    async def put(self, path: str, data: bytes, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> Entry:
        (entry,) = await self._write("put", [Put(path, data, version)], under)
        return entry  # type: ignore[no-any-return]

    async def delete(self, path: str, *, version: int = ANY_VERSION, under: Collection[Lock] = ()) -> None:
        await self._write("delete", [Delete(path, version)], under)

    async def delete_tree(self, path: str) -> None:
        while True:
            with suppress(RecordGoneError):
                for name in await self.children(path):
                    await self.delete_tree(f"{path}/{name}")
            try:
                await self.delete(path)
            except RecordGoneError:
                return
            except NotEmptyError:
                continue
            return

    async def create_locked(self, path: str, data: bytes, *, record: object = None) -> tuple[Entry, Lock] | None:
        """Return the record and its lock under the server's expected next number; when the transaction arrives,
        another client may have this number.
        """
        made = self.server.znodes.next_at(path)
        if made is None:
            return None
        directory = f"{made}/lock"
        contender = Create(self.server.contender(directory), ephemeral=True, sequence=True)
        writing = self._write("commit", [Create(made, data, record=record), Create(directory), contender])
        try:
            entry, _, taken = await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(self._drop_unclaimed)
            raise
        except RecordExistsError:
            return None
        return entry, self._hold(directory, taken)

    async def commit(self, ops: Sequence[Op], *, under: Collection[Lock] = ()) -> list[Result]:
        if ops and isinstance(ops[0], TakeLock):
            return await self._commit_taking(ops[0], ops[1:], under)
        return await self._commit_plain(ops, under)

    async def _commit_plain(self, ops: Sequence[Op], under: Collection[Lock]) -> list[Result]:
        released = [op.lock for op in ops if isinstance(op, ReleaseLock)]
        try:
            results = await self._write("commit", [_plain(op) for op in ops], [*under, *released])
        except RecordGoneError as error:
            if any(lock.contender == error.path for lock in released):
                raise LockLostError(error.path) from None
            raise
        for lock in released:
            if isinstance(lock, SimLock):
                lock.forget()
        return list(results)

    async def _commit_taking(self, take: TakeLock, rest: Sequence[Op], under: Collection[Lock]) -> list[Result]:
        """Commit a single transaction if the lock's directory is new; otherwise step by step, as ZooKeeper requires."""
        contender = Create(self.server.contender(take.path), take.identifier, ephemeral=True, sequence=True)
        plain: list[PlainOp] = [Create(take.path), contender, *(_plain(op) for op in rest)]
        writing = self._write("commit", plain, under)
        try:
            results = await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(self._drop_unclaimed)
            raise
        except RecordExistsError as error:
            if error.path != take.path:
                raise
        else:
            return [self._hold(take.path, results[1]), *results[2:]]
        lock = await self.lock(take.path, identifier=take.identifier)
        try:
            return [lock, *(await self._commit_plain(rest, [*under, lock]) if rest else [])]
        except BaseException:
            await lock.release()
            raise

    def _drop_unclaimed(self, writing: asyncio.Future[Any]) -> None:
        """Remove the contender of a caller that was cancelled while the contender was made."""
        if not writing.cancelled() and writing.exception() is None:
            for entry in writing.result():
                if entry is not None and "__lock__" in entry.path:
                    self.drop(entry.path)

    def drop(self, contender: str) -> asyncio.Future[Any]:
        """Remove a contender of ours in the background; the result need not be awaited."""
        dropping = self.call("delete", lambda session: self.server.write(self, session, [Delete(contender)]))
        dropping.add_done_callback(lambda done: done.cancelled() or done.exception())
        return dropping

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
        with suppress(RecordExistsError):
            await self._write("create", [Create(path)])
        contender = Create(self.server.contender(path), identifier, ephemeral, sequence=True)
        writing = self._write("create", [contender])
        try:
            (entry,) = await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(self._drop_unclaimed)
            raise
        try:
            async with asyncio.timeout(timeout_s or None):
                await self._lead(path, entry.path, waits=timeout_s > 0)
        except BaseException as error:
            await asyncio.shield(asyncio.wait([self.drop(entry.path)]))
            if isinstance(error, TimeoutError):
                raise LockBusyError(path) from None
            raise
        return self._hold(path, entry)

    async def _lead(self, path: str, contender: str, *, waits: bool) -> None:
        """Wait until *contender* is the first one. Raises: LockBusyError where there is no waiting."""
        while (await self.contenders(path))[:1] != [contender]:
            if not waits:
                raise LockBusyError(path)
            await asyncio.sleep(0.05)  # stands for the watch on the contender before ours

    def _hold(self, path: str, contender: Entry) -> SimLock:
        lock = SimLock(self, path, contender.path, contender.stat.created_zxid)
        self.locks[contender.path] = lock
        return lock

    # -- trees ------------------------------------------------------------------------------------------------------

    def tree(
        self,
        root: str,
        *,
        wants_data: Callable[[str], bool] = lambda _path: True,
        may_lag: Callable[[str], bool] = lambda _path: False,
        keeps_data: bool = True,
    ) -> AbstractAsyncContextManager[Tree]:
        return self._tree(root, wants_data)

    @asynccontextmanager
    async def _tree(self, root: str, wants_data: Callable[[str], bool]) -> AsyncIterator[Tree]:
        tree = SimTree(root, wants_data)
        self._trees.append(tree)
        if not self._is_cut:
            self._read_whole(tree)
        try:
            yield tree
        finally:
            self._trees.remove(tree)


def _plain(op: Op) -> PlainOp:
    match op:
        case ReleaseLock(lock):
            return Delete(lock.contender)
        case TakeLock():
            raise ValueError("a lock is taken first, and only one")
        case _:
            return op
