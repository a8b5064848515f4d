"""What is asked of the scanner for which kind of connection."""

from __future__ import annotations

import asyncio

import pytest

from nodelaunch.engine.keyscan import scan_node
from nodelaunch.errors import KeyScanError


class Scanner:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int, float]] = []
        self.error: KeyScanError | None = None

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        self.answer("keys", host, port, timeout_s)
        return ("ssh-ed25519 AAAA",)

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        self.answer("reach", host, port, timeout_s)

    def answer(self, *asked) -> None:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error


async def scan(scanner: Scanner, connection_type: str | None, *, host_key_checking: bool = True) -> tuple[str, ...]:
    async with asyncio.timeout(10):
        return await scan_node(
            scanner,
            "192.0.2.1",
            2022,
            connection_type=connection_type,
            host_key_checking=host_key_checking,
            timeout_s=60,
        )


@pytest.mark.parametrize("connection_type", ["ssh", "network_cli"])
async def test_ssh_machines_have_their_host_keys_scanned(connection_type: str) -> None:
    scanner = Scanner()
    assert await scan(scanner, connection_type) == ("ssh-ed25519 AAAA",)
    assert scanner.asked == [("keys", "192.0.2.1", 2022, 60)]


@pytest.mark.parametrize("connection_type", ["winrm", "kubectl", None])
async def test_other_machines_are_only_reached(connection_type: str | None) -> None:
    scanner = Scanner()
    assert await scan(scanner, connection_type) == ()
    assert scanner.asked == [("reach", "192.0.2.1", 2022, 60)]


@pytest.mark.parametrize("connection_type", ["ssh", "winrm"])
async def test_without_host_key_checking_nothing_is_contacted(connection_type: str) -> None:
    scanner = Scanner()
    assert await scan(scanner, connection_type, host_key_checking=False) == ()
    assert scanner.asked == []


@pytest.mark.parametrize("connection_type", ["ssh", "winrm"])
async def test_failed_scan_is_passed_on(connection_type: str) -> None:
    scanner = Scanner()
    scanner.error = KeyScanError("no SSH banner")
    with pytest.raises(KeyScanError, match=r"no SSH banner"):
        await scan(scanner, connection_type)
