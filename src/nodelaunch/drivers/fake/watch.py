"""Waiting until an instance of the fake cloud changes.

In memory the cloud itself tells, and there is no timer but the one an instance is due at. A file may be changed by
other processes, which can't tell: while anybody waits, one timer for all looks whether somebody wrote to it.
What does *not* belong here: what a change means (driver.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.controls import CloudRefusedError

LOOK_S = 0.05
"""Between looks at a file."""


class CloudWatch:
    """Watches one cloud for those who wait in one event loop."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud
        self._waiters: set[InstanceWaiter] = set()
        self._version = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def on(self, instance_id: str) -> Iterator[InstanceWaiter]:
        """A waiter for changes of the instance from now on: take it first, then look, then wait."""
        if self._cloud.path is not None and not self._waiters:
            self._version = self._seen_version()
        waiter = InstanceWaiter(self)
        self._waiters.add(waiter)
        unsubscribe = self._cloud.subscribe(instance_id, waiter.wake)
        try:
            yield waiter
        finally:
            unsubscribe()
            self._waiters.discard(waiter)
            if self._timer is not None and not self._waiters:
                self._timer.cancel()
                self._timer = None

    def begin_looking(self) -> None:
        """Have the file looked at until nobody waits any more."""
        if self._cloud.path is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        version = self._seen_version()
        if version != self._version:
            self._version = version
            for waiter in self._waiters:
                waiter.wake()

    def _seen_version(self) -> int:
        try:
            return self._cloud.version()
        except CloudRefusedError:
            return -1  # whoever waits finds out what is wrong by its own look


class InstanceWaiter:
    def __init__(self, watch: CloudWatch) -> None:
        self._watch = watch
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def wait(self, timeout_s: float | None) -> None:
        """Return when there may have been a change since the last wait, at the latest after *timeout_s*."""
        self._watch.begin_looking()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
