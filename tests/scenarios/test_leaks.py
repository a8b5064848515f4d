"""Leftovers of instances are recognised by their metadata and deleted; all other resources stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import ProviderUnavailableError
from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_PROVIDER, Resource
from support.sites import Site, config, launched, pool, provider

pytestmark = pytest.mark.looptime

TWO_SWEEPS_S = 130.0


class Littering(FakeDriver):
    """A cloud whose servers had volumes."""

    volumes: dict[str, Resource]
    is_down = False
    asked: list[str]

    async def resources(self) -> Sequence[Resource]:
        return list(self.volumes.values())

    async def delete_resource(self, resource: Resource) -> None:
        self.asked.append(resource.external_id)
        if self.is_down:
            raise ProviderUnavailableError("volume service is away")
        self.volumes.pop(resource.external_id, None)


def littering() -> DriverRegistry:
    def open_driver(config: FakeProvider, context: object) -> Littering:
        driver = Littering(config, context)  # type: ignore[arg-type]
        driver.volumes, driver.asked = {}, []
        return driver

    return DriverRegistry([DriverPlugin("fake", FakeProvider, open_driver)])


def driver_of(site: Site) -> Littering:
    driver = site.launcher.providers["cloud"].driver
    assert isinstance(driver, Littering)
    return driver


def add_volume(driver: Littering, name: str, **metadata: str) -> None:
    driver.volumes[name] = Resource("volume", name, metadata)


async def test_leftovers_of_our_nodes_go_and_nothing_else_does(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"))), drivers=littering()) as site:
        driver = driver_of(site)
        (node,) = await site.got("small")
        add_volume(driver, "in use", **{METADATA_PROVIDER: "cloud", METADATA_NODE_ID: node.id})
        add_volume(driver, "left", **{METADATA_PROVIDER: "cloud", METADATA_NODE_ID: "0000099999"})
        add_volume(driver, "other's", **{METADATA_PROVIDER: "another", METADATA_NODE_ID: "0000099999"})
        add_volume(driver, "unknown")
        await site.a_while(TWO_SWEEPS_S)
        assert set(driver.volumes) == {"in use", "other's", "unknown"}
        assert driver.asked == ["left"]


async def test_leftover_seen_once_is_left_alone(tmp_path: Path) -> None:
    """Resources that are made for a node may be seen before the node."""
    async with launched(tmp_path, config(provider(pool("small"))), drivers=littering()) as site:
        driver = driver_of(site)
        add_volume(driver, "new", **{METADATA_PROVIDER: "cloud", METADATA_NODE_ID: "0000099999"})
        await site.until(lambda: bool(site.launcher._parts.sweeper.leaks.suspects.get("cloud")))
        driver.volumes.clear()
        await site.a_while(TWO_SWEEPS_S)
        assert driver.asked == []


async def test_leftover_that_can_not_be_deleted_is_tried_again(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small"))), drivers=littering()) as site:
        driver = driver_of(site)
        driver.is_down = True
        add_volume(driver, "left", **{METADATA_PROVIDER: "cloud", METADATA_NODE_ID: "0000099999"})
        await site.until(lambda: len(driver.asked) >= 2)
        driver.is_down = False
        await site.until(lambda: not driver.volumes)
