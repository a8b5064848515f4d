"""``nodelaunch leaks``: what carries a provider's name in its cloud, but belongs to no node. Deletes nothing."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from nodelaunch.cli.common import add_config_arguments, client_store, config_of, say_json, warm_view
from nodelaunch.cli.lists import show, table_of
from nodelaunch.clock import WallClock
from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.engine.leaks import Leak, find_leaks
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError
from nodelaunch.launcher import open_driver
from nodelaunch.leases import StoreCluster
from nodelaunch.protocol.store import Store
from nodelaunch.sshscan import SshScanner

ANSWER_TIMEOUT_S = 300.0
"""For each provider."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--provider", metavar="NAME", help="only this one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, default_log_level="warning")


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_leaks(config_of(args), args))


async def _leaks(config: Config, args: argparse.Namespace) -> int:
    """0 when all providers could be asked, leaks or not; 1 otherwise."""
    providers = [provider for provider in config.providers if args.provider in (None, provider.name)]
    rows: list[dict[str, Any]] = []
    failures = []
    async with client_store(config) as store, warm_view(store) as view:
        for provider in providers:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    leaks = await _leaks_of(config, provider, store, view)
            except (DriverError, TimeoutError) as error:
                failures.append(f"provider {provider.name}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
            else:
                rows += [_row(provider.name, leak) for leak in leaks]
    if args.json:
        say_json(rows)
    else:
        show(table_of(rows, "leaks"))
    for failure in failures:
        print(f"nodelaunch: {failure}", file=sys.stderr)  # noqa: T201
    return 1 if failures else 0


async def _leaks_of(config: Config, provider: ProviderConfig, store: Store, view: ClusterView) -> list[Leak]:
    cluster = StoreCluster(store, view, WallClock())
    driver = open_driver(config, provider, cluster, scanner=SshScanner(), drivers=DriverRegistry())
    try:
        return await find_leaks(driver, provider.name, view.node)
    finally:
        await driver.aclose()


def _row(provider: str, leak: Leak) -> dict[str, Any]:
    return {
        "provider": provider,
        "kind": leak.kind,
        "external_id": leak.external_id,
        "node_id": leak.node_id,
        "detail": leak.detail,
    }
