"""The HTTP face: health, for orchestrators and load balancers. Reads, decides nothing.

    /health/live    200 while the event loop answers
    /health/ready   200 while every pool can work: store connected, view warm, not draining; else 503, saying why
    /ready          the same under Nodepool's name

What does *not* belong here: anything that changes something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

Readiness = Callable[[], list[str]]
"""Says why the launcher is not ready; nothing: it is."""


def make_app(readiness: Readiness) -> web.Application:
    """The application; *readiness* is asked at each request."""

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="OK\n")

    async def ready(_request: web.Request) -> web.Response:
        reasons = readiness()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="OK\n")

    app = web.Application()
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/ready", ready)
    return app


@asynccontextmanager
async def serve(app: web.Application, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve *app* inside the block; the port it listens on (*port* 0: any free one). Raises: OSError."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        log.info("http_listening", host=host, port=bound)
        yield bound
    finally:
        await runner.cleanup()
