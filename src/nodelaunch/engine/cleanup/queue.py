"""Work by key: one at a time for each thing, so many at a time for each provider, with pauses after failures.

What does *not* belong here: what the work is, and when it is to be done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nodelaunch.backoff import Backoff
from nodelaunch.errors import StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import NodeId, RequestId

log: Logger = get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 5.0, 300.0
"""Pause after a deletion failed; it doubles each time."""
MAX_AT_ONCE = 64
"""Work at once in one lane."""
STORE = ""
"""The lane of work that asks no provider."""


class NodeKey(NamedTuple):
    """All work on one node."""

    node_id: NodeId
    kind: str = "node"


class RequestKey(NamedTuple):
    """All work on one request, and on what is left of it."""

    request_id: RequestId
    kind: str = "request"


class LeakKey(NamedTuple):
    """The deletion of one leak."""

    provider: str
    leak: tuple[str, str]
    kind: str = "leak"


Key = NodeKey | RequestKey | LeakKey
Work = Callable[..., Awaitable[None]]


@dataclass(slots=True)
class _Lane:
    """Work of one provider. It is there while there is some."""

    running: int = 0
    waiting: deque[tuple[Key, Work, tuple[Any, ...]]] = field(default_factory=deque)


class WorkQueue:
    """Work that is under way, that waits for its turn, and that waits to be tried again.

    Invariants: of one key at most one piece of work is known; a lane that is known has some, and no more of it runs
    than ``limit`` allows; work waits only in a lane that is full.
    """

    def __init__(self, is_able: Callable[[], bool]) -> None:
        """*is_able*: whether work can be begun now; what is not begun then has to be found again."""
        self.limit = MAX_AT_ONCE
        self.again: Callable[[Key], None] = lambda _key: None
        """Called when work on a key ended, or may be tried again: what was seen of the thing may have changed."""
        self._is_able = is_able
        self._known: set[Key] = set()
        self._lanes: dict[str, _Lane] = {}
        self._backoff: Backoff[Key] = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        self._postponed: dict[Key, asyncio.TimerHandle] = {}
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, group: asyncio.TaskGroup) -> None:
        """Run work in *group* from now on. Nothing of an earlier group is under way any more."""
        self._group = group
        self._known.clear()
        self._lanes.clear()
        self._idle.set()

    def close(self) -> None:
        """Begin nothing more, and forget what waits."""
        self._group = None
        for timer in self._postponed.values():
            timer.cancel()
        self._postponed.clear()
        for lane in self._lanes.values():
            self._known.difference_update(key for key, _, _ in lane.waiting)
            lane.waiting.clear()
        self._see_whether_idle()

    async def settled(self) -> None:
        """Wait until nothing is under way or waits for its turn."""
        await self._idle.wait()

    def start(self, key: Key, lane: str, work: Work, *args: Any) -> bool:
        """Do ``work(*args)``, in its turn, unless work on *key* is known or has to pause; whether it will be done.

        *lane*: the provider that is asked, or `STORE`.
        """
        if self._group is None or key in self._known or key in self._postponed or not self._is_able():
            return False
        self._known.add(key)
        self._idle.clear()
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = _Lane()
        known.waiting.append((key, work, args))
        self._advance(lane)
        return True

    def failed(self, key: Key) -> float:
        """Leave the thing alone for a growing while; for how many seconds."""
        pause = self._backoff.failed(key, asyncio.get_running_loop().time())
        self.postpone(key, pause)
        return pause

    def succeeded(self, key: Key) -> None:
        """Forget earlier failures: the thing is done with, or gone."""
        self._backoff.succeeded(key)
        if self._postponed and (timer := self._postponed.pop(key, None)) is not None:
            timer.cancel()

    def postpone(self, key: Key, delay_s: float) -> None:
        """Leave the thing alone for *delay_s*, then look at it again."""
        if (timer := self._postponed.pop(key, None)) is not None:
            timer.cancel()
        self._postponed[key] = asyncio.get_running_loop().call_later(delay_s, self._resume, key)

    def _resume(self, key: Key) -> None:
        self._postponed.pop(key, None)
        self.again(key)

    def _advance(self, name: str) -> None:
        """Begin what has its turn in a lane."""
        lane = self._lanes.get(name)
        while lane is not None and lane.waiting and lane.running < self.limit and self._group is not None:
            key, work, args = lane.waiting.popleft()
            lane.running += 1
            self._group.create_task(self._guarded(name, key, work, args), name=f"sweep {key.kind} {key[0]}")

    async def _guarded(self, lane: str, key: Key, work: Work, args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except StoreError as error:
            log.info("sweep_step_failed", subject=key[0], error=type(error).__name__, detail=str(error))
        except Exception:
            log.exception("sweep_step_failed", subject=key[0])
        finally:
            self._ended(lane, key)

    def _ended(self, name: str, key: Key) -> None:
        self._known.discard(key)
        lane = self._lanes[name]
        lane.running -= 1
        self._advance(name)
        if not lane.running and not lane.waiting:
            del self._lanes[name]
        self.again(key)
        self._see_whether_idle()

    def _see_whether_idle(self) -> None:
        if not self._known:
            self._idle.set()
