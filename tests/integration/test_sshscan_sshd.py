"""`SshScanner` against a real OpenSSH server."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch.errors import KeyScanError
from nodelaunch.network.sshscan import SshScanner
from support.sshd import SshdFactory, sshd_factory  # noqa: F401  brings the fixture sshd

pytestmark = pytest.mark.sshd

DEADLINE_S = 60.0
ALL_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def types(keys: tuple[str, ...]) -> list[str]:
    return [key.split()[0] for key in keys]


async def test_scan_gives_the_keys_of_the_pub_files_in_fixed_order(sshd: SshdFactory) -> None:
    server = sshd(["ssh-rsa", "ecdsa-sha2-nistp521", "ecdsa-sha2-nistp256", "ssh-ed25519"])
    await server.start()
    async with asyncio.timeout(DEADLINE_S):
        keys = await SshScanner().host_keys(server.host, server.port, timeout_s=DEADLINE_S)
    assert set(keys) == server.host_keys
    assert types(keys) == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-rsa"]


@pytest.mark.parametrize("key_type", ALL_TYPES)
async def test_scan_of_a_server_with_one_key_type(sshd: SshdFactory, key_type: str) -> None:
    server = sshd([key_type])
    await server.start()
    async with asyncio.timeout(DEADLINE_S):
        keys = await SshScanner().host_keys("localhost", server.port, timeout_s=DEADLINE_S)
    assert set(keys) == server.host_keys
    assert types(keys) == [key_type]


async def test_scan_waits_for_a_server_that_starts_late(sshd: SshdFactory) -> None:
    server = sshd()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        scan = group.create_task(SshScanner().host_keys(server.host, server.port, timeout_s=DEADLINE_S))
        with pytest.raises(ConnectionRefusedError):  # the scan, started earlier, met the same
            await asyncio.open_connection(server.host, server.port)
        assert not scan.done()
        await server.start()
    assert set(scan.result()) == server.host_keys


async def test_scan_sees_the_keys_of_a_restarted_server(sshd: SshdFactory) -> None:
    server = sshd(["ssh-ed25519"])
    scanner = SshScanner()
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        before = await scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)
        await server.stop()
        server.replace_keys(["ssh-ed25519"])
        await server.start()
        after = await scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)
    assert set(after) == server.host_keys
    assert before != after


async def test_scan_fails_after_the_server_stopped(sshd: SshdFactory) -> None:
    server = sshd(["ssh-ed25519"])
    scanner = SshScanner()
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        await scanner.reach(server.host, server.port, timeout_s=DEADLINE_S)
        await server.stop()
        with pytest.raises(KeyScanError, match="Connection refused"):
            await scanner.host_keys(server.host, server.port, timeout_s=0.2)


async def test_fifty_scans_at_once_are_each_complete(sshd: SshdFactory) -> None:
    """The server turns most of the connections away at first (its default of MaxStartups); no key may get lost."""
    server = sshd(["ssh-ed25519", "ecdsa-sha2-nistp256"])
    scanner = SshScanner()
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        async with asyncio.TaskGroup() as group:
            scans = [
                group.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)) for _ in range(50)
            ]
    assert {frozenset(scan.result()) for scan in scans} == {frozenset(server.host_keys)}


async def test_server_that_admits_one_connection_at_a_time_is_scanned_whole(sshd: SshdFactory) -> None:
    server = sshd(ALL_TYPES, max_startups="1")
    async with asyncio.timeout(DEADLINE_S):
        await server.start()
        keys = await SshScanner().host_keys(server.host, server.port, timeout_s=DEADLINE_S)
    assert set(keys) == server.host_keys
