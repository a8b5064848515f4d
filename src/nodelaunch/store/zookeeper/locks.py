"""Takes locks: by contending for them, or together with a transaction.

In a transaction the lock's directory is created, or deleted and created again, with our contender in it. The deletion
fails if there is a contender. So a transaction that succeeds holds the lock: no peer can contend before the transaction
is done, and no peer ever sees the directory missing. Source: kazoo, its lock recipe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    StoreError,
)
from nodelaunch.protocol.store import Create, Delete, Entry, Lock, Op, ReleaseLock, SessionState, TakeLock
from nodelaunch.store.zookeeper.forest import Forest
from nodelaunch.store.zookeeper.lock import ZkLock, new_contender
from nodelaunch.store.zookeeper.reads import Reader
from nodelaunch.store.zookeeper.session import ZkSession
from nodelaunch.store.zookeeper.wire import PlainOp
from nodelaunch.store.zookeeper.writes import Writer

Result = Entry | Lock | None
MAX_TRIES = 4
"""Tries of a transaction while other clients create and delete the lock's directory."""


class Locks:
    """The locks of one store: the held ones, and the methods that take more."""

    def __init__(self, session: ZkSession, forest: Forest, reader: Reader, writer: Writer) -> None:
        self._session = session
        self._forest = forest
        self._reader = reader
        self._writer = writer
        self._held = writer.held
        self._drops: set[asyncio.Task[None]] = set()
        session.subscribe(self._on_state)

    def _on_state(self, state: SessionState) -> None:
        if state in (SessionState.LOST, SessionState.CLOSED):
            for lock in tuple(self._held.values()):
                lock.lose()

    def _locked(self, path: str, contender: Entry, epoch: int) -> ZkLock:
        """Return the lock that was taken in session *epoch*; it is lost already if that session ended after the
        answer."""
        fence = contender.stat.created_zxid
        lock = ZkLock(path, contender.path, fence, self._session, self._held, self.drop)
        if self._session.epoch != epoch or not self._session.may_hold:
            lock.lose()
        return lock

    async def drop(self, contender: str) -> None:
        """Delete *contender*; shielded against cancellation of the caller."""
        task = asyncio.ensure_future(self._drop(contender))
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)
        await asyncio.shield(task)

    async def _drop(self, contender: str) -> None:
        with suppress(StoreError):
            await self._writer.write([Delete(contender)])

    # -- transactions -------------------------------------------------------------------------------------------------

    async def commit(self, ops: Sequence[Op], under: Collection[Lock]) -> list[Result]:
        """Perform *ops* as the port defines."""
        plain: list[PlainOp] = []
        released: list[Lock] = []
        for op in ops:
            if type(op) is ReleaseLock:
                released.append(op.lock)
                plain.append(Delete(op.lock.contender))
            elif type(op) is TakeLock:
                if op is not ops[0]:
                    raise ValueError(f"{op.path}: a lock is taken at the beginning of a transaction")
            else:
                plain.append(op)
        if ops and type(ops[0]) is TakeLock:
            return await self._commit_taking(ops[0], plain, under, released)
        return list(await self._writer.write(plain, under, released=released)) if plain else []

    async def _commit_taking(
        self, take: TakeLock, rest: list[PlainOp], under: Collection[Lock], released: Collection[Lock]
    ) -> list[Result]:
        path = take.path
        is_there = bool(self._forest.grove.knows(path))
        for _ in range(MAX_TRIES):
            prefix, epoch = new_contender(path), self._session.epoch
            contend: list[PlainOp] = [Create(path), Create(prefix, take.identifier, ephemeral=True, sequence=True)]
            if is_there:
                contend.insert(0, Delete(path))
            try:
                results = await self._writer.write([*contend, *rest], under, released=released, contender=prefix)
            except RecordExistsError as error:
                if is_there or error.path != path:
                    raise
                is_there = True
            except RecordGoneError as error:
                if not is_there or error.path != path:
                    raise
                is_there = False
            except NotEmptyError as error:
                if error.path != path:
                    raise
                raise LockBusyError(path, "there is a contender") from None
            else:
                contender = results[len(contend) - 1]
                assert contender is not None  # noqa: S101
                return [self._locked(path, contender, epoch), *results[len(contend) :]]
        raise LockBusyError(path, "its directory is created and deleted repeatedly")

    async def create(self, path: str, data: bytes, record: object) -> tuple[Entry, Lock] | None:
        """Create a numbered znode with its lock taken, as the port defines."""
        numbers, epoch = self._forest.numbers, self._session.epoch
        foreseen = numbers.take(path) if self._writer.sends_at_once else None
        if foreseen is None:
            return None
        directory = f"{foreseen}/lock"
        prefix = new_contender(directory)
        ops = [Create(foreseen, data, record=record), Create(directory), Create(prefix, ephemeral=True, sequence=True)]
        try:
            entry, _, contender = await self._writer.write(ops, contender=prefix, is_foreseen=True)
        except RecordExistsError:
            numbers.forget(path)
            return None
        except BaseException:
            numbers.forget(path)
            raise
        assert entry is not None and contender is not None  # noqa: S101, PT018
        return entry, self._locked(directory, contender, epoch)

    # -- contending ---------------------------------------------------------------------------------------------------

    async def lock(self, path: str, *, timeout_s: float, identifier: bytes, ephemeral: bool) -> Lock:
        """Contend for the lock at *path*, as the port defines."""
        epoch = self._session.epoch
        contender = await self._contend(path, identifier, ephemeral=ephemeral)
        try:
            async with asyncio.timeout(timeout_s or None):
                await self._lead(path, contender.path, epoch, waits=timeout_s > 0)
        except BaseException as error:
            await self.drop(contender.path)
            if isinstance(error, TimeoutError):
                raise LockBusyError(path) from None
            raise
        return self._locked(path, contender, epoch)

    async def _contend(self, path: str, identifier: bytes, *, ephemeral: bool) -> Entry:
        prefix = new_contender(path)
        op = Create(prefix, identifier, ephemeral, sequence=True)
        try:
            results = await self._writer.write([op], contender=prefix)
        except RecordGoneError:
            with suppress(RecordExistsError):
                await self._writer.write([Create(path)])  # fails if the parent does not exist: it is not created again
            results = await self._writer.write([op], contender=prefix)
        (entry,) = results
        assert entry is not None  # noqa: S101
        return entry

    async def _lead(self, path: str, contender: str, epoch: int, *, waits: bool) -> None:
        """Wait until *contender* is the first one. Raises: LockBusyError if it is not and *waits* is false."""
        while True:
            self._session.check(epoch)
            order = await self._reader.contenders(path)
            if contender not in order:
                raise LockLostError(contender)
            at = order.index(contender)
            if at == 0:
                return
            if not waits:
                raise LockBusyError(path)
            await self._until_changed(order[at - 1])

    async def _until_changed(self, path: str) -> None:
        """Wait until *path* changes, or the connection or session changes; return at once if *path* does not exist."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forest.waiters.setdefault(path, []).append(changed)
        try:
            await self._reader.watch(path)
            await changed
        except RecordGoneError:
            return
        finally:
            waiters = self._forest.waiters.get(path, [])
            if changed in waiters:
                waiters.remove(changed)
                if not waiters:
                    del self._forest.waiters[path]
