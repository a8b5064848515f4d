"""Work by key: one piece at a time for each key, a limited number for each provider, with pauses after failures."""

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
"""Seconds of pause after a failed deletion; the pause doubles each time."""
MAX_AT_ONCE = 64
"""Pieces of work that run at once in one lane."""
STORE = ""
"""The lane of work that calls no provider."""


class NodeKey(NamedTuple):
    """All work on one node."""

    node_id: NodeId
    kind: str = "node"


class RequestKey(NamedTuple):
    """All work on one request, and on its leftovers."""

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
    """The work of one provider. A lane exists while it has work."""

    running: int = 0
    waiting: deque[tuple[Key, Work, tuple[Any, ...]]] = field(default_factory=deque)


class WorkQueue:
    """Work that runs, waits for its turn, or waits for a retry.

    Invariants: a key has at most one piece of work; a known lane has work, and no more of it runs than ``limit``
    allows; work waits only in a lane that is full.
    """

    def __init__(self, is_able: Callable[[], bool]) -> None:
        """*is_able*: returns True if work can be started now. The caller has to find work again that is not started."""
        self.limit = MAX_AT_ONCE
        self.again: Callable[[Key], None] = lambda _key: None
        """Called when work on a key ended, or may be retried: the object may have changed since it was seen."""
        self._is_able = is_able
        self._known: set[Key] = set()
        self._lanes: dict[str, _Lane] = {}
        self._backoff: Backoff[Key] = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        self._postponed: dict[Key, asyncio.TimerHandle] = {}
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, group: asyncio.TaskGroup) -> None:
        """Run work in *group* from now on. No work of an earlier group runs any more."""
        self._group = group
        self._known.clear()
        self._lanes.clear()
        self._idle.set()

    def close(self) -> None:
        """Start no more work, and forget waiting work."""
        self._group = None
        for timer in self._postponed.values():
            timer.cancel()
        self._postponed.clear()
        for lane in self._lanes.values():
            self._known.difference_update(key for key, _, _ in lane.waiting)
            lane.waiting.clear()
        self._see_whether_idle()

    async def settled(self) -> None:
        """Wait until no work runs or waits for its turn."""
        await self._idle.wait()

    def start(self, key: Key, lane: str, work: Work, *args: Any) -> bool:
        """Do ``work(*args)`` in its turn, unless *key* has work or is paused. Return True if it will be done.

        *lane*: the provider that is called, or `STORE`.
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
        """Pause work on *key*, each time for longer. Return the pause in seconds."""
        pause = self._backoff.failed(key, asyncio.get_running_loop().time())
        self.postpone(key, pause)
        return pause

    def succeeded(self, key: Key) -> None:
        """Forget earlier failures of *key*."""
        self._backoff.succeeded(key)
        if self._postponed and (timer := self._postponed.pop(key, None)) is not None:
            timer.cancel()

    def postpone(self, key: Key, delay_s: float) -> None:
        """Pause work on *key* for *delay_s*, then look again."""
        if (timer := self._postponed.pop(key, None)) is not None:
            timer.cancel()
        self._postponed[key] = asyncio.get_running_loop().call_later(delay_s, self._resume, key)

    def _resume(self, key: Key) -> None:
        self._postponed.pop(key, None)
        self.again(key)

    def _advance(self, name: str) -> None:
        """Start the work of a lane that has its turn."""
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
