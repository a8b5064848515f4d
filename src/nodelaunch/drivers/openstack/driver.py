"""The driver of ``driver: openstack``: implements the driver port with one cloud account.

It creates, waits for, deletes and lists servers. client.py calls openstacksdk, errors.py translates errors, quota.py
computes quota. Source of options and behaviour: Nodepool 11, OpenStack driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from nodelaunch.drivers.cloudoptions import LabelCatalog
from nodelaunch.drivers.openstack.addresses import addresses_of, needs_floating_ip
from nodelaunch.drivers.openstack.catalog import CloudCatalog
from nodelaunch.drivers.openstack.client import Client, user_data
from nodelaunch.drivers.openstack.config import OpenStackLabel, OpenStackPool, OpenStackProvider
from nodelaunch.drivers.openstack.errors import of_fault
from nodelaunch.drivers.openstack.floating import FloatingIps
from nodelaunch.drivers.openstack.leftovers import Leftovers
from nodelaunch.drivers.openstack.model import FloatingIp, Networks, Server
from nodelaunch.drivers.openstack.quota import Quota
from nodelaunch.drivers.openstack.userdata import METADATA_HOST_KEY, UserData, with_host_key
from nodelaunch.drivers.openstack.watch import ServerListing, ServerWatch
from nodelaunch.errors import InstanceNotFoundError, LabelUnusableError, LaunchFailedError, ProviderUnavailableError
from nodelaunch.log import Logger, get_logger
from nodelaunch.network.sshscan import new_host_key
from nodelaunch.protocol.driver import (
    METADATA_POOL,
    DriverContext,
    ExternalId,
    Instance,
    InstanceSpec,
    LabelTraits,
    Resource,
)
from nodelaunch.protocol.quota import Limits, Usage

log: Logger = get_logger(__name__)

IN_ERROR_S: Final = 1.0
"""Seconds for which listings must show a server in ERROR without a running task before its deletion counts as failed. A
deletion during boot also shows ERROR for a moment, and then continues."""
LISTINGS_WITHOUT: Final = 2
"""Number of consecutive listings without a server after which it counts as gone."""
STOPPED: Final = frozenset({"SHUTOFF", "SUSPENDED", "PAUSED", "SHELVED", "SHELVED_OFFLOADED", "RESCUE"})
"""Statuses from which a server doesn't become active by itself."""


class OpenStackDriver:
    """The driver of one provider."""

    def __init__(self, config: OpenStackProvider, context: DriverContext) -> None:
        self.config = config
        labels = {(pool.name, label.name): (pool, label) for pool in config.pools for label in pool.labels}
        self._book: LabelCatalog[OpenStackPool, OpenStackLabel] = LabelCatalog(config, labels, context.diskimages)
        self._client = Client(config.name, cloud=config.cloud, region=config.region_name, interval_s=config.rate)
        self._catalog = CloudCatalog(self._client)
        self._watch = ServerWatch(config.name, self._client.servers, self._client.server)
        self._floating_ips = FloatingIps(self._client)
        self._quota = Quota(self._client, self._catalog, self._watch, self._floating_ips)
        self._leftovers = Leftovers(config, self._client, self._watch)
        self._pools = {pool.name: pool for pool in config.pools}

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        in_pool, _ = self._book.label(pool, label)
        traits = self._book.traits(pool, label)
        return replace(traits, settle_s=float(in_pool.host_key_settle_time), probe_key=in_pool.login_key)

    # -- creating ---------------------------------------------------------------------------------------------------

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        pool, label = self._book.label(spec.pool, spec.label)
        data = await self._user_data(pool, label)
        body = await self._body(spec, pool, label, data)
        what = f"create server {spec.name}"
        try:
            return ExternalId(await self._client.create_server(what, body))
        except LabelUnusableError:
            self._catalog.forget()  # the names may lead to other objects now
            renewed = await self._body(spec, pool, label, data)
            if renewed == body:
                raise
            return ExternalId(await self._client.create_server(what, renewed))

    async def _user_data(self, pool: OpenStackPool, label: OpenStackLabel) -> UserData:
        """Return the label's user data, with a new host key for this server alone if host keys are injected."""
        if not self.config.injects_host_key(pool, label):
            return UserData(label.userdata)
        private, public = await new_host_key()
        return UserData(with_host_key(label.userdata, private, public), public)

    async def _body(
        self, spec: InstanceSpec, pool: OpenStackPool, label: OpenStackLabel, data: UserData
    ) -> dict[str, Any]:
        """Return the request that creates the server, with openstacksdk's names. Parts that are None are left out."""
        networks = await self._catalog.network_ids(pool.networks_of(label))
        group = await self._catalog.server_group_id(label.server_group) if label.server_group else None
        body = {
            "name": spec.name,
            "flavor_id": (await self._catalog.flavor(label)).id,
            **await self._disk(spec, label),
            "networks": [{"uuid": network_id} for network_id in networks] or "auto",
            "security_groups": [{"name": name} for name in pool.security_groups] or None,
            "key_name": label.key_name,
            "user_data": user_data(data.text) if data.text is not None else None,
            "config_drive": self._book.image(label).config_drive,
            "availability_zone": spec.zone,
            "scheduler_hints": {"group": group} if group else None,
            "metadata": self._book.metadata(spec, label)
            | ({METADATA_HOST_KEY: data.host_key} if data.host_key else {}),
        }
        return {name: value for name, value in body.items() if value is not None}

    async def _disk(self, spec: InstanceSpec, label: OpenStackLabel) -> dict[str, Any]:
        """Return the boot source of the server: the image, or a volume made from it that is deleted with the server."""
        image = self._book.cloud_image(label)
        image_id = spec.image_external_id if image is None else await self._catalog.image_id(image)
        if image_id is None:
            raise LabelUnusableError(f"diskimage {label.diskimage} has no upload", provider=self.config.name)
        if not label.boot_from_volume:
            return {"image_id": image_id}
        volume = {
            "boot_index": 0,
            "uuid": image_id,
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": label.volume_size,
            "delete_on_termination": True,
            **({"volume_type": label.volume_type} if label.volume_type else {}),
        }
        return {"block_device_mapping": [volume]}

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        server = await self._watch.until(_Waiting(self.config.name, external_id), about=external_id)
        networks = await self._catalog.networks.get()
        pool = self._pools.get(server.metadata.get(METADATA_POOL, ""))
        floating = await self._floating_ip(server, networks, pool)
        floating_ip = floating.ip if floating else None
        await self._leftovers.mark_volumes(server)
        found = addresses_of(
            server,
            networks,
            floating_ip=floating_ip,
            prefers_internal=pool is not None and pool.use_internal_ip,
        )
        if found.interface_ip is None:
            raise LaunchFailedError("it has no address", provider=self.config.name, external_id=external_id)
        host_key = server.metadata.get(METADATA_HOST_KEY)
        return Instance(
            external_id=external_id,
            metadata=server.metadata,
            is_active=True,
            interface_ip=found.interface_ip,
            # Nodepool's records have an empty text for an address that the server does not have.
            public_ipv4=found.public_ipv4 or "",
            private_ipv4=found.private_ipv4 or "",
            public_ipv6=found.public_ipv6 or "",
            cloud=self.config.cloud,
            region=self.config.region_name,
            zone=server.zone,
            host_id=server.host_id,
            resources=await self._quota.of_server(server, floating_ip),
            expected_host_keys=(host_key,) if host_key else None,
        )

    async def _floating_ip(self, server: Server, networks: Networks, pool: OpenStackPool | None) -> FloatingIp | None:
        if pool is None or not pool.auto_floating_ip or not needs_floating_ip(server, networks):
            self._floating_ips.not_needed(server.id)
            return None
        return await self._floating_ips.ensure(server, networks, pool.floating_ip_network)

    @property
    def _gives_floating_ips(self) -> bool:
        return any(pool.auto_floating_ip for pool in self.config.pools)

    async def console_log(self, external_id: ExternalId) -> str | None:
        return await self._client.console(external_id)

    # -- deleting ---------------------------------------------------------------------------------------------------

    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._floating_ips.release(
            external_id, await self._as_last_seen(external_id), may_have_one=self._gives_floating_ips
        )
        await self._ask_to_delete(external_id)
        left = (await self._watch.until(_Deleting(external_id), about=external_id)).server
        if left is not None:
            text = f"deletion failed: {left.fault or 'it went to ERROR'}"
            raise LaunchFailedError(text, provider=self.config.name, external_id=external_id)

    async def _ask_to_delete(self, server_id: str) -> None:
        """Request the deletion. Nova may answer with an error if it is already deleting the server; that error is
        ignored."""
        try:
            await self._client.delete_server(server_id)
        except ProviderUnavailableError:
            server = await self._client.server(server_id)
            if server is not None and not server.is_gone and not server.is_being_deleted:
                raise

    async def _as_last_seen(self, server_id: str) -> Server | None:
        last = self._watch.last
        if last is None or server_id not in last.servers:
            last = await self._watch.fresh()
        return last.servers.get(server_id) or await self._client.server(server_id)

    # -- listing ----------------------------------------------------------------------------------------------------

    async def list_instances(self) -> AsyncIterator[Instance]:
        await self._client.settled()  # the listing then shows creates whose callers are gone
        for server in await self._watch.fresh():
            yield Instance(
                external_id=ExternalId(server.id),
                metadata=server.metadata,
                is_active=server.status == "ACTIVE",
                cloud=self.config.cloud,
                region=self.config.region_name,
                zone=server.zone,
                host_id=server.host_id,
                resources=await self._quota.of_server(server),
            )

    async def zones(self) -> Sequence[str]:
        return await self._client.zones()

    async def resources(self) -> Sequence[Resource]:
        return await self._leftovers.resources()

    async def delete_resource(self, resource: Resource) -> None:
        await self._leftovers.delete(resource)

    # -- quota and images -------------------------------------------------------------------------------------------

    async def quota_limits(self) -> Limits:
        return await self._quota.limits()

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        return await self._quota.need(*self._book.label(pool, label))

    async def label_ready(self, pool: str, label: str) -> bool:
        image = self._book.cloud_image(self._book.label(pool, label)[1])
        return image is None or image.image_id is not None or await self._catalog.find_image(image) is not None

    async def aclose(self) -> None:
        await self._watch.aclose()
        self._floating_ips.close()
        self._leftovers.close()
        await self._client.aclose()


class _Waiting:
    """Checks listings for a caller that waits until a server is active."""

    def __init__(self, provider: str, server_id: str) -> None:
        self._provider = provider
        self._id = server_id
        self._without = 0

    def __call__(self, listing: ServerListing) -> Server | None:
        server = listing.get(self._id)
        if server is None:
            self._without += 1
            if self._without >= LISTINGS_WITHOUT:
                raise InstanceNotFoundError("it was deleted", provider=self._provider, external_id=self._id)
            return None
        self._without = 0
        if server.is_being_deleted:
            return None
        if server.status == "ERROR":
            raise of_fault(server.fault, provider=self._provider, external_id=self._id)
        if server.status in STOPPED:
            text = f"it is {server.status} and was never active"
            raise LaunchFailedError(text, provider=self._provider, external_id=self._id)
        return server if server.status == "ACTIVE" else None


class _Left:
    """The result of a deletion: nothing left, or the server that could not be deleted."""

    def __init__(self, server: Server | None) -> None:
        self.server = server


class _Deleting:
    """Checks listings for a caller that waits until a server is gone."""

    def __init__(self, server_id: str) -> None:
        self._id = server_id
        self._in_error_since: float | None = None

    def __call__(self, listing: ServerListing) -> _Left | None:
        server = listing.get(self._id)
        if server is None:
            return _Left(None)
        if server.status != "ERROR" or server.task_state is not None:
            self._in_error_since = None
            return None
        if self._in_error_since is None:
            self._in_error_since = listing.began_at
        return _Left(server) if listing.began_at - self._in_error_since >= IN_ERROR_S else None
