"""Figures of a launcher for statsd, under Nodepool's names, for existing dashboards.

    async with Statsd.from_environment(launcher):
        ...

`STATSD_HOST` and `STATSD_PORT` name the server; without both nothing is sent. One launcher sends the figures that all
launchers share. Infinite limits are not sent. Source: Nodepool 11, its ``stats`` module and its documentation of
metrics.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from typing import Final, Self

import statsd

from nodelaunch.engine.cleanup.leaks import INSTANCE
from nodelaunch.engine.supervision import supervise
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import (
    InsufficientCapacityError,
    KeyScanError,
    LaunchTimeoutError,
    LockLostError,
    QuotaExceededError,
    SessionLostError,
)
from nodelaunch.launcher import Launcher
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import LaunchEnded, LeakDeleted, NodeChanged, RequestChanged
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration
from nodelaunch.protocol.states import NodeState
from nodelaunch.store.zookeeper.store import ZooKeeperStore

log: Logger = get_logger(__name__)

CHANGES_S: Final = 1.0
"""Interval in seconds between gauges that changed. Source: Nodepool."""
ALL_S: Final = 10.0
"""Interval in seconds between all gauges."""
SHARE: Final = 50
"""Counting takes at most one part in this number of the time."""
ERRORS: Final = {
    QuotaExceededError.__name__: "error.quota",
    InsufficientCapacityError.__name__: "error.capacity",
    KeyScanError.__name__: "error.keyscan",
    LaunchTimeoutError.__name__: "error.servercreatetimeout",
    SessionLostError.__name__: "error.zksession",
    LockLostError.__name__: "error.zksession",
}
"""Nodepool's names of launch failures, by nodelaunch's error class."""
LEAKS: Final = {INSTANCE: "instances", "port": "ports", "floating-ip": "floatingips", "volume": "volumes"}
"""Nodepool's names of leaked resources, by nodelaunch's names."""


def cleaned(name: str) -> str:
    """Return *name* without the characters that separate names and values in statsd, as Nodepool does for some
    names."""
    return name.replace(".", "_").replace(":", "_")


class Statsd:
    """Sends figures inside the block. Without a client it does nothing."""

    def __init__(self, launcher: Launcher, client: statsd.StatsClient | None) -> None:
        self._launcher = launcher
        self._client = client
        self._sent: dict[str, float] = {}
        """Gauges with the values last sent."""
        self._is_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stops = []
        if client is not None:
            events = launcher.events
            self._stops = [
                events.subscribe(self._launch_ended, LaunchEnded),
                events.subscribe(self._leak_deleted, LeakDeleted),
                events.subscribe(lambda _event: self._is_changed.set(), NodeChanged),
                events.subscribe(lambda _event: self._is_changed.set(), RequestChanged),
            ]

    @classmethod
    async def from_environment(cls, launcher: Launcher, environment: Mapping[str, str] = os.environ) -> Self:
        """Return a sender for the server that *environment* names. If its name can't be resolved, log that and send
        nothing."""
        host, port = environment.get("STATSD_HOST", ""), environment.get("STATSD_PORT", "")
        if not host and not port:
            return cls(launcher, None)
        host, port = host or "localhost", port or "8125"
        try:
            client = await asyncio.to_thread(statsd.StatsClient, host, int(port))
        except (OSError, ValueError) as error:
            log.warning("statsd_unusable", host=host, port=port, detail=str(error))
            return cls(launcher, None)
        log.info("statsd_used", host=host, port=int(port))
        return cls(launcher, client)

    async def __aenter__(self) -> Self:
        if self._client is not None:
            self._task = asyncio.ensure_future(supervise("statsd", partial(self._run, self._client)))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for stop in self._stops:
            stop()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            self._client.close()

    # -- gauges -----------------------------------------------------------------------------------------------------

    async def _run(self, client: statsd.StatsClient) -> None:
        """Send all gauges every `ALL_S`, and changed gauges in between. Counting 10,000 nodes takes time, so another
        thread counts, for at most one part in `SHARE` of the time."""
        loop, all_due = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            if began >= all_due:
                all_due = began + ALL_S
                self._sent.clear()
            self._is_changed.clear()
            gauges = dict(own_gauges(self._launcher))
            view = self._launcher.view
            if view.is_synced and view.launchers[:1] == (self._launcher.id,):
                seen = list(view.nodes.values()), list(view.requests.values())
                pools = [each.record for each in view.pools.values()]
                gauges |= await asyncio.to_thread(common_gauges, *seen, pools)
            self._send(client, gauges)
            await asyncio.sleep(max(CHANGES_S, SHARE * (loop.time() - began)))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(all_due):
                    await self._is_changed.wait()

    def _send(self, client: statsd.StatsClient, gauges: Mapping[str, float]) -> None:
        changed = {name: value for name, value in gauges.items() if self._sent.get(name) != value}
        with client.pipeline() as pipe:
            for name, value in changed.items():
                pipe.gauge(name, value)
        self._sent |= changed

    # -- launches and leaks -------------------------------------------------------------------------------------------

    def _launch_ended(self, event: LaunchEnded) -> None:
        result = "ready" if event.result == "ready" else ERRORS.get(event.error or "", "error.unknown")
        if self._client is None or event.result == "cancelled":
            return
        keys = [f"provider.{event.provider}.{result}", result]
        if event.zone:
            keys.append(f"provider.{event.provider}.{event.zone}.{result}")
        if event.requestor:
            keys.append(f"requestor.{cleaned(event.requestor)}.{result}")
        with self._client.pipeline() as pipe:
            for key in keys:
                pipe.timing(f"nodepool.launch.{key}", int(1000 * event.so_far_s))
                pipe.incr(f"nodepool.launch.{key}")

    def _leak_deleted(self, event: LeakDeleted) -> None:
        if self._client is not None:
            self._client.incr(f"nodepool.provider.{event.provider}.leaked.{LEAKS.get(event.kind, event.kind)}")


def own_gauges(launcher: Launcher) -> Iterator[tuple[str, float]]:
    """Yield this launcher's own limits, and the queue of its ZooKeeper client."""
    for provider in launcher.config.providers:
        servers = [pool.max_servers for pool in provider.pools]
        if None not in servers:
            yield f"nodepool.provider.{provider.name}.max_servers", sum(filter(None, servers))
    for tenant in launcher.config.tenant_resource_limits:
        for name, limit in tenant.limits().amounts.items():
            if isfinite(limit):
                yield f"nodepool.tenant_limits.{cleaned(tenant.tenant_name)}.{cleaned(name)}", limit
    if isinstance(launcher.store, ZooKeeperStore):
        host = socket.gethostname()
        connection = launcher.store.session.connection
        queue = f"nodepool.launcher.{host}.zk.client.connection_queue"
        yield queue, 0 if connection is None else connection.outstanding


def common_gauges(
    nodes: Sequence[Versioned[Node]], requests: Sequence[Versioned[NodeRequest]], pools: Sequence[PoolRegistration]
) -> dict[str, float]:
    """Return gauges by name: nodes of each state, label and provider, and the requests that each pool could serve.
    Registered names always have all their gauges, even if the value is 0."""
    providers = {pool.provider_name for pool in pools if pool.provider_name}
    labels = {label for pool in pools for label in pool.supported_labels}
    gauges: Counter[str] = Counter()
    for state in NodeState:
        gauges[f"nodepool.nodes.{state}"] = 0
        gauges.update({f"nodepool.provider.{provider}.nodes.{state}": 0 for provider in providers})
        gauges.update({f"nodepool.label.{label}.nodes.{state}": 0 for label in labels})
    for node in (seen.record for seen in nodes):
        gauges[f"nodepool.nodes.{node.state}"] += 1
        gauges[f"nodepool.provider.{node.provider}.nodes.{node.state}"] += 1
        for label in node.type:
            gauges[f"nodepool.label.{label}.nodes.{node.state}"] += 1
    wanted = Counter(frozenset(seen.record.node_types) for seen in requests)
    offered = {(pool.provider_name, pool.name): frozenset(pool.supported_labels) for pool in pools if pool.name}
    for (provider_name, name), offers in offered.items():
        count = sum(count for each, count in wanted.items() if each <= offers)
        gauges[f"nodepool.provider.{provider_name}.pool.{name}.addressable_requests"] = count
    return dict(gauges)
