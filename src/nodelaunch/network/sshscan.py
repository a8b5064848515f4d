"""Scans of SSH host keys and of reachability; also creates new host keys.

A scan has two steps. First, it connects repeatedly until the server sends its key exchange offer: that proves a working
sshd, not just an open port, and lists the types of host keys. Then it runs one key exchange for each offered type, all
at once. A type that the server does not offer costs no connection, because servers may limit unauthenticated
connections (``MaxStartups``, ``PerSourcePenalties``). sshclient.py has the key exchange itself. Source: RFC 4253,
sections 4.2, 6 and 7.1.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final

from nodelaunch.errors import KeyScanError
from nodelaunch.log import Logger, get_logger
from nodelaunch.network.resolving import Resolver
from nodelaunch.protocol.driver import HostScanner

log: Logger = get_logger(__name__)

MAX_SCANS: Final = 100
"""Number of scans that one scanner runs at the same time; others wait. Source: Nodepool 11."""
TRY_TIMEOUT_S: Final = 10.0
"""Time limit of one connection attempt, and of one key exchange. Source: Nodepool 11."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0
"""First and longest pause between tries; the pause doubles each time."""
_NO_BANNER: Final = "connected, but no SSH banner came"
KEY_TRIES: Final = 3
"""Number of failed key exchanges, after the server's identification, before a key type is left out."""
MAX_OFFER_BYTES: Final = 65536
"""Number of bytes without a key exchange offer after which a server counts as no SSH server."""

KEY_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ssh-ed448": ("ssh-ed448",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"),
}
"""Key types in the order they are reported, each with its signature algorithms, best first."""

_NOT_RESOLVED = "name not resolved in time"
_NO_ANSWER = "connection attempt timed out"
_OUR_BANNER = b"SSH-2.0-nodelaunch\r\n"
_PACKET_HEADER_BYTES = 5  # four of length, one of padding length
_MAX_PACKET_BYTES = 35000
_COOKIE_BYTES = 16
_MSG_IGNORE, _MSG_DEBUG, _MSG_KEXINIT = 2, 4, 20

Address = tuple[str, int]


class SshScanner:
    """`HostScanner` over real connections. Needs a running event loop only when used."""

    def __init__(self, *, max_scans: int = MAX_SCANS) -> None:
        self._turns = asyncio.Semaphore(max_scans)
        self._resolver = Resolver(max_scans)

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        """Return one ``<type> <base64>`` for each key type of `KEY_TYPES` that the server has, in that order.

        *timeout_s* counts from the scan's turn. At its end, the keys fetched so far are returned. Raises: KeyScanError
        when there are none, when the name does not exist, or when the server has no known key type.
        """
        async with self._turns:
            scan = _Scan(self._resolver, host, port)
            try:
                async with asyncio.timeout(timeout_s):
                    await scan.run()
            except TimeoutError:
                if not scan.keys:
                    raise scan.error(f"within {round(timeout_s, 1):g} s") from None
            if scan.missing:
                log.warning("host_keys_incomplete", host=host, port=port, missing=scan.missing, detail=scan.last)
            return tuple(scan.keys[key_type] for key_type in KEY_TYPES if key_type in scan.keys)

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        """Wait until a TCP connection succeeds; close it at once.

        Raises: KeyScanError after *timeout_s*, or when the name does not exist.
        """
        scan = _Scan(self._resolver, host, port)
        try:
            async with asyncio.timeout(timeout_s):
                (await scan.connect()).close()
        except TimeoutError:
            raise scan.error(f"within {round(timeout_s, 1):g} s") from None

    async def log_in(
        self, host: str, port: int, *, username: str, key_file: str, host_keys: Sequence[str], timeout_s: float
    ) -> None:
        """Wait until *username* can log in with the private key in *key_file*, at a server that has one of *host_keys*.

        Raises: KeyScanError after *timeout_s*, or at once when the file can't be read as a key without a passphrase.
        """
        await _loaded()
        from nodelaunch.network import sshclient

        options = sshclient.login_options(username, key_file, host_keys, timeout_s=TRY_TIMEOUT_S)
        last = _NO_ANSWER
        try:
            async with asyncio.timeout(timeout_s):
                for pause in _pauses():
                    try:
                        await sshclient.log_in(host, port, options)
                        return
                    except sshclient.LOGIN_FAILURES as error:
                        last = str(error) or type(error).__name__
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise KeyScanError(f"{host} port {port}: {username} could not log in in time: {last}") from None


class FakeHostsScanner:
    """A scanner for demonstrations: hosts with ``fake`` in their name answer at once; others go to the real scanner."""

    HOST_KEY: Final = "ssh-rsa FAKEKEY"

    def __init__(self, real: HostScanner) -> None:
        self._real = real

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        if "fake" in host:
            return (self.HOST_KEY,)
        return await self._real.host_keys(host, port, timeout_s=timeout_s)

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        if "fake" not in host:
            await self._real.reach(host, port, timeout_s=timeout_s)


class _Scan:
    """Scan of one host: the keys so far, and the last event, for the error text."""

    def __init__(self, resolver: Resolver, host: str, port: int) -> None:
        self._resolver = resolver
        self._host = host
        self._port = port
        self._offered: tuple[str, ...] = ()
        self.keys: dict[str, str] = {}
        self.last = _NOT_RESOLVED

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the key types that were offered but not fetched."""
        return tuple(key_type for key_type in self._offered if key_type not in self.keys)

    def error(self, when: str) -> KeyScanError:
        return KeyScanError(f"{self._host} port {self._port} not usable {when}: {self.last}")

    async def run(self) -> None:
        """Fill ``keys``. The caller sets the deadline.

        Raises: KeyScanError when a longer wait would not help.
        """
        address, algorithms = await self._await_offer()
        self._offered = tuple(name for name, uses in KEY_TYPES.items() if not algorithms.isdisjoint(uses))
        if not self._offered:
            self.last = f"the server has only host keys of unknown types ({', '.join(sorted(algorithms)) or 'none'})"
        await _loaded()
        async with asyncio.TaskGroup() as group:
            for key_type in self._offered:
                group.create_task(self._fetch(address, key_type), name=f"{key_type} of {self._host}")
        if not self.keys:
            raise self.error("for a host key scan")

    async def connect(self) -> socket.socket:
        """Return a connection to the host, with retries until it succeeds.

        Raises: KeyScanError when the name does not exist.
        """
        pauses = _pauses()
        while True:
            try:
                return await self._connect_once()
            except socket.gaierror as error:
                self.last = f"name not resolved: {error.strerror}"
                if error.errno != socket.EAI_AGAIN:
                    raise self.error("at all") from None
            except UnicodeError as error:
                self.last = f"not a host name: {error}"
                raise self.error("at all") from None
            except OSError as error:
                self.last = _described(error)
            await asyncio.sleep(next(pauses))

    async def _connect_once(self) -> socket.socket:
        """Try each address of the host, each for its share of the time limit of one try."""
        found = await self._resolver.addresses(self._host, self._port)
        self.last = _NO_ANSWER if self.last == _NOT_RESOLVED else self.last
        failure = OSError("name has no address")
        for family, kind, protocol, _, address in found:
            try:
                async with asyncio.timeout(TRY_TIMEOUT_S / len(found)):
                    return await _connected(family, kind, protocol, address)
            except OSError as error:
                failure = error
        raise failure

    async def _await_offer(self) -> tuple[Address, frozenset[str]]:
        """Return the server's address and the host key algorithms it offers there, with retries until it answers."""
        pauses = _pauses()
        told: str | None = None
        """Result of the try before, reported while this try runs."""
        while True:
            with await self.connect() as sock:
                self.last = told or _NO_BANNER
                try:
                    async with asyncio.timeout(TRY_TIMEOUT_S):
                        return _address_of(sock), await self._read_offer(sock)
                except NotSshError as error:
                    self.last = told = str(error)
                except OSError as error:
                    self.last = told = _NO_BANNER if isinstance(error, TimeoutError) else _described(error)
            await asyncio.sleep(next(pauses))

    async def _read_offer(self, sock: socket.socket) -> frozenset[str]:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, _OUR_BANNER)
        data = b""
        while chunk := await loop.sock_recv(sock, 4096):
            data += chunk
            offer = parse_offer(data)
            if offer is not None:
                return offer
            if len(data) > MAX_OFFER_BYTES:
                raise NotSshError("the server answers, but not with SSH")
        raise NotSshError("the server closed the connection without an SSH key exchange")

    async def _fetch(self, address: Address, key_type: str) -> None:
        """Fetch one key by a key exchange that accepts no other type.

        A server that closes the connection before its banner is busy or restarting: retry until the deadline. A server
        that fails later may never succeed with this type: after some tries the scan goes without it.
        """
        from nodelaunch.network import sshclient

        failures = 0
        pauses = _pauses()
        while failures < KEY_TRIES:
            client = sshclient.SshClient()
            try:
                async with asyncio.timeout(TRY_TIMEOUT_S):
                    self.keys[key_type] = await sshclient.host_key(*address, KEY_TYPES[key_type], client)
                return
            except Exception as error:  # noqa: BLE001  asyncssh passes on any error that the peer's bytes cause
                self.last = f"no {key_type} key: {str(error) or type(error).__name__}"
                failures += client.was_greeted
            await asyncio.sleep(next(pauses))


async def _loaded() -> None:
    """Import sshclient.py, the first time in a thread because that takes a while."""
    await asyncio.to_thread(import_module, "nodelaunch.network.sshclient")


async def new_host_key() -> tuple[str, str]:
    """Return a new Ed25519 key for a machine: the private key in OpenSSH's file format, and the public key as in
    records."""
    await _loaded()
    from nodelaunch.network import sshclient

    return sshclient.new_host_key()


# -- connecting -----------------------------------------------------------------------------------------------------


def _pauses() -> Iterator[float]:
    """Yield the pause after each try, in seconds, without end."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(LAST_PAUSE_S, pause * 2)


async def _connected(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _address_of(sock: socket.socket) -> Address:
    """Return the address that *sock* is connected to, so that all keys come from one machine even if its name has
    several."""
    host, port, *ipv6 = sock.getpeername()
    return (f"{host}%{ipv6[1]}" if ipv6 and ipv6[1] else host), port


def _described(error: OSError) -> str:
    """Return the error as a phrase: "Connection refused", "No route to host", ..."""
    if isinstance(error, TimeoutError):
        return _NO_ANSWER
    return os.strerror(error.errno) if error.errno else str(error)


# -- reading the server's offer -------------------------------------------------------------------------------------


class NotSshError(Exception):
    """The server's bytes are not the start of an SSH connection."""


def parse_offer(data: bytes) -> frozenset[str] | None:
    """Return the host key algorithms in the server's bytes so far, or None while its offer is incomplete.

    Raises: NotSshError when the bytes can't become an offer.
    """
    packets = _after_banner(data)
    while packets is not None and len(packets) > _PACKET_HEADER_BYTES:
        length, padding = int.from_bytes(packets[:4], "big"), packets[4]
        if not padding + 2 <= length <= _MAX_PACKET_BYTES:
            raise NotSshError("malformed SSH packet")
        end = 4 + length
        if len(packets) < end:
            return None
        payload, packets = packets[_PACKET_HEADER_BYTES : end - padding], packets[end:]
        if payload[0] == _MSG_KEXINIT:
            return _host_key_algorithms(payload)
        if payload[0] not in (_MSG_IGNORE, _MSG_DEBUG):
            raise NotSshError(f"SSH message {payload[0]} came in place of a key exchange offer")
    return None


def _after_banner(data: bytes) -> bytes | None:
    """Return the bytes after the server's identification; other lines may come before it. Return None if it is
    incomplete."""
    while True:
        line, newline, data = data.partition(b"\n")
        if not newline:
            return None
        if line.startswith(b"SSH-"):
            return data


def _host_key_algorithms(payload: bytes) -> frozenset[str]:
    """Return the second name list of a key exchange offer."""
    start = 1 + _COOKIE_BYTES
    start += 4 + int.from_bytes(payload[start : start + 4], "big")
    end = start + 4 + int.from_bytes(payload[start : start + 4], "big")
    if end > len(payload):
        raise NotSshError("malformed key exchange offer")
    names = payload[start + 4 : end].decode("ascii", errors="replace")
    return frozenset(filter(None, names.split(",")))
