"""Reservations for the heads of lines, so that later requests don't take the capacity that the heads wait for."""

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
    """The reservations for the heads of lines."""

    def __init__(self) -> None:
        self.in_pool: dict[PoolKey, Waiting] = {}
        self.at_provider: dict[str, Waiting] = {}
        self.for_launches: dict[str, Waiting] = {}
        """Lines, by provider, that wait until fewer launches run."""
        self.of_tenant: dict[str, Waiting] = {}
        """Lines, by tenant, that wait for the tenant's share."""
        self.with_tenant: dict[str, Waiting] = {}
        """Lines, by tenant, that wait for capacity in pools. If the tenant becomes full meanwhile, no other line waits
        behind them."""

    def add(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Reserve the capacity that *verdict* of pool *key* asks for, for the head of *line*."""
        for groups, name in self._groups(line, key, verdict):
            groups.setdefault(name, {})[line, key] = verdict

    def remove(self, line: Line, key: PoolKey, verdict: Defer) -> None:
        """Release the reservation of *verdict* in pool *key* for *line*."""
        for groups, name in self._groups(line, key, verdict):
            group = groups.get(name)
            if group is not None and group.pop((line, key), None) is not None and not group:
                del groups[name]

    def beside(self, line: Line, key: PoolKey, verdict: Defer) -> dict[tuple[int, object], Waiting]:
        """Return all lines that wait for the same as *verdict*; each group under a separate name."""
        found = self._groups(line, key, verdict)
        return {(id(groups), name): groups[name] for groups, name in found if name in groups}

    def is_full(self, key: PoolKey) -> bool:
        """Return True if requests wait for capacity in the pool."""
        waiting = self.in_pool.get(key)
        return waiting is not None and any(verdict.waits_for_capacity for verdict in waiting.values())

    def awaits_provider(self, key: PoolKey) -> bool:
        """Return True if a request waits in the pool for capacity that its provider does not have."""
        waiting = self.at_provider.get(key[0])
        return waiting is not None and any(pool == key for _, pool in waiting)

    def first_need(self, key: PoolKey) -> Usage | None:
        """Return the need of the earliest request that waits for capacity in the pool."""
        waiting = self.in_pool.get(key, {})
        full = [(line.order, n) for n, ((line, _), v) in enumerate(waiting.items()) if v.waits_for_capacity]
        return list(waiting.values())[min(full)[1]].need if full else None

    def _groups(self, line: Line, key: PoolKey, verdict: Defer) -> list[tuple[dict[Any, Waiting], Any]]:
        """Return the groups of *verdict*. A verdict without reasons is of a request that is being written."""
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
    """Return the deferrals of the lines in *group* with an earlier head than *line*, each line once."""
    if not group:
        return []
    order = line.order
    return list({other: verdict for (other, _), verdict in group.items() if other.order < order}.values())
