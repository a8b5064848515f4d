"""Keys of ``driver: openstack``: Nodepool's keys, and keys that its users requested.

Source: Nodepool 11, OpenStack driver; openstacksdk, search path of ``clouds.yaml``.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import StrictBool, model_validator
from pydantic_core import PydanticCustomError

from nodelaunch.config.models import Count, Text
from nodelaunch.drivers.cloudoptions import CloudLabel, CloudPool, CloudProvider
from nodelaunch.drivers.openstack.userdata import fault_of
from nodelaunch.protocol.hostkeys import SSH_CONNECTION_TYPES

CONFIG_FILE_VARIABLES = ("OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_CLIENT_VENDOR_FILE")
"""Environment variables that name a file to read before the files on the search path."""


class OpenStackLabel(CloudLabel):
    volume_type: Text | None = None
    """Type of the boot volume."""
    server_group: Text | None = None
    """Name or id."""
    host_key_injection: StrictBool | None = None
    """None: the pool's value."""

    @model_validator(mode="after")
    def _volume_has_a_type(self) -> OpenStackLabel:
        if self.volume_type and not self.boot_from_volume:
            raise PydanticCustomError("volume_type", "volume-type needs boot-from-volume: true")
        return self


class OpenStackPool(CloudPool):
    labels: tuple[OpenStackLabel, ...] = ()
    host_key_settle_time: Count = 2
    """Seconds for which host keys must stay the same before they are recorded; 0: keys are scanned once. Images with
    keys of their own replace them during boot."""
    host_key_injection: StrictBool = False
    """Create a host key for each server, pass it to cloud-init, and accept no server without it."""
    login_key: Text | None = None
    """File of a private key. The image's user must be able to log in with it before a node becomes ready."""
    floating_ip_network: Text | None = None
    """Name or id of the network that floating IPs come from; none: the cloud's external network."""
    use_internal_ip: StrictBool = False
    """Connect to the fixed address, even if there is a public one."""

    def injects(self, label: OpenStackLabel) -> bool:
        return self.host_key_injection if label.host_key_injection is None else label.host_key_injection


class OpenStackProvider(CloudProvider):
    driver: Text = "openstack"
    pools: tuple[OpenStackPool, ...] = ()
    cloud: Text
    """Entry of ``clouds.yaml``."""

    @model_validator(mode="after")
    def _user_data_takes_a_host_key(self) -> OpenStackProvider:
        for pool in self.pools:
            for label in pool.labels:
                fault = fault_of(label.userdata) if self.injects_host_key(pool, label) else None
                if fault is not None:
                    raise PydanticCustomError(
                        "user_data", "pool {pool}, label {label}: userdata {fault}",
                        {"pool": pool.name, "label": label.name, "fault": fault},
                    )  # fmt: skip
        return self

    def injects_host_key(self, pool: OpenStackPool, label: OpenStackLabel) -> bool:
        """Return True if a server of *label* in *pool* is given its host key: injection is on and the connection is
        SSH."""
        images = {image.name: image for image in (self.cloud_images if label.diskimage is None else self.diskimages)}
        image = images.get(label.diskimage or label.cloud_image or "")
        return pool.injects(label) and (image is None or image.connection_type in SSH_CONNECTION_TYPES)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that openstacksdk reads for clouds, secrets and vendors, even if they do not exist."""
        from openstack.config import loader

        named = [os.environ[name] for name in CONFIG_FILE_VARIABLES if os.environ.get(name)]
        return tuple(Path(name) for name in (*named, *loader.CONFIG_FILES, *loader.SECURE_FILES, *loader.VENDOR_FILES))
