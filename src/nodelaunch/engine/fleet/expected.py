"""The configured pools of a launcher, and whether they are registered yet.

Pools that start together wait for each other before they decline a request: a pool that does not offer a label can't
know yet if another pool does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from nodelaunch.config.models import ProviderConfig
from nodelaunch.decisions.triage import PoolKey
from nodelaunch.protocol.store import SessionState

REGISTER_GRACE_S = 10.0
"""Seconds that the pools of this launcher wait for each other to be registered before they decline requests."""


class Registered(Protocol):
    """A running pool, as far as this module reads it."""

    @property
    def is_registered(self) -> bool: ...


class ExpectedPools:
    """Compares the configured pools with the running ones.

    Invariant: `may_decline` is false only within `REGISTER_GRACE_S` of the last `begin_grace`, and only while a
    configured pool is not registered.
    """

    def __init__(self, pools: Mapping[PoolKey, Registered], on_grace_over: Callable[[], None]) -> None:
        """*pools*: the running pools, as of now. *on_grace_over* is called when a grace period ends."""
        self._pools = pools
        self._on_grace_over = on_grace_over
        self._keys: frozenset[PoolKey] = frozenset()
        self._grace_ends = 0.0
        """End of the grace period, by the loop's clock."""

    def expect(self, providers: Iterable[ProviderConfig]) -> None:
        """Expect the pools of *providers* from now on, and no others."""
        self._keys = frozenset((provider.name, pool.name) for provider in providers for pool in provider.pools)

    def begin_grace(self) -> None:
        """Give the pools `REGISTER_GRACE_S` from now to be registered."""
        loop = asyncio.get_running_loop()
        self._grace_ends = loop.time() + REGISTER_GRACE_S
        loop.call_at(self._grace_ends, self._on_grace_over)

    def on_session(self, state: SessionState) -> None:
        """Start a grace period when the session is lost: the next one starts without registrations."""
        if state is SessionState.LOST:
            self.begin_grace()

    def may_decline(self) -> bool:
        """Return True if all expected pools are registered, or the grace period is over."""
        if asyncio.get_running_loop().time() >= self._grace_ends:
            return True
        return all(key in self._pools and self._pools[key].is_registered for key in self._keys)

    def shortcomings(self) -> list[str]:
        """Return one line for each pool that has not started, or is not registered."""
        missing = [f"pool {provider}/{pool} not started" for provider, pool in sorted(self._keys - self._pools.keys())]
        running = self._pools.items()
        return missing + [f"pool {p}/{n} not registered" for (p, n), pool in running if not pool.is_registered]
