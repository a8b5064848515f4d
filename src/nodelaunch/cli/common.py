"""What several commands share: the configuration they are about, printing, the store of a client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nodelaunch.cli.session import Session
from nodelaunch.config.file import load_store_config
from nodelaunch.connecting import build_client_store, check_files, no_session
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import ConfigError, StoreUnavailableError
from nodelaunch.protocol.store import Store

CONNECT_TIMEOUT_S = 15.0


@asynccontextmanager
async def client_store(session: Session) -> AsyncIterator[Store]:
    """The store that a running launcher uses; of its configuration only what is about the store has to be right.

    Raises: ConfigError, StoreUnavailableError.
    """
    config = load_store_config(session.config, secure=session.secure)
    if problems := check_files(config, session.config, secure=session.secure):
        raise ConfigError(problems)
    store = build_client_store(config)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await store.__aenter__()
    except TimeoutError:
        raise no_session(store, CONNECT_TIMEOUT_S) from None
    try:
        yield store
    finally:
        await store.__aexit__(None, None, None)


@asynccontextmanager
async def warm_view(store: Store) -> AsyncIterator[ClusterView]:
    """What is in *store*, read completely. Raises: StoreUnavailableError."""
    async with open_view(store) as view:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await view.warm()
        except TimeoutError:
            raise StoreUnavailableError(detail=f"not read within {CONNECT_TIMEOUT_S:g} s") from None
        yield view


def say(text: str) -> None:
    """Print to standard output, which may be gone."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        sys.stderr.close()


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=2))
