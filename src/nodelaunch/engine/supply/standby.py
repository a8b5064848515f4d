"""Waits for the inventory of a provider, which one of the launchers with its machines keeps.

A launcher hands nodes out while it waits.
"""

from __future__ import annotations

import asyncio

from nodelaunch.clock import Clock
from nodelaunch.decisions.quarantine import Host
from nodelaunch.engine.nodelocks import discard_node
from nodelaunch.engine.provider.hostwatch import HostWatch, host_of, machine_of
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import LockBusyError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.store import Lock, Store

log: Logger = get_logger(__name__)

LOCK_WAIT_S = 600.0
"""Seconds to wait at a time for another launcher to release the inventory."""


async def turn_at(store: Store, view: ClusterView, clock: Clock, provider: str, hosts: HostWatch) -> Lock:
    """Wait until this process keeps the records of *provider*.

    Meanwhile the free nodes of hosts that go into quarantine here are deregistered: the process that keeps the records
    then checks the hosts. Raises: StoreError.
    """

    async def take_out(host: Host) -> None:
        for node_id in view.nodes_with(provider, host[0]):
            seen = view.nodes.get(node_id)
            if seen is None or host_of(machine_of(seen.record)) != host:
                continue
            if not seen.record.is_idle or view.is_node_locked(node_id):
                continue
            try:
                if await discard_node(store, view, seen, clock):
                    log.info("machine_deregistered", provider=provider, node_id=node_id, hostname=host[0])
            except StoreError as error:
                log.info("slot_write_failed", provider=provider, hostname=host[0], detail=str(error))

    async with asyncio.TaskGroup() as group:

        def begin(host: Host) -> None:
            group.create_task(take_out(host))

        hosts.on_out = begin
        try:
            while True:
                try:
                    return await store.lock(f"{paths.INVENTORIES}/{provider}", timeout_s=LOCK_WAIT_S, parents=True)
                except LockBusyError:
                    continue
        finally:
            hosts.on_out = None
