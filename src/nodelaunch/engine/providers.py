"""The providers of a running launcher: starts, changes, removes and drains them.

service.py has the parts of one provider; launcher.py derives the effects of a new configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from nodelaunch.config.changes import Changes
from nodelaunch.config.models import ProviderConfig
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.serve.pool import Pool
from nodelaunch.engine.service import ProviderService
from nodelaunch.engine.supervision import supervise
from nodelaunch.log import Logger, get_logger

log: Logger = get_logger(__name__)

LETTING_GO_S = 30.0
"""Seconds in which a replaced provider may hand back its work, and then end. A driver that ignores cancellation would
otherwise delay the configuration of all providers."""


class Providers:
    """Runs a service in a separate task for each provider that is configured or being removed.

    Invariants: ``runtimes`` and ``pools`` belong to the services that run, as of the last `refresh`; every task
    ends with `serving`.
    """

    def __init__(
        self,
        make_service: Callable[[ProviderConfig], ProviderService],
        on_change: Callable[[Collection[str]], None],
    ) -> None:
        """*on_change* is called after each `refresh`, with the names of providers that have started since."""
        self.runtimes: dict[str, ProviderRuntime] = {}
        """Providers whose driver could be created, by name."""
        self.pools: dict[PoolKey, Pool] = {}
        self._make_service = make_service
        self._on_change = on_change
        self._services: dict[str, ProviderService] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Running services, by provider name."""
        self._removals: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None

    @property
    def at_work(self) -> list[str]:
        """Names of the providers that may create nodes."""
        return [name for name, service in self._services.items() if service.is_at_work]

    @contextmanager
    def serving(self, group: asyncio.TaskGroup, configs: Iterable[ProviderConfig]) -> Iterator[None]:
        """Serve *configs* as tasks of *group*, which are cancelled at the end of the block."""
        self._group = group
        for config in configs:
            self._start(config)
        try:
            yield
        finally:
            self._group = None
            for name, task in self._tasks.items():
                self._services[name].end(task)
            for task in self._removals:
                task.cancel()

    def refresh(self) -> None:
        """Update the tables after providers or pools started or ended."""
        runtimes = {name: s.runtime for name, s in self._services.items() if s.runtime is not None}
        started = [name for name, runtime in runtimes.items() if self.runtimes.get(name) is not runtime]
        self.runtimes.clear()
        self.runtimes.update(runtimes)
        self.pools.clear()
        self.pools.update(((s.name, name), pool) for s in self._services.values() for name, pool in s.pools.items())
        self._on_change(started)

    async def apply(self, config: ProviderConfig, changes: Changes, grace_s: float) -> bool:
        """Continue one provider with *config*, part of a configuration with *changes*. Return True if it is restarted.

        Requests in removed pools have *grace_s* seconds to finish.
        """
        service = self._services.get(config.name)
        if service is not None and config.name in changes.replaced:
            await self._drain_some(service)
            await self._end(config.name)
            service = None
        if service is None:
            self._start(config)
            return True
        await service.apply(config, is_changed=config.name in (*changes.changed, *changes.added), grace_s=grace_s)
        return False

    def remove(self, name: str, grace_s: float) -> None:
        """Let a provider finish in the background, then end it.

        Its requests have *grace_s* seconds to finish. It ends when it has no nodes left.
        """
        service = self._services.get(name)
        if service is None or self._group is None:
            return

        async def end_when_retired() -> None:
            if await service.retired() and self._services.get(name) is service:
                await self._end(name)
                log.info("provider_removed", provider=name)

        service.retire(grace_s)
        task = self._group.create_task(supervise(f"retire {name}", end_when_retired), name=f"retire {name}")
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def drain(self, grace_s: float) -> None:
        """Accept no more requests, give running ones *grace_s* seconds to finish, and hand back the rest."""
        await asyncio.gather(*(service.drain(grace_s) for service in self._services.values()))

    def _start(self, config: ProviderConfig) -> None:
        if self._group is None:
            return
        name = config.name
        service = self._services[name] = self._make_service(config)
        self._tasks[name] = self._group.create_task(supervise(f"provider {name}", service.run), name=name)

    async def _drain_some(self, service: ProviderService) -> None:
        """Hand back the requests of a provider. Work that its driver does not release in time is abandoned."""
        try:
            async with asyncio.timeout(LETTING_GO_S):
                await service.drain(0.0)
        except TimeoutError:
            log.warning("provider_not_drained", provider=service.name, waited_s=LETTING_GO_S)

    async def _end(self, name: str) -> None:
        """Stop a provider at once. Tasks of it that do not end in time are abandoned."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._services[name].end(task)
            done, _ = await asyncio.wait([task], timeout=LETTING_GO_S)
            if not done:
                self._removals.add(task)
                task.add_done_callback(self._removals.discard)
                log.warning("provider_not_ended", provider=name, waited_s=LETTING_GO_S)
        self._services.pop(name, None)
        self.refresh()
