"""The fake driver as a subject of the driver conformance checks, in memory and in a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from nodelaunch.drivers.conformance import Hooks, Resources, Subject
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.protocol.driver import DriverContext, ExternalId

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
) -> Subject:
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
    return Subject(
        name="fake", open=open_driver, pool=POOL, label=LABEL, hooks=hooks_of(cloud), **settings
    )  # fmt: skip


def hooks_of(cloud: FakeCloud) -> Hooks:
    async def resources() -> Resources:
        return {server.id: server.id for server in cloud.servers()}

    @asynccontextmanager
    async def foreign_instance() -> AsyncIterator[ExternalId]:
        instance_id = cloud.add()
        yield ExternalId(instance_id)
        cloud.remove(instance_id)

    @asynccontextmanager
    async def boot_held() -> AsyncIterator[None]:
        boot_time = cloud.settings().get("boot-time")
        cloud.set("boot-time", 3600)
        try:
            yield
        finally:
            cloud.set("boot-time", boot_time)
            for server in cloud.servers():
                if server.state == "building":
                    cloud.set_state(server.id, "active")

    return Hooks(resources=resources, foreign_instance=foreign_instance, boot_held=boot_held, faults=faults_of(cloud))


def faults_of(cloud: FakeCloud) -> dict[str, Callable[[], AbstractAsyncContextManager[None]]]:
    def failing(call: str, **how: Any) -> Callable[[], AbstractAsyncContextManager[None]]:
        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            cloud.fail(call, times=1000, **how)
            try:
                yield
            finally:
                cloud.clear_faults()

        return fault

    @asynccontextmanager
    async def down() -> AsyncIterator[None]:
        cloud.set("unavailable", True)
        try:
            yield
        finally:
            cloud.set("unavailable", None)

    creates = {f"create fails ({k})": failing("create", kind=k) for k in ("error", "quota", "capacity", "timeout")}
    return {
        **creates,
        "create fails and leaves an instance": failing("create", leave=True),
        "create's answer is lost": failing("create", kind="unavailable", leave=True, with_id=False),
        "boot fails": failing("boot"),
        "wait fails": failing("wait"),
        "delete fails": failing("delete"),
        "list fails": failing("list"),
        "limits fail": failing("limits"),
        "the cloud is down": down,
    }
