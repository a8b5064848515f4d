"""A request that is not fulfilled in time says why it waits: to the client in Python, and on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodelaunch import HttpNodeClient, NodeClient
from nodelaunch.errors import NodesNotThereError
from nodelaunch.store.embedded.store import EmbeddedStore
from support.httpapi import Site, make_store, site
from support.zookeeper import ZooKeeperServer
from tests.integration.test_request_deadline import command

WHY = "cloud/main: deferred: needs 1 instance; 0 available"


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    async with asyncio.timeout(120), site(tmp_path, EmbeddedStore(None), max_servers=1) as made:
        yield made


async def test_client_over_the_store(small: Site) -> None:
    async with NodeClient(small.launcher.store) as client, client.nodes(["small"]):
        with pytest.raises(NodesNotThereError, match="was not fulfilled within 0") as caught:
            async with client.nodes(["small"], timeout_s=0.5):
                pytest.fail("there is one")
        assert [line[: len(WHY)] for line in caught.value.reasons] == [WHY]
        await small.until(lambda: not small.launcher.view.requests)  # it is withdrawn


async def test_client_over_http(small: Site) -> None:
    async with HttpNodeClient(small.url, token_file=small.token_file) as client, client.nodes(["small"]):
        with pytest.raises(NodesNotThereError, match="was not fulfilled within 0") as caught:
            async with client.nodes(["small"], timeout_s=0.5):
                pytest.fail("there is one")
        assert [line[: len(WHY)] for line in caught.value.reasons] == [WHY]
        await small.until(lambda: not small.launcher.view.requests)


async def test_command_over_http(small: Site) -> None:
    await small.use("small")
    code, errors = await command(
        "request", "small", "--url", small.url, "--token-file", str(small.token_file), "--timeout", "6"
    )
    assert code == 1
    assert f"(small) was not fulfilled within 6 s\n  {WHY}" in errors


@pytest.mark.zookeeper
async def test_command_over_the_store(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> None:
    config = tmp_path / "client.yaml"
    server = f"{{host: 127.0.0.1, port: {zookeeper_server.port}, chroot: {zk_chroot}}}"
    config.write_text(f"zookeeper-servers: [{server}]\n")
    store = make_store("zookeeper", zookeeper_server, zk_chroot)
    async with asyncio.timeout(120), site(tmp_path, store, max_servers=1) as small:
        await small.use("small")
        code, errors = await command("request", "small", "-c", str(config), "--timeout", "3")
    assert code == 1
    assert f"(small) was not fulfilled within 3 s\n  {WHY}" in errors
