"""Keeps launchers that share limits from using the same capacity twice.

Each creation of a node at a shared provider increases the version of the provider's *ledger* (ledger.py), a record
outside Nodepool's tree. It does so in the same transaction, and only if the version is the one that this process has
caught up with. So a node is created only by a process that knew of all other nodes when it found free capacity. A
tenant's limit spans providers: if there is any other nodelaunch process, the creation of a node for a tenant with a
limit increases the version of the tenant's ledger as well, and so does the claim of an idle node. A process that is
alone writes no ledger.

engine/serve/facts.py computes the free capacity; waiting.py has the requests whose tenant turns out to be full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.ledger import Ledger
from nodelaunch.engine.view import ClusterView, NodeSeen, PoolsChanged, PresencesChanged, ViewEvent, ViewStale
from nodelaunch.errors import RecordGoneError, SessionLostError, VersionConflictError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.store import Create, Entry, Lock, Op, Put, Store, TakeLock, Unsubscribe

log: Logger = get_logger(__name__)

ACKNOWLEDGED_S = 5.0
"""Seconds in which another launcher may acknowledge this one; a frozen launcher delays others no longer than that."""
MAX_TRIES = 20
"""Number of times that other launchers may be faster before a waiting request is decided on again."""


class OvertakenError(Exception):
    """Other launchers used the capacity since it was found free, and none is left."""


class Accounts(Protocol):
    """Limits, and the present knowledge of their usage."""

    @property
    def tenants(self) -> Mapping[str, Limits]:
        """Limits of tenants, by name; a tenant that is missing has no limit."""

    def is_overbooked(self, key: PoolKey) -> bool:
        """Return True if more is in use or reserved in a pool, or at its provider, than its limit."""

    def is_tenant_overbooked(self, tenant: str) -> bool:
        """Return True if a tenant's usage and reservations exceed its limit."""


class TenantLedgers:
    """The ledgers of tenants with a limit, for all providers of a process."""

    def __init__(self, store: Store, view: ClusterView) -> None:
        self._store = store
        self._view = view
        self._ledgers: dict[str, Ledger] = {}

    def of(self, tenant: str) -> Ledger:
        ledger = self._ledgers.get(tenant)
        if ledger is None:
            path = paths.tenant_ledger(tenant)
            ledger = self._ledgers[tenant] = Ledger(self._store, self._view, path, counts_claims=True)
        return ledger

    def forget(self, tenant: str) -> None:
        """Drop the version, so that the next use catches up first."""
        if tenant in self._ledgers:
            self._ledgers[tenant].forget()


class SharedCapacity:
    """The capacity of one provider, and shares of tenants, as far as several launchers share them."""

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        provider: str,
        own_id: str,
        tenants: TenantLedgers,
        books: Accounts,
    ) -> None:
        """*own_id*: the id under which this process is present."""
        self._store = store
        self._view = view
        self._provider = provider
        self._own_id = own_id
        self._tenants = tenants
        self._books = books
        self._ledger = Ledger(store, view, paths.ledger(provider))
        self._peers: object = None
        self._sharers: object = None
        self._all_others: frozenset[str] = frozenset()
        self._others: frozenset[str] = frozenset()
        self._own_pools: frozenset[str] = frozenset()
        self._given_up: set[str] = set()
        """Launchers that did not acknowledge this one in time."""
        self._is_open = False
        self._unfollow: Unsubscribe | None = None
        """Set while the provider's nodes are followed: while there are others."""

    def open(self) -> Callable[[], None]:
        """Follow the nodes that others create from now on. Return a function that ends that."""
        stop = self._view.subscribe(self._on_stale, ViewStale)
        self._is_open = True
        self._follow()

        def close() -> None:
            stop()
            self._is_open = False
            self._follow()

        return close

    def _follow(self) -> None:
        """Follow the provider's nodes while there are others; without them, no change of a node costs anything."""
        if self._is_open and self._all_others:
            if self._unfollow is None:
                self._ledger.forget()  # a node created before was not followed
                self._unfollow = self._view.subscribe_to_provider(self._provider, self._on_node)
        elif self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    # -- who shares -------------------------------------------------------------------------------------------------

    def _find_others(self) -> None:
        peers, sharers = self._view.peers, self._view.sharers
        if peers is not self._peers or sharers is not self._sharers:  # without a pool, the peers are always the same ()
            self._peers, self._sharers = peers, sharers
            self._all_others = sharers - {self._own_id}
            self._others = self._view.sharers_at(self._provider) - {self._own_id}
            own = [peer.pool_id for peer in peers if peer.launcher == self._own_id]
            self._own_pools = frozenset(own)
            self._given_up &= self._all_others
            self._follow()

    @property
    def is_shared(self) -> bool:
        """True if another nodelaunch process may create nodes at the provider, including one that drains."""
        self._find_others()
        return bool(self._others)

    def shares_tenant(self, tenant: str | None) -> bool:
        """Return True if the tenant has a limit, and another nodelaunch process may serve it too, at any provider."""
        if not tenant or tenant not in self._books.tenants:
            return False
        self._find_others()
        return bool(self._all_others)

    def _on_stale(self, _event: ViewEvent) -> None:
        self._ledger.forget()

    def _on_node(self, event: ViewEvent) -> None:
        """Drop versions that another launcher's new node makes stale. A write would detect this too, after one more
        round trip."""
        if self._ledger.version is None or not isinstance(event, NodeSeen) or event.old is not None:
            return
        seen = self._view.nodes.get(event.id)
        if seen is not None and seen.record.launcher not in self._own_pools:
            self._ledger.forget()
            self._tenants.forget(seen.record.tenant_name or "")

    # -- making use -------------------------------------------------------------------------------------------------

    async def create(self, pool: str, tenant: str | None, op: Create) -> Entry:
        """Create, with *op*, the numbered znode of a node in *pool* for *tenant*; capacity and share are reserved.

        Raises: OvertakenError, StoreError.
        """
        if not self.is_shared and not self.shares_tenant(tenant):
            return await self._store.create(op.path, op.data, sequence=op.sequence)
        *_, entry = await self._use((self._provider, pool), tenant, [op])
        assert isinstance(entry, Entry)  # noqa: S101
        return entry

    async def claim(self, tenant: str | None, take: TakeLock, put: Put) -> tuple[Lock, Entry]:
        """Take an idle node for *tenant*, whose share is reserved, with the given operations.

        Raises: OvertakenError, StoreError.
        """
        if self.shares_tenant(tenant):
            lock, *_, entry = await self._use(None, tenant, [take, put])
        else:
            lock, entry = await self._store.commit([take, put])
        assert isinstance(entry, Entry) and lock is not None and not isinstance(lock, Entry)  # noqa: S101, PT018
        return lock, entry

    async def _use(self, key: PoolKey | None, tenant: str | None, ops: Sequence[Op]) -> list[Entry | Lock | None]:
        """Perform *ops*, which use capacity of pool *key* and of the tenant's share. Return their results; the results
        of the ledgers come before the last. The request's lock ends with the session in which this starts.

        Raises: OvertakenError, StoreError.
        """
        tries, epoch = 0, self._store.session.epoch
        while tries < MAX_TRIES:
            if self._store.session.epoch != epoch:
                raise SessionLostError(paths.NODES, "the session ended during the wait for other launchers")
            is_shared, shares_tenant = key is not None and self.is_shared, self.shares_tenant(tenant)
            if await self._are_unacknowledged(self._all_others if shares_tenant else self._others):
                continue
            ledgers = [self._ledger] if is_shared else []
            if shares_tenant and tenant is not None:
                ledgers.append(self._tenants.of(tenant))
            if behind := [ledger for ledger in ledgers if ledger.version is None]:
                await behind[0].catch_up()
                continue
            if is_shared and key is not None and self._books.is_overbooked(key):
                break
            if shares_tenant and tenant is not None and self._books.is_tenant_overbooked(tenant):
                break
            tries += 1
            bumps = [ledger.bump(self._own_id) for ledger in ledgers]
            try:
                return await self._store.commit([*ops[:-1], *bumps, ops[-1]])
            except (VersionConflictError, RecordGoneError) as error:
                _forget(ledgers)
                if error.path not in [ledger.path for ledger in ledgers]:
                    raise
            except BaseException:
                _forget(ledgers)
                raise
        raise OvertakenError

    async def _are_unacknowledged(self, others: frozenset[str]) -> bool:
        """Wait until the others know that they share limits with this process, because before that they ignore the
        ledgers. Return True if a wait was needed."""
        missing = self._missing(others)
        if not missing:
            return False
        changed = asyncio.Event()
        stop = self._view.subscribe(lambda _event: changed.set(), PresencesChanged, PoolsChanged)
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                while missing:
                    changed.clear()
                    await changed.wait()
                    missing = self._missing(others)
        except TimeoutError:
            log.warning("launchers_do_not_answer", provider=self._provider, launchers=sorted(missing))
            self._given_up |= missing
        finally:
            stop()
        return True

    def _missing(self, others: frozenset[str]) -> set[str]:
        self._find_others()
        others &= self._all_others
        if others <= self._given_up:
            return set()
        knowing = {seen.record.id for seen in self._view.presences.values() if self._own_id in seen.record.knows}
        return set(others - knowing - self._given_up)


def _forget(ledgers: Sequence[Ledger]) -> None:
    for ledger in ledgers:
        ledger.forget()
