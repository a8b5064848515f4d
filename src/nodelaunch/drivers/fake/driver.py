"""The driver of ``driver: fake``: translates between the engine and the fake cloud, with an OpenStack driver's options.

Source of options and behaviour: Nodepool 11, its fake driver, which is based on its OpenStack driver.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from nodelaunch.config.models import VOLUME_GB, VOLUMES
from nodelaunch.drivers.cloudoptions import CloudLabel, CloudPool, LabelCatalog
from nodelaunch.drivers.fake.cloud import FLAVORS, ZONES, FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.controls import RATE_LIMIT_RETRY_S, CloudBusyError, CloudRefusedError
from nodelaunch.drivers.fake.faults import Faults
from nodelaunch.drivers.fake.ledger import FakeServer
from nodelaunch.drivers.fake.watch import CloudWatch, InstanceWaiter
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    InsufficientCapacityError,
    LabelUnusableError,
    LaunchFailedError,
    LaunchTimeoutError,
    ProviderUnavailableError,
    QuotaExceededError,
    StaleFenceError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import DriverContext, ExternalId, Fence, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits, Usage

T = TypeVar("T")

log: Logger = get_logger(__name__)

HOST_KEY = "ssh-rsa FAKEKEY"
RETRY_S = 0.1
"""Seconds until the next call to a cloud that is down."""
BUSY_PAUSES_S = (0.001, 0.002, 0.005, *[0.01] * 500)
"""Pauses in seconds between tries while another process writes to the cloud's file."""
PAGE = 100
"""Number of instances that one step lists."""
IPV6_NETWORK, NO_ADDRESS_NETWORK = "fake-ipv6-network-name", "no-auto-ip-network-name"


class FakeDriver(Faults):
    """The driver of one provider. *cloud* lets several providers, or a test, share one cloud."""

    def __init__(self, config: FakeProvider, context: DriverContext, *, cloud: FakeCloud | None = None) -> None:
        self.config = config
        self.cloud: FakeCloud = cloud or FakeCloud(config.cloud_file, seed=config.seed)
        self._owns_cloud = cloud is None
        self._watch = CloudWatch(self.cloud)
        labels = {(pool.name, label.name): (pool, label) for pool in config.pools for label in pool.labels}
        self._book = LabelCatalog(config, labels, context.diskimages)
        self._random = random.Random(config.seed)  # noqa: S311

    # -- the label's configuration ----------------------------------------------------------------------------------

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        return self._book.traits(pool, label)

    def _image_in_cloud(self, label: CloudLabel) -> str | None:
        """Return the cloud's name of the label's cloud image."""
        image = self._book.cloud_image(label)
        return image.in_cloud if image else None

    def _flavor(self, label: CloudLabel) -> str:
        """Return the flavor by name, by memory, or the first with enough memory whose name contains the given text."""
        if label.min_ram is None:
            names = [name for name in FLAVORS if name == label.flavor_name]
        else:
            by_size = sorted(FLAVORS, key=lambda name: (FLAVORS[name]["ram"], name))
            part = label.flavor_name or ""
            names = [name for name in by_size if FLAVORS[name]["ram"] >= label.min_ram and part in name]
        if not names:
            raise LabelUnusableError(f"no flavor {label.flavor_in_words}", provider=self.config.name)
        return names[0]

    # -- instances --------------------------------------------------------------------------------------------------

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        pool, label = self._book.label(spec.pool, spec.label)
        flavor, need = self._flavor(label), self._need(label)
        settings = await self._settings()
        if self._is_missing(label, settings):
            raise LabelUnusableError(f"image {label.cloud_image} does not exist", provider=self.config.name)
        zones = pool.availability_zones if pool.zoning != "none" else ()
        zone = spec.zone or self._random.choice(zones or ZONES)
        metadata = self._book.metadata(spec, label)
        fails = self._random.random() < settings.get("failure-rate", self.config.failure_rate)
        instance_id = await self._ask(
            lambda: self.cloud.create(
                name=spec.name,
                flavor=flavor,
                image=spec.image_external_id or self._image_in_cloud(label),
                zone=zone,
                metadata=metadata,
                resources={name: need[name] for name in need},
                limits=self._limits(settings),
                boot_time=settings.get("boot-time", self.config.boot_time),
                addresses=_addresses(spec, pool, label),
                details=self._details(pool, label),
                failure=settings.get("failure-kind", self.config.failure_kind) if fails else None,
                fence=spec.fence,
            )
        )
        if answered_after := settings.get("create-time", 0):
            await asyncio.sleep(answered_after)
        return ExternalId(instance_id)

    def _details(self, pool: CloudPool, label: CloudLabel) -> dict[str, Any]:
        return {
            "networks": list(pool.networks_of(label)),
            "security_groups": list(pool.security_groups),
            "key_name": label.key_name,
            "userdata": label.userdata,
            "config_drive": self._book.image(label).config_drive,
            "boot_from_volume": label.boot_from_volume,
            "volume_size": label.volume_size if label.boot_from_volume else None,
        }

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        await self._ask(lambda: self.cloud.check("wait"), external_id)
        with self._watch.on(external_id) as waiter:
            while True:
                server = await self._ask(lambda: self.cloud.server(external_id), external_id)
                if server is None or server.state == "deleting":
                    raise InstanceNotFoundError("it was deleted", provider=self.config.name, external_id=external_id)
                if server.state == "active":
                    return self._instance(server)
                if server.state == "error":
                    kind = server.fault or "error"
                    raise self._translated(CloudRefusedError(kind, f"it went to ERROR ({kind})"), external_id)
                await self._until_due(server, waiter)

    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._delete(external_id, None)

    async def raise_fence(self, fence: Fence) -> None:
        await self._ask(lambda: self.cloud.raise_fence(fence))

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await self._delete(external_id, fence)

    async def _delete(self, external_id: ExternalId, fence: Fence | None) -> None:
        delete_time = (await self._settings(external_id)).get("delete-time", self.config.delete_time)
        with self._watch.on(external_id) as waiter:
            deleting = partial(self.cloud.delete, external_id, delete_time=delete_time, fence=fence)
            server = await self._ask(deleting, external_id)
            while server is not None:
                await self._until_due(server, waiter)
                server = await self._ask(lambda: self.cloud.server(external_id), external_id)

    async def _until_due(self, server: FakeServer, waiter: InstanceWaiter) -> None:
        """Wait until the next state of *server* is due, or until the server changes otherwise."""
        await waiter.wait(None if server.next_at is None else max(0.0, server.next_at - self.cloud.now))

    async def list_instances(self) -> AsyncIterator[Instance]:
        await self._ask(lambda: self.cloud.check("list"))
        lag_s = (await self._settings()).get("list-lag", 0)
        seen = 0
        while servers := await self._ask(partial(self.cloud.servers, after=seen, limit=PAGE)):
            for server in servers:
                if lag_s and server.created_at > self.cloud.now - lag_s:
                    continue
                yield self._instance(server)
            seen = servers[-1].number
            await asyncio.sleep(0)  # a list of thousands of instances doesn't block the loop

    async def host_keys(self, external_id: ExternalId) -> Sequence[str]:
        if await self._ask(lambda: self.cloud.server(external_id), external_id) is None:
            raise InstanceNotFoundError("it was deleted", provider=self.config.name, external_id=external_id)
        return (HOST_KEY,)

    async def console_log(self, external_id: ExternalId) -> str | None:
        server = await self._ask(lambda: self.cloud.server(external_id), external_id)
        return f"fake console of {server.name}, {server.state}" if server else None

    def _instance(self, server: FakeServer) -> Instance:
        public, private, ipv6 = (server.addresses.get(k) for k in ("public_ipv4", "private_ipv4", "public_ipv6"))
        return Instance(
            external_id=ExternalId(server.id),
            metadata=dict(server.metadata),
            is_active=server.state == "active",
            interface_ip=ipv6 or public or private,
            public_ipv4=public,
            private_ipv4=private,
            public_ipv6=ipv6,
            cloud=self.config.cloud,
            region=self.config.region_name,
            zone=server.zone,
            host_id="fake-hypervisor",
            resources=Usage(server.resources),
        )

    async def zones(self) -> Sequence[str]:
        return ZONES

    # -- quota and images -------------------------------------------------------------------------------------------

    async def quota_limits(self) -> Limits:
        await self._ask(lambda: self.cloud.check("limits"))
        return Limits(self._limits(await self._settings()))

    def _limits(self, settings: Mapping[str, Any]) -> dict[str, float]:
        configured = self.config.limits.limits()
        return {name: settings.get(key, configured[name]) for name, key in _LIMIT_SETTINGS.items()}

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        return self._need(self._book.label(pool, label)[1])

    def _need(self, label: CloudLabel) -> Usage:
        flavor = FLAVORS[self._flavor(label)]
        usage = Usage({INSTANCES: 1, CORES: flavor["cores"], RAM: flavor["ram"]})
        return usage + Usage({VOLUMES: 1, VOLUME_GB: label.volume_size}) if label.boot_from_volume else usage

    async def label_ready(self, pool: str, label: str) -> bool:
        _, wanted = self._book.label(pool, label)
        await self._ask(lambda: self.cloud.check("images"))
        return not self._is_missing(wanted, await self._settings())

    def _is_missing(self, label: CloudLabel, settings: Mapping[str, Any]) -> bool:
        """Return True if *settings* say that the cloud image is missing, by either of its names. All others exist."""
        image = self._book.cloud_image(label)
        if image is None:
            return False  # a builder's image; the engine knows its uploads
        return not {image.name, image.image_name, image.image_id}.isdisjoint(settings.get("missing-images", ()))

    async def aclose(self) -> None:
        if self._owns_cloud:
            self.cloud.close()

    # -- calls to the cloud -----------------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[], T], external_id: str | None = None) -> T:
        """Return the cloud's answer to *call*; wait while another process writes to the file. Raises: DriverError."""
        for pause_s in BUSY_PAUSES_S:
            try:
                return call()
            except CloudBusyError:
                await asyncio.sleep(pause_s)
            except CloudRefusedError as error:
                raise self._translated(error, external_id) from None
        raise self._translated(CloudBusyError("unavailable", f"{self.cloud.path} stays busy"), external_id)

    async def _settings(self, external_id: str | None = None) -> dict[str, Any]:
        """Return the settings from outside, which override the configuration."""
        return await self._ask(self.cloud.settings, external_id)

    def _translated(self, error: CloudRefusedError, external_id: str | None = None) -> DriverError:
        left = error.instance_id or external_id
        name = self.config.name
        match error.kind:
            case "quota":
                return QuotaExceededError(str(error), provider=name, external_id=left)
            case "capacity":
                return InsufficientCapacityError(str(error), provider=name, external_id=left)
            case "stale":
                return StaleFenceError(str(error), provider=name, external_id=external_id)
            case "timeout":
                return LaunchTimeoutError(str(error), provider=name, external_id=left)
            case "rate-limit":
                return ProviderUnavailableError(
                    str(error), provider=name, external_id=left, kind=ErrorKind.RATE_LIMIT,
                    retry_after_s=RATE_LIMIT_RETRY_S,
                )  # fmt: skip
            case "unavailable":
                return ProviderUnavailableError(str(error), provider=name, external_id=left, retry_after_s=RETRY_S)
            case _:
                return LaunchFailedError(str(error), provider=name, external_id=left)


def _addresses(spec: InstanceSpec, pool: CloudPool, label: CloudLabel) -> dict[str, str | None]:
    """Return names instead of IP addresses: nothing is reachable there, and the part ``fake`` says why."""
    networks = pool.networks_of(label)
    host = f"{spec.name}.fake"
    has_public = pool.auto_floating_ip and NO_ADDRESS_NETWORK not in networks
    return {
        "private_ipv4": host,
        "public_ipv4": host if has_public else None,
        "public_ipv6": f"{host}.v6" if IPV6_NETWORK in networks else None,
    }


_LIMIT_SETTINGS = {
    INSTANCES: "max-servers", CORES: "max-cores", RAM: "max-ram", VOLUMES: "max-volumes", VOLUME_GB: "max-volume-gb",
}  # fmt: skip
