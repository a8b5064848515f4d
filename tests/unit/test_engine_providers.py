"""Providers of a launcher: each has one service, whose task ends with what it is part of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from nodelaunch.config.changes import Changes
from nodelaunch.engine.providers import Providers

pytestmark = pytest.mark.looptime


class Service:
    """A provider's service that does nothing, and records its calls."""

    def __init__(self, config: SimpleNamespace, launcher: Launcher) -> None:
        self.name: str = config.name
        self.runtime: object | None = None
        self.pools: dict[str, object] = {}
        self.told: list[Any] = []
        self.is_empty = asyncio.Event()
        self.is_running = False
        self._launcher = launcher

    async def run(self) -> None:
        self.runtime, self.pools, self.is_running = object(), {"main": object()}, True
        self._launcher.providers.refresh()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False

    async def apply(self, config: SimpleNamespace, *, is_changed: bool, grace_s: float) -> None:
        self.told.append(("apply", is_changed, grace_s))

    def end(self, task: asyncio.Task[None]) -> None:
        task.cancel()

    async def drain(self, grace_s: float) -> None:
        self.told.append(("drain", grace_s))

    def retire(self, grace_s: float) -> None:
        self.told.append(("retire", grace_s))

    async def retired(self) -> bool:
        await self.is_empty.wait()
        return True


class Launcher:
    def __init__(self) -> None:
        self.made: list[Service] = []
        self.started: list[str] = []
        self.providers = Providers(self._make, self.started.extend)

    def _make(self, config: SimpleNamespace) -> Service:
        self.made.append(Service(config, self))
        return self.made[-1]

    @asynccontextmanager
    async def serving(self, *names: str) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            with self.providers.serving(group, [config(name) for name in names]):
                await asyncio.sleep(1)
                yield


def config(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


async def test_providers_are_known_once_they_run() -> None:
    launcher = Launcher()
    async with launcher.serving("a", "b"):
        assert launcher.started == ["a", "b"]
        assert launcher.providers.runtimes == {each.name: each.runtime for each in launcher.made}
        assert set(launcher.providers.pools) == {("a", "main"), ("b", "main")}
    assert not any(service.is_running for service in launcher.made)


async def test_provider_that_starts_again_is_reported_again() -> None:
    launcher = Launcher()
    async with launcher.serving("a"):
        launcher.providers.refresh()
        assert launcher.started == ["a"]
        launcher.made[0].runtime = object()
        launcher.providers.refresh()
        assert launcher.started == ["a", "a"]


async def test_provider_is_changed_replaced_or_added() -> None:
    launcher = Launcher()
    async with launcher.serving("a", "b"):
        changes = Changes(changed=("a",), replaced=("b",), added=("c",))
        is_new = [await launcher.providers.apply(config(name), changes, 30.0) for name in ("a", "b", "c")]
        await asyncio.sleep(1)
        assert is_new == [False, True, True]
        a, replaced, *_ = launcher.made
        assert (a.told, replaced.told) == ([("apply", True, 30.0)], [("drain", 0.0)])
        assert [each.name for each in launcher.made if each.is_running] == ["a", "b", "c"]
        assert set(launcher.providers.runtimes) == {"a", "b", "c"}


async def test_removed_provider_ends_when_nothing_of_it_is_left() -> None:
    launcher = Launcher()
    async with launcher.serving("a"):
        launcher.providers.remove("a", 30.0)
        await asyncio.sleep(100)
        assert (launcher.made[0].told, launcher.made[0].is_running) == ([("retire", 30.0)], True)
        launcher.made[0].is_empty.set()
        await asyncio.sleep(1)
        assert not launcher.made[0].is_running
        assert launcher.providers.runtimes == {}


async def test_provider_whose_removal_is_under_way_does_not_keep_the_rest_from_ending() -> None:
    launcher = Launcher()
    async with asyncio.timeout(60):
        async with launcher.serving("a"):
            launcher.providers.remove("a", 30.0)
    assert not launcher.made[0].is_running


async def test_nothing_starts_while_nothing_is_served() -> None:
    launcher = Launcher()
    assert await launcher.providers.apply(config("a"), Changes(added=("a",)), 30.0)
    launcher.providers.remove("a", 30.0)
    assert launcher.made == []
