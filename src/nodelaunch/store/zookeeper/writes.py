"""Writes, each performed exactly once: sent, matched with their events, and answered when the trees are up to date.

A write whose reply was lost is handed to `Recovery`; until all such writes are settled no new write is sent. lock.py
says under which lock a write is, and forest.py reports writes to the trees.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Final

from nodelaunch.errors import LockLostError, RecordGoneError, StoreError
from nodelaunch.protocol.store import Delete, Entry, Lock
from nodelaunch.store.zookeeper.forest import EncodedWrite, Forest, OwnWrite
from nodelaunch.store.zookeeper.lock import ZkLock
from nodelaunch.store.zookeeper.numbers import DIGITS
from nodelaunch.store.zookeeper.reads import Reader
from nodelaunch.store.zookeeper.recovery import Recovery
from nodelaunch.store.zookeeper.session import ZkSession
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    HEADER_SIZE,
    MAX_PACKET,
    OP_CHECK,
    OP_CREATE2,
    OP_DELETE,
    OP_MULTI,
    OP_SET,
    OPEN_TO_ALL,
    PlainOp,
    encode_write,
    read_multi,
    read_results,
    store_error,
)

NAMES: Final = {OP_CREATE2: "create", OP_SET: "put", OP_DELETE: "delete", OP_CHECK: "check", OP_MULTI: "commit"}


class Writer:
    """Writes below the chroot."""

    def __init__(
        self, session: ZkSession, forest: Forest, reader: Reader, chroot: str, acls: bytes = OPEN_TO_ALL
    ) -> None:
        """*acls*: encoded, for created znodes."""
        self._session = session
        self._forest = forest
        self._prefix = chroot.encode()
        self._acls = acls
        self._skip = len(chroot)
        self.held: dict[str, ZkLock] = {}
        """The locks that are neither released nor lost, by contender."""
        self.recovery: Recovery = Recovery(session, reader, forest, self._send, self._done)

    async def write(
        self,
        ops: Sequence[PlainOp],
        under: Collection[Lock] = (),
        *,
        released: Collection[Lock] = (),
        contender: str = "",
        is_foreseen: bool = False,
    ) -> list[Entry | None]:
        """Perform *ops* as one transaction, exactly once, while each of *under* and of *released* is held.

        *released*: the locks whose contenders are deleted. *contender*: the path, without its number, of the contender
        that is created; it is deleted again if the caller is cancelled meanwhile. *is_foreseen*: the first operation
        creates a path whose number was predicted. Raises: StoreError.
        """
        session = self._session
        epoch = session.epoch
        code, body = encode_write(self._prefix, ops, self._acls)
        if len(body) > MAX_PACKET - HEADER_SIZE:
            raise _too_large(ops, len(body) + HEADER_SIZE)
        if session.connection is None or self.recovery.is_on:
            await self.recovery.over(epoch)
        elif not session.may_hold:
            session.check(epoch)
        for locks in (under, released):
            for lock in locks:
                if lock.contender not in self.held:
                    raise LockLostError(lock.contender)
        future: asyncio.Future[list[Entry | None]] = asyncio.get_running_loop().create_future()
        write = OwnWrite(EncodedWrite(ops, code, body, epoch, under, released, contender, is_foreseen), future)
        self._send(write)
        try:
            return await future
        except asyncio.CancelledError:
            self._give_back(write)  # if it is done already: the reply, or even the result, was here
            raise

    @property
    def sends_at_once(self) -> bool:
        """Return True if a write that starts now is sent before anything else happens."""
        return self._session.connection is not None and not self.recovery.is_on

    def _send(self, write: OwnWrite) -> None:
        self._forest.expect(write)
        for path in write.order.numbered:
            self._forest.numbers.begins(path, is_foreseen=write.order.is_foreseen)
        self._session.send(NAMES[write.order.code], write.order.code, write.order.body, self._on_reply, write)

    def _on_reply(self, write: OwnWrite, error: int, zxid: int, data: bytes, at: int) -> None:
        if error == BROKEN:
            self.recovery.add(write)
            return
        ops = write.order.ops
        try:
            if error:
                raise store_error(error, write.order.path)
            if write.order.code == OP_MULTI:
                write.results = read_multi(
                    ops, data, at,
                    skip=self._skip, zxid=zxid, session_id=self._session.session_id, now=time.time(),
                )  # fmt: skip
            else:
                write.results = read_results(ops, data, at, skip=self._skip)
        except StoreError as failure:
            write.error = _of_released(write, failure)
        else:
            if write.order.released or write.order.contender:
                self._done(write)
        if write.order.numbered:
            self._count(write)
        self._forest.settle(write)

    def _count(self, write: OwnWrite) -> None:
        """Update the predicted numbers from the znodes that *write* created, or from its failure."""
        made = [entry.path for entry in write.results if entry is not None]
        for path in write.order.numbered:
            found = next((each for each in made if each[:-DIGITS] == path), None)
            if found is not None:
                made.remove(found)
            self._forest.numbers.ends(path, found, is_foreseen=write.order.is_foreseen)

    def _done(self, write: OwnWrite) -> None:
        """Handle a successful *write*: its locks are released, and a lock whose caller was cancelled is
        released too."""
        for lock in write.order.released:
            if isinstance(lock, ZkLock):
                lock.forget()
        if write.future.cancelled():
            self._give_back(write)

    def _give_back(self, write: OwnWrite) -> None:
        """Delete the contender that *write* made, if it is done and made one: its cancelled caller does not."""
        if not write.order.contender:
            return
        for entry in write.results:
            if entry is not None and entry.path.startswith(write.order.contender):
                self._delete_some_time(entry.path, write.order.epoch)

    def _delete_some_time(self, path: str, epoch: int) -> None:
        """Delete *path* in the background."""
        future: asyncio.Future[list[Entry | None]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        ops = [Delete(path)]
        self._send(OwnWrite(EncodedWrite(ops, *encode_write(self._prefix, ops, self._acls), epoch), future))


def _retrieved(future: asyncio.Future[list[Entry | None]]) -> None:
    if not future.cancelled():
        future.exception()


def _of_released(write: OwnWrite, error: StoreError) -> StoreError:
    """Return the error for a lost lock, if a contender to be released no longer exists."""
    if isinstance(error, RecordGoneError) and any(lock.contender == error.path for lock in write.order.released):
        return LockLostError(error.path)
    return error


def _too_large(ops: Sequence[PlainOp], size: int) -> StoreError:
    return StoreError(
        ops[0].path,
        f"{size} bytes are too many for a znode or a transaction: the limit is {MAX_PACKET} (jute.maxbuffer)",
    )
