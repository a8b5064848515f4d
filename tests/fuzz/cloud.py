"""Fake clouds that report each event as it happens, and drivers whose calls take time and outlive their caller.

A call that was sent has its effect even if its caller is cancelled, or killed, before the answer, like a request that
is on its way to a real cloud. What does *not* belong here: when a cloud fails (scenario.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.drivers.fake.ledger import MemoryLedger
from nodelaunch.errors import DriverError, LaunchTimeoutError, ProviderUnavailableError
from nodelaunch.protocol.driver import METADATA_NODE_ID, DriverContext, ExternalId, Fence, Instance, InstanceSpec

T = TypeVar("T")

_caller: ContextVar[str | None] = ContextVar("caller", default=None)
"""Whose call the cloud is working on."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """``what``: create, active, error, deleting, gone, refused. ``by``: the launcher whose call it was, if any."""

    cloud: str
    what: str
    id: str | None
    metadata: Mapping[str, str]
    detail: Any
    by: str | None


class TellingLedger(MemoryLedger):
    """Calls its listener with each line of its log, in the turn in which it is written."""

    listener: Callable[[str, str | None, str | None, Any], None]

    def note(self, at: float, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None:
        super().note(at, what, instance_id, node_id, detail)
        self.listener(what, instance_id, node_id, detail)


class ToldCloud(FakeCloud):
    """Calls its listener with everything that happens, in the turn in which it does."""

    def __init__(self, name: str, rng: random.Random) -> None:
        ledger = TellingLedger()
        ledger.listener = self._tell
        super().__init__(seed=rng.getrandbits(64), ledger=ledger)
        self.name = name
        self.listener: Callable[[CloudEvent], None] = lambda _event: None

    def _tell(self, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None:
        metadata = detail["metadata"] if what == "create" else {METADATA_NODE_ID: node_id or ""}
        self.listener(CloudEvent(self.name, what, instance_id, metadata, detail, _caller.get()))


@dataclass(eq=False, slots=True)
class Process:
    """Facts about a launcher process that its drivers need."""

    name: str
    pause: Callable[[], float]
    """Return the delay of the next call to the cloud, one way, in seconds."""
    failed: Callable[[str, str, DriverError], None]
    """Called with (node id, provider, error) for each launch step that failed."""
    is_dead: bool = False


class SlowDriver(FakeDriver):
    """The fake driver of one launcher process, on a cloud others may share."""

    cloud: ToldCloud

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: ToldCloud, process: Process) -> None:
        super().__init__(config, context, cloud=cloud)
        self._process = process
        self._node_of: dict[str, str] = {}

    async def _as_sent(self, work: Callable[[], Awaitable[T]]) -> T:
        """Let the cloud do *work* after a delay, even if the caller ends meanwhile."""
        if self._process.is_dead:
            raise ProviderUnavailableError("the process is gone", provider=self.config.name)

        async def in_the_cloud() -> T:
            _caller.set(self._process.name)
            await asyncio.sleep(self._process.pause())
            return await work()

        task = asyncio.ensure_future(in_the_cloud())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        finally:
            await asyncio.sleep(self._process.pause())

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            external_id = await self._as_sent(lambda: super(SlowDriver, self).create_instance(spec))
        except DriverError as error:
            self._node_of[error.external_id or ""] = spec.node_id
            self._process.failed(spec.node_id, self.config.name, error)
            raise
        self._node_of[external_id] = spec.node_id
        return external_id

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        server = self.cloud.server(external_id)
        if server is not None:  # it may have been found by listing
            self._node_of[external_id] = server.metadata.get("nodepool_node_id", "")
        try:
            return await super().wait_until_active(external_id)
        except DriverError as error:
            self._process.failed(self._node_of.get(external_id, ""), self.config.name, error)
            raise
        except asyncio.CancelledError:  # it took too long, or its caller was cancelled
            gave_up = LaunchTimeoutError("nobody waits any longer")
            self._process.failed(self._node_of.get(external_id, ""), self.config.name, gave_up)
            raise

    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._as_sent(lambda: super(SlowDriver, self).delete_instance(external_id))

    async def raise_fence(self, fence: Fence) -> None:
        await self._as_sent(lambda: super(SlowDriver, self).raise_fence(fence))

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await self._as_sent(lambda: super(SlowDriver, self).delete_fenced(external_id, fence))

    async def list_instances(self) -> AsyncIterator[Instance]:
        async def whole() -> list[Instance]:
            return [instance async for instance in super(SlowDriver, self).list_instances()]

        for instance in await self._as_sent(whole):
            yield instance
