"""Writes the embedded store's transactions to disk in groups, and makes them visible when they are on disk.

Each transaction is applied in memory at once, on top of its predecessors. All transactions up to the end of the loop's
turn, or of the write of the last group, go to disk as one SQLite transaction with one fsync. Only then are they
visible, reported and answered, so that no visible change is lost when the process is killed or the power fails. There
are two trees of znodes: `newest`, with transactions that are being written, and `visible`. Without a file, both are the
same tree.

If the disk's fsync takes less than `LOOP_CAP_S`, groups are written on the event loop: entering a thread costs more,
and each statement in a thread waits for the interpreter lock that a busy loop holds. On a slower disk, groups are
written in a thread, while the loop runs and the next group gathers.

A failed write fails every transaction that was not on disk, and `newest` returns to `visible`. Until a write succeeds
again, `trouble` has the reason; a probe with a growing back-off detects when the disk can be written again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nodelaunch.errors import StoreError, StoreUnavailableError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.store import Delete, Entry
from nodelaunch.store.embedded.audience import Audience
from nodelaunch.store.embedded.sqlite import SqliteFile
from nodelaunch.store.embedded.znodes import Change, PlainOp, Znode, ZnodeTree

log: Logger = get_logger(__name__)

LOOP_CAP_S = 1e-3
"""Seconds for which the write of a group may stop the event loop, by the median of the last ones."""
SAMPLES = 9
"""Number of writes for the median."""
RETRY_EVERY = 64
"""Number of groups of which one is written on the loop nevertheless, to detect that a slow disk has become quick."""
FIRST_PROBE_S, LAST_PROBE_S = 0.1, 5.0
"""Seconds between probes of a disk that can't be written; each pause is twice as long as the previous one."""

Outcome = list[Entry | None] | StoreError
Settle = Callable[[Outcome], None]
Done = Callable[[Exception | None], None]
Answer = asyncio.Future[list[Entry | None]]


@dataclass(eq=False, slots=True)
class _Transaction:
    """A transaction that is applied and not on disk yet."""

    outcome: Outcome
    changes: Sequence[Change]
    answer: Answer
    settle: Settle | None


class GroupPace:
    """Decides whether a group is written on the event loop."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=SAMPLES)
        self._in_thread = 0

    def note(self, took_s: float) -> None:
        """Note the duration of a write that nothing else delayed."""
        self._took_s.append(took_s)

    def is_quick(self) -> bool:
        took = self._took_s
        if took and sorted(took)[len(took) // 2] <= LOOP_CAP_S:
            return True
        self._in_thread = (self._in_thread + 1) % RETRY_EVERY
        return self._in_thread == 0


class Journal:
    """Owns the data of one store and its file. Shared by all its sessions; belongs to one event loop."""

    def __init__(self, path: Path | None, clock: Callable[[], float]) -> None:
        self.path = path
        self.newest: ZnodeTree = ZnodeTree()
        self.visible: ZnodeTree = self.newest if path is None else ZnodeTree()
        self.audience: Audience = Audience()
        self.next_session: int = 1
        self.trouble: str | None = None
        """The reason why no write is possible, and what to do; None while writes work."""
        self.trouble_listeners: list[Callable[[], None]] = []
        self._clock = clock
        self._disk: _Disk | None = None
        self._queue: list[_Transaction] = []
        self._is_scheduled = False
        self._probe: asyncio.TimerHandle | None = None
        self._pause_s = FIRST_PROBE_S
        self._owed: dict[str, int] = {}
        """Znodes to delete as soon as a write is possible, and the zxids at which they were created."""

    async def open(self) -> None:
        """Read the file, and remove the ephemerals of an earlier process. Raises: StoreUnavailableError."""
        if self.path is not None:
            self._disk = disk = _Disk()
            nodes, zxid = await disk.open(self.path)
            self.newest.load(nodes, zxid)
            self.visible.load(nodes, zxid)
            self.next_session = zxid + 1  # never a number that an earlier process used for its ephemerals
        try:
            await self.discard(self.newest.ephemerals())
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """Wait until every transaction is on disk or refused."""
        with suppress(StoreError):
            await self.submit((), owner=0)
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if self._disk is not None:
            await self._disk.close()
            self._disk = None

    # -- submitting -------------------------------------------------------------------------------------------------

    def submit(self, ops: Sequence[PlainOp], *, owner: int, settle: Settle | None = None) -> Answer:
        """Apply *ops* as one transaction of session *owner*, after the transactions submitted before it.

        The future is done when the transaction is visible. *settle* is called just before that with the outcome, also
        when the future was cancelled. Raises in the future: the error of the first operation that can't be done;
        StoreUnavailableError when it can't be written.
        """
        try:
            results, changes = self.newest.apply(ops, owner=owner, now=self._clock())
        except StoreError as error:
            return self._enter(error, (), settle)
        return self._enter(results, changes, settle)

    def refuse(self, error: StoreError) -> Answer:
        """Return a future that raises *error* once all transactions are visible on which the error may be based."""
        return self._enter(error, (), None)

    def discard(self, paths: Collection[str]) -> Answer:
        """Delete the existing znodes among *paths*, now or as soon as a write is possible."""
        found = [entry for path in sorted(paths, reverse=True) if (entry := self.newest.find(path)) is not None]
        zxids = {entry.path: entry.stat.created_zxid for entry in found}

        def settle(outcome: Outcome) -> None:
            if isinstance(outcome, StoreUnavailableError):
                self._owed.update(zxids)

        return self.submit([Delete(path) for path in zxids], owner=0, settle=settle)

    def _enter(self, outcome: Outcome, changes: Sequence[Change], settle: Settle | None) -> Answer:
        loop = asyncio.get_running_loop()
        transaction = _Transaction(outcome, changes, loop.create_future(), settle)
        disk = self._disk
        if disk is None or not (changes or self._queue or disk.is_busy):
            self._show(transaction)
        else:
            self._queue.append(transaction)
            if not self._is_scheduled and not disk.is_busy:
                self._is_scheduled = True
                loop.call_soon(self._flush)
        return transaction.answer

    def _show(self, transaction: _Transaction) -> None:
        """Make the transaction visible, and answer it."""
        changes, outcome, answer = transaction.changes, transaction.outcome, transaction.answer
        if changes:
            if self.visible is not self.newest:
                self.visible.redo(changes)
            self.audience.notify(changes)
        if transaction.settle is not None:
            transaction.settle(outcome)
        if answer.done():  # cancelled
            return
        if isinstance(outcome, StoreError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    # -- to disk ----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write all queued transactions as one group."""
        self._is_scheduled = False
        disk = self._disk
        if disk is None or disk.is_busy or not self._queue:
            return
        group, self._queue = self._queue, []
        changes = [change for transaction in group for change in transaction.changes]
        zxid = self.newest.zxid
        if changes:
            done = partial(self._written, group, zxid)
            disk.write(changes, zxid, done, may_block=self.trouble is None)
        else:
            for transaction in group:
                self._show(transaction)

    def _written(self, group: Sequence[_Transaction], zxid: int, error: Exception | None) -> None:
        if error is not None:
            self._take_back(group, error)
            return
        self.visible.zxid = zxid
        for transaction in group:
            self._show(transaction)
        if self.trouble is not None:
            self._heal()
        if self._queue and not self._is_scheduled:
            self._flush()

    def _take_back(self, group: Sequence[_Transaction], error: Exception) -> None:
        """Refuse *group*, and the transactions built on it: none of them is or will be on disk."""
        lost = [*group, *self._queue]
        self._queue = []
        for transaction in reversed(lost):
            self.newest.undo(transaction.changes)
        self.newest.zxid = self.visible.zxid
        self._worry(error)
        for transaction in lost:
            transaction.changes = ()
            transaction.outcome = StoreUnavailableError(str(self.path), f"{self.trouble}; nothing was changed")
            self._show(transaction)

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _worry(self, error: Exception) -> None:
        is_new = self.trouble is None
        self.trouble = f"can't be written: {error}; {_remedy(error)}"
        if is_new:
            log.error("store_in_trouble", path=str(self.path), detail=self.trouble)
            self._report_trouble()
        if self._probe is None and self._disk is not None:
            self._probe = asyncio.get_running_loop().call_later(self._pause_s, self._look)
            self._pause_s = min(LAST_PROBE_S, self._pause_s * 2)

    def _look(self) -> None:
        """Check whether the disk can be written again."""
        self._probe = None
        disk = self._disk
        if disk is None or self.trouble is None:
            return
        if disk.is_busy:
            self._probe = asyncio.get_running_loop().call_later(FIRST_PROBE_S, self._look)
        else:
            disk.probe(self._looked)

    def _looked(self, error: Exception | None) -> None:
        if error is not None:
            self._worry(error)
        else:
            self._heal()
        self._flush()

    def _heal(self) -> None:
        log.info("store_recovered", path=str(self.path))
        self.trouble = None
        self._pause_s = FIRST_PROBE_S
        owed, self._owed = self._owed, {}
        still = [path for path, zxid in owed.items() if (e := self.newest.find(path)) and e.stat.created_zxid == zxid]
        if still:
            self.discard(still).add_done_callback(lambda done: done.cancelled() or done.exception())
        self._report_trouble()

    def _report_trouble(self) -> None:
        for listener in tuple(self.trouble_listeners):
            listener()


def _remedy(error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "free space on its disk, or repair the disk; writing resumes by itself"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "the file is damaged: stop the launcher, and restore a copy or move the file away"
    return "the write is tried again"


class _Disk:
    """The file and the thread for its blocking calls. One call runs at a time, in the thread or on the loop."""

    def __init__(self) -> None:
        self.is_busy = False
        """True while the thread is in a call."""
        self._pace = GroupPace()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="nodelaunch-store")
        self._file: SqliteFile | None = None

    async def open(self, path: Path) -> tuple[list[Znode], int]:
        """Return the content of the file, and the last zxid. Raises: StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        try:
            self._file = file = await loop.run_in_executor(self._worker, SqliteFile, path)
            return await loop.run_in_executor(self._worker, self._load, file)
        except OSError as error:
            await self.close()
            raise StoreUnavailableError(str(path), f"can't be opened: {error.strerror}") from None
        except BaseException:
            await self.close()
            raise

    def _load(self, file: SqliteFile) -> tuple[list[Znode], int]:
        """Load the file, and measure how long a write takes while nothing else runs."""
        nodes, zxid = file.load()
        for _ in range(SAMPLES):
            started = time.perf_counter()
            file.write((), zxid)
            self._pace.note(time.perf_counter() - started)
        return nodes, zxid

    def write(self, changes: Sequence[Change], zxid: int, done: Done, *, may_block: bool) -> None:
        """Write *changes*, on the loop if *may_block* and the disk is quick; *done* is called with the error,
        or None."""
        assert self._file is not None  # noqa: S101
        if not (may_block and self._pace.is_quick()):
            self._in_thread(partial(self._file.write, changes, zxid), done)
            return
        error: Exception | None = None
        started = time.perf_counter()
        try:
            self._file.write(changes, zxid)
        except (sqlite3.Error, OSError) as caught:
            error = caught
        self._pace.note(time.perf_counter() - started)
        done(error)

    def probe(self, done: Done) -> None:
        assert self._file is not None  # noqa: S101
        self._in_thread(self._file.probe, done)

    def _in_thread(self, call: Callable[[], None], done: Done) -> None:
        self.is_busy = True

        def finish(future: asyncio.Future[None]) -> None:
            self.is_busy = False
            error = future.exception()
            done(error if isinstance(error, Exception) else None)

        asyncio.get_running_loop().run_in_executor(self._worker, call).add_done_callback(finish)

    async def close(self) -> None:
        if self._file is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._file.close)
            self._file = None
        self._worker.shutdown(wait=False)
