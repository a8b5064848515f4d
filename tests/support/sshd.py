"""A real OpenSSH server on loopback, with host keys and port of a test's choosing; and a listener that isn't one.

A test module that imports `sshd_factory` has the fixture ``sshd``. Without OpenSSH its tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SSH_KEYGEN = shutil.which("ssh-keygen")
PRIVILEGE_SEPARATION_DIR = Path("/run/sshd")
KEYGEN_ARGUMENTS = {
    "ssh-ed25519": ("-t", "ed25519"),
    "ecdsa-sha2-nistp256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-sha2-nistp384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-sha2-nistp521": ("-t", "ecdsa", "-b", "521"),
    "ssh-rsa": ("-t", "rsa", "-b", "2048"),
}
STOP_TIMEOUT_S = 10.0
DEFAULT_KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


def why_no_sshd() -> str | None:
    """Return why a real sshd cannot run here, as a reason to skip, or None if it can."""
    if SSHD is None or SSH_KEYGEN is None:
        return "sshd or ssh-keygen is not installed (Debian package openssh-server)"
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION_DIR.mkdir(mode=0o755, exist_ok=True)
    return None


class Sshd:
    """An OpenSSH server. It keeps its port when it is stopped and started; call `replace_keys` while it is stopped."""

    def __init__(self, folder: Path, key_types: Sequence[str] = DEFAULT_KEY_TYPES, *, max_startups: str = "") -> None:
        self.host = "127.0.0.1"
        self._folder = folder
        self._max_startups = max_startups
        self._process: asyncio.subprocess.Process | None = None
        self._reserved = socket.socket()
        # Bound but not listening: connections are refused, and only a server with SO_REUSEADDR gets the port.
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((self.host, 0))
        self.port: int = self._reserved.getsockname()[1]
        self.replace_keys(key_types)

    def replace_keys(self, key_types: Sequence[str]) -> None:
        """Make new host keys, exactly one of each of *key_types*. Counts from the next start."""
        for old in self._folder.glob("host_key_*"):
            old.unlink()
        for key_type in key_types:
            path = self._folder / f"host_key_{key_type}"
            command = [str(SSH_KEYGEN), "-q", "-N", "", "-C", "a comment", *KEYGEN_ARGUMENTS[key_type], "-f", str(path)]
            subprocess.run(command, check=True, timeout=60)
        self._key_types = tuple(key_types)
        (self._folder / "sshd_config").write_text("\n".join(self._settings()) + "\n")

    def _settings(self) -> list[str]:
        settings = [
            f"ListenAddress {self.host}:{self.port}",
            f"PidFile {self._folder / 'sshd.pid'}",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            *(f"HostKey {self._folder / f'host_key_{key_type}'}" for key_type in self._key_types),
        ]
        return [*settings, f"MaxStartups {self._max_startups}"] if self._max_startups else settings

    @property
    def host_keys(self) -> set[str]:
        """``<type> <base64>`` of each key, from the ``.pub`` files."""
        lines = [path.read_text() for path in self._folder.glob("host_key_*.pub")]
        return {" ".join(line.split()[:2]) for line in lines}

    async def start(self) -> None:
        """Start the server; it may not listen yet when this returns."""
        with (self._folder / "sshd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(SSHD), "-D", "-e", "-f", str(self._folder / "sshd_config"),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    async def stop(self) -> None:
        """End the server and wait until connections are refused; asked twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await self._refusing()

    async def _refusing(self) -> None:
        """A child that was just forked for a connection has the listening socket for a moment longer."""
        async with asyncio.timeout(STOP_TIMEOUT_S):
            with suppress(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection(self.host, self.port)
                    writer.close()

    async def aclose(self) -> None:
        """`stop`, and let go of the port."""
        self._reserved.close()
        await self.stop()


SshdFactory = Callable[..., Sshd]


@pytest.fixture(name="sshd")
async def sshd_factory(tmp_path: Path) -> AsyncIterator[SshdFactory]:
    """Makes `Sshd` servers, not started yet, and stops them after the test."""
    reason = why_no_sshd()
    if reason is not None:
        pytest.skip(reason)
    servers: list[Sshd] = []

    def make(key_types: Sequence[str] = DEFAULT_KEY_TYPES, *, max_startups: str = "") -> Sshd:
        folder = tmp_path / f"sshd{len(servers)}"
        folder.mkdir()
        servers.append(Sshd(folder, key_types, max_startups=max_startups))
        return servers[-1]

    yield make
    for server in servers:
        await server.aclose()


class Listener:
    """A TCP listener on loopback that sends given text, and records how its connections end."""

    def __init__(self, greeting: bytes, *, hangs_up: bool) -> None:
        self._greeting = greeting
        self._hangs_up = hangs_up
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self.open = 0
        self.most_open = 0
        self._changed = asyncio.Condition()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(+1)
        try:
            writer.write(self._greeting)
            while await reader.read(4096) and not self._hangs_up:
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open += change
            self.accepted += change > 0
            self.most_open = max(self.most_open, self.open)
            self._changed.notify_all()

    async def until(self, condition: Callable[[Listener], bool]) -> None:
        """Wait until *condition* holds of this listener."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))


@asynccontextmanager
async def listening(greeting: bytes = b"", *, hangs_up: bool = False) -> AsyncIterator[Listener]:
    """A `Listener` that sends *greeting* on each connection, and hangs up when it is spoken to or only reads on.

    At the end of the block no connection may be left: it waits for their ends.
    """
    listener = Listener(greeting, hangs_up=hangs_up)
    server = await asyncio.start_server(listener.handle, listener.host, 0)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener
        await listener.until(lambda it: it.open == 0)
