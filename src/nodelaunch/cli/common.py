"""What several commands share: the configuration's arguments, printing, the store of a client."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nodelaunch.config.models import Config
from nodelaunch.engine.view import ClusterView, open_view
from nodelaunch.errors import StoreUnavailableError
from nodelaunch.launcher import build_client_store, load_config, no_session
from nodelaunch.protocol.store import Store

DEFAULT_CONFIG = "/etc/nodepool/nodepool.yaml"
CONNECT_TIMEOUT_S = 15.0


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=DEFAULT_CONFIG, help="configuration (default: %(default)s)"
    )
    parser.add_argument("-s", "--secure", metavar="FILE", help="second file with what must not stand in the first")


def config_of(args: argparse.Namespace) -> Config:
    """The configuration the arguments name. Raises: ConfigError."""
    return load_config(args.config, secure=args.secure)


@asynccontextmanager
async def client_store(config: Config) -> AsyncIterator[Store]:
    """The store a running launcher of this configuration uses. Raises: StoreUnavailableError."""
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
