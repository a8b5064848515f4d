"""A launcher for a while: at work at once, gone without a trace."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from nodelaunch.errors import ConfigError, RequestFailedError
from nodelaunch.protocol.states import NodeState
from nodelaunch.temporary import fake_config, temporary_launcher

pytestmark = pytest.mark.looptime


async def test_nodes_in_one_line_and_nothing_left() -> None:
    async with temporary_launcher(labels=["small", "big"]) as site, site.nodes("small", "big") as nodes:
        assert [node.type for node in nodes] == [("small",), ("big",)]
        assert {node.state for node in nodes} == {NodeState.IN_USE}
        cloud = site.launcher.providers["fake"].driver.cloud
        assert len(cloud.servers()) == 2
        servers = cloud.servers
    assert not site.launcher.view.nodes
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(Exception, match="closed"):
        servers()


async def test_one_label_is_there_without_asking() -> None:
    async with temporary_launcher() as site, site.nodes("node", tenant="acme") as nodes:
        assert nodes[0].tenant_name == "acme"


async def test_options_of_the_fake_cloud() -> None:
    async with temporary_launcher(labels=["small"], failure_rate=1.0, max_servers=3) as site:
        assert site.config.providers[0].pools[0].max_servers == 3
        with pytest.raises(RequestFailedError, match="it went to ERROR"):
            async with site.nodes("small"):
                pass


async def test_any_configuration() -> None:
    config = {
        "labels": [{"name": "bare", "min-ready": 1}],
        "zookeeper-servers": [{"host": "nowhere.invalid", "port": 1}],
        "providers": [{"name": "lab", "driver": "test", "pools": [{"name": "rack", "labels": ["bare"]}]}],
    }
    async with temporary_launcher(config) as site, site.nodes("bare") as nodes:
        assert nodes[0].provider == "lab"
    assert not site.launcher.view.nodes
    with pytest.raises(TypeError, match="can't be combined"):
        async with temporary_launcher(config, boot_time=1):
            pass
    with pytest.raises(ConfigError, match=r"providers\[0\]\.boot-tim: unknown key"):
        async with temporary_launcher(boot_tim=1):
            pass


async def test_everything_ends_when_the_block_fails() -> None:
    views = []

    async def fail() -> None:
        async with temporary_launcher(boot_time=100) as site:
            views.append(site.launcher.view)
            await site.client.submit(["node"])
            async with site.nodes("node"):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not views[0].nodes
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_node_that_can_not_be_deleted_is_told_of() -> None:
    with structlog.testing.capture_logs() as logs:
        async with temporary_launcher(delete_time=1000, end_s=5) as site, site.nodes("node") as nodes:
            pass
    assert [entry["nodes"] for entry in logs if entry["event"] == "nodes_left"] == [[nodes[0].id]]


def test_fake_configuration_has_each_label_once() -> None:
    config = fake_config(["a", "b", "a"], {})
    assert [label["name"] for label in config["labels"]] == ["a", "b"]
