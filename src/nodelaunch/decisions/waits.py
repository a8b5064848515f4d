"""What lines of requests wait for, kept for their heads so that nothing later takes it."""

from __future__ import annotations

from typing import Any

from nodelaunch.decisions.backlog import Line
from nodelaunch.decisions.triage import (
    PoolKey,
)
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.verdicts import (
    ConcurrencyReached,
    Defer,
    NoFreeMachine,
    NoRoom,
    TenantFull,
)

Waiting = dict[tuple[Line, PoolKey], Defer]


class Waits:
    """What lines wait for: kept for their heads, so that nothing later takes it."""

    def __init__(self) -> None:
        self.in_pool: dict[PoolKey, Waiting] = {}
        self.at_provider: dict[str, Waiting] = {}
        self.for_launches: dict[str, Waiting] = {}
        """By provider: until fewer launches run."""
        self.of_tenant: dict[str, Waiting] = {}
        """By tenant: until it has room."""
        self.with_tenant: dict[str, Waiting] = {}
        """By tenant: for room in pools, which nobody is to wait behind when the tenant is full by now."""

    def add(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Keep what *verdict* of pool *key* says for the head of *line*."""
        for groups, name in self._groups(line, key, verdict):
            groups.setdefault(name, {})[line, key] = verdict

    def remove(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Keep nothing more of *verdict* in pool *key* for *line*."""
        for groups, name in self._groups(line, key, verdict):
            group = groups.get(name)
            if group is not None and group.pop((line, key), None) is not None and not group:
                del groups[name]

    def beside(self, line: Line, key: PoolKey, verdict: Defer) -> dict[tuple[int, object], Waiting]:
        """Everything that waits for something that *verdict* waits for; each group under a name of its own."""
        found = self._groups(line, key, verdict)
        return {(id(groups), name): groups[name] for groups, name in found if name in groups}

    def is_full(self, key: PoolKey) -> bool:
        """Whether requests wait for room in the pool."""
        return any(verdict.waits_for_room for verdict in self.in_pool.get(key, {}).values())

    def awaits_provider(self, key: PoolKey) -> bool:
        """Whether a request waits in the pool for what its provider has not got."""
        return any(pool == key for _, pool in self.at_provider.get(key[0], {}))

    def first_need(self, key: PoolKey) -> Usage | None:
        """What the earliest request that waits for room in the pool needs."""
        waiting = self.in_pool.get(key, {})
        full = [(line.order, n) for n, ((line, _), v) in enumerate(waiting.items()) if v.waits_for_room]
        return list(waiting.values())[min(full)[1]].need if full else None

    def _groups(self, line: Line, key: PoolKey, verdict: Defer) -> list[tuple[dict[Any, Waiting], Any]]:
        """Where *verdict* belongs. One without reasons is of a request that is being written."""
        found: list[tuple[dict[Any, Waiting], Any]] = []
        reason = verdict.reasons[0] if verdict.reasons else None
        if reason is None or isinstance(reason, NoRoom | NoFreeMachine) or verdict.kept:
            found.append((self.in_pool, key))
            if line.shape.tenant is not None:
                found.append((self.with_tenant, line.shape.tenant))
        if verdict.waits_for_provider:
            found.append((self.at_provider, key[0]))
        if isinstance(reason, ConcurrencyReached):
            found.append((self.for_launches, key[0]))
        elif isinstance(reason, TenantFull):
            found.append((self.of_tenant, reason.tenant))
        return found


def earlier(group: Waiting | None, line: Line) -> list[Defer]:
    """What lines of *group* with an earlier head than *line* wait for, each line once."""
    if not group:
        return []
    order = line.order
    return list({other: verdict for (other, _), verdict in group.items() if other.order < order}.values())
