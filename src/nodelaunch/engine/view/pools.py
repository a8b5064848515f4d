"""The view of launchers and their pools: registrations, known pools, processes, and pauses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nodelaunch.engine.view.events import Notifier, PausesChanged, PoolsChanged, PresencesChanged, Versioned
from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Pause, Target, TargetKind
from nodelaunch.protocol.records import KnownPool, PoolRegistration, Presence
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.store import Entry


@dataclass(frozen=True, slots=True)
class _Peers:
    """All registrations, in the forms that decisions need."""

    all: tuple[RegisteredPool, ...]
    by_label: Mapping[str, tuple[RegisteredPool, ...]]
    registered: frozenset[tuple[str, str]]
    launchers: tuple[str, ...]
    """Ids of the nodelaunch processes that run any of them, sorted."""
    sharers: frozenset[str]
    """Ids of the nodelaunch processes that may create nodes: `launchers`, and processes that still have work."""
    sharers_at: Mapping[str, frozenset[str]]
    """The sharers of each provider."""
    alone: frozenset[str]
    """The ids of all registered pools if they belong to one process, and no other process may create nodes; else
    empty."""
    draining: frozenset[tuple[str, str]]
    """Provider and pool of the pools that every process that runs them has to drain."""


class PoolsView(Notifier):
    """The part of the view about pools and launchers.

    Invariants: ``peers``, ``peers_by_label``, ``registered``, ``launchers`` and `is_alone` follow from ``pools``,
    ``presences`` and ``pauses``; ``_sessions`` has the keys of ``pools``, ``_processes`` those of ``presences``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pools: dict[str, Versioned[PoolRegistration]] = {}
        """Registrations by path."""
        self.presences: dict[str, Versioned[Presence]] = {}
        """Presences by path."""
        self.known_pools: dict[tuple[str, str], Versioned[KnownPool]] = {}
        """Known pools by provider and pool; registered or not."""
        self.pauses: dict[Target, Versioned[Pause]] = {}
        self._sessions: dict[str, int] = {}
        """The session that each registration ends with, by path."""
        self._processes: dict[str, int] = {}
        """The session that each presence ends with, by path."""
        self._peers: _Peers | None = None
        """Derived data; None: the registrations, the pauses, or the processes changed since it was computed."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def peers(self) -> tuple[RegisteredPool, ...]:
        """All registered pools, of this process and others. The same object until a registration changes."""
        return (self._peers or self._find_peers()).all

    @property
    def peers_by_label(self) -> Mapping[str, tuple[RegisteredPool, ...]]:
        """Registered pools by each label they offer. The same object until a registration changes."""
        return (self._peers or self._find_peers()).by_label

    @property
    def registered(self) -> frozenset[tuple[str, str]]:
        """Provider and pool of each registered pool. The same object until a registration changes."""
        return (self._peers or self._find_peers()).registered

    @property
    def launchers(self) -> tuple[str, ...]:
        """Ids of the nodelaunch processes that have pools registered, sorted."""
        return (self._peers or self._find_peers()).launchers

    @property
    def sharers(self) -> frozenset[str]:
        """Ids of the nodelaunch processes that may create nodes: with pools registered, or with work to finish."""
        return (self._peers or self._find_peers()).sharers

    def sharers_at(self, provider: str) -> frozenset[str]:
        """Return the ids of the processes that may create nodes at *provider*."""
        return (self._peers or self._find_peers()).sharers_at.get(provider, frozenset())

    def is_of_known_process(self, path: str) -> bool:
        """Return True if the registration at *path* is of a nodelaunch process whose presence is known."""
        return self._sessions.get(path) in self._processes.values()

    def is_alone(self, pool_id: str) -> bool:
        """Return True if the process of this registered pool is the only one that may create nodes."""
        return self.is_synced and pool_id in (self._peers or self._find_peers()).alone

    def pauses_of(self, provider: str, pool: str, *launcher: str) -> tuple[Pause, ...]:
        """Return the pauses of a pool. *launcher*: host name and id of the process that runs it."""
        if not self.pauses:
            return ()
        targets = (Target.provider(provider), Target.pool(provider, pool), *map(Target.launcher, launcher))
        return self._pauses_at(targets)

    def pauses_of_launcher(self, *launcher: str) -> tuple[Pause, ...]:
        """Return the pauses of a process, given its host name and id."""
        return self._pauses_at(map(Target.launcher, launcher))

    def _pauses_at(self, targets: Iterable[Target]) -> tuple[Pause, ...]:
        return tuple(self.pauses[target].record for target in dict.fromkeys(targets) if target in self.pauses)

    def is_draining(self, provider: str, pool: str) -> bool:
        """Return True if all processes that serve the pool have to discard its idle nodes."""
        if not self.pauses:
            return False
        peers = self._peers or self._find_peers()
        if (provider, pool) in peers.registered:
            return (provider, pool) in peers.draining
        return any(pause.drains for pause in self.pauses_of(provider, pool))

    def _find_peers(self) -> _Peers:
        sessions = self._sessions
        processes = {session: self.presences[path].record.id for path, session in self._processes.items()}
        pools = [(seen.record, processes.get(sessions[path], "")) for path, seen in self.pools.items()]
        found = [(record, launcher, self._pauses_of(record, launcher)) for record, launcher in pools]
        peers = tuple(_registered(*each) for each in found)
        served = {
            (record.provider_name, record.name)
            for record, _, pauses in found
            if not any(pause.drains for pause in pauses)
        }
        by_label: dict[str, list[RegisteredPool]] = {}
        for peer in peers:
            for label in peer.labels:
                by_label.setdefault(label, []).append(peer)
        sharers: dict[str, set[str]] = {}
        for peer in peers:
            sharers.setdefault(peer.provider, set()).add(peer.launcher)
        for seen in self.presences.values():
            for provider in seen.record.providers:
                sharers.setdefault(provider, set()).add(seen.record.id)
        all_sharers = frozenset[str]().union(*sharers.values()) - {""}
        of_one = len(set(sessions.values())) == 1
        is_alone = of_one and all_sharers <= {processes.get(session, "") for session in sessions.values()}
        self._peers = _Peers(
            peers,
            {label: tuple(offering) for label, offering in by_label.items()},
            frozenset((peer.provider, peer.pool) for peer in peers),
            tuple(sorted({peer.launcher for peer in peers} - {""})),
            all_sharers,
            {provider: frozenset(ids - {""}) for provider, ids in sharers.items()},
            frozenset(peer.pool_id for peer in peers) if is_alone else frozenset(),
            frozenset((peer.provider, peer.pool) for peer in peers) - served,
        )
        return self._peers

    def _pauses_of(self, record: PoolRegistration, launcher: str) -> tuple[Pause, ...]:
        """Return the pauses of a registered pool: none if another program runs it, because that program knows no
        pauses."""
        if not launcher:
            return ()
        return self.pauses_of(record.provider_name or "", record.name or "", record.hostname, launcher)

    # -- input from the trees ---------------------------------------------------------------------------------------

    def pool_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.POOLS` that is new or has changed."""
        if not paths.is_child(entry.path, paths.POOLS):
            return
        self._mark_readable(entry.path)
        self._peers = None
        try:
            record = entry.record
            if not isinstance(record, PoolRegistration):
                record = PoolRegistration.from_bytes(entry.path, entry.data)
            self.pools[entry.path] = Versioned(record, entry)
            self._sessions[entry.path] = entry.stat.owner
        except RecordInvalidError as error:
            self.pools.pop(entry.path, None)
            self._sessions.pop(entry.path, None)
            self._mark_unreadable(entry, error)
        self._notify(PoolsChanged())

    def pool_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.POOLS`."""
        self._mark_readable(path)
        self._sessions.pop(path, None)
        if self.pools.pop(path, None) is not None:
            self._peers = None
            self._notify(PoolsChanged())

    def presence_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.PRESENCES` that is new or has changed."""
        self._mark_readable(entry.path)
        before = self.presences.get(entry.path)
        try:
            seen = self.presences[entry.path] = Versioned(Presence.from_bytes(entry.path, entry.data), entry)
            has_moved = before is not None and before.record.providers != seen.record.providers
            self._process_changed(entry.path, entry.stat.owner, has_moved=has_moved)
        except RecordInvalidError as error:
            self.presences.pop(entry.path, None)
            self._process_changed(entry.path, None)
            self._mark_unreadable(entry, error)
        self._notify(PresencesChanged())

    def presence_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.PRESENCES`."""
        self._mark_readable(path)
        if self.presences.pop(path, None) is not None:
            self._process_changed(path, None)
            self._notify(PresencesChanged())

    def _process_changed(self, path: str, session: int | None, *, has_moved: bool = False) -> None:
        """Note that the presence at *path* ends with *session*; None: it was removed. *has_moved*: its providers
        changed."""
        if self._processes.get(path) == session and not has_moved:
            return
        if session is None:
            del self._processes[path]
        else:
            self._processes[path] = session
        self._peers = None
        self._notify(PoolsChanged())

    def pause_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.PAUSES` that is new or has changed."""
        target = _target_at(entry.path)
        if target is None:
            return
        self._mark_readable(entry.path)
        try:
            self.pauses[target] = Versioned(Pause.from_bytes(entry.path, entry.data, target=target), entry)
        except RecordInvalidError as error:
            self.pauses.pop(target, None)
            self._mark_unreadable(entry, error)
        self._pauses_changed()

    def pause_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.PAUSES`."""
        target = _target_at(path)
        self._mark_readable(path)
        if target is not None and self.pauses.pop(target, None) is not None:
            self._pauses_changed()

    def _pauses_changed(self) -> None:
        self._peers = None
        self._notify(PausesChanged())
        self._notify(PoolsChanged())

    def known_pool_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.KNOWN_POOLS` that is new or has changed."""
        names = paths.known_pool_at(entry.path)
        if names is None:
            return
        self._mark_readable(entry.path)
        try:
            self.known_pools[names] = Versioned(KnownPool.from_bytes(entry.path, entry.data, names=names), entry)
        except RecordInvalidError as error:
            self.known_pools.pop(names, None)
            self._mark_unreadable(entry, error)
        self._notify(PoolsChanged())

    def known_pool_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.KNOWN_POOLS`."""
        names = paths.known_pool_at(path)
        self._mark_readable(path)
        if names is not None and self.known_pools.pop(names, None) is not None:
            self._notify(PoolsChanged())


def _registered(record: PoolRegistration, launcher: str, pauses: tuple[Pause, ...]) -> RegisteredPool:
    return RegisteredPool(
        record.id or "",
        record.provider_name or "",
        record.priority,
        record.paused or bool(pauses),
        frozenset(record.supported_labels),
        record.name or "",
        launcher,
        bool(pauses),
    )


def _target_at(path: str) -> Target | None:
    found = paths.pause_at(path)
    try:
        return Target(TargetKind(found[0]), found[1]) if found is not None else None
    except ValueError:
        return None  # a pause of a kind that another version knows
