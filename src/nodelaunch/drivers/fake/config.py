"""Keys of ``driver: fake``: those of Nodepool's OpenStack driver, which its fake driver takes, and a few for testing.

Source: Nodepool 11, fake and OpenStack drivers.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt

from nodelaunch.config.models import VOLUME_GB, VOLUMES, Count, LocalPath, Model, Seconds, Share, Text
from nodelaunch.drivers.cloudoptions import CloudPool, CloudProvider
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM, Limits


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


class FakeProvider(CloudProvider):
    """Its ``rate`` is accepted; the fake cloud is never called too often."""

    pools: tuple[CloudPool, ...] = ()
    cloud: Text = "fake"

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
