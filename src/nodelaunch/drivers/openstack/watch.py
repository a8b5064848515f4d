"""Watches the cloud's servers for all waiters with one shared listing, more often while servers change.

A single server is requested only until a listing has shown it, because lists may lag. Each waiter gets all listings
that began after it started to wait. Without waiters there are no calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from nodelaunch.drivers.openstack.model import Server
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.log import Logger, get_logger

T = TypeVar("T")

log: Logger = get_logger(__name__)

QUICK_S, SLOW_S = 1.0, 8.0
"""Pause between listings while servers change, and the longest pause while they don't."""
SLOWING: Final = 1.5
"""Factor by which the pause grows with each listing that shows no change."""
SHARE: Final = 1.0
"""Minimum pause as a multiple of a listing's duration, to limit the load on a cloud with slow lists."""
PATIENCE_S: Final = 60.0
"""How long listings may fail before waiters get the error."""


class SharedRead(Generic[T]):
    """Shares one reading between all callers that need it at the same time."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._reading: asyncio.Task[T] | None = None

    async def fresh(self) -> T:
        """Return the result of a reading that starts now or later."""
        if self._reading is not None:
            await asyncio.wait([self._reading])  # its result may be from before this call
        if self._reading is None:
            self._reading = _shared(self._once())
        return await asyncio.shield(self._reading)

    async def _once(self) -> T:
        try:
            return await self._read()
        finally:
            self._reading = None

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()


def _shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run *work* as a task that may fail after all its waiters are gone."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


@dataclass(frozen=True, slots=True)
class ServerListing:
    """All servers, as returned by a listing that began at ``began_at`` (by the loop's clock)."""

    servers: Mapping[str, Server]
    began_at: float

    def get(self, server_id: str) -> Server | None:
        """Return the server, or None if it is not listed or gone."""
        server = self.servers.get(server_id)
        return None if server is None or server.is_gone else server

    def with_server(self, server: Server) -> ServerListing:
        """Return this listing with *server* added."""
        return replace(self, servers={**self.servers, server.id: server})

    def __iter__(self) -> Iterator[Server]:
        return (server for server in self.servers.values() if not server.is_gone)


class ServerWatch:
    """The servers of one account."""

    def __init__(
        self,
        provider: str,
        read: Callable[[], Awaitable[list[Server]]],
        look: Callable[[str], Awaitable[Server | None]],
    ) -> None:
        """*look* requests a single server by its id, and returns None if it does not exist."""
        self.last: ServerListing | None = None
        self.listeners: list[Callable[[ServerListing], None]] = []
        """Called with each listing."""
        self._provider = provider
        self._read = SharedRead(self._list)
        self._list_servers = read
        self._look = look
        self._pause_s = QUICK_S
        self._due_at = self._not_before = 0.0
        """Times by the loop's clock: when the next listing is due, and its earliest start."""
        self._hurry = asyncio.Event()
        self._turn: asyncio.Task[ServerListing] | None = None
        self._failing_since: float | None = None

    async def fresh(self) -> ServerListing:
        """Return a listing that began now or later. Raises: DriverError."""
        return await self._read.fresh()

    async def until(self, judge: Callable[[ServerListing], T | None], *, about: str | None = None) -> T:
        """Call *judge* with each new listing and return its first result that is not None. *about*: id of the server
        that *judge* looks for; until a listing has shown that server, it is requested individually.

        Raises: the errors of *judge*; ProviderUnavailableError when the cloud does not answer for `PATIENCE_S`; other
        DriverErrors at once.
        """
        is_listed = about is None or (self.last is not None and about in self.last.servers)
        since = unseen_since = asyncio.get_running_loop().time()
        self._pause_s = QUICK_S
        self._due_at = min(self._due_at, max(self._not_before, since + QUICK_S))
        self._hurry.set()
        while True:
            listing = await self._next(since)
            is_listed = is_listed or about in listing.servers
            since = listing.began_at
            if about is not None and not is_listed:
                try:
                    server = await self._look(about)
                except ProviderUnavailableError:
                    if since - unseen_since >= PATIENCE_S:
                        raise
                    continue
                listing = listing if server is None else listing.with_server(server)
                unseen_since = since
            if (verdict := judge(listing)) is not None:
                return verdict

    async def _next(self, since: float) -> ServerListing:
        """Return the next listing after the pause that began after *since*. All waiters share it."""
        while True:
            if self._turn is None or self._turn.done():
                self._turn = _shared(self._after_pause())
            listing = await asyncio.shield(self._turn)
            if listing.began_at > since:
                return listing

    async def _after_pause(self) -> ServerListing:
        """Return the next listing, made here or by another caller."""
        before = self.last
        while True:
            await self._until_due(before)
            if self.last is not None and self.last is not before:
                return self.last
            try:
                return await self.fresh()
            except ProviderUnavailableError as error:
                self._failed(error)

    async def _until_due(self, before: ServerListing | None) -> None:
        """Wait until the next listing is due, or until there is a newer one than *before*."""
        loop = asyncio.get_running_loop()
        while self.last is before and (pause_s := self._due_at - loop.time()) > 0:
            self._hurry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()

    def _failed(self, error: ProviderUnavailableError) -> None:
        """Schedule the next try. Raises: *error* when listings have failed for `PATIENCE_S`."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
            log.warning("servers_not_listed", provider=self._provider, detail=str(error))
        self._slow_down()
        self._due_at = self._not_before = now + (error.retry_after_s or self._pause_s)
        if now - self._failing_since >= PATIENCE_S:
            raise error

    async def _list(self) -> ServerListing:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        servers = {server.id: server for server in await self._list_servers()}
        took_s = loop.time() - began_at
        if self.last is None or _states(self.last.servers) != _states(servers):
            self._pause_s = QUICK_S
        else:
            self._slow_down()
        self._not_before = loop.time() + SHARE * took_s
        self._due_at = max(self._not_before, loop.time() + self._pause_s)
        self._failing_since = None
        self.last = ServerListing(servers, began_at)
        self._hurry.set()
        for listener in self.listeners:
            listener(self.last)
        return self.last

    def _slow_down(self) -> None:
        self._pause_s = min(SLOW_S, self._pause_s * SLOWING)

    async def aclose(self) -> None:
        self._read.close()
        if self._turn is not None:
            self._turn.cancel()
            await asyncio.wait([self._turn])


def _states(servers: Mapping[str, Server]) -> set[tuple[str, str, str | None]]:
    return {(server.id, server.status, server.task_state) for server in servers.values()}
