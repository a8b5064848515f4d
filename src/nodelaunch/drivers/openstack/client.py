"""The cloud's calls as coroutines: each runs one call of openstacksdk in a thread and returns plain data.

This is the only file that calls openstacksdk. Each lane of the bridge opens its own connection at its first call, so no
lane waits for another lane's sockets. Errors are raised as `DriverError`.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from nodelaunch import __version__
from nodelaunch.drivers.openstack.bridge import Bridge, Lane
from nodelaunch.drivers.openstack.errors import NO_ROUTE_CODE, Refusal, begins, refusal_of, translated, without
from nodelaunch.drivers.openstack.model import (
    Address,
    Flavor,
    FloatingIp,
    Image,
    Network,
    Networks,
    Port,
    Server,
    Share,
    Volume,
)
from nodelaunch.errors import DriverError, ProviderUnavailableError

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 60.0
"""Time limit of each HTTP request if ``clouds.yaml`` has no ``api_timeout``. The SDK itself has no limit."""
REQUESTS_PER_CALL: Final = 2
"""A call may first need a new token. Its deadline allows this number of requests that use their full time limit."""
CONSOLE_LINES: Final = 200
APP_NAME: Final = "nodelaunch"


class Client:
    """Client of one account in one region of a cloud. Use it from one event loop, and `aclose` it."""

    def __init__(self, provider: str, *, cloud: str, region: str | None, interval_s: float) -> None:
        """*interval_s*: minimum time between two calls."""
        self.provider = provider
        self._cloud = cloud
        self._region = region
        self._bridge = Bridge(provider, interval_s=interval_s)
        self._connections: dict[Lane, Any] = {}
        self._connecting = {lane: threading.Lock() for lane in Lane}
        self._request_timeout_s = REQUEST_TIMEOUT_S

    # -- calling ----------------------------------------------------------------------------------------------------

    async def _call(
        self,
        lane: Lane,
        what: str,
        call: Callable[[Any], T],
        *,
        external_id: str | None = None,
        is_create: bool = False,
        secret: str | None = None,
    ) -> T:
        """Return the result of *call* on the lane's connection. *secret*: text that errors must not contain, even if
        the cloud's error does.

        Raises: DriverError; asyncio.CancelledError, after which the call may still take effect (`settled`).
        """
        timeout_s = REQUESTS_PER_CALL * self._request_timeout_s
        try:
            return await self._bridge.run(lane, partial(self._on_connection, lane, call), timeout_s=timeout_s)
        except TimeoutError:
            text = f"{what}: no answer within {timeout_s:g} s"
            raise ProviderUnavailableError(text, provider=self.provider, external_id=external_id) from None
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            if secret and begins(secret) in f"{refusal.message} {error}":
                refusal = replace(refusal, message=without(secret, refusal.message))
                raise self._error(refusal, what, external_id, is_create=is_create) from None
            raise self._error(refusal, what, external_id, is_create=is_create) from error

    def _error(self, refusal: Refusal, what: str, external_id: str | None, *, is_create: bool) -> DriverError:
        return translated(refusal, what, provider=self.provider, external_id=external_id, is_create=is_create)

    def _on_connection(self, lane: Lane, call: Callable[[Any], T]) -> T:
        with self._connecting[lane]:
            if lane not in self._connections:
                self._connections[lane] = self._connect()
        return call(self._connections[lane])

    def _connect(self) -> Any:
        from openstack.config import OpenStackConfig
        from openstack.connection import Connection

        loader = OpenStackConfig(app_name=APP_NAME, app_version=__version__)
        region = loader.get_one(cloud=self._cloud, region_name=self._region or "")
        session = region.get_session()
        if session.timeout is None:
            session.timeout = REQUEST_TIMEOUT_S
        self._request_timeout_s = float(session.timeout)
        return Connection(config=region)

    async def settled(self) -> None:
        """Wait for the end of calls whose callers are gone."""
        await self._bridge.settled()

    async def aclose(self) -> None:
        await self._bridge.aclose()
        connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.session.session.close()

    # -- servers ----------------------------------------------------------------------------------------------------

    async def servers(self) -> list[Server]:
        return await self._call(Lane.READ, "list servers", lambda c: [_server(s) for s in c.compute.servers()])

    async def server(self, server_id: str) -> Server | None:
        """Return the server, or None if it does not exist."""
        get = _if_there(lambda c: _server(c.compute.get_server(server_id)))
        return await self._call(Lane.READ, f"get server {server_id}", get, external_id=server_id)

    async def create_server(self, what: str, body: Mapping[str, Any]) -> str:
        """Create a server and return its id. *body*: attributes with openstacksdk's names."""
        return await self._call(
            Lane.CREATE,
            what,
            lambda c: str(c.compute.create_server(**body).id),
            is_create=True,
            secret=body.get("user_data"),
        )

    async def delete_server(self, server_id: str) -> None:
        """Request the deletion of a server. A server that does not exist is no error."""
        await self._call(
            Lane.DELETE,
            f"delete server {server_id}",
            lambda c: c.compute.delete_server(server_id, ignore_missing=True),
            external_id=server_id,
        )

    async def console(self, server_id: str) -> str | None:
        answer = await self._call(
            Lane.READ,
            f"console of {server_id}",
            lambda c: c.compute.get_server_console_output(server_id, length=CONSOLE_LINES),
            external_id=server_id,
        )
        return str(answer.get("output") or "") or None

    # -- parts of servers -------------------------------------------------------------------------------------------

    async def flavors(self) -> list[Flavor]:
        return await self._call(Lane.READ, "list flavors", lambda c: [_flavor(f) for f in c.compute.flavors()])

    async def flavor(self, flavor_id: str) -> Flavor | None:
        """Return a flavor that is not listed, or None if it does not exist."""
        get = _if_there(lambda c: _flavor(c.compute.get_flavor(flavor_id)))
        return await self._call(Lane.READ, f"get flavor {flavor_id}", get)

    async def images(self, name: str) -> list[Image]:
        """Return bootable images called *name*."""
        return await self._call(
            Lane.READ,
            f"find image {name}",
            lambda c: [_image(image) for image in c.image.images(name=name, status="active")],
        )

    async def image_of_id(self, image_id: str) -> Image | None:
        def get(connection: Any) -> Image | None:
            from openstack.exceptions import NotFoundException

            try:
                image = connection.image.get_image(image_id)
            except NotFoundException:
                return None
            return _image(image) if image.status == "active" else None

        return await self._call(Lane.READ, f"get image {image_id}", get)

    async def networks(self) -> Networks:
        return await self._call(Lane.READ, "list networks", _networks)

    async def zones(self) -> list[str]:
        def names(connection: Any) -> list[str]:
            return [zone.name for zone in connection.compute.availability_zones() if zone.state.get("available", True)]

        return await self._call(Lane.READ, "list availability zones", names)

    async def server_groups(self) -> dict[str, str]:
        """Return ids by name, and by id."""

        def ids(connection: Any) -> dict[str, str]:
            groups = list(connection.compute.server_groups())
            return {**{group.name: group.id for group in groups}, **{group.id: group.id for group in groups}}

        return await self._call(Lane.READ, "list server groups", ids)

    # -- used by servers --------------------------------------------------------------------------------------------

    async def ports(self) -> list[Port]:
        return await self._call(Lane.READ, "list ports", lambda c: [_port(port) for port in _own(c, c.network.ports)])

    async def delete_port(self, port_id: str) -> None:
        await self._call(
            Lane.DELETE, f"delete port {port_id}", lambda c: c.network.delete_port(port_id, ignore_missing=True)
        )

    async def floating_ips(self) -> list[FloatingIp]:
        return await self._call(
            Lane.READ, "list floating IPs", lambda c: [_floating_ip(ip) for ip in _own(c, c.network.ips)]
        )

    async def create_floating_ip(
        self, network_id: str, port: Port, fixed_ip: str, description: str
    ) -> FloatingIp | None:
        """Create a floating IP, or return None if no router connects the port's network to that network."""

        def create(connection: Any) -> FloatingIp | None:
            from openstack.exceptions import NotFoundException

            try:
                made = connection.network.create_ip(
                    floating_network_id=network_id, port_id=port.id, fixed_ip_address=fixed_ip, description=description
                )
            except NotFoundException as error:
                refusal = refusal_of(error)
                if refusal is not None and refusal.code == NO_ROUTE_CODE:
                    return None
                raise
            return _floating_ip(made)

        what = f"create floating IP for server {port.device_id}"
        return await self._call(Lane.CREATE, what, create, external_id=port.device_id)

    async def delete_floating_ip(self, floating_ip_id: str) -> None:
        await self._call(
            Lane.DELETE,
            f"delete floating IP {floating_ip_id}",
            lambda c: c.network.delete_ip(floating_ip_id, ignore_missing=True),
        )

    async def volumes(self) -> list[Volume]:
        """Return all volumes; none if the cloud has no volume service."""
        return await self._call(
            Lane.READ,
            "list volumes",
            lambda c: [_volume(v) for v in c.block_storage.volumes()] if c.has_service("block-storage") else [],
        )

    async def mark_volume(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        await self._call(
            Lane.CREATE,
            f"mark volume {volume_id}",
            lambda c: c.block_storage.set_volume_metadata(volume_id, **metadata),
        )

    async def delete_volume(self, volume_id: str) -> None:
        await self._call(
            Lane.DELETE,
            f"delete volume {volume_id}",
            lambda c: c.block_storage.delete_volume(volume_id, ignore_missing=True),
        )

    # -- quota ------------------------------------------------------------------------------------------------------

    async def compute_limits(self) -> dict[str, Share]:
        def limits(connection: Any) -> dict[str, Share]:
            absolute = connection.compute.get_limits().absolute
            return {
                "instances": _share(absolute.instances, absolute.instances_used),
                "cores": _share(absolute.total_cores, absolute.total_cores_used),
                "ram": _share(absolute.total_ram, absolute.total_ram_used),
            }

        return await self._call(Lane.READ, "compute limits", limits)

    async def volume_limits(self) -> dict[str, Share]:
        """Return the volume quotas; empty if the cloud has no volume service."""

        def limits(connection: Any) -> dict[str, Share]:
            if not connection.has_service("block-storage"):
                return {}
            absolute = connection.block_storage.get_limits().absolute
            return {
                "volumes": _share(absolute.max_total_volumes, absolute.total_volumes_used),
                "volume-gb": _share(absolute.max_total_volume_gigabytes, absolute.total_gigabytes_used),
            }

        return await self._call(Lane.READ, "volume limits", limits)

    async def network_limits(self) -> dict[str, Share]:
        """Return the network quotas; empty if the cloud has no network service or does not report them."""

        def limits(connection: Any) -> dict[str, Share]:
            from openstack.exceptions import ForbiddenException, NotFoundException

            if not connection.has_service("network"):
                return {}
            try:
                quota = connection.network.get_quota(connection.current_project_id, details=True)
            except (ForbiddenException, NotFoundException):
                return {}  # the extension is missing, or not allowed for this account
            return {
                name: _share(each.get("limit"), (each.get("used") or 0) + (each.get("reserved") or 0))
                for name, each in (("ports", quota.ports), ("floating-ips", quota.floating_ips))
                if each
            }

        return await self._call(Lane.READ, "network limits", limits)


def user_data(text: str) -> str:
    """Return *text* as Nova takes it."""
    return base64.b64encode(text.encode()).decode()


# -- openstacksdk's objects as ours ---------------------------------------------------------------------------------


def _if_there(get: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Return *get* with None for objects that do not exist in the cloud."""

    def tried(connection: Any) -> T | None:
        from openstack.exceptions import NotFoundException

        try:
            return get(connection)
        except NotFoundException:
            return None

    return tried


def _server(server: Any) -> Server:
    embedded = server.flavor if server.flavor is not None and server.flavor.original_name else None
    return Server(
        id=server.id,
        status=server.status or "",
        name=server.name or "",
        task_state=server.task_state,
        metadata=dict(server.metadata or {}),
        addresses=tuple(_addresses(server.addresses or {})),
        access_ipv4=server.access_ipv4 or None,
        access_ipv6=server.access_ipv6 or None,
        zone=server.availability_zone or None,
        host_id=server.host_id or None,
        flavor=_flavor(embedded) if embedded else None,
        flavor_id=server.flavor.id if server.flavor is not None else None,
        volume_ids=tuple(volume["id"] for volume in server.attached_volumes or ()),
        fault=str((server.fault or {}).get("message") or ""),
    )


def _addresses(by_network: Mapping[str, Any]) -> Iterator[Address]:
    for network, addresses in by_network.items():
        for each in addresses:
            yield Address(
                network=network,
                ip=each["addr"],
                version=int(each.get("version") or 4),
                is_floating=each.get("OS-EXT-IPS:type") == "floating",
                mac=each.get("OS-EXT-IPS-MAC:mac_addr"),
            )


def _flavor(flavor: Any) -> Flavor:
    return Flavor(flavor.id or "", flavor.name or "", int(flavor.vcpus or 0), int(flavor.ram or 0))


def _image(image: Any) -> Image:
    return Image(image.id, image.name or "", image.created_at or "")


def _networks(connection: Any) -> Networks:
    """Return the networks, classified as openstacksdk's cloud layer does. Source: openstacksdk, networks in
    ``clouds.yaml``."""
    config = connection.config
    settings = config.config
    external, internal = set(config.get_external_ipv4_networks()), set(config.get_internal_ipv4_networks())
    source = config.get_nat_source()

    def convert(network: Any) -> Network:
        names = {network.id, network.name}
        is_outside = bool(network.is_router_external or network.provider_physical_network)
        return Network(
            id=network.id,
            name=network.name or "",
            is_external=not external.isdisjoint(names) or (is_outside and internal.isdisjoint(names)),
            is_floating_source=source in names if source else bool(network.is_router_external),
        )

    has_service = connection.has_service("network")
    return Networks(
        all=tuple(convert(network) for network in connection.network.networks()) if has_service else (),
        nat_destination=config.get_nat_destination(),
        default=config.get_default_network(),
        has_floating_ips=has_service and settings.get("floating_ip_source", "neutron") not in (None, "None", "none"),
        is_private=bool(settings.get("private", False)),
        is_ipv4_forced=bool(config.force_ipv4),
    )


def _own(connection: Any, listing: Callable[..., Any]) -> Any:
    """List the objects of this project only: an administrator would otherwise see all projects."""
    return listing(project_id=connection.current_project_id)


def _port(port: Any) -> Port:
    return Port(
        id=port.id,
        device_id=port.device_id or "",
        network_id=port.network_id,
        status=port.status or "",
        fixed_ips=tuple(each["ip_address"] for each in port.fixed_ips or () if each.get("ip_address")),
        is_compute=(port.device_owner or "").startswith("compute:"),
    )


def _floating_ip(ip: Any) -> FloatingIp:
    return FloatingIp(ip.id, ip.floating_ip_address, ip.port_id, ip.fixed_ip_address, ip.description or "")


def _volume(volume: Any) -> Volume:
    attachments = volume.attachments or ()
    return Volume(
        id=volume.id,
        size=int(volume.size or 0),
        status=volume.status or "",
        metadata=dict(volume.metadata or {}),
        server_ids=tuple(each["server_id"] for each in attachments if each.get("server_id")),
    )


def _share(limit: Any, used: Any) -> Share:
    """Return a quota and its use. Negative limits mean no limit. Source: Nova, Cinder and Neutron, quota of -1."""
    return Share(None if limit is None or limit < 0 else float(limit), float(used or 0))
