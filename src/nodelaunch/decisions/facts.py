"""The facts that a schedule decides on: the port through which the engine provides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from nodelaunch.decisions.triage import (
    Absentee,
    IdleNodes,
    PoolKey,
    PoolView,
    Tenant,
)
from nodelaunch.protocol.access import Asker
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.registrations import RegisteredPool
from nodelaunch.protocol.verdicts import (
    Accept,
    Verdict,
)


class Facts(Protocol):
    """The facts of a schedule. Every answer is as of now and cheap."""

    @property
    def generation(self) -> int:
        """Grows when a pool is registered, leaves, or changes its labels or priority."""

    @property
    def pauses(self) -> int:
        """Grows when a pool of another process is paused or resumed; while several launchers take turns, also for pools
        of this process."""

    @property
    def launchers(self) -> int:
        """How many nodelaunch processes have pools registered."""

    @property
    def peers(self) -> Sequence[RegisteredPool]:
        """All registered pools, including those of this process."""

    def peers_offering(self, label: str) -> Sequence[RegisteredPool]: ...

    @property
    def own(self) -> Mapping[str, PoolView]:
        """The registered pools of this process that take requests, by pool id."""

    def view(self, key: PoolKey) -> PoolView:
        """Return the view of one pool of this process; the same object while nothing in it changes."""

    def pool_left(self, key: PoolKey) -> Limits:
        """Return the capacity that is left within the pool's own limits."""

    def provider_left(self, key: PoolKey) -> Limits:
        """Return the capacity that the pool's provider has left for the pool."""

    def tenant(self, name: str) -> Tenant | None:
        """Return the tenant; None: it has no limits."""

    def launching(self, provider: str) -> int:
        """Return how many launches run at the provider or are about to start."""

    def idle(self, key: PoolKey, kept: frozenset[NodeId], asker: Asker) -> IdleNodes:
        """Return the pool's idle nodes that the *asker* may have, except the *kept* ones."""

    def idle_count(self, key: PoolKey, label: str, asker: Asker) -> int:
        """Return how many idle nodes with *label* the pool has that the *asker* may have."""

    def has_idle(self, key: PoolKey) -> bool:
        """Return True if the pool has any idle node."""

    def is_doubtful(self, key: PoolKey, labels: Sequence[str]) -> bool:
        """Return True if launches of one of *labels* have failed repeatedly in the pool."""

    def used(self, key: PoolKey) -> float:
        """Return how many instances the pool has, or is about to have."""

    def begun(self, request_id: RequestId, key: PoolKey) -> Sequence[str]:
        """Return the labels of nodes whose launch for the request was interrupted in the pool."""

    @property
    def absent(self) -> Sequence[Absentee]: ...

    @property
    def now(self) -> float:
        """The time by the wall clock, in seconds since 1970."""

    @property
    def may_decline(self) -> bool:
        """False while pools of this process are about to register: another pool may serve a request that this one
        can't."""

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        """Subtract the need of *verdict* from the capacity that is left."""

    def decided(self, request: NodeRequest, key: PoolKey, verdict: Verdict) -> None:
        """Note the verdict of the pool on the request."""
