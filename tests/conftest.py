"""Fixtures for all tests, and a deadline for each."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from support import zookeeper
from support.certificates import Certificates, make_certificates
from support.zookeeper import ZooKeeperServer

pytest_plugins = ["support.leftovers"]
OF_OTHERS = (
    # kazoo, the peer in tests, leaves its TLS sockets to the garbage collector; asyncio warns of those that are ours
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning",
    # openstacksdk warns of what it does itself
    "ignore:::openstack",
)
"""Warnings that are no errors: a mark holds against ``-W error`` on the command line, too."""
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Leave no event loop open that a library makes for a test without one: no code would close it."""
    asyncio.set_event_loop(None)
    # How long an example takes says something of the machine, too.
    settings.register_profile("without deadlines", deadline=None)  # all else as in the present profile
    settings.load_profile("without deadlines")
    # In debug mode asyncio logs which callbacks are slow, which says something of the machine.
    logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing "))
    # Before Python 3.12 a garbage collection in the middle of ast.parse() can make it fail with "AST constructor
    # recursion depth mismatch" (CPython gh-106905); pytest parses every test module while collecting.
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, so that no parallel run waits for these alone in the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        for warning in OF_OTHERS:
            item.add_marker(pytest.mark.filterwarnings(warning))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Log nothing below error, and leave no configuration behind."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def zookeeper_server(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[ZooKeeperServer]:
    """Run a server for the whole run; `zk_chroot` separates the tests."""
    if reason := zookeeper.why_not():
        pytest.skip(reason)
    server = ZooKeeperServer(Path(tmp_path_factory.mktemp("zookeeper")), certificates)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def zk_chroot() -> str:
    """Return an unused path on the shared server."""
    return f"/test-{next(_numbers)}"
