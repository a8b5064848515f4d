"""Configuration keys that Nodepool's OpenStack driver and its fake driver have in common.

Contains the models of providers, pools, labels and images, and `LabelCatalog`, which answers questions about labels
from the configuration alone, without a call to a cloud. Keys of only one driver belong in that driver's ``config.py``.
Source: Nodepool 11, fake and OpenStack drivers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import (
    TOP_DISKIMAGES,
    TOP_LABELS,
    VOLUME_GB,
    VOLUMES,
    AnyCount,
    Attributes,
    Count,
    DiskImageLogin,
    LaunchingProviderConfig,
    Model,
    PoolConfig,
    PoolLabel,
    Port,
    Reference,
    Text,
    Texts,
    Unique,
)
from nodelaunch.errors import LabelUnusableError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits

log: Logger = get_logger(__name__)

WINRM_PORT = 5986


def _number(value: Any) -> Any:
    """Return *value* if it is a number, quoted or not: Nodepool's OpenStack driver accepts both for a rate."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise PydanticCustomError("float_type", "must be a number")
    return value


Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number, json_schema_input_type=float | str)]
"""Seconds per call to the cloud."""


class CloudDiskImage(Model):
    name: Text
    pause: StrictBool = False
    meta: Attributes = Field(default_factory=dict)
    config_drive: StrictBool | None = None
    connection_type: Text = "ssh"
    connection_port: Port | None = None


class CloudImage(Model):
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
    def _id_or_name(self) -> CloudImage:
        if self.image_id and self.image_name:
            raise PydanticCustomError("two_images", "either image-id or image-name, not both")
        return self

    @property
    def in_cloud(self) -> str:
        """Name or id of the image in the cloud."""
        return self.image_id or self.image_name or self.name


class CloudLabel(PoolLabel):
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
    def _one_image_and_a_flavor(self) -> CloudLabel:
        if bool(self.diskimage) == bool(self.cloud_image):
            raise PydanticCustomError("one_image", "exactly one of diskimage and cloud-image is needed")
        if self.min_ram is None and self.flavor_name is None:
            raise PydanticCustomError("no_flavor", "min-ram, flavor-name or both are needed")
        return self

    @property
    def flavor_in_words(self) -> str:
        if self.min_ram is None:
            return f"is {self.flavor_name}"
        name = f" and {self.flavor_name} in its name" if self.flavor_name else ""
        return f"has {self.min_ram} MiB{name}"


class CloudPool(PoolConfig):
    labels: tuple[CloudLabel, ...] = ()
    max_cores: AnyCount | None = None
    max_ram: AnyCount | None = None
    """MiB."""
    max_volumes: AnyCount | None = None
    max_volume_gb: AnyCount | None = None
    ignore_provider_quota: StrictBool = False
    availability_zones: Texts = ()
    zone_policy: Literal["together", "spread", "none"] = "together"
    """Zone choice: one zone for all nodes of a request, a zone for each node, or the cloud's choice."""
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

    @property
    def zoning(self) -> Literal["together", "spread", "none"]:
        return self.zone_policy

    def networks_of(self, label: CloudLabel) -> tuple[str, ...]:
        return self.networks if label.networks is None else label.networks


class CloudProvider(LaunchingProviderConfig):
    """Base of the providers with these keys. Subclasses narrow ``pools``."""

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

    region_name: Text | None = None
    rate: Rate = 1.0
    clean_floating_ips: StrictBool = False
    port_cleanup_interval: Count = 600
    """Seconds; 0: never."""
    image_upload_timeout: Count = 3600
    """Read by a builder only, as are the next three keys."""
    image_name_format: Text = "{image_name}-{timestamp}"
    post_upload_hook: Text | None = None
    nodepool_id: Text | None = None
    diskimages: tuple[CloudDiskImage, ...] = ()
    cloud_images: tuple[CloudImage, ...] = ()


PoolT = TypeVar("PoolT", bound=CloudPool)
LabelT = TypeVar("LabelT", bound=CloudLabel)


class LabelCatalog(Generic[PoolT, LabelT]):
    """The labels of one provider, as the configuration defines them."""

    def __init__(
        self,
        config: CloudProvider,
        labels: Mapping[tuple[str, str], tuple[PoolT, LabelT]],
        logins: Mapping[str, DiskImageLogin],
    ) -> None:
        """Take *labels* by the names of pool and label, and the *logins* of the top-level diskimages."""
        self._config = config
        self._labels = labels
        self._logins = logins

    def label(self, pool: str, label: str) -> tuple[PoolT, LabelT]:
        """Return the pool and the label with these names. Raises: LabelUnusableError."""
        try:
            return self._labels[pool, label]
        except KeyError:
            raise LabelUnusableError(f"pool {pool} has no label {label}", provider=self._config.name) from None

    def image(self, label: LabelT) -> CloudDiskImage | CloudImage:
        """Return the diskimage or cloud image of *label*. Raises: LabelUnusableError."""
        images: Sequence[CloudDiskImage | CloudImage]
        images = self._config.diskimages if label.diskimage is not None else self._config.cloud_images
        name = label.diskimage or label.cloud_image
        for image in images:
            if image.name == name:
                return image
        raise LabelUnusableError(f"label {label.name}: no image {name}", provider=self._config.name)

    def cloud_image(self, label: LabelT) -> CloudImage | None:
        """Return the cloud image of *label*, or None if a builder uploads its image. Raises: LabelUnusableError."""
        image = self.image(label)
        return image if isinstance(image, CloudImage) else None

    def traits(self, pool: str, label: str) -> LabelTraits:
        """Return the traits of a label. Raises: LabelUnusableError."""
        in_pool, wanted = self.label(pool, label)
        checking = in_pool.host_key_checking if wanted.host_key_checking is None else wanted.host_key_checking
        image = self.image(wanted)
        login = image if isinstance(image, CloudImage) else self._logins.get(image.name, DiskImageLogin())
        return LabelTraits(
            image_id=wanted.cloud_image,
            diskimage=wanted.diskimage,
            username=login.username,
            connection_type=image.connection_type,
            connection_port=image.connection_port or (WINRM_PORT if image.connection_type == "winrm" else 22),
            shell_type=login.shell_type,
            python_path=login.python_path,
            host_key_checking=checking,
            console_log=wanted.console_log,
        )

    def metadata(self, spec: InstanceSpec, label: LabelT) -> dict[str, str]:
        """Return the instance's metadata. nodelaunch's own keys override the operator's properties, which override
        ``groups``."""
        properties = {name: str(value) for name, value in label.instance_properties.items()}
        for name, template in label.dynamic_instance_properties.items():
            try:
                properties[name] = template.format(request=_Attributes(spec.request))
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                log.warning(
                    "template_failed", provider=self._config.name, label=label.name, key=name, detail=str(error)
                )
        image = label.diskimage or label.cloud_image
        return {"groups": f"{self._config.name},{image},{label.name}", **properties, **spec.metadata}


class _Attributes:
    """Gives a template ``{request.id}`` syntax for mappings. Nested lists and objects stay unchanged."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)
