"""The ZooKeeper store keeps the port's promises, over mutual TLS and below a chroot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from conformance.store_suite import StoreContract
from nodelaunch.store.zookeeper import ZooKeeperStore
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper


def connect(server: ZooKeeperServer, chroot: str) -> ZooKeeperStore:
    tls = server.certificates.client
    return ZooKeeperStore([(server.host, server.tls_port)], chroot=chroot, tls=tls, session_timeout_s=4.0)


@pytest.fixture
async def store(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    async with connect(zookeeper_server, zk_chroot) as opened:
        yield opened


@pytest.fixture
async def other(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    async with connect(zookeeper_server, zk_chroot) as opened:
        yield opened


class TestZooKeeperStore(StoreContract):
    pass
