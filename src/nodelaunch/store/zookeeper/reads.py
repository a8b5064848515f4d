"""Reads from the server, repeated after each break of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from nodelaunch.errors import RecordGoneError
from nodelaunch.protocol.store import Entry
from nodelaunch.store.shared import contenders_in
from nodelaunch.store.zookeeper.connection import ConnectionBrokenError
from nodelaunch.store.zookeeper.session import ZkSession
from nodelaunch.store.zookeeper.wire import (
    BROKEN,
    NO_NODE,
    OP_CHILDREN2,
    OP_EXISTS,
    OP_GET,
    OP_SYNC,
    encode_path,
    encode_text,
    read_children,
    read_entry,
    store_error,
)

BATCH: Final = 500
"""Reads in flight at a time."""

T = TypeVar("T")
_Asked = tuple[asyncio.Future[T], str]


class Reader:
    """Reads below the chroot."""

    def __init__(self, session: ZkSession, chroot: str) -> None:
        self._session = session
        self._prefix = chroot.encode()

    async def get(self, path: str) -> Entry:
        """Return the entry at *path*. Raises: RecordGoneError."""
        session = self._session
        epoch = session.epoch
        while True:
            if not session.is_connected or not session.may_hold:
                await session.usable(epoch)
            try:
                entry = await self.send_get(path)
            except ConnectionBrokenError:
                await session.usable(epoch)
                continue
            if entry is None:
                raise RecordGoneError(path)
            return entry

    async def get_many(self, paths: Sequence[str]) -> list[Entry | None]:
        """Return the entries; None if there is no such znode."""
        found: list[Entry | None] = []
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            found += await self._again(partial(self.find, batch))
        return found

    async def children(self, path: str) -> list[str]:
        """Return the names of the children, sorted. Raises: RecordGoneError."""
        return sorted(await self._again(lambda: self.send_children(path)))

    async def contenders(self, path: str) -> list[str]:
        """Return the full paths of the contenders in lock directory *path*, the holder first."""
        try:
            return contenders_in(path, await self.children(path))
        except RecordGoneError:
            return []

    async def watch(self, path: str) -> None:
        """Have the server report the next event at *path*. Raises: RecordGoneError."""
        body = encode_path(self._prefix, path, watch=True)
        await self._again(lambda: self._session.ask("watch", OP_EXISTS, body, path))

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, repeating the request until there is one. Raises: StoreError."""
        epoch = self._session.epoch
        while True:
            await self._session.usable(epoch)
            try:
                return await ask()
            except ConnectionBrokenError:
                continue

    # -- once: these raise ConnectionBrokenError --------------------------------------------------------------------

    async def sync(self) -> None:
        """Wait until the connected server has caught up with the others."""
        await self._session.ask("sync", OP_SYNC, encode_text(self._prefix or b"/"))

    async def find(self, paths: Sequence[str]) -> list[Entry | None]:
        """Return the entries, with all requests sent at once."""
        return await asyncio.gather(*(self.send_get(path) for path in paths))

    async def list_all(self, paths: Sequence[str]) -> list[list[str]]:
        """Return the names below each of *paths*, with all requests sent at once; none if there is no such znode."""
        futures = [self.send_children(path) for path in paths]
        names = await asyncio.gather(*futures, return_exceptions=True)
        found: list[list[str]] = []
        for each in names:
            if isinstance(each, RecordGoneError):
                found.append([])
            elif isinstance(each, BaseException):
                raise each
            else:
                found.append(each)
        return found

    def send_get(self, path: str) -> asyncio.Future[Entry | None]:
        """Send a read. The result is None if there is no such znode."""
        future: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self._session.send("get", OP_GET, encode_path(self._prefix, path), _on_entry, (future, path))
        return future

    def send_children(self, path: str) -> asyncio.Future[list[str]]:
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._session.send("children", OP_CHILDREN2, encode_path(self._prefix, path), _on_children, (future, path))
        return future


def _on_entry(asked: _Asked[Entry | None], error: int, _zxid: int, data: bytes, at: int) -> None:
    future, path = asked
    if future.done():
        return
    if not error:
        future.set_result(read_entry(path, data, at))
    elif error == NO_NODE:
        future.set_result(None)
    else:
        _fail(future, path, error)


def _on_children(asked: _Asked[list[str]], error: int, _zxid: int, data: bytes, at: int) -> None:
    future, path = asked
    if future.done():
        return
    if not error:
        future.set_result(read_children(data, at)[0])
    else:
        _fail(future, path, error)


def _fail(future: asyncio.Future[T], path: str, error: int) -> None:
    future.set_exception(ConnectionBrokenError() if error == BROKEN else store_error(error, path))
