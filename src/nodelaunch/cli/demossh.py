"""An SSH server on loopback with real host keys that refuses every login: the static machine of the demo.

This module and `nodelaunch.network.sshscan` are the only ones that import asyncssh.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class SshEndpoint:
    """The address of an SSH server, and its host keys, each ``<type> <base64>``."""

    host: str
    port: int
    host_keys: tuple[str, ...]


@asynccontextmanager
async def demo_ssh_server(key_types: Sequence[str] = KEY_TYPES, *, port: int = 0) -> AsyncIterator[SshEndpoint]:
    """Run a server with one new host key of each of *key_types* for the duration of the block; port 0: a free port.

    Open connections are closed at the end of the block.

    Raises: OSError if the server can't listen on the port.
    """
    keys = [asyncssh.generate_private_key(key_type) for key_type in key_types]
    visitors: set[asyncssh.SSHServerConnection] = set()
    server = await asyncssh.listen(
        LOOPBACK, port, server_host_keys=keys, server_factory=lambda: _Doorkeeper(visitors), config=None,
        public_key_auth=False, password_auth=False, kbdint_auth=False, host_based_auth=False, gss_host=None,
    )  # fmt: skip
    try:
        yield SshEndpoint(
            host=LOOPBACK,
            port=server.get_port(),
            host_keys=tuple(key.export_public_key("openssh").decode("ascii").strip() for key in keys),
        )
    finally:
        server.close()
        for visitor in visitors:
            visitor.abort()
        await server.wait_closed()


class _Doorkeeper(asyncssh.SSHServer):
    """Keeps the open connections, so that the server can close them when it ends."""

    def __init__(self, visitors: set[asyncssh.SSHServerConnection]) -> None:
        self._visitors = visitors
        self._visitor: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._visitor = conn
        self._visitors.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._visitor is not None:
            self._visitors.discard(self._visitor)
