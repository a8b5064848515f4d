"""Runs synchronous calls in threads, with limits, a pace and deadlines.

Each call is in one of three lanes. Each lane has its own threads, so slow deletes block neither lists nor creates. All
lanes share one pace and take turns for it. A thread can't be stopped: after a cancellation or a deadline the call may
still take effect, and `Bridge.settled` waits until it has ended. Nothing here is specific to OpenStack.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")


class Lane(enum.StrEnum):
    CREATE = "create"
    DELETE = "delete"
    READ = "read"


THREADS: Final[Mapping[Lane, int]] = {Lane.CREATE: 8, Lane.DELETE: 8, Lane.READ: 4}
"""Concurrent calls of each lane."""


class Pace:
    """Admits one caller at a time, at least *interval_s* apart. Lanes with waiting callers take turns."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_at = 0.0
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._order = deque(Lane)
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, lane: Lane) -> None:
        """Wait for a turn. A turn that is given to a caller who is cancelled at that moment is lost."""
        if self._interval_s <= 0:
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(turn)
        self._arm()
        await turn

    def _arm(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._next_at), self._give)

    def _give(self) -> None:
        self._timer = None
        turn = self._take()
        if turn is None:
            return
        turn.set_result(None)
        self._next_at = asyncio.get_running_loop().time() + self._interval_s
        if any(self._waiting.values()):
            self._arm()

    def _take(self) -> asyncio.Future[None] | None:
        """Return the first waiter of the next lane that has one, or None."""
        for _ in Lane:
            lane = self._order[0]
            self._order.rotate(-1)
            while self._waiting[lane]:
                turn = self._waiting[lane].popleft()
                if not turn.done():
                    return turn
        return None


class Bridge:
    """The threads of one provider. Create it anywhere; use it from one event loop, and `aclose` it there."""

    def __init__(self, name: str, *, interval_s: float = 0.0) -> None:
        self._pace = Pace(interval_s)
        self._slots = {lane: asyncio.Semaphore(count) for lane, count in THREADS.items()}
        self._threads = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"{name} {lane}") for lane, count in THREADS.items()
        }
        self._abandoned: set[asyncio.Future[object]] = set()

    async def run(self, lane: Lane, call: Callable[[], T], *, timeout_s: float) -> T:
        """Return the result of *call*. *timeout_s* counts from the start of the call, without the wait for a thread or
        the pace.

        Raises: TimeoutError, and the errors of the call. After a TimeoutError, or when the caller is cancelled, the
        call may continue and take effect.
        """
        await self._slots[lane].acquire()
        try:
            await self._pace.turn(lane)
            running = self._threads[lane].submit(call)
        except BaseException:
            self._slots[lane].release()
            raise
        ended = self._ended(lane, running)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([ended])
        finally:
            if not ended.done():
                self._abandon(running, ended)
        return running.result()

    def _ended(self, lane: Lane, running: Future[T]) -> asyncio.Future[object]:
        """Return a future that is done when *running* is. The call's slot is then free, even if its caller is gone."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[object] = loop.create_future()

        def end() -> None:
            self._slots[lane].release()
            if not ended.done():
                ended.set_result(None)

        def tell(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop is closed: there is no waiter left
                loop.call_soon_threadsafe(end)

        running.add_done_callback(tell)
        return ended

    def _abandon(self, running: Future[T], ended: asyncio.Future[object]) -> None:
        if not running.cancel():  # the call has started
            self._abandoned.add(ended)
            ended.add_done_callback(self._abandoned.discard)

    async def settled(self) -> None:
        """Wait until all calls abandoned so far have ended: from then on their effects are visible."""
        if self._abandoned:
            await asyncio.wait(tuple(self._abandoned))

    async def aclose(self) -> None:
        """End all threads. Waits for calls that have started."""
        loop = asyncio.get_running_loop()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        for threads in self._threads.values():
            await loop.run_in_executor(None, threads.shutdown)
