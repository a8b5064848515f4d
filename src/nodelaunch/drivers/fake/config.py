"""Keys of ``driver: fake``: those of Nodepool's OpenStack driver, which its fake driver takes, and a few for testing.

Source: Nodepool 11, fake and OpenStack drivers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    TOP_DISKIMAGES,
    TOP_LABELS,
    VOLUME_GB,
    VOLUMES,
    AnyCount,
    Attributes,
    Count,
    LaunchingProviderConfig,
    LocalPath,
    Model,
    PoolConfig,
    Port,
    Reference,
    Seconds,
    Share,
    Text,
    Texts,
    Unique,
)
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits


def _number(value: Any) -> Any:
    """A number, quoted or not, as Nodepool's OpenStack driver takes a rate."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise PydanticCustomError("float_type", "must be a number")
    return value


Rate = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


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

    @property
    def in_cloud(self) -> str:
        """What the cloud knows it by."""
        return self.image_id or self.image_name or self.name


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
    max_volume_gb: Count = 1_000_000

    def limits(self) -> Limits:
        return Limits({
            INSTANCES: self.max_servers, CORES: self.max_cores, RAM: self.max_ram,
            VOLUMES: self.max_volumes, VOLUME_GB: self.max_volume_gb,
        })  # fmt: skip


class FakeProvider(LaunchingProviderConfig):
    must_differ: ClassVar[tuple[Unique, ...]] = (
        *LaunchingProviderConfig.must_differ,
        Unique("label", "labels[]", scope="pools[]"),
        Unique("diskimage", "diskimages[]"),
        Unique("cloud-image", "cloud-images[]"),
    )
    must_exist: ClassVar[tuple[Reference, ...]] = (
        Reference("label", "pools[].labels[].name", TOP_LABELS),
        Reference("diskimage", "diskimages[].name", TOP_DISKIMAGES),
        Reference("diskimage", "pools[].labels[].diskimage", "diskimages[].name"),
        Reference("cloud-image", "pools[].labels[].cloud-image", "cloud-images[].name"),
    )

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

    cloud_file: LocalPath | None = None
    """SQLite file the fake cloud lives in; none: in memory, with the process."""
    boot_time: Seconds = 0.1
    """From the create call until the server is active."""
    delete_time: Seconds = 0.0
    """From the delete call until the server is gone."""
    failure_rate: Share = 0.0
    """Share of creates that fail, drawn at random."""
    failure_kind: Literal["error", "quota", "capacity", "timeout"] = "error"
    """How they fail: the server breaks, quota is used up, there is no room, or nothing ever comes."""
    seed: StrictInt | None = None
    """Of the random draws; none: each run draws differently."""
    limits: FakeLimits = Field(default_factory=FakeLimits)
