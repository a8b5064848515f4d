"""Resolves host names outside the event loop's own threads, which an unresponsive name server would occupy.

A call of the system's resolver can't be interrupted: after a timeout its thread continues, with usual settings for half
a minute. Such threads delay only other look-ups of the same resolver, and never the exit of the process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""Family, kind, protocol, canonical name, and address, as `socket.getaddrinfo` returns them."""

_Key: TypeAlias = tuple[str, int | None]


class Resolver:
    """Resolves up to *at_once* names at a time, each in its own thread. Callers with the same name share its look-up.

    Invariant: names wait only while *at_once* others are being looked up. Belongs to the loop that uses it.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._asked: dict[_Key, asyncio.Future[Sequence[AddressInfo]]] = {}
        self._waiting: deque[_Key] = deque()
        self._busy = 0

    async def addresses(self, host: str, port: int | None) -> Sequence[AddressInfo]:
        """Return addresses for TCP connections to *host*, in the order of the system's resolver. The caller sets the
        deadline.

        Raises: socket.gaierror, and UnicodeError for an invalid name.
        """
        if _is_address(host):
            return _look_up(host, port, socket.AI_NUMERICHOST)
        key = (host, port)
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = asyncio.get_running_loop().create_future()
            self._waiting.append(key)
            self._start()
        return await asyncio.shield(answer)

    def _start(self) -> None:
        while self._waiting and self._busy < self._at_once:
            key = self._waiting.popleft()
            self._busy += 1
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, args=(loop, key), name=f"look-up of {key[0]}", daemon=True).start()

    def _run(self, loop: asyncio.AbstractEventLoop, key: _Key) -> None:
        """Look up one name; runs in its own thread."""
        outcome: Sequence[AddressInfo] | Exception
        try:
            outcome = _look_up(*key)
        except Exception as error:  # noqa: BLE001  it is raised where the look-up is awaited
            outcome = error
        with suppress(RuntimeError):  # the loop is closed: no caller is left
            loop.call_soon_threadsafe(self._finish, key, outcome)

    def _finish(self, key: _Key, outcome: Sequence[AddressInfo] | Exception) -> None:
        self._busy -= 1
        answer = self._asked.pop(key)
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
            answer.exception()  # mark it as seen: perhaps no caller waits any more
        else:
            answer.set_result(outcome)
        self._start()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(host: str, port: int | None, flags: int = 0) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
