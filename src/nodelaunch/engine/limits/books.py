"""What is left of what is limited: room in pools and at providers, tenants' shares, launches at a time.

As of now: what records say, minus what is reserved. What does *not* belong here: idle nodes and registrations
(engine/serve/facts.py), and how several launchers keep to a limit together (sharing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.reservations import Reservations
from nodelaunch.engine.limits.waiting import CapacityQueue
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits

if TYPE_CHECKING:
    from nodelaunch.engine.serve.facts import OwnPools

NO_INSTANCES = Limits({INSTANCES: 0})


class Books:
    """The books of one launcher."""

    def __init__(
        self, view: ClusterView, own_pools: OwnPools, reservations: Reservations, queue: CapacityQueue
    ) -> None:
        self.tenants: Mapping[str, Limits] = {}
        """By name; those that are not there have no limit."""
        self._view = view
        self._own_pools = own_pools
        self._reservations = reservations
        self._queue = queue

    # -- room -------------------------------------------------------------------------------------------------------

    def pool_room(self, key: PoolKey) -> Limits:
        """What the pool can give now, what accepted requests wait for included."""
        limits = self._own_pools.views[key].limits
        return limits.minus(self._view.used(*key)).minus(self._reservations.of_pool(key))

    def provider_room(self, key: PoolKey) -> Limits:
        """What the provider can give the pool now, with what accepted requests wait for; nothing while it refuses."""
        provider = self._own_pools.pools[key].ctx.provider
        if provider.refusals.is_active:
            return NO_INSTANCES
        if not self._own_pools.views[key].shares_provider_quota:
            return NO_LIMITS
        name = key[0]
        cloud = provider.cloud
        left = cloud.limits.minus(self._view.used(name)).minus(self._reservations.of_provider(name))
        return left if cloud.unmanaged == NOTHING else left.minus(cloud.unmanaged)

    def is_overbooked(self, key: PoolKey) -> bool:
        """Whether more is in use or reserved in the pool, or at its provider, than there is; or more launches are than
        may run at once, others' among them."""
        amounts = (*self.pool_room(key).amounts.values(), *self.provider_room(key).amounts.values())
        return min(amounts, default=0.0) < 0 or self._is_launching_too_much(key)

    # -- tenants ----------------------------------------------------------------------------------------------------

    def tenant_left(self, tenant: str, limits: Limits) -> Limits:
        """What the tenant may have besides."""
        return limits.minus(self._view.used_by_tenant(tenant)).minus(self._reservations.of_tenant(tenant))

    def tenant_room(self, tenant: str, limits: Limits) -> Limits:
        """What the tenant may have besides, with what accepted requests wait for."""
        left, waiting = self.tenant_left(tenant, limits), self._queue.need_of_tenant(tenant)
        return Limits({name: left[name] + waiting[name] for name in left}) if waiting.amounts else left

    def is_tenant_overbooked(self, tenant: str) -> bool:
        """Whether more is in use by the tenant, or about to be, than it may have; what is waited for is not."""
        limits = self.tenants.get(tenant)
        return limits is not None and min(self.tenant_room(tenant, limits).amounts.values(), default=0.0) < 0

    # -- launches ---------------------------------------------------------------------------------------------------

    def launching(self, provider: str) -> int:
        """How many launches run at the provider or are about to: of all launchers, as far as records tell."""
        reserved = self._reservations.launches_of(provider)
        if len(self._view.sharers) > 1:
            return len(self._view.launching(provider)) + reserved
        pools = self._own_pools.pools
        running = next((pool.ctx.provider.running_launches for key, pool in pools.items() if key[0] == provider), 0)
        return running + reserved

    def may_launch_another(self, key: PoolKey) -> bool:
        """Whether one launch more than is reserved may run at the pool's provider, where launchers share it."""
        limit = self._own_pools.views[key].max_concurrency
        if limit < 0 or len(self._view.sharers) < 2:
            return True
        running = self.launching(key[0])
        return not running or running < limit

    def _is_launching_too_much(self, key: PoolKey) -> bool:
        """A node set that is larger than the limit runs alone: where all launches are ours, that was decided here."""
        limit = self._own_pools.views[key].max_concurrency
        if limit < 0:
            return False
        launched = self._view.launching(key[0])
        own = {view.pool_id for view in self._own_pools.views.values()}
        has_others = any(node.launcher not in own for node in launched)
        return has_others and len(launched) + self._reservations.launches_of(key[0]) > limit
