"""Keys of ``driver: fake``: the keys of Nodepool's OpenStack driver, which its fake driver takes, and a few for tests.

Source: Nodepool 11, fake and OpenStack drivers.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt

from nodelaunch.config.models import VOLUME_GB, VOLUMES, Count, LocalPath, Model, Seconds, Share, Text
from nodelaunch.drivers.cloudoptions import CloudPool, CloudProvider
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits


class FakeLimits(Model):
    """Limits of the fake cloud for the provider."""

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


class FakeProvider(CloudProvider):
    """A provider with ``driver: fake``. ``rate`` is accepted without effect: the fake cloud limits no calls."""

    pools: tuple[CloudPool, ...] = ()
    cloud: Text = "fake"

    cloud_file: LocalPath | None = None
    """SQLite file of the fake cloud. Without one the cloud is in memory and ends with the process."""
    boot_time: Seconds = 0.1
    """Seconds from the create call until the server is active."""
    delete_time: Seconds = 0.0
    """Seconds from the delete call until the server is gone."""
    failure_rate: Share = 0.0
    """Share of creates that fail, drawn at random."""
    failure_kind: Literal["error", "quota", "capacity", "timeout"] = "error"
    """Kind of these failures: the server breaks, quota is used up, no capacity is free, or the server never becomes
    active."""
    seed: StrictInt | None = None
    """Seed of the random draws. Without one each run draws differently."""
    limits: FakeLimits = Field(default_factory=FakeLimits)
