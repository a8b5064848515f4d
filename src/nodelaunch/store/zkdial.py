"""Finds a ZooKeeper server that takes our session: which servers, in which order, at which addresses.

Every address of a host name is tried, each with its share of the time. The server that fell silent is tried last.
What does *not* belong here: what becomes of the session (zkclient.py).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence

import structlog

from nodelaunch.resolving import Resolver
from nodelaunch.store.zkconnection import ConnectionBrokenError, WireConnection

log = structlog.get_logger(__name__)

LOOK_UPS = 8
"""Names of servers that are looked up at once."""

Server = tuple[str, int]
"""Host name or address, and port."""


class Dialer:
    """Opens connections to one of *servers*."""

    def __init__(self, servers: Sequence[Server], tls: ssl.SSLContext | None, session_timeout_s: float) -> None:
        self.servers = list(servers)
        self.session_timeout_s = session_timeout_s
        """What servers are asked for."""
        self.server: Server | None = None
        """The one we are, or were last, connected to."""
        self._silent: Server | None = None
        self._tls = tls
        self._resolver = Resolver(LOOK_UPS)
        self._is_complaining = True

    def order(self) -> list[Server]:
        """All servers at random, the one that fell silent at the end."""
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
        """Try every server once, at each of its addresses, until *greet* takes a connection; whether it did.

        A server has *timeout_s* for all its addresses together, but each address has one second at least. Why a server
        could not be used is logged, once until one could.
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
                        await greet(await self._open(host, server[1], make))
                except (OSError, TimeoutError, ConnectionBrokenError) as error:
                    self._complain(server, error)
                else:
                    self.server, self._is_complaining = server, True
                    return True
        self._is_complaining = False
        return False

    async def _addresses(self, host: str, port: int) -> list[str]:
        """The addresses of *host*, in the order of the resolver. Raises: OSError, ValueError (no name at all)."""
        found = await self._resolver.addresses(host, port)
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    async def _open(self, host: str, port: int, make: Callable[[], WireConnection]) -> WireConnection:
        # No SNI and no check of the name: certificates of ZooKeeper servers need not name the host.
        name = "" if self._tls is not None else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(make, host, port, ssl=self._tls, server_hostname=name)
        return connection

    def fell_silent(self) -> None:
        """The server we are connected to stopped answering: the others are asked before it from now on."""
        self._silent = self.server

    def _complain(self, server: Server, error: Exception) -> None:
        if self._is_complaining:
            detail = str(error) or type(error).__name__
            if self._tls is not None and isinstance(error, ConnectionBrokenError | ConnectionResetError):
                detail += (
                    "; over TLS the server may be refusing our certificate: look whether it expired, and at its CA"
                )
            log.warning("zookeeper_unreachable", host=server[0], port=server[1], detail=detail)
