"""Servers that run a real sshd, or none: what the node record says of their host keys."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState
from support.openstack import DEADLINE_S, IMAGES, Found, Lab, Start, pool, provider
from support.sshd import why_no_sshd

sys.path.insert(0, str(Path(__file__).parent))
from guest import CONSOLE_KEY, KEYS

pytestmark = [pytest.mark.openstack, pytest.mark.sshd, pytest.mark.skipif(why_no_sshd() is not None, reason="no sshd")]


def keys_of(lab: Lab, node: Node) -> set[str]:
    """The host keys a guest has at last, as it says on its console."""
    said: dict[str, Any] = lab.cloud().compute.get_server_console_output(node.external_id)
    lines = str(said["output"]).splitlines()
    return {line.removeprefix(CONSOLE_KEY) for line in lines if line.startswith(CONSOLE_KEY)}


@pytest.mark.parametrize("kind", ["sshd", "rekey"])
async def test_host_keys_are_those_the_guest_ends_up_with(lab: Lab, launcher: Start, kind: str) -> None:
    """One of each algorithm; of a guest that changes them two seconds after it began to listen, the final ones."""
    site = await launcher(provider(pool([kind], host_key_settle_time=4)))

    def look(nodes: list[Node]) -> None:
        for node in nodes:
            assert {key.split()[0] for key in node.host_keys} == set(KEYS)
            assert set(node.host_keys) == keys_of(lab, node)

    await site.job(kind, kind, use=look)
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


async def test_guest_without_sshd_is_deleted_and_another_tried(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool(["silent"]), boot_timeout=3, launch_retries=2))
    handle = await site.client.submit(["silent"])
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    assert request.state is RequestState.FAILED
    failures = [entry for entry in site.entries if entry["event"] == "launch_failed"]
    assert [entry["attempt"] for entry in failures] == [1, 2]
    assert len({entry["external_id"] for entry in failures}) == 2
    assert all(entry["error"] == "KeyScanError" for entry in failures)
    assert "not usable within 3 s: Connection refused" in await site.explain(request)
    await site.until_empty()
    assert lab.found() == Found()


async def test_node_is_ready_once_its_user_gets_in(lab: Lab, launcher: Start) -> None:
    images = [IMAGES[0] | {"username": getpass.getuser()}]
    key = lab.state / "id_ed25519"
    site = await launcher(provider(pool(["key"], login_key=str(key)), cloud_images=images))

    def log_in(nodes: list[Node]) -> None:
        options = (
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        )
        where = f"{getpass.getuser()}@{nodes[0].interface_ip}"
        subprocess.run(["ssh", *options, "-i", str(key), "-p", "28022", where, "true"], check=True, timeout=30)

    await site.job("key", use=log_in)
    await site.until_empty()


async def test_node_whose_user_does_not_get_in_is_not_handed_out(lab: Lab, launcher: Start) -> None:
    key = lab.state / "id_ed25519"
    site = await launcher(provider(pool(["key"], login_key=str(key)), boot_timeout=12, launch_retries=1))
    handle = await site.client.submit(["key"])
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    assert request.state is RequestState.FAILED
    assert "zuul could not log in in time" in await site.explain(request)
    await site.until_empty()
    assert lab.found() == Found()
