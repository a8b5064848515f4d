"""The same calls have the same results, and the same errors, whether a driver runs here or in a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.driverhost.process.plugin import isolated
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.metastatic import PLUGIN as METASTATIC
from nodelaunch.launcher import Launcher, load_config
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.driver import Driver, DriverContext
from nodelaunch.store.embedded.store import EmbeddedStore
from support import garm
from support.launchers import LoopClock
from support.sshd import SshdFactory, sshd_factory  # noqa: F401  brings the fixture sshd
from support.traces import trace_of

DEADLINE_S = 240.0
ISOLATIONS = ("inline", "process")
BACKING = """
webapp: {port: 0, listen_address: 127.0.0.1}
labels: [{name: backing}]
providers:
  - {name: backing, driver: test, pools: [{name: main, labels: [backing]}]}
"""


def opened(plugin: DriverPlugin, isolation: str, content: dict[str, Any], cluster: Cluster | None = None) -> Driver:
    config = plugin.config_model.model_validate({"name": "cloud", "driver": plugin.name, **content})
    used = isolated(plugin) if isolation == "process" else plugin
    return used.open(config, DriverContext(SshScanner(), cluster=cluster))


def content_of(name: str, home: Path) -> dict[str, Any]:
    """Return a provider's own configuration, with an unused cloud in *home*."""
    match name:
        case "fake":
            label = {"name": "small", "cloud-image": "debian", "min-ram": 4096}
            return {
                "cloud-file": str(home / "cloud.sqlite"), "boot-time": 0.01, "cloud-images": [{"name": "debian"}],
                "pools": [{"name": "main", "labels": [label]}],
            }  # fmt: skip
        case "test":
            return {"pools": [{"name": "main", "labels": ["small"]}]}
        case "metastatic":
            return {"pools": [{"name": "main", "labels": [{"name": "small", "backing-label": "backing"}]}]}
        case _:
            return {**garm.provider_content(home), "name": "cloud"}


@pytest.mark.parametrize("name", ["fake", "test", "garm"])
async def test_trace_is_the_same(tmp_path: Path, name: str) -> None:
    if name == "garm" and (reason := garm.why_not()):
        pytest.skip(reason)
    traces = []
    async with asyncio.timeout(DEADLINE_S):
        for isolation in ISOLATIONS:
            home = tmp_path / name  # the same path in both, since messages may have it
            home.mkdir()
            driver = opened(DriverRegistry().get(name), isolation, content_of(name, home))
            traces.append(await trace_of(driver, "main", "small"))
            home.rename(tmp_path / isolation)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 15


async def test_trace_of_metastatic_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(BACKING)
    traces = []
    async with asyncio.timeout(DEADLINE_S):
        for isolation in ISOLATIONS:
            async with (
                EmbeddedStore(None, clock=LoopClock().now) as store,
                Launcher(load_config(path), store=store.connect(), clock=LoopClock()) as launcher,
            ):
                at_work = asyncio.create_task(launcher.run())
                cluster = StoreCluster(launcher.store, launcher.view, LoopClock())
                driver = opened(METASTATIC, isolation, content_of("metastatic", tmp_path), cluster)
                traces.append(await trace_of(driver, "main", "small"))
                at_work.cancel()
                await asyncio.gather(at_work, return_exceptions=True)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 15


@pytest.mark.sshd
async def test_trace_of_static_is_the_same_with_a_real_machine(sshd: SshdFactory) -> None:
    """The hosts are a machine that answers, one with wrong host keys, and one that is down."""
    server = sshd(["ssh-ed25519"])
    await server.start()
    answers = {"name": server.host, "labels": ["small"], "connection-port": server.port, "timeout": 40}
    strange = {**answers, "username": "other", "host-key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==", "timeout": 20}
    away = {**answers, "connection-port": 1, "timeout": 1}
    content = {"pools": [{"name": "main", "nodes": [answers, strange, away]}]}
    async with asyncio.timeout(DEADLINE_S):
        plugin = DriverRegistry().get("static")
        traces = [await trace_of(opened(plugin, each, content), "main", "small") for each in ISOLATIONS]
    assert traces[0] == traces[1]
    assert any("ssh-ed25519" in line for line in traces[0])
    assert any("KeyScanError" in line for line in traces[0]), traces[0]
    assert any("ProviderUnavailableError" in line for line in traces[0])
