"""Functions that several commands share: load the configuration, open the store, print."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from nodelaunch.cli.session import CliSession
from nodelaunch.connecting import CONNECT_TIMEOUT_S
from nodelaunch.connecting import client_store as open_store
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import StoreUnavailableError
from nodelaunch.protocol.store import Store


def client_store(session: CliSession, *, timeout_s: float = CONNECT_TIMEOUT_S) -> AbstractAsyncContextManager[Store]:
    """Open the store that a running launcher uses; only the keys about the store have to be valid.

    Raises: ConfigError; StoreUnavailableError if there is no session within *timeout_s*.
    """
    return open_store(session.config, secure=session.secure, timeout_s=timeout_s)


@asynccontextmanager
async def synced_view(store: Store) -> AsyncIterator[ClusterView]:
    """Return the view of *store* once it is in sync. Raises: StoreUnavailableError."""
    async with open_view(store) as view:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await view.synced()
        except TimeoutError:
            raise StoreUnavailableError(detail=f"records not read within {CONNECT_TIMEOUT_S:g} s") from None
        yield view


def say(text: str) -> None:
    """Print to standard output; ignore a closed pipe."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        sys.stderr.close()


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=2))
