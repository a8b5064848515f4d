"""Nodes for tests with pytest: fixtures ``nodes`` and ``node``.

    async def test_upgrade(nodes):
        old, new = await nodes("debian-12", "debian-12")

pytest loads this module in every run where the package is installed, so it imports the rest of the package only for a
test that uses a fixture.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pytest

from nodelaunch.errors import NodelaunchError

if TYPE_CHECKING:
    from nodelaunch.client.nodes import NodeClient, RequestOptions
    from nodelaunch.client.threaded import ClientThread, Loan
    from nodelaunch.config.models import Config
    from nodelaunch.protocol.records import Node

    Source = str | os.PathLike[str] | Mapping[str, Any] | Config

DEFAULT_LABEL = "node"
DEFAULT_TIMEOUT_S = "600"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nodelaunch", "nodes from nodelaunch")
    group.addoption(
        "--nodelaunch-config", metavar="FILE", help="configuration of the running launcher that provides the nodes"
    )
    group.addoption("--nodelaunch-secure", metavar="FILE", help="second configuration file, for secrets")
    group.addoption("--nodelaunch-timeout", metavar="SECONDS", help="time that a test waits for its nodes")
    parser.addini(
        "nodelaunch_config", "as --nodelaunch-config; empty: the test run starts a launcher with a fake cloud"
    )
    parser.addini("nodelaunch_secure", "as --nodelaunch-secure")
    parser.addini("nodelaunch_timeout", "as --nodelaunch-timeout", default=DEFAULT_TIMEOUT_S)
    parser.addini(
        "nodelaunch_labels", "labels of the fake cloud; the fixture 'node' has the first", "args", [DEFAULT_LABEL]
    )


def pytest_configure(config: pytest.Config) -> None:
    line = "nodelaunch(label, **options): the label of the fixture 'node', and further options of its request"
    config.addinivalue_line("markers", line)


def _timeout_s(config: pytest.Config) -> float:
    return float(config.getoption("--nodelaunch-timeout") or config.getini("nodelaunch_timeout"))


def _file(config: pytest.Config, name: str) -> Path | None:
    """Return the named file: relative to the working directory if given as an option, to the ini-file otherwise."""
    if given := config.getoption(f"--nodelaunch-{name}"):
        return config.invocation_params.dir / str(given)
    said = config.getini(f"nodelaunch_{name}")
    home = config.inipath.parent if config.inipath is not None else config.rootpath
    return home / str(said) if said else None


class Nodes:
    """The fixture ``nodes``: requests nodes, and returns them after the test."""

    def __init__(self, loan: Loan, timeout_s: float) -> None:
        self._loan = loan
        self._timeout_s = timeout_s

    async def __call__(
        self, *labels: str, timeout_s: float | None = None, **options: Unpack[RequestOptions]
    ) -> list[Node]:
        """Return nodes of *labels*, in this order.

        Raises: RequestFailedError, and NodesNotThereError after *timeout_s*, both with the launchers' reasons.
        """
        __tracebackhide__ = True
        try:
            return await asyncio.wrap_future(self._loan.take(labels, options, self._limit(timeout_s)))
        except NodelaunchError as error:
            raise error.with_traceback(None) from None  # the report ends at the line of the test

    def wait(self, *labels: str, timeout_s: float | None = None, **options: Unpack[RequestOptions]) -> list[Node]:
        """Return nodes of *labels*, in a test without an event loop."""
        __tracebackhide__ = True
        try:
            return self._loan.take(labels, options, self._limit(timeout_s)).result()
        except NodelaunchError as error:
            raise error.with_traceback(None) from None

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


@pytest.fixture(scope="session")
def nodelaunch_config(pytestconfig: pytest.Config) -> Source:
    """Return the configuration file of a running launcher; or, as a mapping or `Config`, the configuration of a
    launcher that runs during the tests. Override this fixture to use another one."""
    if (path := _file(pytestconfig, "config")) is not None:
        return path
    from nodelaunch.temporary import fake_config

    return fake_config(pytestconfig.getini("nodelaunch_labels"), {})


@pytest.fixture(scope="session")
def _nodelaunch_thread(pytestconfig: pytest.Config, nodelaunch_config: Source) -> Iterator[ClientThread]:
    from nodelaunch.client.threaded import ClientThread

    secure = _file(pytestconfig, "secure")
    is_ours = _route_logs()
    with ClientThread(lambda: _client(nodelaunch_config, secure)) as thread:
        yield thread
    if is_ours:
        import structlog

        structlog.reset_defaults()


def _client(source: Source, secure: os.PathLike[str] | None) -> AbstractAsyncContextManager[NodeClient]:
    return _client_of_running(source, secure) if isinstance(source, (str, os.PathLike)) else _client_of_own(source)


@asynccontextmanager
async def _client_of_running(
    path: str | os.PathLike[str], secure: os.PathLike[str] | None
) -> AsyncIterator[NodeClient]:
    from nodelaunch.client.nodes import NodeClient
    from nodelaunch.connecting import client_store

    async with client_store(path, secure=secure) as store, NodeClient(store) as client:
        yield client


@asynccontextmanager
async def _client_of_own(config: Mapping[str, Any] | Config) -> AsyncIterator[NodeClient]:
    from nodelaunch.temporary import temporary_launcher

    async with temporary_launcher(config) as site:
        yield site.client


def _route_logs() -> bool:
    """Route the launcher's log to pytest's captured logs, unless the tests set up structlog; return True if done."""
    import logging

    import structlog

    if structlog.is_configured():
        return False
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    return True


@pytest.fixture
def nodes(pytestconfig: pytest.Config, _nodelaunch_thread: ClientThread) -> Iterator[Nodes]:
    """Request nodes: ``await nodes("small", "big")``, or ``nodes.wait("small")`` in a test without an event loop."""
    from nodelaunch.client.threaded import Loan

    loan = Loan(_nodelaunch_thread)
    yield Nodes(loan, _timeout_s(pytestconfig))
    loan.give_back()


@pytest.fixture
def node(request: pytest.FixtureRequest, nodes: Nodes) -> Node:
    """Request one node of the label in ``@pytest.mark.nodelaunch("label")``, or of the first in
    ``nodelaunch_labels``."""
    __tracebackhide__ = True
    marker = request.node.get_closest_marker("nodelaunch")
    options: dict[str, Any] = marker.kwargs if marker is not None else {}
    label = marker.args[0] if marker is not None and marker.args else request.config.getini("nodelaunch_labels")[0]
    (found,) = nodes.wait(label, **options)
    return found
