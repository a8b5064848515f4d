"""Finds resources that a server may leave behind: floating IPs, ports and volumes.

A floating IP names its owner in its description, a boot volume in its metadata. A port that Nova created can't carry an
owner: its server identifies it, if that server was listed with nodelaunch's metadata since the driver started.
Resources without a known owner are never touched.
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
"""Number of servers, and of volumes, that are remembered; the oldest are forgotten."""


class Leftovers:
    """The possible leftovers of one account."""

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
        """Write the owner into the metadata of the volumes that Nova created for *server*; Nova itself can't do so."""
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
        """Return possible leftovers: resources whose metadata names a node and that no listed server has."""
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
        """Delete a resource. Raises: DriverError."""
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
    """Return the entries of *metadata* that name the owner; empty if there are none."""
    marks = {key: metadata[key] for key in (METADATA_NODE_ID, METADATA_PROVIDER) if key in metadata}
    return marks if METADATA_PROVIDER in marks else {}
