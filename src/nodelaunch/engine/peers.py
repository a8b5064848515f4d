"""What this process tells other launchers and remembers of them, outside Nodepool's own tree.

*Presence*: an ephemeral record of each nodelaunch process, from which all conclude alike who keeps a label's nodes
ready. *Known pools*: what each pool offers, kept while the pool is away, so that a restart, ours or a neighbour's,
fails no request that the pool would have served. What does *not* belong here: Nodepool's own components (pool.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from nodelaunch.clock import Clock
from nodelaunch.engine.view import ClusterView, Note, PoolsChanged, ViewWarmed
from nodelaunch.errors import RecordExistsError, RecordGoneError, SessionLostError, StoreError, VersionConflictError
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import KnownPool, Presence
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import Entry, SessionState, Store
from nodelaunch.protocol.triage import Absentee

log = structlog.get_logger(__name__)

RETURN_GRACE_S = 120.0
"""How long a pool that is not registered any more is waited for: time for a rolling restart to replace a process."""

PoolName = tuple[str, str]
"""Provider and pool."""


class Herald:
    """Keeps this process's presence in the store, session after session. `run` it."""

    def __init__(self, store: Store, presence: Presence) -> None:
        self._store = store
        self._presence = presence
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self._presence.id

    def tell(
        self,
        *,
        min_ready: Mapping[str, int] | None = None,
        pools: tuple[str, ...] | None = None,
        state: ComponentState | None = None,
    ) -> None:
        """Change what the others are told; what is left out stays as it is."""
        before = self._presence
        if min_ready is not None:
            self._presence = self._presence.changed(min_ready={k: v for k, v in min_ready.items() if v > 0})
        if pools is not None:
            self._presence = self._presence.changed(pools=tuple(sorted(pools)))
        if state is not None:
            self._presence = self._presence.changed(state=state)
        if self._presence != before:
            self._changed.set()

    async def run(self) -> None:
        """Tell until cancelled. Raises: SessionLostError, to be run again; StoreError."""
        epoch = await self._store.session.connected()
        unsubscribe = self._store.session.subscribe(lambda _state: self._changed.set())
        try:
            path = f"{paths.PRESENCES}/{self._presence.hostname}"
            entry = await self._store.create(
                path, self._presence.to_bytes(), ephemeral=True, sequence=True, parents=True
            )
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._store.session.epoch != epoch or self._store.session.state is SessionState.LOST:
                    raise SessionLostError
                entry = await self._publish(entry)
        finally:
            unsubscribe()

    async def _publish(self, entry: Entry) -> Entry:
        data = self._presence.to_bytes()
        return entry if data == entry.data else await self._store.put(entry.path, data)


class Memory:
    """What pools there are, registered or away. `run` it, to keep the records for the next process too."""

    def __init__(self, store: Store, view: ClusterView, clock: Clock) -> None:
        self.listeners: list[Callable[[], None]] = []
        """Called when a pool is waited for no longer."""
        self._store = store
        self._view = view
        self._clock = clock
        self._away_since: dict[PoolName, float] = {}
        self._wake = asyncio.Event()

    def absent(self) -> list[Absentee]:
        """Pools that are away and may still come back in time."""
        self._look()
        now = self._clock.now()
        found = []
        for name, since in self._away_since.items():
            until, record = since + RETURN_GRACE_S, self._view.known_pools[name].record
            if until > now:
                found.append(Absentee(record.provider, record.pool, frozenset(record.labels), until))
        return found

    def _look(self) -> None:
        """Note since when which pool has been away."""
        if not self._view.is_warm:
            return
        registered = {(seen.record.provider_name, seen.record.name) for seen in self._view.pools.values()}
        now = self._clock.now()
        away = {name: self._away_since.get(name, now) for name in self._view.known_pools if name not in registered}
        self._away_since = away

    def is_known(self, provider: str, pool: str) -> bool:
        """Whether the pool is registered, or remembered."""
        return (provider, pool) in self._view.known_pools

    async def run(self) -> None:
        """Remember and forget until cancelled."""
        unsubscribe = self._view.subscribe(self._on_note)
        self._wake.set()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._view.is_warm and self._store.session.state is SessionState.CONNECTED:
                    await self._update()
        finally:
            unsubscribe()

    def _on_note(self, note: Note) -> None:
        if isinstance(note, PoolsChanged | ViewWarmed):
            self._look()
            self._wake.set()

    async def _update(self) -> None:
        try:
            for name, labels in self._offers().items():
                await self._remember(name, labels)
            await self._forget_the_lost()
        except StoreError as error:
            log.info("known_pools_not_written", detail=str(error))

    def _offers(self) -> dict[PoolName, tuple[str, ...]]:
        """What is registered now; a pool that several processes have offers what any of them does."""
        offers: dict[PoolName, set[str]] = {}
        for seen in self._view.pools.values():
            pool = seen.record
            if pool.provider_name and pool.name:
                offers.setdefault((pool.provider_name, pool.name), set()).update(pool.supported_labels)
        return {name: tuple(sorted(labels)) for name, labels in offers.items()}

    async def _remember(self, name: PoolName, labels: tuple[str, ...]) -> None:
        known = self._view.known_pools.get(name)
        record = KnownPool(provider=name[0], pool=name[1], labels=labels)
        try:
            if known is None:
                await self._store.create(paths.known_pool(*name), record.to_bytes(), parents=True)
            elif known.record.labels != labels:
                await self._store.put(known.path, record.to_bytes(), version=known.version)
        except (RecordExistsError, RecordGoneError, VersionConflictError):
            self._wake.set()  # another process did the same just now: see what it wrote

    async def _forget_the_lost(self) -> None:
        """Forget pools that did not come back in time, and see to it that the next is forgotten in time."""
        now, loop = self._clock.now(), asyncio.get_running_loop()
        for name, since in list(self._away_since.items()):
            if now < since + RETURN_GRACE_S:
                loop.call_later(since + RETURN_GRACE_S - now, self._wake.set)
                continue
            log.info("pool_did_not_return", provider=name[0], pool=name[1])
            await self.forget(*name)
            for listener in tuple(self.listeners):
                listener()

    async def forget(self, provider: str, pool: str) -> None:
        """Don't wait for the pool: it is gone for good. Raises: StoreError."""
        with suppress(RecordGoneError):
            await self._store.delete(paths.known_pool(provider, pool))
