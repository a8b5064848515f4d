"""A wire from each launcher to each server: proxies in a thread of their own, which others may break."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self, TypeVar

from support.zookeeper import Proxy

T = TypeVar("T")
CALL_TIMEOUT_S = 30.0


class Wire(Proxy):
    """A `Proxy` that can be slow and can swallow replies, and that knows the last session that came through it."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delay_s = 0.0
        self.is_swallowing = False
        self.session: tuple[float, int, bytes] | None = None
        """Time of the handshake by the loop's clock, session id and password."""

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with suppress(OSError):
            is_first = True
            while data := await reader.read(65536):
                if is_first and len(data) >= 40:
                    session, length = struct.unpack_from("!qi", data, 12)
                    if session:
                        self.session = (asyncio.get_running_loop().time(), session, data[24 : 24 + length])
                is_first = False
                await self.passing.wait()
                await asyncio.sleep(self.delay_s)
                if not silent.is_set() and not self.is_swallowing:
                    writer.write(data)
                    await writer.drain()


class Wires:
    """Use as a context manager; ``of[launcher][server]`` are the wires, to be touched through `do` only."""

    def __init__(self, launchers: int, ports: Sequence[int]) -> None:
        self.of = [[Wire(port) for port in ports] for _ in range(launchers)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        for wires in self.of:
            for wire in wires:
                self._await(self._stack.enter_async_context(wire))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._await(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def do(self, launcher: int, change: Callable[[Wire], T]) -> list[T]:
        """Change all wires of *launcher*."""

        async def changed() -> list[T]:
            return [change(wire) for wire in self.of[launcher]]

        return self._await(changed())

    def _await(self, work) -> T:  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)
