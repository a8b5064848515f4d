"""The demonstration's SSH server. That its keys are the ones it shows, `test_sshscan` relies on."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest

from nodelaunch.cli.demossh import demo_ssh_server

DEADLINE_S = 30.0


async def test_nobody_may_log_in() -> None:
    async with asyncio.timeout(DEADLINE_S), demo_ssh_server(["ssh-ed25519"]) as server:
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                server.host, server.port, known_hosts=None, username="root", password="root", client_keys=None,
                config=None, agent_path=None,
            )  # fmt: skip


async def test_guest_who_stays_does_not_hold_up_the_end() -> None:
    async with asyncio.timeout(DEADLINE_S):
        async with demo_ssh_server(["ssh-ed25519"]) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            assert (await reader.readline()).startswith(b"SSH-2.0-")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, server.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_key_types_are_one_each_by_default() -> None:
    async with asyncio.timeout(DEADLINE_S), demo_ssh_server() as server:
        types = [key.split()[0] for key in server.host_keys]
    assert types == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
