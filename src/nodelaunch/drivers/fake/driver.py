"""The driver of ``driver: fake``: translates between the engine and the fake cloud, with an OpenStack driver's options.

What does *not* belong here: what the cloud holds (cloud.py). Source of options and behaviour: Nodepool 11, its fake
driver and the OpenStack driver that one is made of.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog

from nodelaunch.config.models import VOLUME_GB, VOLUMES, DiskImageLogin
from nodelaunch.drivers.fake.cloud import FLAVORS, ZONES, CloudRefusedError, FakeCloud, Server
from nodelaunch.drivers.fake.config import FakeLabel, FakePool, FakeProvider
from nodelaunch.errors import (
    DriverError,
    InstanceNotFoundError,
    InsufficientCapacityError,
    LabelUnusableError,
    LaunchFailedError,
    LaunchTimeoutError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from nodelaunch.protocol.driver import DriverContext, ExternalId, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits, Usage

log = structlog.get_logger(__name__)

HOST_KEY = "ssh-rsa FAKEKEY"
WINRM_PORT = 5986
LOOK_S = 0.1
"""How often a cloud in a file is looked at while something is waited for: others may have changed it."""
IPV6_NETWORK, NO_ADDRESS_NETWORK = "fake-ipv6-network-name", "no-auto-ip-network-name"


class FakeDriver:
    """One provider's view of its fake cloud. *cloud*: to share one between providers or with a test."""

    def __init__(self, config: FakeProvider, context: DriverContext, *, cloud: FakeCloud | None = None) -> None:
        self.config = config
        self.cloud = cloud or FakeCloud(config.cloud_file)
        self._logins: Mapping[str, DiskImageLogin] = context.diskimages
        self._labels = {(pool.name, label.name): (pool, label) for pool in config.pools for label in pool.labels}
        self._random = random.Random(config.seed)  # noqa: S311
        self._changed = asyncio.Event()

    # -- the label's configuration ----------------------------------------------------------------------------------

    def _label(self, pool: str, label: str) -> tuple[FakePool, FakeLabel]:
        try:
            return self._labels[pool, label]
        except KeyError:
            raise LabelUnusableError(f"pool {pool} has no label {label}", provider=self.config.name) from None

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        in_pool, wanted = self._label(pool, label)
        checking = in_pool.host_key_checking if wanted.host_key_checking is None else wanted.host_key_checking
        if wanted.diskimage is not None:
            attached = next(image for image in self.config.diskimages if image.name == wanted.diskimage)
            login = self._logins.get(wanted.diskimage, DiskImageLogin())
            return LabelTraits(
                diskimage=wanted.diskimage, username=login.username, python_path=login.python_path,
                shell_type=login.shell_type, connection_type=attached.connection_type,
                connection_port=attached.connection_port or _default_port(attached.connection_type),
                host_key_checking=checking, console_log=wanted.console_log,
            )  # fmt: skip
        image = next(image for image in self.config.cloud_images if image.name == wanted.cloud_image)
        return LabelTraits(
            image_id=image.name, username=image.username, python_path=image.python_path, shell_type=image.shell_type,
            connection_type=image.connection_type,
            connection_port=image.connection_port or _default_port(image.connection_type),
            host_key_checking=checking, console_log=wanted.console_log,
        )  # fmt: skip

    def _flavor(self, label: FakeLabel) -> str:
        """By name, by memory, or the first with enough memory whose name contains the given text."""
        if label.min_ram is None:
            names = [name for name in FLAVORS if name == label.flavor_name]
        else:
            by_size = sorted(FLAVORS, key=lambda name: (FLAVORS[name]["ram"], name))
            part = label.flavor_name or ""
            names = [name for name in by_size if FLAVORS[name]["ram"] >= label.min_ram and part in name]
        if not names:
            wanted = f"{label.flavor_name or 'any'} with {label.min_ram or 0} MiB"
            raise LabelUnusableError(f"no flavor is {wanted}", provider=self.config.name)
        return names[0]

    # -- instances --------------------------------------------------------------------------------------------------

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        pool, label = self._label(spec.pool, spec.label)
        zone = spec.zone or self._random.choice(pool.availability_zones or ZONES)
        if zone not in ZONES:
            raise LaunchFailedError(f"availability zone {zone} does not exist", provider=self.config.name)
        self._fail_at_random()
        need, limits = await self.quota_for_label(spec.pool, spec.label), self._limits()
        try:
            instance_id = self.cloud.create(
                now=self._now(),
                name=spec.name,
                flavor=self._flavor(label),
                zone=zone,
                metadata=self._metadata(spec, label),
                resources={name: need[name] for name in need},
                limits={name: limits[name] for name in limits},
                boot_time=self._setting("boot-time", self.config.boot_time),
                details=self._details(spec, pool, label),
            )
        except CloudRefusedError as error:
            raise self._translated(error) from None
        self._signal()
        return ExternalId(instance_id)

    def _fail_at_random(self) -> None:
        if self._random.random() < self._setting("failure-rate", self.config.failure_rate):
            kind = self.config.failure_kind
            raise self._translated(CloudRefusedError(kind, f"random fault ({kind})"))

    def _metadata(self, spec: InstanceSpec, label: FakeLabel) -> dict[str, str]:
        """The operator's own properties, then ours, which win."""
        properties = {name: str(value) for name, value in label.instance_properties.items()}
        for name, template in label.dynamic_instance_properties.items():
            try:
                properties[name] = template.format(request=_Attributes(spec.request))
            except (AttributeError, KeyError, IndexError, ValueError) as error:
                log.warning("template_failed", provider=self.config.name, label=label.name, key=name, detail=str(error))
        image = label.diskimage or label.cloud_image
        return {**properties, "groups": f"{self.config.name},{image},{label.name}", **spec.metadata}

    def _details(self, spec: InstanceSpec, pool: FakePool, label: FakeLabel) -> dict[str, Any]:
        networks = label.networks if label.networks is not None else pool.networks
        host = f"{spec.name}.fake"
        has_public = pool.auto_floating_ip and NO_ADDRESS_NETWORK not in networks
        return {
            "private_ipv4": host,
            "public_ipv4": host if has_public else None,
            "public_ipv6": f"{host}.v6" if IPV6_NETWORK in networks else None,
            "image": spec.image_external_id or label.cloud_image,
            "networks": list(networks),
            "security_groups": list(pool.security_groups),
            "key_name": label.key_name,
            "userdata": label.userdata,
            "boot_from_volume": label.boot_from_volume,
        }

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        try:
            self.cloud.check("boot")
        except CloudRefusedError as error:
            self.cloud.set_state(external_id, "error")
            raise self._translated(error, external_id) from None
        while True:
            server = self.cloud.server(external_id)
            if server is None:
                raise InstanceNotFoundError("it is gone", provider=self.config.name, external_id=external_id)
            if server.state == "error":
                raise LaunchFailedError("it went to ERROR", provider=self.config.name, external_id=external_id)
            if server.state == "active" or server.active_at <= self._now():
                if server.state == "building":
                    self.cloud.set_state(external_id, "active")
                return self._instance(server)
            await self._wait(server.active_at)

    async def delete_instance(self, external_id: ExternalId) -> None:
        delete_time = self._setting("delete-time", self.config.delete_time)
        try:
            gone_at = self.cloud.begin_delete(external_id, now=self._now(), delete_time=delete_time)
        except CloudRefusedError as error:
            raise self._translated(error, external_id) from None
        self._signal()
        if gone_at is None:
            return
        while gone_at > self._now() and self.cloud.server(external_id) is not None:
            await self._wait(gone_at)
        self.cloud.finish_delete(external_id, now=self._now())
        self._signal()

    async def list_instances(self) -> AsyncIterator[Instance]:
        try:
            self.cloud.check("list")
        except CloudRefusedError as error:
            raise self._translated(error) from None
        for server in self.cloud.servers():
            yield self._instance(server)

    async def host_keys(self, external_id: ExternalId) -> Sequence[str]:
        if self.cloud.server(external_id) is None:
            raise InstanceNotFoundError("it is gone", provider=self.config.name, external_id=external_id)
        return (HOST_KEY,)

    async def console_log(self, external_id: ExternalId) -> str | None:
        server = self.cloud.server(external_id)
        return f"fake console of {server.name}, {server.state}" if server else None

    def _instance(self, server: Server) -> Instance:
        details = server.details
        public, ipv6, private = (details.get(k) for k in ("public_ipv4", "public_ipv6", "private_ipv4"))
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

    # -- quota ------------------------------------------------------------------------------------------------------

    def _limits(self) -> Limits:
        limits = self.config.limits.limits()
        override = {name: self.cloud.setting(f"max-{key}") for name, key in _LIMIT_SETTINGS.items()}
        return limits if not any(v is not None for v in override.values()) else Limits(
            {name: limits[name] if override.get(name) is None else override[name] for name in {*limits, *override}}
        )  # fmt: skip

    async def quota_limits(self) -> Limits:
        return self._limits()

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        _, wanted = self._label(pool, label)
        flavor = FLAVORS[self._flavor(wanted)]
        usage = Usage({INSTANCES: 1, CORES: flavor["cores"], RAM: flavor["ram"]})
        return usage + Usage({VOLUMES: 1, VOLUME_GB: wanted.volume_size}) if wanted.boot_from_volume else usage

    async def label_ready(self, pool: str, label: str) -> bool:
        _, wanted = self._label(pool, label)
        missing = self.cloud.setting("missing-images") or []
        return wanted.cloud_image not in missing

    async def aclose(self) -> None:
        self.cloud.close()

    # -- time and errors --------------------------------------------------------------------------------------------

    def _setting(self, name: str, configured: float) -> float:
        value = self.cloud.setting(name)
        return configured if value is None else float(value)

    def _now(self) -> float:
        """Seconds; of the wall where the cloud outlives us, else of the event loop, which tests may set."""
        return asyncio.get_running_loop().time() if self.cloud.path is None else time.time()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, until: float) -> None:
        """Wait for a change of the cloud, at most *until* then."""
        remaining = max(0.0, until - self._now())
        try:
            async with asyncio.timeout(remaining if self.cloud.path is None else min(LOOK_S, remaining)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _translated(self, error: CloudRefusedError, external_id: str | None = None) -> DriverError:
        left = error.instance_id or external_id
        name = self.config.name
        match error.kind:
            case "quota":
                return QuotaExceededError(str(error), provider=name, external_id=left)
            case "capacity":
                return InsufficientCapacityError(str(error), provider=name, external_id=left)
            case "timeout":
                return LaunchTimeoutError(str(error), provider=name, external_id=left)
            case "unavailable":
                return ProviderUnavailableError(str(error), provider=name, external_id=left, retry_after_s=0.1)
            case _:
                return LaunchFailedError(str(error), provider=name, external_id=left)


_LIMIT_SETTINGS = {INSTANCES: "servers", CORES: "cores", RAM: "ram", VOLUMES: "volumes"}


class _Attributes:
    """Lets a template write ``{request.id}``; lists and objects below are as they are."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)


def _default_port(connection_type: str) -> int:
    return WINRM_PORT if connection_type == "winrm" else 22
