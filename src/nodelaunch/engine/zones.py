"""Which zone each node of a request is launched in: one for all, one each, or none, as its pool wants it.

What does *not* belong here: ready nodes, which are where they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from nodelaunch.config.models import PoolConfig
from nodelaunch.engine.provider import ProviderRuntime


class Zones:
    """One request's."""

    def __init__(
        self, pool: PoolConfig, provider: ProviderRuntime, *, reused: str | None, resumed: str | None = None
    ) -> None:
        """*reused*: where the ready nodes are that the request gets. *resumed*: where some were being launched."""
        self._pool = pool
        self._provider = provider
        self._reused = reused
        self._shared = reused or resumed
        self._start: str | None = None
        """Where the first node goes, where each has a zone of its own."""
        self._picked: dict[int, str | None] = {}
        self._avoided: set[str] = set()
        """Zones in which launches failed."""

    @property
    def _all(self) -> Sequence[str]:
        return self._pool.zones or self._provider.cloud.zones

    def pick(self, slot: int) -> str | None:
        """Where the node of *slot* is to be launched; None: wherever the cloud likes."""
        open_zones = [zone for zone in self._all if zone not in self._avoided] or list(self._all)
        if self._pool.zoning == "none":
            zone = None
        elif not open_zones:
            zone = self._shared
        elif self._pool.zoning == "spread":
            self._start = self._start or random.choice(open_zones)  # noqa: S311
            first = open_zones.index(self._start) if self._start in open_zones else 0
            zone = open_zones[(first + slot) % len(open_zones)]
        else:
            zone = self._shared = self._shared or random.choice(open_zones)  # noqa: S311
        self._picked[slot] = zone
        return zone

    def keep(self, slot: int, zone: str | None) -> None:
        """Take note that the node of *slot* is being launched in *zone* as it is."""
        self._picked[slot] = zone

    def leave(self, slot: int, *, is_alone: bool) -> bool:
        """After a failed launch of *slot*: let the next one be somewhere else, unless that would part a node set that
        has to be together. Whether there is somewhere else that was not tried. *is_alone*: no other node exists yet."""
        failed = self._picked.get(slot)
        is_bound = self._pool.zoning == "together" and (self._reused is not None or not is_alone)
        if failed is not None and not self._pool.zones:
            self._provider.invalidate()  # the cloud may have others by now
        if failed is None or is_bound:
            return False
        self._avoided.add(failed)
        self._shared = None
        return not self._avoided.issuperset(self._all)
