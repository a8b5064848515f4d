"""Waits until an instance of the fake cloud changes.

A cloud in memory notifies waiters itself; the only timer is the time when the instance's next state is due. Other
processes may change a file without a notification: while there are waiters, one shared timer checks the file for
writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.controls import CloudRefusedError

LOOK_S = 0.05
"""Seconds between two checks of a file."""


class CloudWatch:
    """Watches one cloud for all waiters in one event loop."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud
        self._waiters: set[InstanceWaiter] = set()
        self._version = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def on(self, instance_id: str) -> Iterator[InstanceWaiter]:
        """Yield a waiter for changes of the instance from now on. Look at the instance after this call, then wait."""
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
        """Check the file regularly while there are waiters."""
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
            return -1  # waiters find the error when they look themselves


class InstanceWaiter:
    def __init__(self, watch: CloudWatch) -> None:
        self._watch = watch
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def wait(self, timeout_s: float | None) -> None:
        """Wait for a possible change since the last wait, at most for *timeout_s*."""
        self._watch.begin_looking()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
