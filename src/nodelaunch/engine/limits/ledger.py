"""A record whose version shows if this process knows of everything that counts against a limit.

A launcher that uses limited capacity increases the version in the same transaction, and only from the version that it
has caught up with. sharing.py decides which limits have a ledger, and which launchers share it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import RecordExistsError, RecordGoneError
from nodelaunch.protocol.store import Put, Store

MAX_READS = 20
"""Number of times that other launchers may be faster before the version read last is used nevertheless."""


class Ledger:
    """A ledger record, with the version that this process has caught up with.

    Invariant: while ``version`` is set, the view has all usage up to that version.
    """

    def __init__(self, store: Store, view: ClusterView, path: str, *, counts_claims: bool = False) -> None:
        """*counts_claims*: True if idle nodes that others claim count against the limit, besides nodes that they
        create."""
        self.path = path
        self.version: int | None = None
        """The version with which the next use is sent; None: others may have increased it since it was read."""
        self._store = store
        self._view = view
        self._counts_claims = counts_claims
        self._catching_up: asyncio.Task[None] | None = None

    def forget(self) -> None:
        """Drop the version, so that the next use catches up first."""
        self.version = None

    def bump(self, writer: str) -> Put:
        """Return the operation that records a use by *writer*. Only while ``version`` is set."""
        assert self.version is not None  # noqa: S101
        version, self.version = self.version, self.version + 1
        return Put(self.path, writer.encode(), version)

    async def catch_up(self) -> None:
        """Wait until the view has all usage so far. Raises: StoreError."""
        if self._catching_up is None:
            self._catching_up = asyncio.ensure_future(self._read())
            self._catching_up.add_done_callback(self._caught_up)
        await asyncio.shield(self._catching_up)

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._catching_up = None
        if not task.cancelled():
            task.exception()

    async def _read(self) -> None:
        """Read the ledger twice. With the first answer, all earlier changes have been reported and are being read; with
        the second answer, they have been read: answers and events arrive in one order. Only changes of locked nodes may
        be read later."""
        await self._view.synced()
        version = await self._read_version()
        for _ in range(MAX_READS):
            if self._counts_claims:
                self._view.hurry()
            before, version = version, await self._read_version()
            if version == before:
                break
        if self._view.is_synced:
            self.version = before

    async def _read_version(self) -> int:
        try:
            return (await self._store.get(self.path)).stat.version
        except RecordGoneError:
            with suppress(RecordExistsError):
                await self._store.create(self.path, parents=True)
            return (await self._store.get(self.path)).stat.version
