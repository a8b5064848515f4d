"""Locks with kazoo's znode names, that know their session.

A contender is ``<32 hex>__lock__`` plus a sequence number; the lowest holds the lock. The random part finds our own
contender again when the reply to its creation was lost. A lock is held only while its session, for all that is known,
is: no write goes out under it after that.
What does *not* belong here: which lock protects what. Source: kazoo, its lock recipe.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

from nodelaunch.errors import StoreError
from nodelaunch.protocol.store import SessionState, Unsubscribe
from nodelaunch.store.shared import LossListeners
from nodelaunch.store.zkclient import ZkSession


class ZkLock(LossListeners):
    """The port's lock."""

    def __init__(
        self, session: ZkSession, epoch: int, path: str, contender: str, drop: Callable[[str], Awaitable[None]]
    ) -> None:
        super().__init__()
        self.path = path
        self.contender = contender
        self._session = session
        self._epoch = epoch
        self._drop = drop
        self._is_released = False
        self._stop: Unsubscribe = session.subscribe(self._on_state)

    @property
    def is_held(self) -> bool:
        return (
            not self._is_released and not self.is_lost and self._session.epoch == self._epoch and self._session.may_hold
        )

    def _on_state(self, state: SessionState) -> None:
        if state in (SessionState.LOST, SessionState.CLOSED) and not self.is_lost:
            self._stop()
            self.lose()

    def forget(self) -> None:
        """It was given back."""
        if not self._is_released:
            self._is_released = True
            if not self.is_lost:
                self._stop()

    async def release(self) -> None:
        if self._is_released or self.is_lost:
            return
        self.forget()
        with suppress(StoreError):
            await asyncio.shield(self._drop(self.contender))


def new_contender(path: str) -> str:
    """Where to create, with a sequence number, a contender below lock directory *path*."""
    return f"{path}/{uuid.uuid4().hex}__lock__"
