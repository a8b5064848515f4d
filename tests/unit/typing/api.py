"""The public names as an embedder uses them; only type-checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator

from nodelaunch import Config, Launcher, NodeClient, config_from, errors, load_config, temporary_launcher
from nodelaunch.driverhost.process.driver import ProcessDriver
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake import PLUGIN as FAKE
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.drivers.metastatic.driver import MetastaticDriver
from nodelaunch.drivers.static.driver import StaticDriver
from nodelaunch.drivers.test.driver import TestDriver
from nodelaunch.leases.cluster import StoreCluster
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.driver import (
    Driver,
    HostScanner,
    Instance,
    SupportsHostKeyScan,
    SupportsInventory,
    SupportsUpkeep,
)
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import Store
from nodelaunch.sdk import serve
from nodelaunch.store.embedded.socket import SocketStore
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.zookeeper.store import ZooKeeperStore


async def embed(path: str) -> str | None:
    config: Config = load_config(path, secure=None)
    async with (
        Launcher(config, drivers=DriverRegistry([FAKE]), store=EmbeddedStore(None)) as launcher,
        NodeClient(launcher.store) as client,
        client.nodes(["a", "b"], priority="100") as nodes,
    ):
        node: Node = nodes[0]
        try:
            await launcher.run()
        except errors.StoreError as error:
            return error.path
        return node.interface_ip


async def embed_data(launcher: Launcher) -> Config:
    await launcher.reload({"labels": [{"name": "a"}]})
    config = load_config({"labels": ({"name": "a"},)})
    Launcher({"labels": []})
    return config_from(config, drivers=DriverRegistry([FAKE]))


async def misspelt(client: NodeClient) -> None:
    client.nodes(["a"], priorty="100")  # type: ignore[call-arg]
    client.nodes(["a"], tenant=3)  # type: ignore[arg-type]
    await client.submit(["a"], priorty="100")  # type: ignore[call-arg]


async def for_a_while() -> list[Node]:
    async with temporary_launcher(labels=["a"], boot_time=1) as site, site.nodes("a", tenant="t") as nodes:
        return nodes


def stores() -> list[Store]:
    """Each keeps the port."""
    return [EmbeddedStore(None), SocketStore("/path"), ZooKeeperStore([("host", 2281)])]


def drivers(
    fake: FakeDriver, static: StaticDriver, test: TestDriver, metastatic: MetastaticDriver, process: ProcessDriver
) -> list[Driver]:
    """Each keeps the port."""
    return [fake, static, test, metastatic, process]


def executable() -> int:
    return serve(FAKE)


def client_of(cluster: StoreCluster, metastatic: MetastaticDriver) -> tuple[Cluster, SupportsUpkeep]:
    return cluster, metastatic


def extras(fake: FakeDriver, static: StaticDriver) -> tuple[SupportsHostKeyScan, SupportsInventory, HostScanner]:
    return fake, static, SshScanner()


def listing(driver: Driver) -> AsyncIterator[Instance]:
    return driver.list_instances()


plugin: DriverPlugin = FAKE
