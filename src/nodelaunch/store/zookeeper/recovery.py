"""Settles the writes whose replies were lost, all writes of one broken connection together.

After reconnecting, the znodes are read in batches, and doubt.py decides which writes were done. These are answered; the
others are sent again, in their first order. A write under which the connection breaks repeatedly is sent alone, and
given up if the connection breaks once more. writes.py handles writes with replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from nodelaunch.errors import (
    LockLostError,
    OutcomeUnknownError,
    RecordExistsError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import Entry, SessionState
from nodelaunch.store.zookeeper.connection import ConnectionBrokenError
from nodelaunch.store.zookeeper.doubt import (
    CONTENDER_MARK,
    Doubt,
    FoundState,
    Outcome,
    WriteOutcome,
    candidates,
    judge,
    numbered_in,
    paths_in,
)
from nodelaunch.store.zookeeper.forest import Forest, OwnWrite
from nodelaunch.store.zookeeper.reads import BATCH, Reader
from nodelaunch.store.zookeeper.session import ZkSession

log: Logger = get_logger(__name__)

SUSPECT_AFTER: Final = 2
"""Breaks of the connection under one write after which it is sent alone; after one more, it is given up."""
LATEST_BATCH: Final = 100
"""Number of entries that are read at a time, from the highest number down to an entry that is older than the break."""


class Recovery:
    """The writes in doubt. *resend* sends one again; *done* is called with each write that was done."""

    def __init__(
        self,
        session: ZkSession,
        reader: Reader,
        forest: Forest,
        resend: Callable[[OwnWrite], None],
        done: Callable[[OwnWrite], None],
    ) -> None:
        self.doubts: list[OwnWrite] = []
        """Writes in doubt, in the order in which they were sent."""
        self._session = session
        self._reader = reader
        self._forest = forest
        self._resend = resend
        self._done = done
        self.is_on: bool = False
        """True while its task runs: new writes have to wait."""
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._alone = asyncio.Event()
        """Set when the write that is sent alone has its answer, or will have none."""
        session.subscribe(self._on_state)

    def add(self, write: OwnWrite) -> None:
        """Add *write*: the connection broke before its reply."""
        write.breaks += 1
        write.since = self._session.last_zxid
        self._alone.set()
        if not self._session.session_id or self._session.epoch != write.order.epoch:
            _fail(write, SessionLostError(write.order.path, "the session ended before the answer"))
            return
        self.doubts.append(write)
        if not self.is_on:
            self.is_on = True
            self._task = asyncio.ensure_future(self._run(write.order.epoch))

    async def over(self, epoch: int) -> None:
        """Wait until writes can be sent in session *epoch*. Raises: SessionLostError."""
        await self._session.usable(epoch)
        while self.is_on:
            await self._settled.wait()
            await self._session.usable(epoch)

    def _on_state(self, state: SessionState) -> None:
        if state in (SessionState.LOST, SessionState.CLOSED):
            if self._task is not None:
                self._task.cancel()
            self._end(SessionLostError(detail="the session ended before the answer"))

    def _end(self, error: StoreError | None = None) -> None:
        """End the recovery; writes still in doubt fail with *error*."""
        doubts, self.doubts = self.doubts, []
        for write in doubts:
            _fail(write, type(error)(write.order.path, error.detail) if error is not None else None)
        self.is_on, self._task = False, None
        self._settled.set()
        self._settled = asyncio.Event()

    async def _run(self, epoch: int) -> None:
        """Settle until no write is in doubt."""
        error: StoreError | None = None
        try:
            while self.doubts:
                await self._session.usable(epoch)
                with suppress(ConnectionBrokenError):
                    await self._settle()
        except SessionLostError as lost:
            error = lost
        except Exception as failure:
            log.exception("zookeeper_recovery_failed")
            error = OutcomeUnknownError(detail=f"its outcome can't be determined: {failure}")
        self._end(error)

    async def _settle(self) -> None:
        """Make one round: read, judge, answer, send again. Raises: ConnectionBrokenError."""
        writes = tuple(self.doubts)
        doubts = [Doubt(write.order.ops, write.since) for write in writes]
        outcomes = judge(doubts, await self._look(doubts))
        again = [write for write, outcome in zip(writes, outcomes, strict=True) if not self._answer(write, outcome)]
        log.info("zookeeper_writes_settled", in_doubt=len(writes), sent_again=len(again))
        suspects = [write for write in again if write.breaks >= SUSPECT_AFTER]
        self.doubts = suspects + self.doubts[len(writes) :]
        for write in again:
            if write.breaks < SUSPECT_AFTER:
                self._send(write)
        for write in suspects:
            self.doubts.remove(write)
            self._alone = alone = asyncio.Event()
            write.future.add_done_callback(partial(_set, alone))
            self._send(write)
            await alone.wait()
            if self.doubts[-1:] == [write]:
                return  # the connection broke

    def _send(self, write: OwnWrite) -> None:
        write.reset()
        self._resend(write)

    def _answer(self, write: OwnWrite, outcome: Outcome) -> bool:
        """Notify the waiter. Return False if the write has to be sent again."""
        if isinstance(outcome, list):
            write.results = outcome
            self._done(write)
            self._forest.settle_found(write)
        elif write.future.cancelled():
            pass
        elif outcome is WriteOutcome.UNKNOWN:
            _fail(write, OutcomeUnknownError(write.order.path, "the connection broke before the answer"))
        elif write.order.is_foreseen:
            _fail(write, RecordExistsError(write.order.path, "this creation was not done before the connection broke"))
        elif write.breaks > SUSPECT_AFTER:
            detail = f"the connection broke {write.breaks} times under this write; the server seems to refuse it"
            _fail(write, StoreUnavailableError(write.order.path, detail))
        else:
            lost = next((lock for lock in (*write.order.under, *write.order.released) if not lock.is_held), None)
            if lost is None:
                return False
            _fail(write, LockLostError(lost.contender))
        return True

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _look(self, doubts: Sequence[Doubt]) -> FoundState:
        """Return all znodes that help to judge *doubts*. Raises: ConnectionBrokenError."""
        await self._reader.sync()  # another server of the ensemble may lag behind the one that did the write
        since = numbered_in(doubts)
        directories = dict.fromkeys(prefix.rpartition("/")[0] for prefix in since)
        names: dict[str, list[str]] = {}
        for batch in _batches(list(directories)):
            names.update(zip(batch, await self._reader.list_all(batch), strict=True))
        made = {prefix: candidates(prefix, names[prefix.rpartition("/")[0]]) for prefix in since}
        unique = [path for prefix, found in made.items() if CONTENDER_MARK in prefix for path in found]
        entries = await self._find([*paths_in(doubts), *unique])
        numbered: dict[str, list[Entry]] = {}
        for prefix, found in made.items():
            if CONTENDER_MARK in prefix:
                numbered[prefix] = [entry for path in found if (entry := entries[path]) is not None]
            else:
                numbered[prefix] = await self._latest(found, since[prefix])
        return FoundState(entries, numbered, self._session.session_id)

    async def _find(self, paths: Sequence[str]) -> dict[str, Entry | None]:
        found: dict[str, Entry | None] = {}
        for batch in _batches(paths):
            found.update(zip(batch, await self._reader.find(batch), strict=True))
        return found

    async def _latest(self, paths: Sequence[str], since: int) -> list[Entry]:
        """Return the entries of *paths*, the highest number first, that were made after zxid *since*: lower numbers are
        older."""
        latest: list[Entry] = []
        for batch in _batches(paths, LATEST_BATCH):
            entries = [entry for entry in await self._reader.find(batch) if entry is not None]
            latest += [entry for entry in entries if entry.stat.created_zxid > since]
            if any(entry.stat.created_zxid <= since for entry in entries):
                break
        return latest


def _batches(paths: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]


def _set(event: asyncio.Event, _future: asyncio.Future[list[Entry | None]]) -> None:
    event.set()


def _fail(write: OwnWrite, error: StoreError | None) -> None:
    if error is not None and not write.future.done():
        write.future.set_exception(error)
