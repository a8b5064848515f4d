"""Facts for a schedule, in memory: pools, their limits and nodes, without a launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nodelaunch.decisions.triage import Absentee, IdleNode, IdleNodes, PoolKey, PoolView, Tenant
from nodelaunch.protocol.access import Allowed, Asker
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.verdicts import Accept, Verdict
from support.builders import some_idle

OWN_LAUNCHER = "m"
NO_INSTANCES = Limits({INSTANCES: 0})


@dataclass
class Grant:
    """Capacity granted to a request: the pool, the usage of its nodes there, and the number of nodes still being
    launched.
    """

    key: PoolKey
    tenant: str | None
    need: Usage
    reused: tuple[IdleNode, ...]
    share: Usage
    """Usage of all its nodes, as counted against its tenant's limits."""
    launching: int


class StaticFacts:
    """Facts that change only when a test changes them. `reserve` takes capacity, `free` returns it.

    *providers*: limits by provider; without any, a provider has none. *tenants*: limits by tenant.
    """

    def __init__(
        self,
        *views: PoolView,
        providers: Mapping[str, Limits] | None = None,
        tenants: Mapping[str, Limits] | None = None,
        peers: Sequence[RegisteredPool] = (),
        idle: Mapping[PoolKey, Sequence[IdleNode]] | None = None,
    ) -> None:
        self.generation = 0
        self.pauses = 0
        self.absent: list[Absentee] = []
        self.now = 0.0
        self.may_decline = True
        self.launchers = len({peer.launcher for peer in peers} - {""}) + 1
        self.views = {view.key: view for view in views}
        self.own: dict[str, PoolView] = {view.pool_id: view for view in views if view.takes_requests}
        self.others = list(peers)
        self.providers = dict(providers or {})
        self.tenants = dict(tenants or {})
        self.paused: set[str] = set()
        """Our pools that are announced to other launchers as paused."""
        self.doubtful: set[tuple[PoolKey, str]] = set()
        """Pools and labels whose launches fail there."""
        self.refused: set[str] = set()
        """Providers that give nothing at the moment."""
        self.idle_nodes = {key: {node.id: node for node in nodes} for key, nodes in (idle or {}).items()}
        self.allowed_on: dict[NodeId, Allowed] = {}
        """Tenants that may use an idle node, for nodes that are not for all tenants."""
        self.taken: dict[PoolKey, Usage] = {}
        """Usage in each pool that belongs to no request."""
        self.running: dict[str, int] = {}
        """Launches that belong to no request, by provider."""
        self.interrupted: dict[tuple[RequestId, PoolKey], Sequence[str]] = {}
        self.grants: dict[RequestId, Grant] = {}
        self.told: list[tuple[RequestId, PoolKey, Verdict]] = []

    # -- pools ------------------------------------------------------------------------------------------------------

    @property
    def peers(self) -> Sequence[RegisteredPool]:
        own = (
            RegisteredPool(
                view.pool_id,
                view.key[0],
                view.priority,
                is_paused=view.pool_id in self.paused or bool(view.pauses),
                labels=frozenset(view.labels),
                launcher=OWN_LAUNCHER,
                is_stopped=bool(view.pauses),
            )
            for view in self.views.values()
        )
        return [*own, *self.others]

    def peers_offering(self, label: str) -> Sequence[RegisteredPool]:
        return [peer for peer in self.peers if label in peer.labels]

    def view(self, key: PoolKey) -> PoolView:
        return self.views[key]

    def register(self, view: PoolView) -> None:
        """Register the pool, or replace it."""
        self.change(view)
        self.own[view.pool_id] = view
        self.generation += 1

    def unregister(self, key: PoolKey) -> None:
        view = self.views.pop(key)
        self.own.pop(view.pool_id, None)
        self.generation += 1

    def change(self, view: PoolView) -> None:
        """Something else is known of the pool."""
        self.views[view.key] = view
        if view.pool_id in self.own:
            self.own[view.pool_id] = view

    def pause(self, pool_id: str, *, is_paused: bool = True) -> None:
        """The pool is paused, or not any more."""
        if pool_id in self.own:
            self.paused = self.paused | {pool_id} if is_paused else self.paused - {pool_id}
        self.others = [replace(p, is_paused=is_paused) if p.pool_id == pool_id else p for p in self.others]
        self.pauses += 1

    # -- capacity ---------------------------------------------------------------------------------------------------

    def pool_left(self, key: PoolKey) -> Limits:
        return self.views[key].limits.minus(self._used(key))

    def provider_left(self, key: PoolKey) -> Limits:
        if key[0] in self.refused:
            return NO_INSTANCES
        if not self.views[key].shares_provider_quota:
            return NO_LIMITS
        keys = {*self.taken, *self.idle_nodes, *(grant.key for grant in self.grants.values())}
        used = Usage.total(self._used(each) for each in keys if each[0] == key[0])
        return self.providers.get(key[0], NO_LIMITS).minus(used)

    def _used(self, key: PoolKey) -> Usage:
        granted = [usage for grant in self.grants.values() if grant.key == key for usage in _all_of(grant)]
        idle = [node.usage for node in self.idle_nodes.get(key, {}).values()]
        return Usage.total([self.taken.get(key, NOTHING), *granted, *idle])

    def used(self, key: PoolKey) -> float:
        return self._used(key)[INSTANCES]

    def tenant(self, name: str) -> Tenant | None:
        if name not in self.tenants:
            return None
        used = Usage.total(grant.share for grant in self.grants.values() if grant.tenant == name)
        return Tenant(self.tenants[name], self.tenants[name].minus(used))

    def launching(self, provider: str) -> int:
        granted = sum(grant.launching for grant in self.grants.values() if grant.key[0] == provider)
        return self.running.get(provider, 0) + granted

    # -- nodes ------------------------------------------------------------------------------------------------------

    def idle(self, key: PoolKey, kept: frozenset[NodeId], asker: Asker) -> IdleNodes:
        return some_idle(*(node for node in self._idle_for(key, asker) if node.id not in kept))

    def idle_count(self, key: PoolKey, label: str, asker: Asker) -> int:
        return sum(label in node.labels for node in self._idle_for(key, asker))

    def _idle_for(self, key: PoolKey, asker: Asker) -> list[IdleNode]:
        nodes = self.idle_nodes.get(key, {}).values()
        return [node for node in nodes if asker.may_use(self.allowed_on.get(node.id))]

    def is_doubtful(self, key: PoolKey, labels: Sequence[str]) -> bool:
        return any((key, label) in self.doubtful for label in labels)

    def has_idle(self, key: PoolKey) -> bool:
        return bool(self.idle_nodes.get(key))

    def put_idle(self, key: PoolKey, node: IdleNode) -> None:
        self.idle_nodes.setdefault(key, {})[node.id] = node

    def begun(self, request_id: RequestId, key: PoolKey) -> Sequence[str]:
        return self.interrupted.get((request_id, key), ())

    # -- deciding ---------------------------------------------------------------------------------------------------

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        labels = self.views[key].labels
        nodes = self.idle_nodes.get(key, {})
        self.grants[request.id] = Grant(
            key,
            request.tenant_name,
            verdict.need,
            tuple(nodes.pop(node_id) for node_id in verdict.reuse if node_id is not None),
            Usage.total(labels[label].need for label in request.node_types),
            sum(node_id is None for node_id in verdict.reuse) - len(verdict.resumed),
        )

    def free(self, request_id: RequestId) -> Grant:
        """Let the nodes of an accepted request go."""
        return self.grants.pop(request_id)

    def decided(self, request: NodeRequest, key: PoolKey, verdict: Verdict) -> None:
        self.told.append((request.id, key, verdict))


def _all_of(grant: Grant) -> list[Usage]:
    return [grant.need, *(node.usage for node in grant.reused)]
