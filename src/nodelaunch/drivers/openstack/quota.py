"""Computes the project's quota, the use by others, and the use by one server.

The engine counts servers: its own by their records, others from the list of instances. Ports, floating IPs and volumes
that belong to no listed server are subtracted from the limits here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from nodelaunch.config.models import VOLUME_GB, VOLUMES
from nodelaunch.drivers.openstack.addresses import floating_source
from nodelaunch.drivers.openstack.catalog import Cached, CloudCatalog
from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.config import OpenStackLabel, OpenStackPool
from nodelaunch.drivers.openstack.floating import FloatingIps
from nodelaunch.drivers.openstack.model import Flavor, Networks, Server, Share, Volume
from nodelaunch.drivers.openstack.watch import ServerWatch
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits, Usage

log: Logger = get_logger(__name__)

PORTS, FLOATING_IPS = "ports", "floating-ips"
UNBORN: Final = frozenset({"creating", "downloading"})
"""Statuses of a volume whose server is being created and is not yet named by the volume."""


class Quota:
    """The quota of one account."""

    def __init__(self, client: Client, catalog: CloudCatalog, watch: ServerWatch, floating_ips: FloatingIps) -> None:
        self._client = client
        self._catalog = catalog
        self._watch = watch
        self._floating_ips = floating_ips
        self._volumes: Cached[list[Volume]] = Cached(client.volumes)
        self._limited: frozenset[str] = frozenset()
        """Names of the resources that the network service limits. Only these are counted."""
        self._told: set[str] = set()
        """Unknown flavors that were already logged."""

    async def limits(self) -> Limits:
        """Return the limits for all servers together. Raises: DriverError."""
        compute, volume, network = await asyncio.gather(
            self._client.compute_limits(), self._client.volume_limits(), self._client.network_limits()
        )
        shares = {**compute, **volume, **network}
        self._limited = frozenset(name for name, share in network.items() if share.limit is not None)
        stray = await self._stray(shares)
        return Limits(
            {name: max(0.0, each.limit - stray[name]) for name, each in shares.items() if each.limit is not None}
        )

    async def _stray(self, shares: Mapping[str, Share]) -> Usage:
        """Return the use by resources without a server. They are listed before servers, so a new server's resources are
        not mistaken for resources without one."""
        counts = {name for name, share in shares.items() if share.limit is not None and share.used}
        ports = await self._client.ports() if counts & {PORTS, FLOATING_IPS} else []
        ips = await self._client.floating_ips() if FLOATING_IPS in counts else []
        volumes = await self._volumes.get(0.0) if counts & {VOLUMES, VOLUME_GB} else []
        servers = (await self._watch.fresh()).servers
        of_servers = {port.id for port in ports if port.device_id in servers}
        loose = [v for v in volumes if v.status not in UNBORN and not any(each in servers for each in v.server_ids)]
        return Usage({
            PORTS: len(ports) - len(of_servers),
            FLOATING_IPS: sum(ip.port_id not in of_servers for ip in ips),
            VOLUMES: len(loose),
            VOLUME_GB: sum(volume.size for volume in loose),
        })  # fmt: skip

    async def need(self, pool: OpenStackPool, label: OpenStackLabel) -> Usage:
        """Return the use of one node. Raises: DriverError, as LabelUnusableError if there is no flavor for the
        label."""
        flavor = await self._catalog.flavor(label)
        names = pool.networks_of(label)
        has_floating_ip = pool.auto_floating_ip and self._expects_floating_ip(await self._catalog.networks.get(), names)
        return self._usage(
            flavor,
            volumes=int(label.boot_from_volume),
            volume_gb=label.volume_size if label.boot_from_volume else 0,
            ports=max(1, len(names)),
            floating_ips=int(has_floating_ip),
        )

    async def of_server(self, server: Server, floating_ip: str | None = None) -> Usage:
        """Return the use of *server*, regardless of its owner. *floating_ip*: counted even if the listing lacks it.

        Raises: DriverError.
        """
        floating = {each.ip for each in server.addresses if each.is_floating} | (
            {floating_ip} if floating_ip else set()
        )
        sizes = {v.id: v.size for v in await self._volumes.get()} if server.volume_ids else {}
        return self._usage(
            server.flavor or await self._flavor(server),
            volumes=len(server.volume_ids),
            volume_gb=sum(sizes.get(volume_id, 0) for volume_id in server.volume_ids),
            ports=len({each.mac for each in server.addresses if not each.is_floating}),
            floating_ips=len(floating),
        )

    async def _flavor(self, server: Server) -> Flavor | None:
        if not server.flavor_id:
            return None
        flavor = await self._catalog.flavor_of_id(server.flavor_id)
        if flavor is None and server.flavor_id not in self._told:
            self._told.add(server.flavor_id)
            log.warning(
                "flavor_unknown", provider=self._client.provider, external_id=server.id, flavor=server.flavor_id,
                detail="the flavor is gone: this server counts as one instance, without cores and memory",
            )  # fmt: skip
        return flavor

    def _usage(self, flavor: Flavor | None, *, volumes: int, volume_gb: int, ports: int, floating_ips: int) -> Usage:
        of_network = {PORTS: ports, FLOATING_IPS: floating_ips}
        return Usage({
            INSTANCES: 1,
            CORES: flavor.vcpus if flavor else 0,
            RAM: flavor.ram if flavor else 0,
            VOLUMES: volumes,
            VOLUME_GB: volume_gb,
            **{name: count for name, count in of_network.items() if name in self._limited},
        })  # fmt: skip

    def _expects_floating_ip(self, networks: Networks, names: tuple[str, ...]) -> bool:
        """Return True if a server in the networks called *names* is expected to need a floating IP."""
        if not networks.has_floating_ips or networks.is_private or floating_source(networks) is None:
            return False
        found = [network for name in names if (network := networks.find(name))]
        if any(network.is_external for network in found):
            return False
        return not found or any(network.id not in self._floating_ips.inside for network in found)
