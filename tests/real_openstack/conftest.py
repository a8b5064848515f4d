"""The control plane, started once for all of these tests, and an empty project before and after each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support import openstack
from support.openstack import Beside, Lab, Start, beside
from support.zookeeper import ZooKeeperServer


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Lab]:
    if reason := openstack.why_not():
        pytest.skip(reason)
    lab = Lab()
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def lab(control_plane: Lab) -> Iterator[Lab]:
    control_plane.mend()
    control_plane.empty()
    yield control_plane
    control_plane.mend()
    control_plane.empty()


@pytest.fixture
async def launcher(lab: Lab, zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that makes the launcher of a test, with the given providers; it starts the launcher by
    default.
    """
    async with AsyncExitStack() as stack:

        async def make(*providers: dict[str, Any], is_started: bool = True, **more: Any) -> Beside:
            made = await stack.enter_async_context(
                beside(lab, zookeeper_server, zk_chroot, tmp_path, *providers, **more)
            )
            if is_started:
                await made.start()
                await made.registered()
            return made

        yield make
