"""``nodelaunch`` that kills itself: ``python killed.py "after create_instance 2" serve -c ...``.

The point is before or after the N-th call of one kind, counted from the first request that is locked: a call of a
driver, or ``write``, any change of the store. It dies by SIGKILL, in the middle of the turn in which it gets there.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from nodelaunch.cli.main import main
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.protocol import paths
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.zookeeper.store import ZooKeeperStore

WRITES = ("commit", "create_locked", "create", "put", "delete", "lock")
CALLS = ("create_instance", "wait_until_active", "delete_instance")


class Trap:
    def __init__(self, when: str, kind: str, number: int) -> None:
        self._when = when
        self._kind = kind
        self._left = number
        self._is_open = False

    def wrap(self, owner: type, name: str, kind: str) -> None:
        """Count calls of *owner*'s *name* as *kind*."""
        call: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(call)
        async def trapped(*args: Any, **more: Any) -> Any:
            self._is_open = self._is_open or any(paths.REQUEST_LOCKS in str(each) for each in args[1:])
            is_here = self._is_open and kind == self._kind and self._counts()
            if is_here and self._when == "before":
                die()
            try:
                return await call(*args, **more)
            finally:
                if is_here:
                    die()

        setattr(owner, name, trapped)

    def _counts(self) -> bool:
        self._left -= 1
        return self._left == 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    when, kind, number = sys.argv.pop(1).split()
    trap = Trap(when, kind, int(number))
    for name in CALLS:
        trap.wrap(FakeDriver, name, name)
    trap.wrap(FakeDriver, "delete_fenced", "delete_instance")
    for name in WRITES:
        trap.wrap(EmbeddedStore, name, "write")
        trap.wrap(ZooKeeperStore, name, "write")
    sys.exit(main())
