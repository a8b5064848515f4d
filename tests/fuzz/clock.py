"""An event loop whose time is virtual: when nothing is ready to run, the next timer is due at once.

Everything in it happens in the same order in every run: nothing real is waited for, and tasks, which asyncio keeps in
sets, have hashes that are counted instead of taken from their addresses. What does *not* belong here: delays.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, Self


class NothingToDoError(Exception):
    """Nothing is ready and no timer runs: every wait would last for ever."""


class StandstillError(Exception):
    """There is always something ready, and time never moves: something goes round and round."""


MAX_TURNS = 50_000
"""Limit for the turns of the loop at the same moment."""


class _CountedTask(asyncio.Task):  # type: ignore[type-arg]
    def __new__(cls, *_args: Any, number: int, **_more: Any) -> Self:
        task = super().__new__(cls)
        task.number = number
        return task

    def __init__(self, *args: Any, number: int, **more: Any) -> None:
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self.number


class _NoWaiting(selectors.DefaultSelector):
    """Asked to wait, it moves the loop's time on instead."""

    loop: VirtualLoop
    turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingToDoError
        self.turns = 0 if timeout > 0 else self.turns + 1
        if self.turns > MAX_TURNS:
            self.turns = 0  # so that all can be ended
            raise StandstillError
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0; `time` moves only when nothing else can be done."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _NoWaiting()
        selector.loop = self
        super().__init__(selector)
        numbers = itertools.count(1)

        def make_task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any) -> _CountedTask:
            return _CountedTask(coro, loop=loop, number=next(numbers), **more)

        self.set_task_factory(make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now
