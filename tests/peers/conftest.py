"""Zuul peers, one process for each release, and a site of nodelaunch processes on a tree of its own for each test.

After each test no Zuul process may have complained, and all that nodelaunch wrote must obey support/discipline.py and
be read by that Zuul as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.site import Site
from support.upstream import ZUUL_VERSIONS, ZuulPeer
from support.zookeeper import ZooKeeperServer


@pytest.fixture(scope="session")
def zuul_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZuulPeer]:
    peer = ZuulPeer(request.param, tmp_path_factory.mktemp("zuul") / f"{request.param}.log")
    yield peer
    peer.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All releases, unless the test is marked ``newest_zuul``."""
    if "zuul_process" in metafunc.fixturenames:
        is_newest_only = metafunc.definition.get_closest_marker("newest_zuul") is not None
        versions = ZUUL_VERSIONS[-1:] if is_newest_only else ZUUL_VERSIONS
        metafunc.parametrize("zuul_process", versions, indirect=True, scope="session")


@pytest.fixture
def site(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(zookeeper_server, f"{zk_chroot}-upstream", tmp_path)
    yield made
    made.close()


@pytest.fixture
def zuul(zuul_process: ZuulPeer, site: Site, zookeeper_server: ZooKeeperServer) -> Iterator[ZuulPeer]:
    """A Zuul on the site's tree: scheduler and executor."""
    zuul_process("complaints")
    zuul_process.open(zookeeper_server, site.chroot)
    site.guests |= zuul_process.sessions
    yield zuul_process
    site.stop_servers()
    complaints = zuul_process("complaints")
    zuul_process("close")
    assert complaints == []
    assert site.faults(zuul_process) == []
