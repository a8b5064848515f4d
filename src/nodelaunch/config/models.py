"""What may stand in the configuration: frozen pydantic models with kebab-case keys, unknown keys refused.

Every check that needs one mapping only is here; checks across the file, and positions, are config/file.py's. A driver's
own keys are in its package, as subclasses of `ProviderConfig` and `PoolConfig`.
Source of names, defaults and units: Nodepool 11.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits

VOLUMES, VOLUME_GB = "volumes", "volume-gb"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _as_tuple(value)


Text = Annotated[StrictStr, Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=0)]
AnyCount = StrictInt
"""May be negative: Nodepool takes zero and below as 'none'."""
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Seconds = Annotated[StrictFloat | StrictInt, Field(ge=0)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]
OneOrMoreTexts = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Attributes = dict[StrictStr, Any]


class Model(BaseModel):
    """Base of all models here."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        arbitrary_types_allowed=False,
    )


# -- the store and the web ------------------------------------------------------------------------------------------


class ZooKeeperServer(Model):
    host: Text
    port: Port = 2281
    """TLS, as Nodepool has it in code."""
    chroot: StrictStr = ""


class ZooKeeperTls(Model):
    """PEM files; mutual TLS needs all three."""

    cert: Text
    key: Text
    ca: Text


def default_store_path() -> Path:
    """Where the embedded store lives when the configuration doesn't say."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "nodelaunch" / "store.sqlite"


class EmbeddedStoreConfig(Model):
    """One SQLite file, used when no ZooKeeper is named."""

    path: Path = Field(default_factory=default_store_path)


class WebappConfig(Model):
    port: Annotated[StrictInt, Field(ge=0, le=65535)] = 8005
    listen_address: Text = Field(default="0.0.0.0", alias="listen_address")  # noqa: S104  Nodepool's default


# -- labels, tenants, images ----------------------------------------------------------------------------------------


class LabelConfig(Model):
    name: Text
    min_ready: AnyCount = 0
    """Ready, unallocated nodes to keep, over all providers; zero and below: none."""
    max_ready_age: Count = 0
    """Seconds after which an unused ready node is deleted; 0: never."""


class TenantLimits(Model):
    """What one tenant may use at a time; unknown keys are names of further resources."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StrictInt]

    tenant_name: Text
    max_servers: Count | None = None
    max_cores: Count | None = None
    max_ram: Count | None = None
    """MiB."""
    max_volumes: Count | None = None
    max_volume_gb: Count | None = None

    def limits(self) -> Limits:
        named = {INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram}
        volumes = {VOLUMES: self.max_volumes, VOLUME_GB: self.max_volume_gb}
        return Limits({**(self.__pydantic_extra__ or {}), **named, **volumes})


class DiskImageConfig(Model):
    """A builder's image. A launcher reads the name, the parent, and how to log in; the rest is the builder's."""

    name: Text
    abstract: StrictBool = False
    parent: Text | None = None
    username: Text | None = None
    python_path: Text | None = None
    shell_type: Text | None = None
    elements: Texts = ()
    env_vars: dict[StrictStr, SecretStr] = Field(default_factory=dict)
    formats: Texts = ()
    keep_formats: Texts = ()
    delete_after_upload: StrictBool = False
    pause: StrictBool = False
    release: StrictStr | StrictInt | None = None
    rebuild_age: Count = 86400
    build_timeout: Count = 28800
    dib_cmd: Text = "disk-image-create"
    metadata: Attributes = Field(default_factory=dict)


# -- providers and pools --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launching:
    """How a provider's launches are tried. ``retries`` is the number of attempts in all."""

    retries: int = 3
    timeout_s: float = 3600.0
    """For one attempt, from the first call to the cloud until the node is recorded ready."""
    boot_timeout_s: float = 60.0
    """For the machine to answer on its connection port once the cloud says it runs."""


class PoolConfig(Model):
    """What every driver's pools have."""

    name: Text
    max_servers: AnyCount | None = None
    """Zero and below: the pool declines everything."""
    priority: StrictInt | None = None
    """Smaller goes first; default: the provider's."""
    node_attributes: Attributes | None = None
    """Copied into each node's record."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels the pool offers, each once."""
        return ()

    @property
    def label_places(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        """Where in the pool's mapping each label is named, and the label; for checking them against the file."""
        return ()

    def limits(self) -> Limits:
        return Limits({INSTANCES: self.max_servers})

    @property
    def ignores_provider_quota(self) -> bool:
        return False

    @property
    def zones(self) -> tuple[str, ...]:
        """Availability zones to choose from; none: the driver's choice."""
        return ()


class ProviderConfig(Model):
    """What every driver's providers have. A driver's subclass narrows ``pools``."""

    name: Text
    driver: Text
    max_concurrency: StrictInt = -1
    """Launches at a time; -1: any number. 0: the provider takes no requests, and declines none."""
    priority: StrictInt | None = None
    pools: tuple[PoolConfig, ...] = ()

    @property
    def launching(self) -> Launching:
        return Launching()

    def pool_priority(self, pool: PoolConfig) -> int:
        """The pool's priority, else the provider's, else 100."""
        return next((p for p in (pool.priority, self.priority) if p is not None), 100)


class LaunchingProviderConfig(ProviderConfig):
    """A provider whose driver makes its machines."""

    launch_retries: Annotated[StrictInt, Field(ge=1)] = 3
    launch_timeout: Seconds = 3600
    boot_timeout: Seconds = 60

    @property
    def launching(self) -> Launching:
        return Launching(self.launch_retries, float(self.launch_timeout), float(self.boot_timeout))


# -- the whole ------------------------------------------------------------------------------------------------------


def _whole_seconds(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Config(Model):
    """One configuration, checked. Made by `nodelaunch.load_config`."""

    zookeeper_servers: tuple[ZooKeeperServer, ...] = ()
    """None: the embedded store is used."""
    zookeeper_tls: ZooKeeperTls | None = None
    zookeeper_timeout: Annotated[float, BeforeValidator(_whole_seconds), Field(strict=True, ge=1)] = 10.0
    """Session timeout, seconds."""
    embedded_store: EmbeddedStoreConfig = Field(default_factory=EmbeddedStoreConfig)
    labels: tuple[LabelConfig, ...] = ()
    providers: tuple[SerializeAsAny[ProviderConfig], ...] = ()
    diskimages: tuple[DiskImageConfig, ...] = ()
    tenant_resource_limits: tuple[TenantLimits, ...] = ()
    max_hold_age: AnyCount = 0
    """Seconds a node may be held; zero and below: no limit of ours."""
    webapp: WebappConfig = Field(default_factory=WebappConfig)
    elements_dir: StrictStr | None = None
    images_dir: StrictStr | None = None
    build_log_dir: StrictStr | None = None
    build_log_retention: Count = 7

    @model_validator(mode="after")
    def _one_store(self) -> Config:
        if self.zookeeper_servers and "embedded_store" in self.model_fields_set:
            raise PydanticCustomError("two_stores", "either zookeeper-servers or embedded-store, not both")
        if self.zookeeper_tls and not self.zookeeper_servers:
            raise PydanticCustomError("tls_without_servers", "zookeeper-tls needs zookeeper-servers")
        return self

    @property
    def chroot(self) -> str:
        """The one chroot of the ensemble, with a leading slash, or nothing."""
        chroots = {server.chroot.strip("/") for server in self.zookeeper_servers} - {""}
        return f"/{chroots.pop()}" if chroots else ""

    def provider(self, name: str) -> ProviderConfig | None:
        return next((provider for provider in self.providers if provider.name == name), None)

    def diskimage_login(self) -> Mapping[str, DiskImageLogin]:
        """How to log in to machines made from each diskimage, with what its parents say where it says nothing."""
        images = {image.name: image for image in self.diskimages}
        return {name: _login(images, name) for name in images}


@dataclass(frozen=True, slots=True)
class DiskImageLogin:
    username: str = "zuul"
    python_path: str = "auto"
    shell_type: str | None = None


def _login(images: Mapping[str, DiskImageConfig], name: str) -> DiskImageLogin:
    line: list[DiskImageConfig] = []
    at: str | None = name
    while at is not None and at in images:
        line.append(images[at])
        at = images[at].parent
    return DiskImageLogin(
        username=next((image.username for image in line if image.username), "zuul"),
        python_path=next((image.python_path for image in line if image.python_path), "auto"),
        shell_type=next((image.shell_type for image in line if image.shell_type), None),
    )
