"""Counts the points at which a launcher can be killed, and kills it at one of them.

A process has effects outside only through its operations on the store and its calls to a driver. So a kill between two
of these equals a kill right after the first or right before the second, at any await. Each operation and each call has
a point before it, at which it is never done, and one after it, at which it is done but its reply is lost. Where the
cloud is slow, a call has a third point: it is sent, and done when its process is long dead. What does *not* belong
here: when points count (site.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fuzz.cloud import Process, SlowDriver, ToldCloud
from fuzz.store import Latency, SimServer, SimStore
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.ledger import FakeServer
from nodelaunch.protocol.driver import DriverContext, ExternalId, Fence, Instance, InstanceSpec

T = TypeVar("T")

LATE_S = 20.0
"""Delay after which a call that outlives its process arrives, and after which clouds with stale lists list a change."""


@dataclass(eq=False, slots=True)
class Trap:
    """*kill* is called with a launcher's name at the point numbered *target*, from 0; None: they are only counted."""

    kill: Callable[[str], None]
    target: int | None = None
    is_open: bool = False
    count: int = 0
    victim: str = ""
    where: str = ""
    """The point at which it was killed."""

    def at(self, who: str, where: str) -> bool:
        """*who* is at a point; whether it was killed there."""
        if not self.is_open or self.where:
            return False
        number, self.count = self.count, self.count + 1
        if number != self.target:
            return False
        self.victim, self.where = who, where
        self.kill(who)
        return True


class TrappedStore(SimStore):
    """The store's client of one launcher process."""

    def __init__(self, server: SimServer, name: str, latency: Latency, trap: Trap, *, ends_at_once: bool) -> None:
        """*ends_at_once*: the session ends with the process."""
        super().__init__(server, name, latency)
        self._trap = trap
        self._ends_at_once = ends_at_once

    def call(self, name: str, act: Callable[[int], Any]) -> asyncio.Future[Any]:
        if not self.is_dead:
            self._trap.at(self.name, f"before {name}")

        def then(session: int) -> Any:
            try:
                return act(session)
            finally:
                if not self.is_dead:
                    self._trap.at(self.name, f"after {name}")

        return super().call(name, then)

    def die(self) -> None:
        super().die()
        if self._ends_at_once:
            self.server.end_session(self.session_id)


class LateCloud(ToldCloud):
    """A cloud that remembers what is gone."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.leaving: dict[str, FakeServer] = {}
        self.gone_at: dict[str, float] = {}

    def _tell(self, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None:
        super()._tell(what, instance_id, node_id, detail)
        if what == "deleting" and (server := self._ledger.find(instance_id or "")) is not None:
            self.leaving[server.id] = server
        elif what == "gone":
            self.gone_at[instance_id or ""] = self.now


class TrappedDriver(SlowDriver):
    """The driver of one launcher process."""

    cloud: LateCloud

    def __init__(
        self,
        config: FakeProvider,
        context: DriverContext,
        cloud: LateCloud,
        process: Process,
        trap: Trap,
        *,
        is_late: bool,
    ) -> None:
        super().__init__(config, context, cloud, process)
        self._trap = trap
        self._is_late = is_late

    def _at(self, where: str) -> bool:
        return not self._process.is_dead and self._trap.at(self._process.name, where)

    async def _as_sent(self, work: Callable[[], Awaitable[T]]) -> T:
        async def on_its_way() -> T:
            if self._is_late and self._at("while a call is under way"):
                await asyncio.sleep(LATE_S)
            return await work()

        return await super()._as_sent(on_its_way)

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self._at("before create_instance")
        try:
            return await super().create_instance(spec)
        finally:
            self._at("after create_instance")

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        self._at("before wait_until_active")
        try:
            return await super().wait_until_active(external_id)
        finally:
            self._at("after wait_until_active")

    async def delete_instance(self, external_id: ExternalId) -> None:
        with self._deleting():
            await super().delete_instance(external_id)

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        with self._deleting():
            await super().delete_fenced(external_id, fence)

    @contextmanager
    def _deleting(self) -> Iterator[None]:
        self._at("before delete_instance")
        try:
            yield
        finally:
            self._at("after delete_instance")

    async def list_instances(self) -> AsyncIterator[Instance]:
        self._at("before list_instances")
        found = [instance async for instance in super().list_instances()]
        self._at("after list_instances")
        for instance in found:
            yield instance
        if self._is_late:
            for server_id, at in self.cloud.gone_at.items():
                if self.cloud.now < at + LATE_S and server_id in self.cloud.leaving:
                    yield self._instance(self.cloud.leaving[server_id])
