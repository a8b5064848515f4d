"""Restarts a part of the launcher after each failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nodelaunch.errors import NodelaunchError, SessionLostError
from nodelaunch.log import Logger, get_logger

log: Logger = get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run *run* until it returns, and again after a growing pause if it raises. *name* is for the log.

    After a run of more than `LAST_BACKOFF_S`, the pause is the first one again.
    """
    backoff = FIRST_BACKOFF_S
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await run()
            return
        except* SessionLostError:
            log.info("session_lost", task=name)
        except* NodelaunchError as group:
            log.warning("task_failed", task=name, detail="; ".join(map(str, group.exceptions)), retry_in_s=backoff)
        except* Exception:
            log.exception("task_failed", task=name, retry_in_s=backoff)
        if loop.time() - started > LAST_BACKOFF_S:
            backoff = FIRST_BACKOFF_S
        await asyncio.sleep(backoff)
        backoff = min(LAST_BACKOFF_S, backoff * 2)
