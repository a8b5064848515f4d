"""Finds a ZooKeeper server that accepts the session: tries the servers in random order, at each of their addresses.

Every address of a host name is tried, each with its share of the time. A server that stopped answering is tried last.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from nodelaunch.log import Logger, get_logger
from nodelaunch.network.resolving import Resolver
from nodelaunch.store.zookeeper.connection import AuthRefusedError, ConnectionBrokenError, WireConnection

log: Logger = get_logger(__name__)

LOOK_UPS = 8
"""Names of servers that are looked up at once."""

Server = tuple[str, int]
"""Host name or address, and port."""

_OTHER_NAME = (62, 64)
"""OpenSSL's codes for a certificate of another host name, and of another address."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """This client's identity for ZooKeeper, besides its TLS certificate."""

    scheme: str
    secret: bytes = field(repr=False)

    async def prove(self, connection: WireConnection) -> None:
        """Authenticate before any request that needs it. Raises: ConnectionBrokenError, AuthRefusedError with what to
        do."""
        try:
            await connection.authenticate(self.scheme, self.secret)
        except AuthRefusedError as error:
            raise AuthRefusedError(
                f"the server refuses our {self.scheme} identity ({error}): check zookeeper-auth, and that the"
                f" server has an authentication provider for {self.scheme}"
            ) from None


class Dialer:
    """Opens connections to one of *servers*."""

    def __init__(self, servers: Sequence[Server], tls: ssl.SSLContext | None, session_timeout_s: float) -> None:
        self.servers: list[Server] = list(servers)
        self.session_timeout_s = session_timeout_s
        """The timeout that servers are asked for."""
        self.server: Server | None = None
        """The present or last server of the connection."""
        self._silent: Server | None = None
        self._tls = tls
        self._resolver = Resolver(LOOK_UPS)
        self._reported: set[tuple[Server, str]] = set()
        """Reasons logged since a server last accepted the session."""
        self.trouble: str | None = None
        """The reason why the server that was tried last could not be used; None if it could."""

    def order(self) -> list[Server]:
        """Return all servers in random order; the server that stopped answering is last."""
        servers = random.sample(self.servers, len(self.servers))
        if self._silent in servers:
            servers.remove(self._silent)
            servers.append(self._silent)
        return servers

    async def dial(
        self,
        make: Callable[[], WireConnection],
        greet: Callable[[WireConnection], Awaitable[None]],
        *,
        timeout_s: float,
    ) -> bool:
        """Try every server once, at each of its addresses, until *greet* accepts a connection. Return True if it did.

        A server has *timeout_s* for all its addresses together, but each address has one second at least. A reason why
        a server could not be used is logged only once, until a server could be used again.
        """
        for server in self.order():
            try:
                async with asyncio.timeout(timeout_s):
                    addresses = await self._addresses(*server)
            except (OSError, TimeoutError, ValueError) as error:
                self._complain(server, error)
                continue
            share_s = max(1.0, timeout_s / len(addresses))
            for host in addresses:
                try:
                    async with asyncio.timeout(share_s):
                        await greet(await self._open(server, host, make))
                except (OSError, TimeoutError, ConnectionBrokenError) as error:
                    self._complain(server, error)
                else:
                    self.server, self.trouble = server, None
                    self._reported.clear()
                    return True
        return False

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of *host*, in the order of the resolver. Raises: OSError, ValueError (the text can't be
        a name)."""
        found = await self._resolver.addresses(host, port)
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    async def _open(self, server: Server, host: str, make: Callable[[], WireConnection]) -> WireConnection:
        # No SNI unless the name is checked: certificates of ZooKeeper servers need not name the host.
        name = None if self._tls is None else server[0] if self._tls.check_hostname else ""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(make, host, server[1], ssl=self._tls, server_hostname=name)
        return connection

    def fell_silent(self) -> None:
        """Note that the connected server stopped answering: the others are tried before it from now on."""
        self._silent = self.server

    def _complain(self, server: Server, error: Exception) -> None:
        detail = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _OTHER_NAME:
            detail = (
                f"the server's certificate does not name {server[0]} ({error.verify_message}): use one that does,"
                " or set check-host-name of zookeeper-tls to false"
            )
        elif (
            self._tls is not None
            and isinstance(error, ConnectionBrokenError | ConnectionResetError)
            and not isinstance(error, AuthRefusedError)
        ):
            detail += "; the server may have refused our certificate: check its expiry date and its CA"
        self.trouble = f"{server[0]}:{server[1]}: {detail}"
        if (server, detail) not in self._reported:
            self._reported.add((server, detail))
            log.warning("zookeeper_unreachable", host=server[0], port=server[1], detail=detail)
