"""The remaining amount of each limit: capacity of pools and providers, shares of tenants, concurrent launches.

All values are as of now: the limit, minus recorded usage, minus reservations. Idle nodes and registrations are in
engine/serve/facts.py; sharing.py keeps several launchers within one limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.reservations import Reservations
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits

if TYPE_CHECKING:
    from nodelaunch.engine.serve.facts import OwnPools

NO_INSTANCES = Limits({INSTANCES: 0})


class Books:
    """The accounts of one launcher."""

    def __init__(
        self, view: ClusterView, own_pools: OwnPools, reservations: Reservations, queue: CapacityQueue
    ) -> None:
        self.tenants: Mapping[str, Limits] = {}
        """Limits of tenants, by name; a tenant that is missing has no limit."""
        self._view = view
        self._own_pools = own_pools
        self._reservations = reservations
        self._queue = queue

    # -- capacity ---------------------------------------------------------------------------------------------------

    def pool_free(self, key: PoolKey) -> Limits:
        """Return the capacity that the pool can give now, including capacity that accepted requests wait for."""
        limits = self._own_pools.views[key].limits
        return limits.minus(self._view.used(*key), self._reservations.of_pool(key))

    def provider_free(self, key: PoolKey) -> Limits:
        """Return the capacity that the provider can give the pool now, including capacity that accepted requests wait
        for; nothing while it refuses."""
        provider = self._own_pools.pools[key].ctx.provider
        if provider.refusals.is_active:
            return NO_INSTANCES
        if not self._own_pools.views[key].shares_provider_quota:
            return NO_LIMITS
        name = key[0]
        cloud = provider.cloud
        return cloud.limits.minus(self._view.used(name), self._reservations.of_provider(name), cloud.unmanaged)

    def is_overbooked(self, key: PoolKey) -> bool:
        """Return True if more is in use or reserved in the pool, or at its provider, than its limit; or if more
        launches run, including other launchers', than may run at once."""
        amounts = (*self.pool_free(key).amounts.values(), *self.provider_free(key).amounts.values())
        return min(amounts, default=0.0) < 0 or self._is_launching_too_much(key)

    # -- tenants ----------------------------------------------------------------------------------------------------

    def tenant_left(self, tenant: str, limits: Limits) -> Limits:
        """Return how much more the tenant may use."""
        return limits.minus(self._view.used_by_tenant(tenant)).minus(self._reservations.of_tenant(tenant))

    def tenant_free(self, tenant: str, limits: Limits) -> Limits:
        """Return how much more the tenant may use, including the share that accepted requests wait for."""
        left, waiting = self.tenant_left(tenant, limits), self._queue.need_of_tenant(tenant)
        return Limits({name: left[name] + waiting[name] for name in left}) if waiting.amounts else left

    def is_tenant_overbooked(self, tenant: str) -> bool:
        """Return True if the tenant's usage and reservations exceed its limit; waiting requests do not count."""
        limits = self.tenants.get(tenant)
        return limits is not None and min(self.tenant_free(tenant, limits).amounts.values(), default=0.0) < 0

    # -- launches ---------------------------------------------------------------------------------------------------

    def launching(self, provider: str) -> int:
        """Return how many launches run at the provider or are about to start, of all launchers, as recorded."""
        reserved = self._reservations.launches_of(provider)
        if len(self._view.sharers) > 1:
            return len(self._view.launching(provider)) + reserved
        pools = self._own_pools.pools
        running = next((pool.ctx.provider.running_launches for key, pool in pools.items() if key[0] == provider), 0)
        return running + reserved

    def may_launch_another(self, key: PoolKey) -> bool:
        """Return True if one launch more than is reserved may run at the pool's provider, if launchers share it."""
        limit = self._own_pools.views[key].max_concurrency
        if limit < 0 or len(self._view.sharers) < 2:
            return True
        running = self.launching(key[0])
        return not running or running < limit

    def _is_launching_too_much(self, key: PoolKey) -> bool:
        """Return True if too many launches run. If all launches are this process's, more than the limit is no excess: a
        node set larger than the limit runs alone."""
        limit = self._own_pools.views[key].max_concurrency
        if limit < 0:
            return False
        launched = self._view.launching(key[0])
        own = {view.pool_id for view in self._own_pools.views.values()}
        has_others = any(node.launcher not in own for node in launched)
        return has_others and len(launched) + self._reservations.launches_of(key[0]) > limit
