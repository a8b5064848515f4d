"""The example driver that makes nodes of sshds: who can log in to one, over real SSH."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from nodelaunch.drivers import DriverRegistry
from nodelaunch.protocol.driver import DriverContext, Instance, InstanceSpec
from support.fakeclouds import NoScanner
from support.processes import example, provider_content, why_not

DEADLINE_S = 120.0
SPEC = InstanceSpec("1", "np1", "main", "small", {"nodepool_node_id": "1"})
EXAMPLE = example("sshd")


@pytest.fixture(autouse=True)
def _needed() -> None:
    if reason := why_not("sshd"):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two login keys, ``ours`` and ``other``."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"the {name} key", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=60)
    return folder


@asynccontextmanager
async def a_node(state: Path, **options: str) -> AsyncIterator[Instance]:
    """A node of a provider with these *options*."""
    plugin = await asyncio.to_thread(DriverRegistry().get, EXAMPLE)
    config = plugin.config_model.model_validate({**provider_content(EXAMPLE, state), **options})
    driver = plugin.open(config, DriverContext(NoScanner()))
    async with asyncio.timeout(DEADLINE_S):
        try:
            external_id = await driver.create_instance(SPEC)
            yield await driver.wait_until_active(external_id)
            await driver.delete_instance(external_id)
        finally:
            await driver.aclose()


async def login(node: Instance, key: Path, known: Path) -> int:
    """The exit code of a command on *node*; ssh's own is 255, where it is not let in."""
    known.write_text("".join(f"[{node.interface_ip}]:{node.connection_port} {each}\n" for each in node.host_keys))
    settings = (
        "BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", f"UserKnownHostsFile={known}",
        "StrictHostKeyChecking=yes", "PreferredAuthentications=publickey",
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        "ssh", "-F", "none", "-i", str(key), "-p", str(node.connection_port),
        *(word for each in settings for word in ("-o", each)),
        f"{getpass.getuser()}@{node.interface_ip}", "exit 7",
    )  # fmt: skip
    return await process.wait()


async def test_only_the_authorized_key_gets_in(tmp_path: Path, keys: Path) -> None:
    options = {"authorized-key": (keys / "ours.pub").read_text().strip()}
    async with a_node(tmp_path / "nodes", **options) as node:
        assert await login(node, keys / "ours", tmp_path / "known") == 7
        assert await login(node, keys / "other", tmp_path / "known") == 255


async def test_without_one_no_key_of_ours_gets_in(tmp_path: Path, keys: Path) -> None:
    async with a_node(tmp_path / "nodes") as node:
        assert await login(node, keys / "ours", tmp_path / "known") == 255


async def test_what_is_no_public_key_is_refused(tmp_path: Path, keys: Path) -> None:
    plugin = await asyncio.to_thread(DriverRegistry().get, EXAMPLE)
    for wrong in (
        "",
        "~/.ssh/id_ed25519.pub",
        f"{(keys / 'ours.pub').read_text()}ssh-rsa AAAA",
        (keys / "ours").read_text(),
    ):
        with pytest.raises(ValidationError):
            plugin.config_model.model_validate({**provider_content(EXAMPLE, tmp_path), "authorized-key": wrong})
