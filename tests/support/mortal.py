"""A session on an embedded store whose process dies at a given write."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from nodelaunch.errors import SessionLostError
from nodelaunch.protocol.store import Entry, Lock, Op
from nodelaunch.store.embedded.store import EmbeddedStore


class MortalStore(EmbeddedStore):
    """Another session on *store*. Once dead it writes nothing, not even to clean up; its ephemerals go at the end."""

    def __init__(self, store: EmbeddedStore) -> None:
        super().__init__(None, _journal=store._journal)
        self.dead = asyncio.Event()
        self._left: int | None = None

    def die_after(self, writes: int) -> None:
        """Do *writes* more, then be dead."""
        self._left = writes

    def _spend(self) -> bool:
        """Return whether one more write is done."""
        if self._left == 0:
            self.dead.set()
        elif self._left is not None:
            self._left -= 1
        return not self.dead.is_set()

    async def _transact(self, ops: Sequence[Op], under: Collection[Lock] = ()) -> list[Entry | Lock | None]:
        if not self._spend():
            raise SessionLostError(detail="dead")
        return await super()._transact(ops, under)

    def drop(self, path: str) -> asyncio.Future[list[Entry | Lock | None]]:
        if not self._spend():
            failed: asyncio.Future[list[Entry | Lock | None]] = asyncio.get_running_loop().create_future()
            failed.set_exception(SessionLostError(path, "dead"))
            return failed
        return super().drop(path)
