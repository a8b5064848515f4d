"""``nodelaunch leaks``: lists resources that carry a provider's name in its cloud, but belong to no node."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from cyclopts import Parameter

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.cli.tables import aligned
from nodelaunch.clock import WallClock
from nodelaunch.config.models import Config, ProviderConfig
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.engine.cleanup.leaks import Leak, find_leaks
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError, NodelaunchError
from nodelaunch.launcher import load_config, open_driver
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.store import Store

ANSWER_TIMEOUT_S = 300.0
"""The time for one provider to answer."""
TITLES = {
    "provider": "Provider", "kind": "Kind", "external_id": "External ID", "node_id": "Node ID", "detail": "Detail",
}  # fmt: skip


async def leaks(
    *,
    provider: Annotated[str | None, Parameter(help="List only the leaks of this provider.", metavar="NAME")] = None,
    as_json: AsJson = False,
    session: Given,
) -> int:
    """List leaked resources: resources in the clouds that belong to no node. Deletes nothing.

    Exit code: 0 all providers answered, with or without leaks; 1 otherwise.
    """
    config = load_config(session.config, secure=session.secure)
    providers = _chosen(config, provider)
    rows: list[dict[str, Any]] = []
    failures = []
    async with client_store(session) as store, synced_view(store) as view:
        for each in providers:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    found = await _leaks_of(config, each, store, view)
            except (DriverError, TimeoutError) as error:
                failures.append(f"provider {each.name}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
            else:
                rows += [_row(each.name, leak) for leak in found]
    if as_json:
        say_json(rows)
    elif rows:
        say(aligned([list(TITLES.values()), *([str(row[key] or "") for key in TITLES] for row in rows)]))
    elif not failures:
        say("no leaks")
    for failure in failures:
        session.complain(f"nodelaunch: {failure}")
    return 1 if failures else 0


def _chosen(config: Config, name: str | None) -> list[ProviderConfig]:
    """Return the provider called *name*, or all providers. Raises: NodelaunchError."""
    chosen = [provider for provider in config.providers if name in (None, provider.name)]
    if name is not None and not chosen:
        names = ", ".join(provider.name for provider in config.providers) or "none"
        raise NodelaunchError(f"there is no provider {name!r} in the configuration; providers: {names}")
    return chosen


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
