"""Listens at a socket for sessions with a driver, for processes that a launcher can't start: ``--listen PATH``.

Each connection begins with one line of JSON with the ``token``; both ends then prove to have this token, as in
docs/drivers/listening.md. The permissions of the socket and its directory keep other users out.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodelaunch.driverhost.wire.messages import MAX_LINE

TOKEN_S: Final = 10.0
"""Deadline for the first line of a connection."""
Session = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]
"""Serves one connection with the given token to its end."""


class ListenError(Exception):
    """The driver can't listen at the path; the message says why, and what to do."""


async def listen(path: str, session: Session) -> None:
    """Serve a *session* for each connection, concurrently, until SIGTERM or SIGINT. Raises: ListenError."""
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # before the socket exists, so that a signal removes it
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    listening = await asyncio.to_thread(_bound, path)
    sessions: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_accepted(session, reader, writer))
        sessions.add(task)
        task.add_done_callback(sessions.discard)

    try:
        server = await asyncio.start_unix_server(accept, sock=listening, limit=MAX_LINE)
        try:
            sys.stderr.write(f"listening at {path}\n")
            await told_to_end.wait()
        finally:
            server.close()
            for task in sessions:
                task.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
    finally:
        await asyncio.to_thread(Path(path).unlink, missing_ok=True)


def _bound(path: str) -> socket.socket:
    """Return a socket at *path* that only this user can open. Raises: ListenError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(Path(path))
        listening.bind(path)
        Path(path).chmod(0o600)  # before any client can connect
    except OSError as error:
        listening.close()
        raise ListenError(f"{path}: {error.strerror or error}") from None
    except ListenError:
        listening.close()
        raise
    return listening


def _make_room(path: Path) -> None:
    """Remove a stale socket at *path*. Raises: ListenError, OSError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{path} exists and is not a socket; choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        try:
            trying.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ListenError(f"another process already listens at {path}; end that process, or choose another path")


async def _accepted(session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        try:
            token = await _token(reader)
        except ValueError as error:
            sys.stderr.write(f"a connection was refused: {error}\n")
            return
        if token is not None:
            await session(token, reader, writer)
    except ConnectionError:
        pass  # the connection has ended
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _token(reader: asyncio.StreamReader) -> str | None:
    """Return the token in the first line, or None if no line came. Raises: ValueError for an invalid line."""
    try:
        async with asyncio.timeout(TOKEN_S):
            line = await reader.readline()
    except TimeoutError:
        raise ValueError(f"it did not send its token within {TOKEN_S:g} s") from None
    if not line:
        return None  # a client only tested if the driver listens
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    token = said.get("token") if isinstance(said, dict) else None
    if not isinstance(token, str) or not token:
        raise ValueError('its first line is not {"token": "..."}')
    return token
