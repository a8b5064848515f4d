"""The static driver on a scanner of this test's own; names are literal addresses, so nothing is asked of a network."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.static import PLUGIN
from nodelaunch.drivers.static.config import StaticNode
from nodelaunch.drivers.static.driver import StaticDriver
from nodelaunch.errors import (
    InstanceNotFoundError,
    InsufficientCapacityError,
    KeyScanError,
    LabelUnusableError,
    ProviderUnavailableError,
)
from nodelaunch.protocol.driver import (
    DriverContext,
    ExternalId,
    Inspection,
    InstanceSpec,
    LabelTraits,
    Machine,
    SupportsInventory,
)
from nodelaunch.protocol.quota import NO_LIMITS, Usage

DEADLINE_S = 10.0
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICGczTVW5c86w/TCKPbsg/2K/PwUqxzxku+10TkUx4Jm"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA3DV9hE4TKoi13XM4wRWf05"
    "Ai16CF91cv/zf7DsCiXCNNn4679dp8+ZbCxqvturP95pCGoE7wuaOPm8Fua/iVM="
)
OTHER_ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEXWSKJ4S+KGeMyFoRdgQd3w"
    "LFUjDYeEBXxrmiKcSmHQ+pOXwjx1ehh/mahHTvu6YpisdBBVh8KFxt/K5N8Crt8="
)
FINGERPRINTS = {  # as ssh-keygen -l prints them
    ED25519: "SHA256:uIivxM0xb9psSMBvDvhqoeS4zDPcD4Mqz6ks1QFg17E",
    ECDSA: "SHA256:PrgK6Wpoc8RTcM7ivW15ZBVW79B+Ia30mueEH8NSMsM",
    OTHER_ECDSA: "SHA256:DSDmrNL+MleSCU8ZX3qEW4MNy3oM+z3j9r+wDNooUKs",
}


class Scanner:
    """A `HostScanner` that answers as set, notes who asked, and waits at ``gate``."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, str, int, float]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        await self._ask("keys", host, port, timeout_s)
        return self.keys[host]

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        await self._ask("reach", host, port, timeout_s)

    async def _ask(self, what: str, host: str, port: int, timeout_s: float) -> None:
        self.asked.append((what, host, port, timeout_s))
        await self.gate.wait()
        if host not in self.keys:
            raise KeyScanError(f"{host} port {port} not usable: Connection refused")


@pytest.fixture
def scanner() -> Scanner:
    return Scanner()


@pytest.fixture
def make(scanner: Scanner) -> Callable[..., StaticDriver]:
    """A driver of one pool with these nodes."""

    def make(*nodes: dict) -> StaticDriver:
        config = PLUGIN.config_model.model_validate(
            {"name": "lab", "driver": "static", "pools": [{"name": "rack", "nodes": list(nodes)}]}
        )
        driver = PLUGIN.open(config, DriverContext(scanner))
        assert isinstance(driver, StaticDriver)
        return driver

    return make


def a_node(name: str = "192.0.2.1", **more: object) -> dict:
    return {"name": name, "labels": ["bare"], **more}


async def inspect(driver: StaticDriver, machine: Machine | None = None) -> Inspection:
    async with asyncio.timeout(DEADLINE_S):
        return await driver.inspect(machine or driver.machines()[0])


# -- machines -------------------------------------------------------------------------------------------------------


async def test_each_slot_of_each_node_is_a_machine(make) -> None:
    driver = make(
        a_node(**{"max-parallel-jobs": 2}),
        a_node("h2", labels=["bare", "big"], username="root", **{
            "connection-port": 5986, "connection-type": "winrm", "python-path": "/usr/bin/python3", "shell-type": "cmd",
        }),
    )  # fmt: skip
    assert isinstance(driver, SupportsInventory)
    assert driver.machines() == [
        Machine("rack", "192.0.2.1", ("bare",), slot=0),
        Machine("rack", "192.0.2.1", ("bare",), slot=1),
        Machine(
            "rack", "h2", ("bare", "big"), username="root", connection_port=5986, connection_type="winrm",
            python_path="/usr/bin/python3", shell_type="cmd",
        ),
    ]  # fmt: skip


# -- inspecting -----------------------------------------------------------------------------------------------------


async def test_inspection_gives_scanned_keys_and_addresses(make, scanner: Scanner) -> None:
    driver = make(a_node(timeout=7, **{"connection-port": 2022}), a_node("2001:db8::1"))
    scanner.keys = {"192.0.2.1": (ED25519, ECDSA), "2001:db8::1": (ECDSA,)}
    v4, v6 = driver.machines()
    assert await inspect(driver, v4) == Inspection((ED25519, ECDSA), public_ipv4="192.0.2.1")
    assert await inspect(driver, v6) == Inspection((ECDSA,), public_ipv6="2001:db8::1")
    assert scanner.asked == [("keys", "192.0.2.1", 2022, 7.0), ("keys", "2001:db8::1", 22, 5.0)]


async def test_name_is_resolved_to_first_address_of_each_kind(make, scanner, monkeypatch) -> None:
    def getaddrinfo(*_, **__):
        return [
            (socket.AF_INET6, 1, 6, "", ("2001:db8::7", 0, 0, 0)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.7", 0)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.8", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    scanner.keys = {"both.example.org": (ECDSA,)}
    assert await inspect(make(a_node("both.example.org"))) == Inspection((ECDSA,), "192.0.2.7", "2001:db8::7")


async def test_machine_that_answers_is_usable_without_an_address(make, scanner: Scanner, monkeypatch) -> None:
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    scanner.keys = {"fake-host-1": (ECDSA,)}
    assert await inspect(make(a_node("fake-host-1"))) == Inspection((ECDSA,))
    assert await inspect(make(a_node("inside", **{"host-key-checking": False}))) == Inspection()


async def test_name_server_that_does_not_answer_ends_the_look(make, scanner: Scanner, monkeypatch) -> None:
    hung = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hung.wait())
    scanner.keys = {"silent.example.org": (ECDSA,)}
    assert await inspect(make(a_node("silent.example.org", timeout=0.1))) == Inspection((ECDSA,))
    hung.set()


async def test_silent_machine_is_unavailable(make) -> None:
    with pytest.raises(ProviderUnavailableError, match=r"192\.0\.2\.1 port 22 not usable: Connection refused"):
        await inspect(make(a_node()))


@pytest.mark.parametrize("host_key", [ECDSA, [ECDSA, ED25519], f"{ECDSA} root@rack", f"{ED25519}\n{ECDSA}\n"])
async def test_configured_keys_among_the_scanned_are_accepted(make, scanner: Scanner, host_key) -> None:
    scanner.keys = {"192.0.2.1": (ED25519, ECDSA)}
    assert (await inspect(make(a_node(**{"host-key": host_key})))).host_keys == (ED25519, ECDSA)


async def test_configured_key_that_is_not_found_is_an_error_with_fingerprints(make, scanner: Scanner) -> None:
    scanner.keys = {"192.0.2.1": (ED25519, ECDSA)}
    with pytest.raises(KeyScanError) as caught:
        await inspect(make(a_node(**{"host-key": [ED25519, OTHER_ECDSA]})))
    assert str(caught.value) == (
        "192.0.2.1 port 22 does not have the configured host key: "
        f"expected ecdsa-sha2-nistp256 {FINGERPRINTS[OTHER_ECDSA]}, "
        f"found ecdsa-sha2-nistp256 {FINGERPRINTS[ECDSA]}, ssh-ed25519 {FINGERPRINTS[ED25519]}"
    )


async def test_configured_key_that_is_no_key_stands_in_the_error_as_it_is(make, scanner: Scanner) -> None:
    scanner.keys = {"192.0.2.1": ()}
    with pytest.raises(KeyScanError, match=r"expected ssh-rsa FAKEKEY, found none$"):
        await inspect(make(a_node(**{"host-key": "ssh-rsa FAKEKEY"})))


async def test_without_host_key_checking_configured_keys_are_taken_untested(make, scanner: Scanner) -> None:
    driver = make(
        a_node(**{"host-key-checking": False, "host-key": [OTHER_ECDSA]}),
        a_node("192.0.2.2", **{"host-key-checking": False, "connection-type": "winrm"}),
    )
    ssh, winrm = driver.machines()
    assert await inspect(driver, ssh) == Inspection((OTHER_ECDSA,), public_ipv4="192.0.2.1")
    assert await inspect(driver, winrm) == Inspection((), public_ipv4="192.0.2.2")
    assert await driver.is_alive(ssh)
    assert scanner.asked == []


async def test_network_cli_has_host_keys_and_winrm_only_a_port(make, scanner: Scanner) -> None:
    driver = make(
        a_node(**{"connection-type": "network_cli"}),
        a_node("192.0.2.2", **{"connection-type": "winrm", "connection-port": 5986, "host-key": ECDSA}),
    )
    scanner.keys = {"192.0.2.1": (ECDSA,), "192.0.2.2": ()}
    found = [await inspect(driver, machine) for machine in driver.machines()]
    assert [each.host_keys for each in found] == [(ECDSA,), ()]
    assert [what for what, *_ in scanner.asked] == ["keys", "reach"]


async def test_machine_that_is_not_configured_is_not_found(make) -> None:
    driver = make(a_node())
    with pytest.raises(InstanceNotFoundError):
        await inspect(driver, Machine("rack", "192.0.2.9", ("bare",)))


# -- sharing looks --------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_slots_and_users_of_one_host_share_one_look_and_hosts_are_looked_at_together(make, scanner) -> None:
    driver = make(
        a_node(**{"max-parallel-jobs": 3}),
        a_node(username="root", **{"host-key": OTHER_ECDSA}),
        a_node("192.0.2.2"),
    )
    scanner.keys = {"192.0.2.1": (ECDSA,), "192.0.2.2": (ED25519,)}
    scanner.gate.clear()
    async with asyncio.timeout(DEADLINE_S):
        looks = [asyncio.create_task(driver.inspect(machine)) for machine in driver.machines()]
        await until(lambda: len(scanner.asked) == 2)
        scanner.gate.set()
        *same, other_user, other_host = await asyncio.gather(*looks, return_exceptions=True)
    assert same == [Inspection((ECDSA,), public_ipv4="192.0.2.1")] * 3
    assert isinstance(other_user, KeyScanError)
    assert other_host == Inspection((ED25519,), public_ipv4="192.0.2.2")
    assert [host for _, host, *_ in scanner.asked] == ["192.0.2.1", "192.0.2.2"]


async def test_failed_look_is_shared_too(make, scanner: Scanner) -> None:
    driver = make(a_node(**{"max-parallel-jobs": 4}))
    scanner.gate.clear()
    async with asyncio.timeout(DEADLINE_S):
        looks = [asyncio.create_task(driver.inspect(machine)) for machine in driver.machines()]
        await until(lambda: len(scanner.asked) == 1)
        scanner.gate.set()
        outcomes = await asyncio.gather(*looks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ProviderUnavailableError] * 4
    assert len(scanner.asked) == 1


async def test_finished_look_is_not_used_again(make, scanner: Scanner) -> None:
    driver = make(a_node())
    scanner.keys = {"192.0.2.1": (ECDSA,)}
    await inspect(driver)
    scanner.keys = {"192.0.2.1": (OTHER_ECDSA,)}
    assert (await inspect(driver)).host_keys == (OTHER_ECDSA,)


async def test_cancelled_look_is_done_by_the_next_who_waits(make, scanner: Scanner) -> None:
    driver = make(a_node(**{"max-parallel-jobs": 2}))
    scanner.keys = {"192.0.2.1": (ECDSA,)}
    scanner.gate.clear()
    async with asyncio.timeout(DEADLINE_S):
        first, second = (asyncio.create_task(driver.inspect(machine)) for machine in driver.machines())
        await until(lambda: len(scanner.asked) == 1)
        first.cancel()
        scanner.gate.set()
        assert (await second).host_keys == (ECDSA,)
    assert first.cancelled()
    assert len(scanner.asked) == 2


# -- liveness -------------------------------------------------------------------------------------------------------


async def test_machine_is_alive_while_its_port_answers(make, scanner: Scanner) -> None:
    driver = make(a_node(timeout=3))
    (machine,) = driver.machines()
    assert not await driver.is_alive(machine)
    scanner.keys = {"192.0.2.1": ()}
    assert await driver.is_alive(machine)
    assert scanner.asked == [("reach", "192.0.2.1", 22, 3.0)] * 2


async def test_machine_that_is_not_configured_any_more_is_not_alive(make, scanner: Scanner) -> None:
    scanner.keys = {"192.0.2.1": (ECDSA,)}
    assert not await make(a_node(username="root")).is_alive(Machine("rack", "192.0.2.1", ("bare",)))
    assert scanner.asked == []


# -- nothing to launch ----------------------------------------------------------------------------------------------


async def test_nothing_is_created_listed_or_limited(make) -> None:
    driver = make(a_node())
    with pytest.raises(InsufficientCapacityError):
        await driver.create_instance(InstanceSpec("0000000001", "np0000000001", "rack", "bare", {}))
    with pytest.raises(InstanceNotFoundError):
        await driver.wait_until_active(ExternalId("192.0.2.1"))
    await driver.delete_instance(ExternalId("192.0.2.1"))
    await driver.delete_instance(ExternalId("192.0.2.1"))
    assert [instance async for instance in driver.list_instances()] == []
    assert await driver.quota_limits() == NO_LIMITS
    await driver.aclose()


async def test_labels_are_those_of_the_pools_machines(make) -> None:
    driver = make(a_node(), a_node("h2", labels=["win"], **{
        "username": "admin", "connection-type": "winrm", "connection-port": 5986, "shell-type": "powershell",
        "python-path": "none", "host-key-checking": False,
    }))  # fmt: skip
    assert await driver.label_ready("rack", "win")
    assert not await driver.label_ready("rack", "unknown")
    assert not await driver.label_ready("other pool", "win")
    assert await driver.quota_for_label("rack", "bare") == Usage(instances=1)
    with pytest.raises(LabelUnusableError):
        await driver.quota_for_label("rack", "unknown")
    assert driver.label_traits("rack", "win") == LabelTraits(
        username="admin", connection_type="winrm", connection_port=5986, shell_type="powershell", python_path="none",
        host_key_checking=False,
    )  # fmt: skip


# -- what is documented ---------------------------------------------------------------------------------------------

MANUAL = Path(__file__).parents[2] / "docs" / "drivers" / "static.md"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL))
def test_documented_configuration_loads(example: str, tmp_path: Path) -> None:
    file = tmp_path / "nodelaunch.yaml"
    file.write_text(example)
    config, warnings = load_config(file, drivers=DriverRegistry([PLUGIN]), environ={})
    assert config.providers[0].pools[0].label_names
    assert warnings == ()


def test_every_key_is_documented() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", MANUAL.read_text(), re.MULTILINE)
    assert set(rows) == {name.replace("_", "-") for name in StaticNode.model_fields}
