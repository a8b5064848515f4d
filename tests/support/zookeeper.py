"""Real ZooKeeper servers from Debian's package, and a proxy that can break the connection at a chosen moment."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from kazoo.client import KazooClient

from support.certificates import Certificates

JAR = "/usr/share/java/zookeeper.jar"
JAVA = Path("/usr/share/java")
OTHER_CLASSPATH = os.environ.get("NODELAUNCH_ZOOKEEPER_CLASSPATH")
"""Class path of another version of the server than Debian's, with all its dependencies; ``FOLDER/*`` stands for all
jars in a folder.
"""
CLASSPATH = OTHER_CLASSPATH or ":".join(
    map(str, [JAR, JAVA / "slf4j-simple.jar", *sorted(JAVA.glob("netty-*[a-z].jar"))])
)
"""Class path with all of Netty, which TLS needs; the package's own class path lacks parts of it."""
JAVA_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Small, and quick to start."""
START_TIMEOUT_S = 60.0
TICK_MS = 500


def why_not() -> str | None:
    """Return why ZooKeeper cannot run here, or None if it can."""
    if shutil.which("java") is None:
        return "no java (Debian package default-jre-headless)"
    if not OTHER_CLASSPATH and not Path(JAR).exists():
        return "no ZooKeeper (Debian package zookeeper)"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ZooKeeperServer:
    """A server on loopback, in plaintext on ``port`` and with mutual TLS on ``tls_port``."""

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        java_options: Sequence[str] = JAVA_OPTIONS,
        *,
        number: int | None = None,
        quorum: str = "",
    ) -> None:
        """*number*, *quorum*: its number in an ensemble, and the lines of the configuration that describe that."""
        self.host = "127.0.0.1"
        self.port, self.tls_port = free_port(), free_port()
        self.certificates = certificates
        self._folder = folder
        self._java_options = java_options
        self._number, self._quorum = number, quorum
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the server's process; the server must be running."""
        assert self._process is not None
        return self._process.pid

    @property
    def data_folder(self) -> Path:
        """Return the folder of its snapshots and transaction logs."""
        return self._folder / "data"

    @property
    def output(self) -> str:
        """Return the server's output over all its starts."""
        return (self._folder / "stdout").read_text(errors="replace")

    def start(self) -> None:
        """Back when it serves, so not for the first two of an ensemble."""
        self.begin()
        self.await_ready()

    def begin(self) -> None:
        folder = self._folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        if self._number is not None:
            (folder / "data" / "myid").write_text(str(self._number))
        certs = self.certificates.folder
        (folder / "zoo.cfg").write_text(f"""
tickTime={TICK_MS}
minSessionTimeout={2 * TICK_MS}
maxSessionTimeout=60000
dataDir={folder}/data
clientPortAddress=127.0.0.1
clientPort={self.port}
secureClientPort={self.tls_port}
secureClientPortAddress=127.0.0.1
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.location={certs}/server.pem
ssl.keyStore.type=PEM
ssl.trustStore.location={certs}/ca.crt
ssl.trustStore.type=PEM
ssl.clientAuth=need
admin.enableServer=false
4lw.commands.whitelist=*
maxClientCnxns=0
{self._quorum}
""")
        command = [
            "java", *self._java_options, "-Dzookeeper.forceSync=no",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", CLASSPATH,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(folder / "zoo.cfg"),
        ]  # fmt: skip
        with (folder / "stdout").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)

    @property
    def mode(self) -> str | None:
        """``standalone``, ``leader`` or ``follower``; None: it does not serve."""
        return self._said("Mode: ")

    @property
    def zxid(self) -> int:
        """Return the zxid of the server's last known write, or -1 while it does not serve."""
        found = self._said("Zxid: ")
        return int(found, 16) if found else -1

    def _said(self, what: str) -> str | None:
        """The word after *what* in the answer to ``srvr``."""
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=5) as probe:
            probe.sendall(b"srvr")
            answer = b""
            while data := probe.recv(4096):
                answer += data
            if what.encode() in answer:
                return answer.partition(what.encode())[2].split()[0].decode()
        return None

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def await_ready(self) -> None:
        """Ask until it serves; its ports open a little before it does."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self.mode is not None:
                return
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"ZooKeeper ended: {self.output[-2000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("ZooKeeper does not serve")
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, on the same ports and data."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kazoo(self, chroot: str = "", *, timeout: float = 10.0, who: str = "client") -> KazooClient:
        """A kazoo client over TLS, as Zuul makes one, with the certificate of *who*; started, its chroot made."""
        files = self.certificates.of(who)
        options: dict[str, object] = {}
        if "check_hostname" in inspect.signature(KazooClient.__init__).parameters:
            options["check_hostname"] = False  # older ones have no such option, and don't check
        client = KazooClient(
            hosts=f"{self.host}:{self.tls_port}", use_ssl=True, certfile=files.cert, keyfile=files.key, ca=files.ca,
            timeout=timeout, **options,
        )  # fmt: skip
        client.start(timeout=30)
        if chroot:
            client.ensure_path(chroot)
            client.chroot = chroot
        return client


class Proxy:
    """A TCP proxy in front of a (plaintext) server that tests can break.

    ``cut()`` ends all connections; ``is_open = False`` refuses new ones; ``is_passing = False`` drops all incoming
    data; ``on_request``, given a frame a client sent (xid, opcode), returns whether to cut right after the server got
    it, so that its reply is lost.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.is_open = True
        self.passing = asyncio.Event()
        self.passing.set()
        self.on_request: Callable[[int, int], bool] = lambda _xid, _opcode: False
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, server_writer)
        self._writers.update(pair)
        silent = asyncio.Event()
        for work in (self._requests(reader, server_writer, silent), self._replies(server_reader, writer, silent)):
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(lambda _task: [each.transport.abort() for each in pair])
            task.add_done_callback(self._tasks.discard)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            is_first = True
            while True:
                header = await reader.readexactly(4)
                frame = await reader.readexactly(struct.unpack("!i", header)[0])
                await self.passing.wait()
                is_fatal = not is_first and self.on_request(*struct.unpack_from("!ii", frame))
                is_first = False
                if is_fatal:
                    silent.set()  # from here on no reply comes through
                writer.write(header + frame)
                await writer.drain()
                if is_fatal:
                    await asyncio.sleep(0.2)  # the server does it; then the connection ends
                    return

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.passing.wait()
                if not silent.is_set():
                    writer.write(data)
                    await writer.drain()
