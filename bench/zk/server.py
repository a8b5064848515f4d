"""A real ZooKeeper server for measuring, and its own counters: operations by client, and its CPU time."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import proc
from bench.zk.rejected import rejected
from support.certificates import make_certificates
from support.zookeeper import ZooKeeperServer

JAVA_OPTIONS = ("-Xmx2g", "-XX:+UseSerialGC", "-Djute.maxbuffer=8388608")
"""Options for a heap for 100,000 znodes with their snapshots, and for the best compiler."""
WORD_TIMEOUT_S = 30.0


class Packets(NamedTuple):
    """Packets that a server received from clients (operations, pings) and sent to them (replies, events)."""

    received: int
    sent: int


def client_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Return a TLS context with a test certificate; the server's test certificates name no host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca)
    context.load_cert_chain(cert, key)
    return context


@dataclass(frozen=True)
class BenchServer:
    """A running server."""

    zookeeper: ZooKeeperServer

    @property
    def host(self) -> str:
        return self.zookeeper.host

    @property
    def port(self) -> int:
        return self.zookeeper.port

    @property
    def tls_port(self) -> int:
        return self.zookeeper.tls_port

    @property
    def cpu_s(self) -> float:
        """CPU time of the server so far, in seconds."""
        return proc.cpu_s(self.zookeeper.pid)

    def word(self, word: str, *, is_secure: bool = False) -> str:
        """Return the answer to a four-letter word, on the plain or the TLS port. Raises: OSError."""
        port = self.tls_port if is_secure else self.port
        with socket.create_connection((self.host, port), WORD_TIMEOUT_S) as plain:
            if not is_secure:
                return _asked(plain, word)
            files = self.zookeeper.certificates.client
            with client_context(files.ca, files.cert, files.key).wrap_socket(plain) as secure:
                return _asked(secure, word)

    def _connections(self, pid: int) -> list[dict[str, str]]:
        """Return the lines of ``cons`` for the open connections of process *pid*; ``cons`` lists only one port."""
        ports = proc.tcp_ports(pid)
        lines = (self.word("cons") + self.word("cons", is_secure=True)).splitlines()
        return [_items(line) for line in lines if _port(line) in ports]

    def packets(self, pid: int) -> Packets:
        """Return the packets of the open connections of process *pid*."""
        found = [Packets(int(each["recved"]), int(each["sent"])) for each in self._connections(pid)]
        return Packets(sum(each.received for each in found), sum(each.sent for each in found))

    def sessions(self, pid: int) -> set[int]:
        """Return the session ids of process *pid*, as in the server's logs: signed."""
        ids = (int(each["sid"], 16) for each in self._connections(pid))
        return {number - (1 << 64) if number >> 63 else number for number in ids}

    @property
    def zxid(self) -> int:
        """Return the zxid of the last write."""
        (line,) = (line for line in self.word("srvr").splitlines() if line.startswith("Zxid:"))
        return int(line.partition(":")[2], 16)

    def rejected(self, sessions: Collection[int], after_zxid: int) -> int:
        """Return the number of failed writes of *sessions* after *after_zxid*."""
        return rejected(self.zookeeper.data_folder, sessions, after_zxid)

    def monitor(self) -> dict[str, str]:
        """Return the values of ``mntr``, by name."""
        return dict(line.split("\t", 1) for line in self.word("mntr").splitlines() if "\t" in line)


def _asked(connection: socket.socket, word: str) -> str:
    connection.sendall(word.encode())
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ssl.SSLError:
        pass  # the server ends the connection without TLS's farewell
    return b"".join(parts).decode()


def _port(line: str) -> int | None:
    """The client's port in a line of ``cons``: `` /127.0.0.1:4711[1](queued=0,recved=7,sent=7,...)``."""
    address, bracket, _ = line.strip().partition("[")
    return int(address.rpartition(":")[2]) if bracket and address.startswith("/") else None


def _items(line: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in line.partition("(")[2].rstrip(") ").split(",") if "=" in item)


@contextmanager
def running(folder: Path) -> Iterator[BenchServer]:
    """A server with its data in *folder*; it is killed at the end."""
    server = ZooKeeperServer(
        folder / f"zookeeper-{os.getpid()}", make_certificates(folder / "certificates"), JAVA_OPTIONS
    )
    server.start()
    try:
        yield BenchServer(server)
    finally:
        server.kill()
