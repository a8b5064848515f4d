"""What may stay behind of a server: floating IPs, ports, volumes; each found by what says whose it was.

A floating IP says so in its description, a boot volume in its metadata. A port that Nova made can't be told to say
anything: it is known by the server it names, as long as that one was ever listed with our metadata since the driver was
made. What can't be attributed is not touched. What does *not* belong here: whether a node still needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.floating import metadata_in
from nodelaunch.drivers.openstack.model import Server
from nodelaunch.drivers.openstack.watch import ServerListing, ServerWatch
from nodelaunch.errors import DriverError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_PROVIDER, Resource

log: Logger = get_logger(__name__)

FLOATING_IP, PORT, VOLUME = "floating-ip", "port", "volume"
REMEMBERED: Final = 20_000
"""Servers, and volumes, that are remembered; the oldest go."""


class Leftovers:
    """One account's."""

    def __init__(self, config: OpenStackProvider, client: Client, watch: ServerWatch) -> None:
        self._config = config
        self._client = client
        self._watch = watch
        self._servers: dict[str, Mapping[str, str]] = {}
        self._volumes: dict[str, Mapping[str, str]] = {}
        self._marked: set[str] = set()
        watch.listeners.append(self._remember)

    def _remember(self, listing: ServerListing) -> None:
        for server in listing.servers.values():
            whose = _whose(server)
            if whose:
                self._servers.setdefault(server.id, whose)
                for volume_id in server.volume_ids:
                    self._volumes.setdefault(volume_id, whose)
        for known in (self._servers, self._volumes):
            while len(known) > REMEMBERED:
                del known[next(iter(known))]

    async def mark_volumes(self, server: Server) -> None:
        """Have the volumes Nova made for *server* say whose they are; Nova itself can't be told to."""
        whose = _whose(server)
        if not whose or not self._boots_from_volumes:
            return
        for volume_id in server.volume_ids:
            if volume_id in self._marked:
                continue
            try:
                await self._client.mark_volume(volume_id, whose)
            except DriverError as error:
                log.info("volume_not_marked", provider=self._config.name, volume=volume_id, detail=str(error))
            else:
                self._marked.add(volume_id)

    @property
    def _boots_from_volumes(self) -> bool:
        return any(label.boot_from_volume for pool in self._config.pools for label in pool.labels)

    # -- finding ----------------------------------------------------------------------------------------------------

    async def resources(self) -> list[Resource]:
        """What could be left over: all that belongs to a node by our account, and to no server that is listed."""
        ips, ports, volumes = await asyncio.gather(self._floating_ips(), self._ports(), self._boot_volumes())
        return [*ips, *ports, *volumes]

    async def _floating_ips(self) -> Iterable[Resource]:
        if not self._config.clean_floating_ips and not any(pool.auto_floating_ip for pool in self._config.pools):
            return ()
        found = [(ip, metadata_in(ip.description)) for ip in await self._client.floating_ips()]
        ours = [Resource(FLOATING_IP, ip.id, whose, ip.ip) for ip, whose in found if whose]
        if self._config.clean_floating_ips:
            mine = {METADATA_PROVIDER: self._config.name}
            ours += [Resource(FLOATING_IP, ip.id, mine, ip.ip) for ip, whose in found if not whose and not ip.port_id]
        return ours

    async def _ports(self) -> Iterable[Resource]:
        last = self._watch.last
        gone = [server_id for server_id in self._servers if last is None or server_id not in last.servers]
        if not self._config.port_cleanup_interval or not gone:
            return ()
        ports = await self._client.ports()
        servers = (await self._watch.fresh()).servers
        return [
            Resource(PORT, port.id, self._servers[port.device_id], f"of server {port.device_id}")
            for port in ports
            if port.is_compute and port.device_id in self._servers and port.device_id not in servers
        ]

    async def _boot_volumes(self) -> Iterable[Resource]:
        if not self._boots_from_volumes and not self._volumes:
            return ()
        volumes = await self._client.volumes()
        servers = (await self._watch.fresh()).servers
        whose = {v.id: self._volumes.get(v.id) or _marks(v.metadata) for v in volumes}
        return [
            Resource(VOLUME, volume.id, marks, f"{volume.size} GB, {volume.status}")
            for volume in volumes
            if (marks := whose[volume.id]) and not any(server_id in servers for server_id in volume.server_ids)
        ]

    async def delete(self, resource: Resource) -> None:
        """Raises: DriverError."""
        match resource.kind:
            case "floating-ip":
                await self._client.delete_floating_ip(resource.external_id)
            case "port":
                await self._client.delete_port(resource.external_id)
            case _:
                await self._client.delete_volume(resource.external_id)

    def close(self) -> None:
        self._watch.listeners.remove(self._remember)


def _whose(server: Server) -> dict[str, str]:
    return _marks(server.metadata)


def _marks(metadata: Mapping[str, str]) -> dict[str, str]:
    """Of *metadata*, what says whose something is; empty where it doesn't."""
    marks = {key: metadata[key] for key in (METADATA_NODE_ID, METADATA_PROVIDER) if key in metadata}
    return marks if METADATA_PROVIDER in marks else {}
