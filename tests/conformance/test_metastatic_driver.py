"""The metastatic driver keeps every rule, on a cluster where a launcher makes its backing nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.conformance import CloudFaults, DriverUnderTest, Level, Report, Resources, Verdict, run
from nodelaunch.driverhost.process.plugin import isolated
from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.metastatic import PLUGIN, MetastaticProvider
from nodelaunch.errors import ErrorKind, StoreUnavailableError
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.protocol import paths
from nodelaunch.protocol.cluster import Leases
from nodelaunch.protocol.driver import DriverContext, ExternalId, FaultOffer
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Claim
from nodelaunch.store.embedded.store import EmbeddedStore
from support.fakeclouds import NoScanner
from support.launchers import LoopClock

DEADLINE_S = 3600.0
PROCESS_DEADLINE_S = 900.0
BACKING = """
webapp: {port: 0, listen_address: 127.0.0.1}
labels: [{name: backing}]
providers:
  - {name: cloud, driver: test, pools: [{name: main, labels: [backing]}]}
"""
META = {
    "name": "meta",
    "driver": "metastatic",
    "pools": [{"name": "main", "labels": [{"name": "slot", "backing-label": "backing", "max-parallel-jobs": 2}]}],
}


class Rough:
    """A cluster whose store fails on demand, and whose slots can be held back."""

    def __init__(self, cluster: StoreCluster) -> None:
        self._cluster = cluster
        self.failing: set[str] = set()
        self.is_held = False
        self.opened: list[RoughLeases] = []

    @asynccontextmanager
    async def leases(self, provider: str) -> AsyncIterator[Leases]:
        async with self._cluster.leases(provider) as leases:
            self.opened.append(RoughLeases(self, leases))
            yield self.opened[-1]  # type: ignore[misc]


class RoughLeases:
    """The port, with trouble."""

    def __init__(self, cluster: Rough, leases: Leases) -> None:
        self._cluster = cluster
        self._leases = leases
        self.listeners: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        if name in self._cluster.failing:
            return self._fail
        return getattr(self._leases, name)

    async def _fail(self, *_args: object, **_kwargs: object) -> None:
        raise StoreUnavailableError(detail="told to fail")

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return self._leases.subscribe(listener)

    async def place(self, *args: Any) -> Claim | None:
        return None if self._cluster.is_held else await self.__getattr__("place")(*args)


def faults(store: EmbeddedStore, cluster: Rough) -> CloudFaults:
    async def resources() -> Resources:
        owned: dict[str, str | None] = {name: name for name in await store.children(paths.claims("meta"))}
        for backing in await store.children(paths.leases("meta")):
            for number in await store.children(paths.lease("meta", NodeId(backing))):
                entry = await store.get(paths.slot("meta", NodeId(backing), int(number)))
                owned[entry.path] = entry.data.decode()
        return owned

    @asynccontextmanager
    async def foreign_instance() -> AsyncIterator[ExternalId]:
        claim = Claim(node_id=NodeId("foreign"), label="slot", metadata={})
        await store.create(paths.claim("meta", claim.node_id), claim.to_bytes())
        yield ExternalId(claim.node_id)
        await store.delete(paths.claim("meta", claim.node_id))

    @asynccontextmanager
    async def boot_held() -> AsyncIterator[None]:
        cluster.is_held = True
        try:
            yield
        finally:
            cluster.is_held = False
            for leases in cluster.opened:
                for listener in leases.listeners:
                    listener()

    def failing(call: str) -> Callable[[], AbstractAsyncContextManager[None]]:
        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            cluster.failing.add(call)
            yield
            cluster.failing.discard(call)

        return fault

    calls = ("enter", "find", "place", "free", "obtain")
    told = {"enter": "create_instance", "place": "wait_until_active", "free": "delete_instance"}
    offers = [FaultOffer(f"{call} fails", method, ErrorKind.TRANSIENT) for call, method in told.items()]
    return CloudFaults(
        resources=resources, foreign_instance=foreign_instance, boot_held=boot_held,
        named={f"{call} fails": failing(call) for call in calls}, offers={offer.name: offer for offer in offers},
    )  # fmt: skip


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[EmbeddedStore, Rough]]:
    """A store, and the cluster of a launcher that makes backing nodes."""
    path = folder / "nodelaunch.yaml"
    path.write_text(BACKING)
    async with (
        EmbeddedStore(None, clock=LoopClock().now) as store,
        Launcher(load_config(path), store=store.connect(), clock=LoopClock()) as launcher,
    ):
        at_work = asyncio.create_task(launcher.run())
        try:
            yield store, Rough(StoreCluster(launcher.store, launcher.view, LoopClock()))
        finally:
            at_work.cancel()
            await asyncio.gather(at_work, return_exceptions=True)


async def graded(store: EmbeddedStore, cluster: Rough, plugin: DriverPlugin) -> Report:
    """Return the report of the checks on *plugin*'s driver, which must pass all of them and leave nothing."""
    config = MetastaticProvider.model_validate(META)
    context = DriverContext(NoScanner(), cluster=cluster)
    subject = DriverUnderTest(
        name="metastatic", open=lambda: plugin.open(config, context), pool="main", label="slot",
        faults=faults(store, cluster), deadline_s=300,
    )  # fmt: skip
    report = await run(subject)
    assert report.ok, str(report)
    assert report.level is Level.SILVER
    skipped = {result.detail for result in report.results if result.verdict is Verdict.SKIPPED}
    assert skipped == {
        "needs the fault 'list-lags'",
        "needs a process to kill: check the driver with isolation 'process'",
    }, str(report)  # fmt: skip
    assert await store.children(paths.claims("meta")) == []
    return report


@pytest.mark.looptime
async def test_metastatic_driver_keeps_every_rule(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), site(tmp_path) as (store, cluster):
        await graded(store, cluster, PLUGIN)


@pytest.mark.long
async def test_metastatic_driver_keeps_every_rule_in_a_process_of_its_own(tmp_path: Path) -> None:
    async with asyncio.timeout(PROCESS_DEADLINE_S), site(tmp_path) as (store, cluster):
        await graded(store, cluster, isolated(PLUGIN))
