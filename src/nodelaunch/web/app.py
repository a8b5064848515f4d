"""The HTTP face: health, for orchestrators and load balancers. Reads, decides nothing.

    /health/live    200 while the event loop answers
    /health/ready   200 while every pool can work: store connected, view warm, not draining; else 503, saying why
    /ready          the same under Nodepool's name

What does *not* belong here: anything that changes something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog

from nodelaunch.web.http import Answer, Pages, listening

log = structlog.get_logger(__name__)

Readiness = Callable[[], list[str]]
"""Says why the launcher is not ready; nothing: it is."""
OK: Answer = (HTTPStatus.OK, "OK\n")


def make_pages(readiness: Readiness) -> Pages:
    """The pages; *readiness* is asked at each request for one."""

    def live() -> Answer:
        return OK

    def ready() -> Answer:
        reasons = readiness()
        return (HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{reason}\n" for reason in reasons)) if reasons else OK

    return {"/health/live": live, "/health/ready": ready, "/ready": ready}


@asynccontextmanager
async def serve(pages: Pages, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve *pages* inside the block; the port it listens on (*port* 0: any free one). Raises: OSError."""
    async with listening(pages, host=host, port=port) as bound:
        log.info("http_listening", host=host, port=bound)
        yield bound
