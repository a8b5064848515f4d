"""A temporary launcher without set-up that deletes all its nodes at its end: for tests, trials and short programs.

async with temporary_launcher(labels=["debian-12"]) as site, site.nodes("debian-12", "debian-12") as nodes:
    ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Unpack

from nodelaunch.client.nodes import NodeClient, RequestOptions
from nodelaunch.config.models import Config
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.launcher import Launcher, config_from
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.records import Node
from nodelaunch.store.embedded.store import EmbeddedStore

log: Logger = get_logger(__name__)

END_S: Final = 60.0
"""Default time to delete the remaining nodes."""
DEFAULT_LABELS: Final = ("node",)


class TemporaryLauncher:
    """A running launcher, and a client of it."""

    def __init__(self, launcher: Launcher, client: NodeClient) -> None:
        self.launcher = launcher
        self.client = client

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.launcher.config

    def nodes(self, *labels: str, **options: Unpack[RequestOptions]) -> AbstractAsyncContextManager[list[Node]]:
        """Request nodes of *labels*, in use inside the block and returned at its end, as `NodeClient.nodes`."""
        return self.client.nodes(labels, **options)


def fake_config(labels: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with one pool of the fake cloud that offers *labels*. *options* of the provider have
    underscores in place of dashes; ``max_servers`` is the pool's."""
    names = list(dict.fromkeys(labels))
    rest = {key.replace("_", "-"): value for key, value in options.items()}
    pool = {
        "name": "main",
        **({"max-servers": rest.pop("max-servers")} if "max-servers" in rest else {}),
        "labels": [{"name": name, "cloud-image": "image", "min-ram": 1024} for name in names],
    }
    cloud = {"name": "fake", "driver": "fake", "boot-time": 0, "cloud-images": [{"name": "image"}]}
    return {"labels": [{"name": name} for name in names], "providers": [{**cloud, **rest, "pools": [pool]}]}


@asynccontextmanager
async def temporary_launcher(
    config: Mapping[str, Any] | Config | None = None,
    *,
    labels: Iterable[str] = DEFAULT_LABELS,
    drivers: DriverRegistry | None = None,
    end_s: float = END_S,
    **options: Any,
) -> AsyncIterator[TemporaryLauncher]:
    """Run a launcher with its own store in memory inside the block.

    Without *config*, its one provider is a fake cloud in memory that offers *labels*; *options* are that provider's
    (``boot_time=2``, ``failure_rate=1.0``), and ``max_servers`` is its pool's. With *config*, its providers are those
    that *config* names; the store part of *config* is not used.

    At the end, requests are withdrawn and all nodes are deleted within *end_s* seconds; nodes that remain are logged as
    ``nodes_left``. Raises: ConfigError.
    """
    if config is not None and (options or tuple(labels) != DEFAULT_LABELS):
        raise TypeError("labels and options of the fake cloud can't be combined with a configuration")
    given = fake_config(labels, options) if config is None else config
    store = EmbeddedStore(None)
    checked = config_from(given, drivers=drivers)
    async with Launcher(checked, store=store, drivers=drivers) as launcher:
        running = asyncio.create_task(launcher.run(), name="temporary launcher")
        try:
            async with store.connect() as session, NodeClient(session) as client:
                yield TemporaryLauncher(launcher, client)
        finally:
            await _ended(launcher, running, end_s)


async def _ended(launcher: Launcher, running: asyncio.Task[None], end_s: float) -> None:
    """Delete all nodes, then end the launcher. Raises: the launcher's own error, if it failed."""
    try:
        async with asyncio.timeout(end_s):
            bare = launcher.config.model_copy(update={"providers": (), "labels": ()})
            await launcher.reload(bare, grace_s=0.0)
            await _nodes_gone(launcher, running)
    except TimeoutError:
        log.error("nodes_left", nodes=sorted(launcher.view.nodes), waited_s=end_s)  # noqa: TRY400
    try:
        await launcher.drain(grace_s=0.0)
    finally:
        await running


async def _nodes_gone(launcher: Launcher, running: asyncio.Task[None]) -> None:
    """Wait until no node and no provider is left, or until the launcher has ended."""
    view = launcher.view
    changed = asyncio.Event()
    stop = view.subscribe(lambda _note: changed.set())
    running.add_done_callback(lambda _task: changed.set())
    try:
        while view.nodes and not running.done():
            changed.clear()
            await changed.wait()
    finally:
        stop()
