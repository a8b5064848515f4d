"""Launches that fail, and how they are tried again. A test bears the name of Nodepool's test of the same behaviour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import LaunchFailedError
from nodelaunch.protocol.driver import ExternalId, InstanceSpec
from nodelaunch.protocol.states import NodeState
from support.sites import KEY, Data, Hosts, Site, config, label, launched, pool, provider

pytestmark = pytest.mark.looptime


class Scanned(FakeDriver):
    """Knows no host keys: the machines are scanned, as those of a real cloud."""

    host_keys = None  # type: ignore[assignment]


SCANNED = DriverRegistry([DriverPlugin("fake", FakeProvider, Scanned)])


def _one_pool(what: Data | str = "small", **more: Any) -> Data:
    return config(provider(pool(what), **more))


async def _failed_and_left_nothing(site: Site) -> None:
    request = await site.failed("small")
    assert request.declined_by == (site.launcher.pools["cloud", "main"].ctx.pool_id,)
    await site.until(lambda: not site.view.nodes)
    assert site.cloud.servers() == []


async def test_fail_request_on_launch_failure(tmp_path: Path) -> None:
    async with launched(tmp_path, _one_pool(launch_retries=2)) as site:
        site.cloud.fail("boot", times=2)
        await _failed_and_left_nothing(site)


async def test_fail_request_on_launch_timeout(tmp_path: Path) -> None:
    async with launched(tmp_path, _one_pool(launch_retries=2, launch_timeout=30)) as site:
        site.cloud.fail("boot", kind="never", times=2)
        await _failed_and_left_nothing(site)


async def test_node_launch_retries(tmp_path: Path) -> None:
    async with launched(tmp_path, _one_pool(launch_retries=3)) as site:
        site.cloud.fail("boot", times=10)
        await _failed_and_left_nothing(site)
        assert len(site.creates()) == 3


async def test_node_launch_retries_with_external_id(tmp_path: Path) -> None:
    """Attempts that left an instance and its id wedge nothing: what they left goes, the next request is served."""
    async with launched(tmp_path, _one_pool(launch_retries=2)) as site:
        site.cloud.fail("create", leave=True, times=2)
        await _failed_and_left_nothing(site)
        await site.got("small")
        assert len(site.cloud.servers()) == 1


async def test_node_launch_keyscan_failure(tmp_path: Path) -> None:
    hosts = Hosts()
    hosts.failures = 1
    async with launched(tmp_path, _one_pool(launch_retries=2), scanner=hosts, drivers=SCANNED) as site:
        (node,) = await site.got("small")
        assert node.host_keys == (KEY,)
        assert len(site.creates()) == 2
        assert [server.id for server in site.cloud.servers()] == [node.external_id]


async def test_node_launch_keyscan_failure_retry(tmp_path: Path) -> None:
    hosts = Hosts()
    hosts.failures = 2
    async with launched(tmp_path, _one_pool(launch_retries=2), scanner=hosts, drivers=SCANNED) as site:
        await _failed_and_left_nothing(site)
        assert [what for what, _, _ in hosts.asked] == ["keys", "keys"]


async def test_node_launch_keyscan_failure_console_log(tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    hosts = Hosts()
    hosts.failures = 2
    top = _one_pool(label("small", console_log=True), launch_retries=2)
    with capture_logs() as lines:
        async with launched(tmp_path, top, scanner=hosts, drivers=SCANNED) as site:
            await site.failed("small")
            made = [entry["id"] for entry in site.creates()]
    shown = [line for line in lines if line["event"] == "console"]
    assert [line["external_id"] for line in shown] == made
    assert all(line["text"].startswith("fake console of np") for line in shown)


async def test_node_launch_with_broken_znodes(tmp_path: Path) -> None:
    """Records without type, or without pool, count and do no harm."""
    async with launched(tmp_path, config(provider(pool("small", max_servers=9)))) as site:
        for record in (
            {"state": "ready", "provider": "cloud", "pool": "main"},
            {"state": "ready", "provider": "cloud", "type": ["small"]},
            {"state": "building", "type": ["small"], "pool": "main"},
            {"state": "in-use", "provider": "nobody", "pool": None, "type": []},
        ):
            await site.add_node(json.dumps(record).encode())
        nodes = await site.got("small", "small")
        assert len({node.external_id for node in nodes}) == 2


async def test_launchNode_delete_error(tmp_path: Path) -> None:  # noqa: N802  Nodepool's name
    """An attempt whose instance can't be deleted at once holds up neither the next attempt nor its own deletion."""
    async with launched(tmp_path, _one_pool(launch_retries=2)) as site:
        site.cloud.fail("boot")
        site.cloud.fail("delete")
        (node,) = await site.got("small")
        await site.until(lambda: list(site.view.nodes) == [node.id])
        assert [server.id for server in site.cloud.servers()] == [node.external_id]


async def test_launchNode_session_expired(tmp_path: Path) -> None:  # noqa: N802  Nodepool's name
    """The launch ends with the session; the request is not failed, and the next launcher to take it resumes it."""
    async with launched(tmp_path, _one_pool(boot_time=20)) as site:
        handle = await site.ask("small")
        states = site.states_of(handle)
        await site.until(lambda: [node.state for node in site.nodes()] == [NodeState.BUILDING])
        (begun,) = site.nodes()
        await site.store.expire_session()
        request = await handle.finished()
        assert [state.value for state in states] == ["requested", "pending", "requested", "pending", "fulfilled"]
        assert list(request.nodes) == list(site.view.nodes) == [begun.id]
        assert len(site.cloud.servers()) == 1


class Moving(FakeDriver):
    """Its cloud gives its zones other names while the launcher runs."""

    names = ("north",)

    async def zones(self) -> Sequence[str]:
        return self.names

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        if spec.zone not in self.names:
            raise LaunchFailedError(f"there is no zone {spec.zone}", provider=self.config.name)
        return await super().create_instance(replace(spec, zone="az1"))


MOVING = DriverRegistry([DriverPlugin("fake", FakeProvider, Moving)])


async def test_az_change_recover(tmp_path: Path) -> None:
    """A launch that fails in a missing zone causes a new query for the zones, which the next attempt uses."""
    async with launched(tmp_path, _one_pool(launch_retries=3), drivers=MOVING) as site:
        await site.got("small")
        site.launcher.providers["cloud"].driver.names = ("south",)  # type: ignore[attr-defined]
        await site.got("small")
        assert site.launcher.providers["cloud"].cloud.zones == ("south",)


@pytest.mark.parametrize(("labels", "retries"), [(("small", "small"), 3), (("small",), 1)])
async def test_zones_that_vanish_fail_one_request_at_most(
    tmp_path: Path, labels: tuple[str, ...], retries: int
) -> None:
    """The same holds where nodes must be in the same zone, and where there are fewer attempts than zones."""
    async with launched(tmp_path, _one_pool(launch_retries=retries), drivers=MOVING) as site:
        driver: Any = site.launcher.providers["cloud"].driver
        driver.names = ("north", "east", "west")
        site.launcher.providers["cloud"].invalidate()
        await site.until(lambda: len(site.launcher.providers["cloud"].cloud.zones) == 3)
        await site.got(*labels)
        driver.names = ("south",)
        await (await site.ask(*labels)).finished()
        await site.got(*labels)
