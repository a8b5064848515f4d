"""Floating IPs of nodelaunch's servers: created once, found again, deleted with the server.

A floating IP names its owner in its description, which the creating call sets. All servers that wait for a floating IP
share one reading of the lists of ports and floating IPs. addresses.py decides if a server needs one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from nodelaunch.drivers.openstack.addresses import floating_source
from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.model import FloatingIp, Networks, Port, Server
from nodelaunch.drivers.openstack.watch import SharedRead
from nodelaunch.errors import DriverError, LabelUnusableError, LaunchFailedError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_PROVIDER

_DESCRIPTION: Final = re.compile(r"nodelaunch node (\S*) of provider (.*)")


def description_of(metadata: Mapping[str, str]) -> str:
    """Return the description for a floating IP of a server with *metadata*."""
    return f"nodelaunch node {metadata.get(METADATA_NODE_ID, '')} of provider {metadata.get(METADATA_PROVIDER, '')}"


def metadata_in(description: str) -> dict[str, str]:
    """Return the owner that `description_of` wrote, or an empty mapping for a floating IP of another owner."""
    found = _DESCRIPTION.fullmatch(description)
    return {METADATA_NODE_ID: found[1], METADATA_PROVIDER: found[2]} if found else {}


log: Logger = get_logger(__name__)


class FloatingIps:
    """The floating IPs of one account."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ports = SharedRead(client.ports)
        self._ips = SharedRead(client.floating_ips)
        self._having: dict[str, asyncio.Lock] = {}
        """Locks by server id, held while a server's floating IP is looked up or created."""
        self.inside: set[str] = set()
        """Ids of networks without a router to the outside."""
        self._given: set[str] = set()
        """Ids of servers that were given a floating IP here, which the list of servers may not show yet."""
        self._without: set[str] = set()
        """Ids of servers known to have no floating IP."""

    async def ensure(self, server: Server, networks: Networks, source: str | None) -> FloatingIp | None:
        """Return the floating IP of *server*; create one, from network *source* if given, if there is none. Return None
        if the server's network has no router to the outside.

        Raises: DriverError.
        """
        async with self._having.setdefault(server.id, asyncio.Lock()):
            self._without.discard(server.id)
            ports, ips = await self._of(server.id)
            if ips:
                return ips[0]
            outside = floating_source(networks, source)
            if outside is None:
                raise LabelUnusableError(f"no network is called {source}", provider=self._client.provider)
            port, fixed_ip = self._target(server, ports, networks)
            if port.network_id in self.inside:
                self._without.add(server.id)
                return None
            self._given.add(server.id)
            try:
                made = await self._client.create_floating_ip(
                    outside.id, port, fixed_ip, description_of(server.metadata)
                )
                if made is None:
                    self._given.discard(server.id)
                    self._without.add(server.id)
                    self.inside.add(port.network_id)
                    log.info("network_without_floating_ips", provider=self._client.provider, network=port.network_id)
                return made
            except DriverError:
                _, ips = await self._of(server.id)  # another process may have created it, or the answer was lost
                if ips:
                    return ips[0]
                raise

    def _target(self, server: Server, ports: list[Port], networks: Networks) -> tuple[Port, str]:
        """Return the port and the address that the floating IP leads to."""
        outside = {network.id for network in networks.all if network.is_external}
        wanted = networks.find(networks.nat_destination) if networks.nat_destination else None
        for port in ports:
            is_right = port.network_id == wanted.id if wanted else port.network_id not in outside
            ipv4 = [ip for ip in port.fixed_ips if ":" not in ip]
            if is_right and ipv4:
                return port, ipv4[0]
        text = "no port of the server can have a floating IP"
        raise LaunchFailedError(text, provider=self._client.provider, external_id=server.id)

    async def _of(self, server_id: str) -> tuple[list[Port], list[FloatingIp]]:
        ports, ips = await asyncio.gather(self._ports.fresh(), self._ips.fresh())
        own = [port for port in ports if port.device_id == server_id]
        ids = {port.id for port in own}
        return own, [ip for ip in ips if ip.port_id in ids]

    def not_needed(self, server_id: str) -> None:
        """Note that the server has none."""
        self._without.add(server_id)

    async def release(self, server_id: str, server: Server | None, *, may_have_one: bool) -> None:
        """Delete the floating IPs of the server. *server*: the server if it was ever listed. *may_have_one*: True if
        another process may have created one. Raises: DriverError."""
        is_shown = server is not None and any(address.is_floating for address in server.addresses)
        may_have_one = may_have_one and server is not None and server_id not in self._without
        if is_shown or may_have_one or server_id in self._given:
            _, ips = await self._of(server_id)
            for ip in ips:
                await self._client.delete_floating_ip(ip.id)
        self._given.discard(server_id)
        self._without.discard(server_id)
        self._having.pop(server_id, None)

    def close(self) -> None:
        self._ports.close()
        self._ips.close()
