"""Keeps launchers that share a provider from giving the same room twice.

Each creation of a node at a shared provider bumps the version of the provider's *ledger*, a record outside Nodepool's
tree, in the same transaction, and only if the version is the one that this process has caught up with. So a node is
created only by a process that knew of all other nodes when it decided that there is room. A process that is alone at a
provider writes no ledger. What does *not* belong here: what there is room for (facts.py), who waits (waiting.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from nodelaunch.engine.view import ClusterView, NodeSeen, Note, PresencesChanged, ViewCooled
from nodelaunch.errors import RecordExistsError, RecordGoneError, VersionConflictError
from nodelaunch.protocol import paths
from nodelaunch.protocol.store import Create, Entry, Put, Store
from nodelaunch.protocol.triage import PoolKey

log = structlog.get_logger(__name__)

ACKNOWLEDGED_S = 5.0
"""How long another launcher may take to tell that it knows of us; one that is frozen stops us no longer."""
MAX_TRIES = 20
"""How often others may be faster before what waits is decided on again."""


class OvertakenError(Exception):
    """Others created nodes since it was decided that there is room, and there is none any more."""


class SharedRoom:
    """One provider, as far as several launchers share it.

    Invariant: while ``_version`` is set, the view has every node that was created up to that version of the ledger.
    """

    def __init__(
        self,
        store: Store,
        view: ClusterView,
        provider: str,
        own_id: str,
        is_overbooked: Callable[[PoolKey], bool],
    ) -> None:
        """*own_id*: under which this process is present. *is_overbooked*: whether more is reserved in a pool, or at its
        provider, than there is."""
        self._store = store
        self._view = view
        self._provider = provider
        self._own_id = own_id
        self._is_overbooked = is_overbooked
        self._path = paths.ledger(provider)
        self._version: int | None = None
        """The ledger's, with which the next creation is sent; None: others created nodes since it was read."""
        self._catching_up: asyncio.Task[None] | None = None
        self._peers: object = None
        self._others: frozenset[str] = frozenset()
        self._own_pools: frozenset[str] = frozenset()
        self._given_up: set[str] = set()
        """Launchers that did not tell in time that they know of us."""

    def open(self) -> Callable[[], None]:
        """Follow what others create from now on; what is returned ends that."""
        stops = [
            self._view.subscribe_to_provider(self._provider, self._on_node),
            self._view.subscribe(self._on_cooled, ViewCooled),
        ]

        def close() -> None:
            for stop in stops:
                stop()

        return close

    @property
    def others(self) -> frozenset[str]:
        """Ids of the other nodelaunch processes that have pools of the provider."""
        peers = self._view.peers
        if peers is not self._peers:
            self._peers = peers
            here = [peer for peer in peers if peer.provider == self._provider]
            self._others = frozenset({peer.launcher for peer in here} - {self._own_id, ""})
            self._own_pools = frozenset(peer.pool_id for peer in here if peer.launcher == self._own_id)
            self._given_up &= self._others
        return self._others

    @property
    def is_shared(self) -> bool:
        """Whether another nodelaunch process has pools of the provider."""
        return bool(self.others)

    def _on_cooled(self, _note: Note) -> None:
        self._version = None

    def _on_node(self, note: Note) -> None:
        """Another's new node makes the version old; where nobody else has the provider, there is none."""
        if self._version is not None and isinstance(note, NodeSeen) and note.old is None:
            seen = self._view.nodes.get(note.id)
            if seen is not None and seen.record.launcher not in self._own_pools:
                self._version = None

    async def create(self, pool: str, op: Create) -> Entry:
        """Create the numbered znode of a node in *pool*, for which room is reserved, as *op* says.

        Raises: OvertakenError, StoreError.
        """
        await self._until_acknowledged()
        for _ in range(MAX_TRIES):
            while self._version is None:
                await self._catch_up()
            if self._is_overbooked((self._provider, pool)):
                break
            version, self._version = self._version, self._version + 1
            try:
                _, entry = await self._store.commit([Put(self._path, self._own_id.encode(), version), op])
            except (VersionConflictError, RecordGoneError):
                self._version = None
            except BaseException:
                self._version = None
                raise
            else:
                assert isinstance(entry, Entry)  # noqa: S101
                return entry
        raise OvertakenError

    async def _catch_up(self) -> None:
        """Know of every node that was created so far. Raises: StoreError."""
        if self._catching_up is None:
            self._catching_up = asyncio.ensure_future(self._read())
            self._catching_up.add_done_callback(self._caught_up)
        await asyncio.shield(self._catching_up)

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._catching_up = None
        if not task.cancelled():
            task.exception()

    async def _read(self) -> None:
        """With an answer, all earlier creations have been told of, and are being read; with the next one, they have
        been read: answers and events come in one order."""
        await self._view.warm()
        version = await self._read_version()
        for _ in range(MAX_TRIES):
            before, version = version, await self._read_version()
            if version == before:
                break
        if self._view.is_warm:
            self._version = before

    async def _read_version(self) -> int:
        try:
            return (await self._store.get(self._path)).stat.version
        except RecordGoneError:
            with suppress(RecordExistsError):
                await self._store.create(self._path, parents=True)
            return (await self._store.get(self._path)).stat.version

    async def _until_acknowledged(self) -> None:
        """Wait until the others know that they share the provider with us: before, they don't look at the ledger."""
        missing = self._missing()
        if not missing:
            return
        changed = asyncio.Event()
        stop = self._view.subscribe(lambda _note: changed.set(), PresencesChanged)
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                while missing:
                    changed.clear()
                    await changed.wait()
                    missing = self._missing()
        except TimeoutError:
            log.warning("launchers_do_not_answer", provider=self._provider, launchers=sorted(self._missing()))
            self._given_up |= missing
        finally:
            stop()

    def _missing(self) -> set[str]:
        others = self.others
        if others <= self._given_up:
            return set()
        knowing = {seen.record.id for seen in self._view.presences.values() if self._own_id in seen.record.knows}
        return set(others - knowing - self._given_up)
