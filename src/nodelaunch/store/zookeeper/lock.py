"""A lock with kazoo's znode names, bound to its session.

A contender is ``<32 hex>__lock__`` plus a sequence number; the lowest number holds the lock. The random part identifies
our own contender if the reply to its creation was lost. A lock is held only while its session is known to be alive: no
write is sent under it after that. locks.py takes locks. Source: kazoo, its lock recipe.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from nodelaunch.protocol.store import Unsubscribe
from nodelaunch.store.zookeeper.doubt import CONTENDER_MARK
from nodelaunch.store.zookeeper.session import ZkSession


class ZkLock:
    """The port's lock."""

    __slots__ = ("_drop", "_held", "_is_lost", "_listeners", "_session", "contender", "fence", "path")

    def __init__(
        self,
        path: str,
        contender: str,
        fence: int,
        session: ZkSession,
        held: dict[str, ZkLock],
        drop: Callable[[str], Awaitable[None]],
    ) -> None:
        self.path: str = path
        self.contender: str = contender
        self.fence: int = fence
        """The zxid at which the contender was made: contenders of one directory are in the order of their zxids, and a
        directory is deleted only when it has no contender."""
        self._session = session
        self._held = held
        """The locks that are neither released nor lost, by contender."""
        self._drop = drop
        self._is_lost = False
        self._listeners: list[Callable[[], None]] | None = None
        held[contender] = self

    @property
    def is_held(self) -> bool:
        return self.contender in self._held and self._session.may_hold

    def on_lost(self, listener: Callable[[], None]) -> Unsubscribe:
        if self._is_lost:
            asyncio.get_running_loop().call_soon(listener)
            return lambda: None
        listeners = self._listeners
        if listeners is None:
            listeners = self._listeners = []
        listeners.append(listener)

        def stop() -> None:
            if listener in listeners:
                listeners.remove(listener)

        return stop

    def lose(self) -> None:
        """Mark the lock as lost, because the session is over, and notify every listener once."""
        self._is_lost = True
        self._held.pop(self.contender, None)
        listeners, self._listeners = self._listeners or (), None
        for listener in tuple(listeners):
            listener()

    def forget(self) -> None:
        """Note that the lock was released."""
        self._held.pop(self.contender, None)

    async def release(self) -> None:
        if self._held.pop(self.contender, None) is not None:
            await self._drop(self.contender)


def new_contender(path: str) -> str:
    """Return the path for a sequential create of a contender below lock directory *path*."""
    return f"{path}/{os.urandom(16).hex()}{CONTENDER_MARK}"
