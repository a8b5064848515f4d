"""Pauses of providers, pools and launchers by an operator: pause, drain, resume.

A pause is a record in the store. All launchers follow it, and it outlives them, so no launcher has to run for a change.
The engine acts on pauses; prompts and tables are in cli/ and web/.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from nodelaunch.clock import Clock, WallClock
from nodelaunch.engine.reporting.explainrpc import ask_reports
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import (
    NodelaunchError,
    RecordExistsError,
    RecordGoneError,
    RecordInvalidError,
    VersionConflictError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Pause, Target, TargetKind
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Entry, Store

LOOK_AGAIN_S = 1.0
"""Interval of questions to launchers about work that no record shows."""
SHORTEST_ID = 4
"""Shortest accepted beginning of a process id, if it is unique."""
_ID = re.compile(r"[0-9a-f]{6,32}")
"""Pattern of a process id or its beginning, which hardly is a host name. Only running processes have ids."""
LAUNCHING = frozenset({NodeState.INIT, NodeState.BUILDING})


class TargetUnknownError(NodelaunchError):
    """No known provider, pool or launcher has this name."""


class TargetAmbiguousError(NodelaunchError):
    """A provider and a launcher have this name, or the ids of several launchers begin with it."""


def operator_name() -> str:
    """Return user and host of this process, for the record."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def find_target(text: str, view: ClusterView) -> Target:
    """Return the target that *text* names: a provider, ``PROVIDER/POOL``, or a launcher by host name, id or beginning
    of it.

    ``provider:NAME``, ``pool:PROVIDER/POOL`` and ``launcher:NAME`` are accepted even if unknown, but a text that can
    only be an id must be known. Raises: TargetUnknownError, TargetAmbiguousError.
    """
    prefix, is_explicit, rest = text.partition(":")
    if is_explicit and rest and prefix in {kind.value for kind in TargetKind}:
        kind = TargetKind(prefix)
        if kind is TargetKind.LAUNCHER:
            return _launcher(rest, view)
        if (kind is TargetKind.POOL) == ("/" in rest):
            return Target(kind, rest)
    known = known_targets(view)
    found = [target for target in known if target.name == text]
    if len(found) > 1:
        names = " or ".join(target.explicit for target in found)
        raise TargetAmbiguousError(f"{text!r} is ambiguous: say {names}")
    if not found and (begun := _begun_with(text, view)) is not None:
        return begun
    if not found:
        names = ", ".join(sorted(target.name for target in known)) or "nothing"
        raise TargetUnknownError(
            f"there is no provider, pool or launcher {text!r}; known are: {names}. Name a future one "
            "provider:NAME, pool:PROVIDER/POOL or launcher:NAME"
        )
    return found[0]


def _launcher(name: str, view: ClusterView) -> Target:
    """Return the launcher *name*, which need not run yet. The beginning of a running launcher's id stands for that
    id."""
    target = Target.launcher(name)
    if target in known_targets(view):
        return target
    if (begun := _begun_with(name, view)) is not None:
        return begun
    if _ID.fullmatch(name):
        raise TargetUnknownError(f"there is no launcher whose id begins with {name!r}; {running(view)}")
    return target


def _begun_with(text: str, view: ClusterView) -> Target | None:
    """Return the launcher whose id begins with *text*, or None. Raises: TargetAmbiguousError."""
    found = sorted({seen.record.id for seen in view.presences.values() if seen.record.id.startswith(text)})
    if len(text) < SHORTEST_ID or not found:
        return None
    if len(found) > 1:
        raise TargetAmbiguousError(f"the ids of several launchers begin with {text!r}: {', '.join(found)}")
    return Target.launcher(found[0])


def running(view: ClusterView) -> str:
    """Return a text that lists the running launchers."""
    names = sorted(f"{seen.record.hostname} ({seen.record.id})" for seen in view.presences.values())
    return f"running are: {', '.join(names) or 'none'}"


def known_targets(view: ClusterView) -> list[Target]:
    """Return all known targets: those that can be paused, and those that are."""
    found: dict[Target, None] = {}
    pools = {(seen.record.provider_name, seen.record.name) for seen in view.pools.values()} | view.known_pools.keys()
    for provider, pool in sorted((provider, pool) for provider, pool in pools if provider and pool):
        found[Target.provider(provider)] = None
        found[Target.pool(provider, pool)] = None
    for provider in sorted({seen.record.provider for seen in view.nodes.values() if seen.record.provider}):
        found[Target.provider(provider)] = None
    for seen in view.presences.values():
        found[Target.launcher(seen.record.hostname)] = None
        found[Target.launcher(seen.record.id)] = None
    found.update(dict.fromkeys(view.pauses))
    return list(found)


class Pauser:
    """Writes pauses to *store*."""

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or WallClock()

    async def pause(self, target: Target, *, by: str, reason: str | None = None, drains: bool = False) -> Pause:
        """Pause *target*, or drain it with *drains*, until it is resumed. Return the pause in the store.

        An existing pause or drain is changed accordingly. Its reason stays unless *reason* is given; an empty reason
        removes it. Raises: StoreError.
        """
        pause = Pause(target=target, drains=drains, by=by, at=self._clock.now(), reason=reason or None)
        path = _path(target)
        while True:
            with suppress(RecordExistsError):
                await self._store.create(path, pause.to_bytes(), parents=True)
                return pause
            with suppress(RecordGoneError, VersionConflictError):  # it was resumed or paused meanwhile
                before = await self._store.get(path)
                again = pause if reason is not None else pause.changed(reason=_reason_of(before, target))
                await self._store.put(path, again.to_bytes(), version=before.stat.version)
                return again

    async def resume(self, target: Target) -> bool:
        """End a pause. Return False if there was none. Raises: StoreError."""
        try:
            await self._store.delete(_path(target))
        except RecordGoneError:
            return False
        return True


def _reason_of(entry: Entry, target: Target) -> str | None:
    try:
        return Pause.from_bytes(entry.path, entry.data, target=target).reason
    except RecordInvalidError:
        return None


def _path(target: Target) -> str:
    return paths.pause(target.kind.value, target.name)


# -- waiting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remaining:
    """The work that a drain still waits for."""

    nodes: tuple[Node, ...]
    requests: int = 0
    """Number of requests that the answering launchers still work on."""
    unaware: tuple[str, ...] = ()
    """Pools, as ``PROVIDER/POOL``, whose launcher has not seen the pause yet."""

    def __bool__(self) -> bool:
        return bool(self.nodes or self.requests or self.unaware)

    def __str__(self) -> str:
        states = Counter(node.state.value for node in self.nodes)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        parts = [f"{len(self.nodes)} node{'s' if len(self.nodes) != 1 else ''} left: {counts}"] if self.nodes else []
        if self.requests:
            parts.append(f"{self.requests} request{'s' if self.requests != 1 else ''} under way")
        if self.unaware:
            parts.append(f"not yet noticed by {', '.join(self.unaware)}")
        return "; ".join(parts) or "nothing left"


def remaining(view: ClusterView, target: Target) -> Remaining:
    """Return the remaining nodes of *target*.

    For a launcher: the nodes that it is launching, and all nodes of pools that no other launcher serves.
    """
    return Remaining(tuple(sorted(_nodes(view, target), key=lambda node: node.id)))


def _nodes(view: ClusterView, target: Target) -> Iterator[Node]:
    if target.kind is not TargetKind.LAUNCHER:
        provider, _, pool = target.name.partition("/")
        nodes = (seen.record for seen in view.nodes_of(provider))
        yield from (node for node in nodes if not pool or node.pool == pool)
        return
    pools = {peer.pool_id: (peer.provider, peer.pool) for peer in pools_of(view, target)}
    for provider, pool in dict.fromkeys(pools.values()):
        is_draining = view.is_draining(provider, pool)
        for node in (seen.record for seen in view.nodes_of(provider)):
            is_its_own = node.launcher in pools and node.state in LAUNCHING
            if node.pool == pool and (is_its_own or is_draining):
                yield node


def pools_of(view: ClusterView, target: Target) -> list[RegisteredPool]:
    """Return the registered pools of nodelaunch processes that belong to *target*."""
    if target.kind is not TargetKind.LAUNCHER:
        provider, _, pool = target.name.partition("/")
        return [peer for peer in view.peers if peer.launcher and peer.provider == provider and pool in ("", peer.pool)]
    records = [seen.record for seen in view.presences.values()]
    launchers = {record.id for record in records if target.name in (record.hostname, record.id)}
    return [peer for peer in view.peers if peer.launcher in launchers]


def others_of(view: ClusterView, target: Target) -> list[RegisteredPool]:
    """Return the registered pools of *target* that other programs serve. These ignore pauses."""
    provider, _, pool = target.name.partition("/")
    is_launcher = target.kind is TargetKind.LAUNCHER
    peers = () if is_launcher else [peer for peer in view.peers if not peer.launcher and peer.provider == provider]
    return [peer for peer in peers if pool in ("", peer.pool)]


async def drained(store: Store, view: ClusterView, target: Target, *, report: Callable[[Remaining], None]) -> None:
    """Wait until *target* has no nodes in the store and its launchers report no more work.

    *report* is called with the remaining work whenever that changes. Raises: StoreError.
    """
    changed = asyncio.Event()
    stop = view.subscribe(lambda _event: changed.set())
    reported = ""
    try:
        while True:
            changed.clear()
            left = remaining(view, target)
            if not left.nodes and view.is_synced:
                left = await _work(store, view, target)
            if not left and view.is_synced:
                return
            if str(left) != reported:
                reported = str(left)
                report(left)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if left.nodes else LOOK_AGAIN_S):
                    await changed.wait()
    finally:
        stop()


async def _work(store: Store, view: ClusterView, target: Target) -> Remaining:
    """Return the work that the launchers of *target* report. Launchers that do not answer count as without work."""
    pool_ids = {peer.pool_id: peer.launcher for peer in pools_of(view, target)}
    processes = sorted(set(pool_ids.values()))
    reports = await ask_reports(store, processes) if processes else []
    pools = [pool for report in reports for pool in report.pools if pool.pool_id in pool_ids]
    unaware = tuple(f"{pool.provider}/{pool.pool}" for pool in pools if not pool.is_stopped)
    return Remaining(remaining(view, target).nodes, sum(pool.working for pool in pools), unaware)
