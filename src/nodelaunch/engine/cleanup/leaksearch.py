"""The search for leaks, separately at each provider. leaks.py defines a leak."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.engine.cleanup.deletion import DELETE_TIMEOUT_S
from nodelaunch.engine.cleanup.leaks import Leak, delete_leak, find_leaks
from nodelaunch.engine.cleanup.queue import LeakKey
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.errors import DriverError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import LeakDeleted, LeaksSeen

log: Logger = get_logger(__name__)


class LeakSearch:
    """Deletes resources that carry a provider's name but a node id without a record, when two searches in a row have
    found them.

    Each provider has a separate task: a provider that does not answer delays no other.
    """

    def __init__(self, ctx: SweepContext, every_s: Callable[[], float]) -> None:
        """*every_s*: pause between two searches at one provider, in seconds."""
        self.suspects: dict[str, set[tuple[str, str]]] = {}
        """Keys of the leaks that the last search found, by provider."""
        self._ctx = ctx
        self._every_s = every_s
        self._group: asyncio.TaskGroup | None = None
        self._searching: dict[str, ProviderRuntime] = {}

    def open(self, group: asyncio.TaskGroup) -> None:
        """Search in *group* from now on, at all present providers."""
        self._group = group
        self._searching.clear()
        for name in list(self._ctx.providers):
            self.begin(name)

    def close(self) -> None:
        """Start no more searches."""
        self._group = None

    def begin(self, name: str) -> None:
        """Search at provider *name* while it is the same provider object."""
        provider = self._ctx.providers.get(name)
        if self._group is not None and provider is not None and self._searching.get(name) is not provider:
            self._searching[name] = provider
            self._group.create_task(self._keep_searching(provider), name=f"leaks {name}")

    async def _keep_searching(self, provider: ProviderRuntime) -> None:
        while True:
            await asyncio.sleep(self._every_s())
            if self._ctx.providers.get(provider.name) is not provider:
                break
            await self._ctx.view.synced()
            await self._guarded(provider)
        if self._searching.get(provider.name) is provider:
            del self._searching[provider.name]
            self.suspects.pop(provider.name, None)

    async def _guarded(self, provider: ProviderRuntime) -> None:
        """Search once; an error of the driver is logged here."""
        try:
            await self.search(provider)
        except (DriverError, TimeoutError) as error:
            log.warning("leaks_unknown", provider=provider.name, detail=str(error))
        except Exception:
            log.exception("leaks_unknown", provider=provider.name)

    async def search(self, provider: ProviderRuntime) -> None:
        """Search once, and delete what the last search found too. Raises: DriverError, TimeoutError."""
        events = provider.events
        async with provider.using() as driver, asyncio.timeout(DELETE_TIMEOUT_S):
            with events.calling(provider.name, "list"):
                leaks = await find_leaks(driver, provider.name, self._ctx.view.node)
        if not self._ctx.view.is_synced:
            return
        before = self.suspects.get(provider.name, set())
        self.suspects[provider.name] = {leak.key for leak in leaks}
        kinds = Counter(leak.kind for leak in leaks)
        events.emit(LeaksSeen(events.now(), provider.name, tuple(sorted(kinds.items()))))
        for leak in leaks:
            if leak.key in before:
                self._ctx.queue.start(LeakKey(provider.name, leak.key), provider.name, _delete, provider, leak)


async def _delete(provider: ProviderRuntime, leak: Leak) -> None:
    """Delete one leak; if that fails, the next search tries again."""
    log_ = log.bind(provider=provider.name, kind=leak.kind, external_id=leak.external_id, node_id=leak.node_id)
    try:
        async with provider.using() as driver, asyncio.timeout(DELETE_TIMEOUT_S):
            await delete_leak(driver, leak)
    except (DriverError, TimeoutError) as error:
        log_.warning("leak_not_deleted", detail=str(error))
    else:
        log_.warning("leak_deleted", detail=leak.detail or None)
        provider.events.emit(LeakDeleted(provider.events.now(), provider.name, leak.kind, leak.external_id))
        provider.invalidate()
