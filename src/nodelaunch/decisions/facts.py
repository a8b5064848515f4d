"""What a schedule decides on: the port through which the engine tells it."""

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
    """What a schedule decides on. Every answer is as of now and cheap."""

    @property
    def generation(self) -> int:
        """Grows when a pool is registered, leaves, or changes its labels or priority."""

    @property
    def pauses(self) -> int:
        """Grows when a pool of another process is paused or not paused any more; while several launchers take turns,
        also when one of ours is."""

    @property
    def launchers(self) -> int:
        """How many nodelaunch processes have pools registered."""

    @property
    def peers(self) -> Sequence[RegisteredPool]:
        """All registered pools, those of this process included."""

    def peers_offering(self, label: str) -> Sequence[RegisteredPool]: ...

    @property
    def own(self) -> Mapping[str, PoolView]:
        """The registered pools of this process that take requests, by pool id."""

    def view(self, key: PoolKey) -> PoolView:
        """One of them; the same object as long as nothing in it changes."""

    def pool_left(self, key: PoolKey) -> Limits:
        """What the pool can give by its own limits."""

    def provider_left(self, key: PoolKey) -> Limits:
        """What the pool's provider can give to the pool."""

    def tenant(self, name: str) -> Tenant | None:
        """None: the tenant has no limits."""

    def launching(self, provider: str) -> int:
        """How many launches run at the provider or are about to."""

    def idle(self, key: PoolKey, kept: frozenset[NodeId], asker: Asker) -> IdleNodes:
        """The pool's idle nodes that the *asker* may have, without those *kept*."""

    def idle_count(self, key: PoolKey, label: str, asker: Asker) -> int:
        """How many idle nodes with *label* the pool has that the *asker* may have."""

    def has_idle(self, key: PoolKey) -> bool:
        """Whether the pool has any idle node."""

    def is_doubtful(self, key: PoolKey, labels: Sequence[str]) -> bool:
        """Whether launches of one of *labels* have failed in the pool again and again."""

    def used(self, key: PoolKey) -> float:
        """How many instances the pool has, or is about to have."""

    def begun(self, request_id: RequestId, key: PoolKey) -> Sequence[str]:
        """Labels of nodes whose launch for the request broke off in the pool."""

    @property
    def absent(self) -> Sequence[Absentee]: ...

    @property
    def now(self) -> float:
        """By the wall clock, seconds since 1970."""

    @property
    def may_decline(self) -> bool:
        """False while pools of this process are about to register: what one can't serve, another may."""

    def reserve(self, request: NodeRequest, key: PoolKey, verdict: Accept) -> None:
        """Take what *verdict* needs off what is left, from now on."""

    def decided(self, request: NodeRequest, key: PoolKey, verdict: Verdict) -> None:
        """Take note of what the pool says of the request."""
