"""Keys of ``driver: fake``: those of Nodepool's OpenStack driver, which its fake driver takes, and a few for testing.

Source: Nodepool 11, fake and OpenStack drivers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    VOLUME_GB,
    VOLUMES,
    AnyCount,
    Attributes,
    Count,
    LaunchingProviderConfig,
    Model,
    PoolConfig,
    Port,
    Seconds,
    Text,
    Texts,
)
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits

Rate = Annotated[float, Field(ge=0)]


class FakeDiskImage(Model):
    name: Text
    pause: StrictBool = False
    meta: Attributes = Field(default_factory=dict)
    config_drive: StrictBool | None = None
    connection_type: Text = "ssh"
    connection_port: Port | None = None


class FakeCloudImage(Model):
    name: Text
    image_id: Text | None = None
    image_name: Text | None = None
    username: Text | None = None
    python_path: Text = "auto"
    shell_type: Text | None = None
    connection_type: Text = "ssh"
    connection_port: Port | None = None
    config_drive: StrictBool | None = None

    @model_validator(mode="after")
    def _id_or_name(self) -> FakeCloudImage:
        if self.image_id and self.image_name:
            raise PydanticCustomError("two_images", "either image-id or image-name, not both")
        return self


class FakeLabel(Model):
    name: Text
    diskimage: Text | None = None
    cloud_image: Text | None = None
    min_ram: Count | None = None
    """MiB."""
    flavor_name: Text | None = None
    key_name: Text | None = None
    console_log: StrictBool = False
    boot_from_volume: StrictBool = False
    volume_size: Count = 50
    """GB."""
    networks: Texts | None = None
    host_key_checking: StrictBool | None = None
    instance_properties: dict[StrictStr, Any] = Field(default_factory=dict)
    dynamic_instance_properties: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    userdata: StrictStr | None = None

    @model_validator(mode="after")
    def _one_image_and_a_flavor(self) -> FakeLabel:
        if bool(self.diskimage) == bool(self.cloud_image):
            raise PydanticCustomError("one_image", "exactly one of diskimage and cloud-image is needed")
        if self.min_ram is None and self.flavor_name is None:
            raise PydanticCustomError("no_flavor", "min-ram, flavor-name or both are needed")
        return self


class FakePool(PoolConfig):
    labels: tuple[FakeLabel, ...] = ()
    max_cores: AnyCount | None = None
    max_ram: AnyCount | None = None
    """MiB."""
    max_volumes: AnyCount | None = None
    max_volume_gb: AnyCount | None = None
    ignore_provider_quota: StrictBool = False
    availability_zones: Texts = ()
    networks: Texts = ()
    security_groups: Texts = ()
    auto_floating_ip: StrictBool = True
    host_key_checking: StrictBool = True

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label.name for label in self.labels))

    @property
    def label_places(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        return tuple((("labels", index, "name"), label.name) for index, label in enumerate(self.labels))

    def limits(self) -> Limits:
        return Limits({
            INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram,
            VOLUMES: self.max_volumes, VOLUME_GB: self.max_volume_gb,
        })  # fmt: skip

    @property
    def ignores_provider_quota(self) -> bool:
        return self.ignore_provider_quota

    @property
    def zones(self) -> tuple[str, ...]:
        return self.availability_zones


class FakeLimits(Model):
    """What the fake cloud grants the provider."""

    max_servers: Count = 20
    max_cores: Count = 100
    max_ram: Count = 1_000_000
    max_volumes: Count = 100

    def limits(self) -> Limits:
        return Limits({
            INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram, VOLUMES: self.max_volumes,
        })  # fmt: skip


class FakeProvider(LaunchingProviderConfig):
    pools: tuple[FakePool, ...] = ()
    cloud: Text = "fake"
    region_name: Text | None = None
    rate: Rate = 1.0
    """Accepted; the fake cloud is never called too often."""
    clean_floating_ips: StrictBool = False
    port_cleanup_interval: Count = 600
    image_upload_timeout: Count = 3600
    image_name_format: Text = "{image_name}-{timestamp}"
    post_upload_hook: Text | None = None
    nodepool_id: Text | None = None
    diskimages: tuple[FakeDiskImage, ...] = ()
    cloud_images: tuple[FakeCloudImage, ...] = ()

    cloud_file: Path | None = None
    """SQLite file the fake cloud lives in; none: in memory, with the process."""
    boot_time: Seconds = 0.1
    delete_time: Seconds = 0
    failure_rate: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] = 0
    """Share of creates that fail, drawn at random."""
    failure_kind: Literal["error", "quota", "capacity", "timeout"] = "error"
    seed: StrictInt | None = None
    limits: FakeLimits = Field(default_factory=FakeLimits)

    def problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        """References that lead nowhere: where, and what is wrong."""
        found: list[tuple[tuple[str | int, ...], str]] = []
        attached = {image.name for image in self.diskimages}
        clouds = {image.name for image in self.cloud_images}
        for p, pool in enumerate(self.pools):
            for i, label in enumerate(pool.labels):
                place = ("pools", p, "labels", i)
                if label.diskimage and label.diskimage not in attached:
                    text = f"diskimage {label.diskimage!r} is not among this provider's diskimages"
                    found.append(((*place, "diskimage"), text))
                if label.cloud_image and label.cloud_image not in clouds:
                    text = f"cloud-image {label.cloud_image!r} is not among this provider's cloud-images"
                    found.append(((*place, "cloud-image"), text))
        return found
