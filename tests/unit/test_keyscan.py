"""Calls of the scanner by kind of connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nodelaunch.engine.launch.keyscan import given_keys, scan_node
from nodelaunch.errors import KeyScanError
from nodelaunch.protocol.driver import LabelTraits


class Scanner:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int, float]] = []
        self.error: KeyScanError | None = None
        self.keys = ["ssh-ed25519 AAAA"]
        """Answers in turn; the last is repeated for ever."""

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        self.answer("keys", host, port, round(timeout_s))
        return (self.keys.pop(0) if len(self.keys) > 1 else self.keys[0],)

    async def log_in(self, host: str, port: int, **options: Any) -> None:
        self.answer("log in", options["username"], options["key_file"], tuple(options["host_keys"]))

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        self.answer("reach", host, port, timeout_s)

    def answer(self, *asked) -> None:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error


async def scan(scanner: Scanner, connection_type: str | None, **traits: Any) -> tuple[str, ...]:
    return await look(scanner, LabelTraits(connection_type=connection_type, **traits))


async def look(scanner: Scanner, traits: LabelTraits, *expected: str) -> tuple[str, ...]:
    async with asyncio.timeout(1000):
        return await scan_node(scanner, "192.0.2.1", 2022, traits, expected=expected, timeout_s=60)


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


@pytest.mark.looptime
async def test_keys_that_change_are_scanned_until_they_stay_the_same() -> None:
    scanner = Scanner()
    scanner.keys = ["ssh-ed25519 IMAGE", "ssh-ed25519 OWN"]
    assert await scan(scanner, "ssh", settle_s=5.0) == ("ssh-ed25519 OWN",)
    assert [asked[0] for asked in scanner.asked] == ["keys", "keys", "keys"]
    assert asyncio.get_running_loop().time() == pytest.approx(10.0)


@pytest.mark.looptime
async def test_keys_that_never_stay_the_same_are_not_believed() -> None:
    scanner = Scanner()
    scanner.keys = [f"ssh-ed25519 {number}" for number in range(1000)]
    with pytest.raises(KeyScanError, match="host keys did not stay the same for 5 s in time"):
        await scan(scanner, "ssh", settle_s=5.0)
    assert asyncio.get_running_loop().time() < 60


async def test_login_is_tried_where_there_is_a_key_for_it() -> None:
    scanner = Scanner()
    assert await scan(scanner, "ssh", probe_key="/key", username="zuul") == ("ssh-ed25519 AAAA",)
    assert scanner.asked[1:] == [("log in", "zuul", "/key", ("ssh-ed25519 AAAA",))]


# -- keys that the machine was given --------------------------------------------------------------------------------

GIVEN, OTHER = "ssh-ed25519 GIVE", "ssh-ed25519 OTHE"


async def test_machine_with_the_key_it_was_given_has_that_one_alone() -> None:
    scanner = Scanner()
    scanner.keys = [GIVEN]
    assert await look(scanner, LabelTraits(settle_s=5.0), GIVEN) == (GIVEN,)
    assert len(scanner.asked) == 1


@pytest.mark.looptime
async def test_machine_has_time_to_come_to_the_key_it_was_given() -> None:
    scanner = Scanner()
    scanner.keys = [OTHER, OTHER, OTHER, GIVEN]
    assert await look(scanner, LabelTraits(), GIVEN) == (GIVEN,)
    assert asyncio.get_running_loop().time() == pytest.approx(1 + 2 + 4)


@pytest.mark.looptime
async def test_machine_without_the_key_it_was_given_is_not_believed() -> None:
    scanner = Scanner()
    scanner.keys = [OTHER]
    with pytest.raises(KeyScanError) as caught:
        await look(scanner, LabelTraits(probe_key="/key", username="zuul"), GIVEN)
    assert str(caught.value) == (
        "192.0.2.1 port 2022 does not have the host key that it was given: "
        "expected ssh-ed25519 SHA256:nLt1vlNoYfvQpRBLVsHyjweNEriCtjo2N8aTbWcqk+Q, "
        "found ssh-ed25519 SHA256:vG7/ossAUa6OtdYbR4hOUnL7b7JUOJMahJsRV6diz8c"
    )
    assert 45 < asyncio.get_running_loop().time() < 60
    assert {asked[0] for asked in scanner.asked} == {"keys"}, "nobody logs in to what may be anybody's"


async def test_login_is_tried_with_the_key_the_machine_was_given() -> None:
    scanner = Scanner()
    scanner.keys = [GIVEN]
    await look(scanner, LabelTraits(probe_key="/key", username="zuul"), GIVEN)
    assert scanner.asked[1:] == [("log in", "zuul", "/key", (GIVEN,))]


@pytest.mark.parametrize(
    ("connection_type", "expected", "given"),
    [
        ("ssh", [GIVEN], (GIVEN,)),
        ("network_cli", [GIVEN], (GIVEN,)),
        ("winrm", [GIVEN], ()),
        ("ssh", [], ()),
        ("ssh", None, ()),
    ],
)
def test_keys_are_given_where_connections_have_any(
    connection_type: str, expected: list[str] | None, given: tuple[str, ...]
) -> None:
    assert given_keys(LabelTraits(connection_type=connection_type), expected) == given
