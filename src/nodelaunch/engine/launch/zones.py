"""Chooses the zone of each node of a request: one for all, one each, or none, as its pool is configured.

Zones in which launches of any request failed repeatedly are left out while there are others; one launch in each pause
probes them (engine/provider/breakers.py). No zone is chosen for ready nodes, because they have one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from nodelaunch.config.models import PoolConfig
from nodelaunch.engine.provider.runtime import ProviderRuntime


class Zones:
    """The zones of one request."""

    def __init__(
        self,
        pool: PoolConfig,
        provider: ProviderRuntime,
        *,
        reused: str | None,
        resumed: str | None = None,
        may_probe: bool = True,
    ) -> None:
        """*reused*: the zone of the ready nodes that the request gets. *resumed*: the zone of interrupted launches.
        *may_probe*: True if a failed node has another attempt, so that a probe costs the request nothing."""
        self._zoning = pool.zoning
        self._own = pool.zones
        self._provider = provider
        self._may_probe = may_probe
        self._reused = reused
        self._shared = reused or resumed
        self._start: str | None = None
        """The zone of the first node, if each node has a separate zone."""
        self._over: Sequence[str] = ()
        """The zones over which the nodes are spread."""
        self._picked: dict[int, str | None] = {}
        self._avoided: set[str] = set()
        """Zones in which launches failed."""

    @property
    def _all(self) -> Sequence[str]:
        return self._own or self._provider.cloud.zones

    def pick(self, slot: int) -> str | None:
        """Return the zone to launch the node of *slot* in; None: the cloud chooses."""
        picked = self._picked.get(slot)
        if picked is not None and picked not in self._avoided:
            return picked
        if self._zoning == "none":
            zone = None
        elif self._zoning == "spread":
            zone = self._spread(slot)
        else:
            zone = self._shared = self._shared or self._one_of(self._usable())
        self._picked[slot] = zone
        if zone is not None and self._provider.breakers.zones.may_try(zone):
            self._provider.breakers.zones.probe(zone)
        return zone

    def picked(self, slot: int) -> str | None:
        """Return the zone in which the node of *slot* is, or was, to be launched."""
        return self._picked.get(slot)

    def _spread(self, slot: int) -> str | None:
        zones = self._over = self._over or self._usable()
        if not zones:
            return self._shared
        self._start = self._start or self._one_of(zones)
        first = zones.index(self._start) if self._start in zones else 0
        return zones[(first + slot) % len(zones)]

    def _one_of(self, zones: Sequence[str]) -> str | None:
        """Return one of *zones*, preferably a zone whose probe is due."""
        if not zones:
            return None
        breakers = self._provider.breakers.zones
        may_probe = self._may_probe and not self._avoided and breakers.known
        due = [zone for zone in zones if breakers.is_open(zone)] if may_probe else []
        return random.choice(due or zones)  # noqa: S311

    def _usable(self) -> Sequence[str]:
        """Zones that may be tried: zones that did not fail this request, preferably without an open breaker. A request
        that has lost an attempt probes none."""
        breakers = self._provider.breakers.zones
        if not self._avoided and not breakers.known:
            return self._all
        left = [zone for zone in self._all if zone not in self._avoided] or list(self._all)
        sound = [zone for zone in left if not breakers.is_open(zone)] if self._avoided else []
        return sound or [zone for zone in left if breakers.may_try(zone)] or left

    def keep(self, slot: int, zone: str | None) -> None:
        """Note that the node of *slot* is being launched in *zone*."""
        self._picked[slot] = zone

    def leave(self, slot: int, *, is_alone: bool) -> bool:
        """After a failed launch of *slot*: choose another zone for the next one, unless that would split a node set
        that has to be together. Return True if there is an untried zone. *is_alone*: no other node exists yet."""
        failed = self._picked.get(slot)
        is_bound = self._zoning == "together" and (self._reused is not None or not is_alone)
        if failed is not None and not self._own:
            self._provider.breakers.doubt_zones()
        if failed is None or is_bound:
            return False
        self._avoided.add(failed)
        self._shared = None
        self._over = ()
        return not self._avoided.issuperset(self._all)
