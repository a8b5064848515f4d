"""The fake driver as a subject of the driver conformance checks, in memory and in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodelaunch.conformance import DriverUnderTest
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.protocol.driver import DriverContext

POOL, LABEL = "main", "small"


class NoScanner:
    """The `HostScanner` of drivers that need none."""

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        raise AssertionError(f"{host} port {port} was scanned")

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        raise AssertionError(f"{host} port {port} was connected to")


def fake_provider(**more: Any) -> FakeProvider:
    """A provider of one pool and label; *more* are further keys, underscores for hyphens."""
    label = {"name": LABEL, "cloud-image": "debian", "min-ram": 4096}
    content = {
        "name": "cloud", "driver": "fake", "boot-time": 0.0, "cloud-images": [{"name": "debian"}],
        "pools": [{"name": POOL, "labels": [label]}], **{key.replace("_", "-"): value for key, value in more.items()},
    }  # fmt: skip
    return FakeProvider.model_validate(content)


def fake_driver(cloud: FakeCloud | None = None, **more: Any) -> FakeDriver:
    return FakeDriver(fake_provider(**more), DriverContext(NoScanner()), cloud=cloud)


def fake_subject(
    cloud: FakeCloud,
    kind: Callable[[FakeProvider, DriverContext, FakeCloud | None], FakeDriver] | None = None,
    **more: Any,
) -> DriverUnderTest:
    """Drivers on *cloud*, each opening its file by itself if it has one. *kind*: another driver, a broken one maybe."""
    path: Path | None = cloud.path
    config = fake_provider(**({"cloud_file": str(path)} if path else {}))
    shared = None if path else cloud

    def open_driver() -> FakeDriver:
        context = DriverContext(NoScanner())
        return FakeDriver(config, context, cloud=shared) if kind is None else kind(config, context, shared)

    for name, value in {
        "boot-time": 0.03,
        "delete-time": 0.03,
        "create-time": 0.01,
        "max-servers": 10**6,
        "max-cores": 10**6,
        "max-ram": 10**9,
    }.items():
        cloud.set(name, value)
    settings = {"deadline_s": 20.0, **more}
    return DriverUnderTest(name="fake", open=open_driver, pool=POOL, label=LABEL, **settings)
