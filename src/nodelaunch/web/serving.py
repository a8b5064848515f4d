"""Serves the application in the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from nodelaunch.log import Logger, get_logger
from nodelaunch.web.listening import listen

log: Logger = get_logger(__name__)

STOP_S = 5
"""Time for open answers to finish at the end."""


class _Server(uvicorn.Server):
    """A server without signal handlers: signals belong to the owner of the event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve *app* inside the block and return the port (*port* 0: any free port). Raises: OSError."""
    async with serve_at(listen(host, port), app) as bound:
        yield bound


@contextlib.asynccontextmanager
async def serve_at(listener: socket.socket, app: ASGIApp) -> AsyncIterator[int]:
    """Serve *app* on *listener* inside the block and return its port; close *listener* at the end."""
    with listener:
        listener.setblocking(False)
        host, bound = listener.getsockname()[:2]
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=STOP_S, ws="none",
        )  # fmt: skip
        server = _Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        log.info("http_listening", host=host, port=bound)
        try:
            yield bound
        finally:
            server.should_exit = True
            await serving
