"""The records that this process publishes for other launchers and remembers of them, outside Nodepool's tree.

*Presence*: an ephemeral record of each nodelaunch process, from which all processes compute the same owner of a label's
min-ready nodes. *Known pools*: the labels of each pool, kept while the pool is away, so that a restart of any launcher
fails no request that the pool would have served. serve/pool.py writes Nodepool's own components.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf

from nodelaunch.clock import Clock
from nodelaunch.decisions.triage import Absentee
from nodelaunch.engine.view import ClusterView, PoolsChanged, ViewSynced
from nodelaunch.errors import RecordExistsError, RecordGoneError, SessionLostError, StoreError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import KnownPool, Presence
from nodelaunch.protocol.states import ComponentState
from nodelaunch.protocol.store import Entry, SessionState, Store

log: Logger = get_logger(__name__)

RETURN_GRACE_S = 120.0
"""Seconds for which the return of an unregistered pool is awaited: time for a rolling restart to replace a process."""

AGAIN_S = 0.1
"""Seconds before the next try to publish the presence."""

PoolName = tuple[str, str]
"""The names of a provider and a pool."""


class PresencePublisher:
    """Keeps this process's presence in the store, session after session. `run` it."""

    def __init__(self, store: Store, presence: Presence, view: ClusterView) -> None:
        self._store = store
        self._view = view
        self._presence = presence
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self._presence.id

    def publish(
        self,
        *,
        min_ready: Mapping[str, int] | None = None,
        pools: tuple[str, ...] | None = None,
        providers: Iterable[str] | None = None,
        knows: Iterable[str] | None = None,
        state: ComponentState | None = None,
    ) -> None:
        """Change the published values; omitted values stay as they are."""
        before = self._presence
        if min_ready is not None:
            self._presence = self._presence.changed(min_ready={k: v for k, v in min_ready.items() if v > 0})
        if pools is not None:
            self._presence = self._presence.changed(pools=tuple(sorted(pools)))
        if providers is not None:
            self._presence = self._presence.changed(providers=tuple(sorted(set(providers))))
        if knows is not None:
            self._presence = self._presence.changed(knows=tuple(sorted(set(knows) - {self.id})))
        if state is not None:
            self._presence = self._presence.changed(state=state)
        if self._presence != before:
            self._changed.set()

    async def run(self) -> None:
        """Publish, session after session, until cancelled. Raises: StoreError."""
        while True:
            with suppress(SessionLostError, RecordGoneError):
                await self._publish_session()
            await asyncio.sleep(AGAIN_S)  # until its state shows that a session has ended, all calls fail at once

    async def _publish_session(self) -> None:
        """Publish during one session. Raises: SessionLostError; RecordGoneError if the presence was deleted;
        StoreError."""
        epoch = await self._store.session.connected()
        stops = [
            self._store.session.subscribe(lambda _state: self._changed.set()),
            self._view.subscribe(self._on_pools, PoolsChanged, ViewSynced),
        ]
        self.publish(knows=self._view.sharers)
        try:
            path = f"{paths.PRESENCES}/{self._presence.hostname}"
            entry = await self._store.create(
                path, self._presence.to_bytes(), ephemeral=True, sequence=True, parents=True
            )
            was_seen = False
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._store.session.epoch != epoch or self._store.session.state is SessionState.LOST:
                    raise SessionLostError
                is_seen = entry.path in self._view.presences
                if was_seen and not is_seen and self._view.is_synced:
                    raise RecordGoneError(entry.path)
                was_seen = was_seen or is_seen
                entry = await self._publish(entry)
        finally:
            for stop in stops:
                stop()

    def _on_pools(self, _event: PoolsChanged | ViewSynced) -> None:
        self._changed.set()
        self.publish(knows=self._view.sharers)

    async def _publish(self, entry: Entry) -> Entry:
        data = self._presence.to_bytes()
        return entry if data == entry.data else await self._store.put(entry.path, data)


class KnownPools:
    """The known pools, registered or away. `run` it, to keep the records for the next process too.

    Invariant: unless pools changed since the last look, ``_away_since`` has exactly the known pools that are not
    registered.
    """

    def __init__(self, store: Store, view: ClusterView, clock: Clock) -> None:
        self.listeners: list[Callable[[], None]] = []
        """Called when the return of a pool is no longer awaited."""
        self._store = store
        self._view = view
        self._clock = clock
        self._away_since: dict[PoolName, float] = {}
        self._has_looked = False
        self._absent: tuple[Absentee, ...] = ()
        self._absent_until = inf
        """The time, by the wall clock, when the return of the first of ``_absent`` is no longer awaited."""
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    def absent(self) -> Sequence[Absentee]:
        """Return the pools that are away and may still return in time. The same object until that changes."""
        if not self._has_looked or self._clock.now() >= self._absent_until:
            self._look()
        return self._absent

    def _look(self) -> None:
        """Note the time since when each pool has been away."""
        if self._view.is_synced:
            registered, now = self._view.registered, self._clock.now()
            self._away_since = {
                name: self._away_since.get(name, now) for name in self._view.known_pools if name not in registered
            }
            self._has_looked = True
        self._note_absent()

    def _note_absent(self) -> None:
        now, known = self._clock.now(), self._view.known_pools
        self._absent = tuple(
            Absentee(name[0], name[1], frozenset(known[name].record.labels), since + RETURN_GRACE_S)
            for name, since in self._away_since.items()
            if since + RETURN_GRACE_S > now and name in known
        )
        self._absent_until = min((absentee.until for absentee in self._absent), default=inf)

    def is_known(self, provider: str, pool: str) -> bool:
        """Return True if the pool is registered, or remembered."""
        return (provider, pool) in self._view.known_pools

    async def run(self) -> None:
        """Remember and forget until cancelled."""
        unsubscribe = self._view.subscribe(self._on_change, PoolsChanged, ViewSynced)
        self._has_looked = False
        self._wake.set()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._view.is_synced and self._store.session.state is SessionState.CONNECTED:
                    await self._update()
        finally:
            unsubscribe()
            if self._alarm is not None:
                self._alarm.cancel()

    def _on_change(self, _event: PoolsChanged | ViewSynced) -> None:
        self._has_looked = False
        self._wake.set()

    async def _update(self) -> None:
        self._look()
        try:
            for name, labels in self._offers().items():
                await self._remember(name, labels)
            await self._forget_the_lost()
        except StoreError as error:
            log.info("known_pools_not_written", detail=str(error))

    def _offers(self) -> dict[PoolName, tuple[str, ...]]:
        """Return the registered pools with their labels; a pool of several processes offers the labels of all
        of them."""
        offers: dict[PoolName, frozenset[str]] = {}
        for peer in self._view.peers:
            if peer.provider and peer.pool:
                name = (peer.provider, peer.pool)
                offers[name] = offers.get(name, frozenset()) | peer.labels
        return {name: tuple(sorted(labels)) for name, labels in offers.items()}

    async def _remember(self, name: PoolName, labels: tuple[str, ...]) -> None:
        known = self._view.known_pools.get(name)
        record = KnownPool(provider=name[0], pool=name[1], labels=labels)
        try:
            if known is None:
                await self._store.create(paths.known_pool(*name), record.to_bytes(), parents=True)
            elif known.record.labels != labels:
                changed = known.record.changed(labels=labels)  # keeps the fields that another version wrote
                await self._store.put(known.path, changed.to_bytes(), version=known.version)
        except RecordExistsError:
            if paths.known_pool(*name) in self._view.unreadable:
                await self._store.put(paths.known_pool(*name), record.to_bytes())
        except (RecordGoneError, VersionConflictError):
            self._wake.set()  # another process wrote it just now: read its version

    async def _forget_the_lost(self) -> None:
        """Forget pools that did not return in time, and set the alarm for the next pool."""
        now = self._clock.now()
        self._set_alarm(now)
        lost = [name for name, since in self._away_since.items() if now >= since + RETURN_GRACE_S]
        for name in lost:
            log.info("pool_did_not_return", provider=name[0], pool=name[1])
            await self.forget(*name)
            for listener in tuple(self.listeners):
                listener()

    def _set_alarm(self, now: float) -> None:
        """Set the alarm for the next pool whose return will be given up."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        ends = [since + RETURN_GRACE_S for since in self._away_since.values() if since + RETURN_GRACE_S > now]
        if ends:
            self._alarm = asyncio.get_running_loop().call_later(min(ends) - now, self._wake.set)

    async def forget(self, provider: str, pool: str) -> None:
        """Forget a pool that was removed on purpose: its return is not awaited. Raises: StoreError."""
        with suppress(RecordGoneError):
            await self._store.delete(paths.known_pool(provider, pool))
