"""`SshScanner` against servers in this process, on loopback; offers are also parsed without any."""

from __future__ import annotations

import asyncio
import socket

import pytest

from nodelaunch.cli.demossh import demo_ssh_server
from nodelaunch.errors import KeyScanError
from nodelaunch.network import sshclient, sshscan
from nodelaunch.network.sshscan import FakeHostsScanner, NotSshError, SshScanner, parse_offer
from nodelaunch.protocol.driver import HostScanner
from support.sshd import listening

DEADLINE_S = 30.0
BANNER = b"SSH-2.0-test\r\n"


def name_list(*names: str) -> bytes:
    text = ",".join(names).encode()
    return len(text).to_bytes(4, "big") + text


def packet(payload: bytes) -> bytes:
    padding = 8
    return (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


def offer(*host_key_algorithms: str) -> bytes:
    rest = [name_list(name) for name in ("aes256-ctr", "hmac-sha2-256", "none", "") for _ in ("to server", "to client")]
    return packet(
        bytes([20]) + bytes(16) + name_list("curve25519-sha256") + name_list(*host_key_algorithms) + b"".join(rest)
        + bytes(5)
    )  # fmt: skip


@pytest.fixture
def scanner() -> SshScanner:
    return SshScanner()


def test_scanners_have_the_port(scanner: SshScanner) -> None:
    assert isinstance(scanner, HostScanner)
    assert isinstance(FakeHostsScanner(scanner), HostScanner)


# -- the offer ------------------------------------------------------------------------------------------------------


def test_offer_is_read_byte_by_byte() -> None:
    data = b"Welcome\r\nto my server\n" + BANNER + offer("ssh-ed25519", "rsa-sha2-512")
    for end in range(len(data)):
        assert parse_offer(data[:end]) is None
    assert parse_offer(data) == {"ssh-ed25519", "rsa-sha2-512"}
    assert parse_offer(data + b"more") == {"ssh-ed25519", "rsa-sha2-512"}


def test_offer_may_follow_ignore_and_debug_messages() -> None:
    assert parse_offer(BANNER + packet(bytes([2]) + b"chaff") + packet(bytes([4])) + offer("ssh-rsa")) == {"ssh-rsa"}


def test_empty_offer_names_nothing() -> None:
    assert parse_offer(BANNER + offer()) == frozenset()


@pytest.mark.parametrize(
    "data",
    [
        packet(bytes([1]) + b"too many connections"),
        b"\xff\xff\xff\xff\x00.",
        b"\x00\x00\x00\x00\x00.",
        b"\x00\x00\x00\x05\x09.",
        packet(bytes([20]) + bytes(16) + b"\x00\x00\xff\xff"),
        packet(bytes([20])),
    ],
    ids=["disconnect", "too-long", "empty", "all-padding", "name-list-too-long", "no-cookie"],
)
def test_other_starts_are_not_an_offer(data: bytes) -> None:
    with pytest.raises(NotSshError):
        parse_offer(BANNER + data)


# -- keys -----------------------------------------------------------------------------------------------------------


async def test_scan_gives_every_key_in_fixed_order(scanner: SshScanner) -> None:
    types = ["ssh-rsa", "ecdsa-sha2-nistp384", "ssh-ed448", "ssh-ed25519"]
    async with asyncio.timeout(DEADLINE_S), demo_ssh_server(types) as server:
        keys = await scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)
    by_type = {key.split()[0]: key for key in server.host_keys}
    assert keys == tuple(by_type[name] for name in ("ssh-ed25519", "ssh-ed448", "ecdsa-sha2-nistp384", "ssh-rsa"))


async def test_types_that_are_not_offered_cost_no_connection(scanner: SshScanner) -> None:
    async with asyncio.timeout(DEADLINE_S), listening(BANNER + offer("ssh-dss")) as server:
        with pytest.raises(KeyScanError, match=r"only host keys of unknown types \(ssh-dss\)"):
            await scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)
        assert server.accepted == 1


async def test_key_exchanges_that_fail_for_good_are_given_up(scanner: SshScanner) -> None:
    async with asyncio.timeout(DEADLINE_S), listening(BANNER + offer("ssh-ed25519"), hangs_up=True) as server:
        with pytest.raises(KeyScanError, match=r"for a host key scan: no ssh-ed25519 key: "):
            await scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)
        assert server.accepted == 1 + sshscan.KEY_TRIES


async def test_keys_that_came_before_the_deadline_count(scanner: SshScanner, monkeypatch: pytest.MonkeyPatch) -> None:
    host_key = sshclient.host_key

    async def rsa_never_comes(host, port, algorithms, client):
        if "ssh-rsa" in algorithms:
            await asyncio.get_running_loop().create_future()
        return await host_key(host, port, algorithms, client)

    monkeypatch.setattr(sshclient, "host_key", rsa_never_comes)
    async with asyncio.timeout(DEADLINE_S), demo_ssh_server(["ssh-ed25519", "ssh-rsa"]) as server:
        keys = await scanner.host_keys(server.host, server.port, timeout_s=2)
    assert keys == server.host_keys[:1]


# -- hosts that are no use ------------------------------------------------------------------------------------------


async def test_silent_port_fails_the_scan_but_can_be_reached(scanner: SshScanner) -> None:
    async with asyncio.timeout(DEADLINE_S), listening() as server:
        with pytest.raises(KeyScanError, match=rf"127\.0\.0\.1 port {server.port} .* no SSH banner came"):
            await scanner.host_keys(server.host, server.port, timeout_s=0.2)
        await scanner.reach(server.host, server.port, timeout_s=DEADLINE_S)


async def test_what_the_try_before_found_is_told_when_the_last_is_cut_short(
    scanner: SshScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def read_offer(_self: object, _sock: object) -> frozenset[str]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise sshscan.NotSshError("the server answers, but not with SSH")
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(sshscan._Scan, "_read_offer", read_offer)
    async with asyncio.timeout(DEADLINE_S), listening() as server:
        with pytest.raises(KeyScanError, match="answers, but not with SSH"):
            await scanner.host_keys(server.host, server.port, timeout_s=0.5)
        assert tries == 2


async def test_silent_try_is_followed_by_another(scanner: SshScanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshscan, "TRY_TIMEOUT_S", 0.05)
    async with asyncio.timeout(DEADLINE_S), listening() as server, asyncio.TaskGroup() as group:
        scan = group.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S))
        await server.until(lambda it: it.accepted == 2)
        scan.cancel()


@pytest.mark.parametrize(
    ("greeting", "hangs_up", "message"),
    [
        (b"", True, "closed the connection"),
        (b"Not allowed at this time\r\n", True, "closed the connection"),
        (BANNER, True, "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 3000, False, "answers, but not with SSH"),
        (BANNER + b"\xff" * 8, False, "malformed SSH packet"),
    ],
)
async def test_port_without_ssh_is_tried_until_the_deadline(
    scanner: SshScanner, greeting: bytes, hangs_up: bool, message: str
) -> None:
    async with asyncio.timeout(DEADLINE_S), listening(greeting, hangs_up=hangs_up) as server:
        scan = asyncio.create_task(scanner.host_keys(server.host, server.port, timeout_s=1))
        await server.until(lambda it: it.accepted >= 2)
        with pytest.raises(KeyScanError, match=message):
            await scan


async def test_refused_connection_is_named(scanner: SshScanner) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with asyncio.timeout(DEADLINE_S):
            for ask in (scanner.host_keys, scanner.reach):
                with pytest.raises(KeyScanError, match=rf"^127\.0\.0\.1 port {port} .*0\.2 s: Connection refused$"):
                    await ask("127.0.0.1", port, timeout_s=0.2)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70])
async def test_name_that_does_not_exist_fails_at_once(
    scanner: SshScanner, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("invalid"):
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with asyncio.timeout(DEADLINE_S):
        for ask in (scanner.host_keys, scanner.reach):
            with pytest.raises(KeyScanError, match=r"name not resolved|not a host name"):
                await ask(host, 22, timeout_s=10 * DEADLINE_S)


async def test_name_server_trouble_is_waited_out(scanner: SshScanner, monkeypatch: pytest.MonkeyPatch) -> None:
    getaddrinfo = socket.getaddrinfo
    answers = iter([socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")])

    def fails_once(*args, **kwargs):
        for failure in answers:
            raise failure
        return getaddrinfo(*args, **kwargs)

    async with asyncio.timeout(DEADLINE_S), listening() as server:
        monkeypatch.setattr(socket, "getaddrinfo", fails_once)
        await scanner.reach("localhost", server.port, timeout_s=DEADLINE_S)
        assert server.accepted <= 1


async def test_every_address_of_a_name_is_tried(scanner: SshScanner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with asyncio.timeout(DEADLINE_S), demo_ssh_server(["ssh-ed25519"]) as server:
            both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in
                    (closed.getsockname(), (server.host, server.port))]  # fmt: skip

            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
            keys = await scanner.host_keys("two-addresses", server.port, timeout_s=DEADLINE_S)
    assert keys == server.host_keys


# -- manners --------------------------------------------------------------------------------------------------------


async def test_cancelled_scan_closes_its_connection(scanner: SshScanner) -> None:
    async with asyncio.timeout(DEADLINE_S), listening() as server:
        scan = asyncio.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S))
        await server.until(lambda it: it.open == 1)
        scan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scan
        await server.until(lambda it: it.open == 0)


async def test_scan_cancelled_in_its_key_exchanges_closes_all_of_them(scanner: SshScanner) -> None:
    async with asyncio.timeout(DEADLINE_S), listening(BANNER + offer("ssh-ed25519", "rsa-sha2-256")) as server:
        scan = asyncio.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S))
        await server.until(lambda it: it.accepted == 3 and it.open == 2)
        scan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scan
        await server.until(lambda it: it.open == 0)


async def test_no_more_scans_at_once_than_allowed() -> None:
    scanner = SshScanner(max_scans=2)
    async with asyncio.timeout(DEADLINE_S), listening() as server:
        scans = [
            asyncio.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S)) for _ in range(5)
        ]
        for turn, scan in enumerate(scans, start=1):
            await server.until(lambda it, turn=turn: it.accepted >= turn)
            scan.cancel()
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in await gather(scans))
        assert server.most_open <= 2


async def gather(tasks: list[asyncio.Task]) -> list:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_reaching_does_not_wait_for_scans() -> None:
    scanner = SshScanner(max_scans=1)
    async with asyncio.timeout(DEADLINE_S), listening() as server:
        scan = asyncio.create_task(scanner.host_keys(server.host, server.port, timeout_s=DEADLINE_S))
        await server.until(lambda it: it.open == 1)
        await scanner.reach(server.host, server.port, timeout_s=DEADLINE_S)
        assert not scan.done()
        scan.cancel()
        await gather([scan])


# -- fake hosts -----------------------------------------------------------------------------------------------------


async def test_fake_hosts_answer_without_network_and_others_are_real(scanner: SshScanner) -> None:
    fakes = FakeHostsScanner(scanner)
    async with asyncio.timeout(DEADLINE_S), demo_ssh_server(["ssh-ed25519"]) as server:
        assert await fakes.host_keys("fake-host-1", 22, timeout_s=0) == ("ssh-rsa FAKEKEY",)
        await fakes.reach("fake-host-1", 22, timeout_s=0)
        assert await fakes.host_keys(server.host, server.port, timeout_s=DEADLINE_S) == server.host_keys
        await fakes.reach(server.host, server.port, timeout_s=DEADLINE_S)
    with pytest.raises(KeyScanError):
        await fakes.reach(server.host, server.port, timeout_s=0.1)
