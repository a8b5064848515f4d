"""A small HTTP server for pages that are made at once: one request a connection, GET and HEAD, no bodies read.

It is here so that health checks cost a launcher no web framework in memory. What does *not* belong here: what the
pages say (app.py).
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

Answer = tuple[HTTPStatus, str]
"""Status, and a plain text."""
Page = Callable[[], Answer]
Pages = Mapping[str, Page]
"""By path."""

MAX_HEAD_BYTES: Final = 16_384
"""Of a request line with its header fields."""
EXCHANGE_TIMEOUT_S: Final = 10.0
"""For a whole connection: the request to come, and the answer to be taken."""
METHODS: Final = ("GET", "HEAD")
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")


class Connection(asyncio.Protocol):
    """Reads one request, answers it and closes."""

    def __init__(self, pages: Pages, transports: set[asyncio.Transport]) -> None:
        """*transports*: those of open connections; the connection adds its own while it is open."""
        self._pages = pages
        self._transports = transports
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a server of streams makes no others
        self._transport = transport
        self._transports.add(transport)
        self._deadline = asyncio.get_running_loop().call_later(EXCHANGE_TIMEOUT_S, transport.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transports.discard(self._transport)
        self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data).lstrip(b"\r\n")
        end = _END_OF_HEAD.search(self._received)
        if end is not None:
            self._transport.write(answer(self._received[: end.start()], self._pages))
        elif len(self._received) > MAX_HEAD_BYTES:
            self._transport.write(_reply(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long\n"))
        else:
            return
        self._transport.close()


def answer(head: bytes, pages: Pages) -> bytes:
    """The whole reply to a request that begins with *head*: its first line and header fields."""
    line = head.partition(b"\n")[0].decode("latin-1")
    method, _, rest = line.strip().partition(" ")
    target, _, version = rest.strip().rpartition(" ")
    if not target or not version.startswith("HTTP/1."):
        return _reply(HTTPStatus.BAD_REQUEST, "a line such as 'GET /ready HTTP/1.1' is expected first\n")
    if method not in METHODS:
        allowed = ", ".join(METHODS)
        return _reply(HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed} will do\n", f"Allow: {allowed}\r\n")
    page = pages.get(_path(target))
    status, text = page() if page is not None else (HTTPStatus.NOT_FOUND, f"there are: {', '.join(pages)}\n")
    return _reply(status, text, has_body=method != "HEAD")


def _path(target: str) -> str:
    """The path of a request's *target*, which may be a whole URL; empty where it is none."""
    try:
        return urlsplit(target).path
    except ValueError:
        return ""


def _reply(status: HTTPStatus, text: str, fields: str = "", *, has_body: bool = True) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n{fields}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")


@asynccontextmanager
async def listening(pages: Pages, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve *pages* inside the block; the port it listens on (*port* 0: any free one). Raises: OSError."""
    transports: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(pages, transports), host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in tuple(transports):
            transport.abort()
        await server.wait_closed()
