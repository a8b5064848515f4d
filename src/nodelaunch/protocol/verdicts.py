"""Verdicts of a pool on a node request: accept, decline or defer, each with its reasons and their remedies.

Each reason is a class: its fields are the facts, its clause and its remedy are text for people. decisions/triage.py
decides which reasons apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.quota import NOTHING, Usage

# -- reasons --------------------------------------------------------------------------------------------------------


def amount_of(count: float, resource: str) -> str:
    """Return *count* with the resource, such as ``1 instance`` or ``3 instances``."""
    one = {"instances": "instance", "cores": "core", "volumes": "volume"}.get(resource, resource)
    return f"{count:.15g} {one if count == 1 else resource}"


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason to decline or defer a request. ``str()`` is one clause for people; the fields are for programs."""

    CLAUSE: ClassVar[str] = ""
    REMEDY: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.CLAUSE.format(self=self)

    @property
    def remedy(self) -> str:
        """The change that would remove the reason."""
        return self.REMEDY.format(self=self)


@dataclass(frozen=True, slots=True)
class PoolDisabled(Reason):
    CLAUSE: ClassVar[str] = "the pool is disabled (max-servers is 0)"
    REMEDY: ClassVar[str] = "raise the pool's max-servers above 0"


@dataclass(frozen=True, slots=True)
class LabelNotOffered(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the pool does not offer label {self.label}"
    REMEDY: ClassVar[str] = "add label {self.label} to the pool"


@dataclass(frozen=True, slots=True)
class TenantNotAllowed(Reason):
    """The pool, label or machines are for other tenants only."""

    tenant: str | None
    """The request's tenant; None: the request may use only pools, labels and machines without allowed-tenants."""
    WHERE: ClassVar[str] = ""

    @property
    def who(self) -> str:
        return "a request without a tenant" if self.tenant is None else f"tenant {self.tenant}"

    @property
    def remedy(self) -> str:
        where = self.WHERE.format(self=self)
        if self.tenant is None:
            return f"the request needs a tenant that is in allowed-tenants of {where}"
        return f"add {self.tenant} to allowed-tenants of {where}"


@dataclass(frozen=True, slots=True)
class PoolNotAllowed(TenantNotAllowed):
    CLAUSE: ClassVar[str] = "{self.who} may not use the pool (allowed-tenants)"
    WHERE: ClassVar[str] = "the pool"


@dataclass(frozen=True, slots=True)
class LabelNotAllowed(TenantNotAllowed):
    label: str
    CLAUSE: ClassVar[str] = "{self.who} may not use label {self.label} in the pool (allowed-tenants)"
    WHERE: ClassVar[str] = "label {self.label} in the pool"


@dataclass(frozen=True, slots=True)
class MachinesNotAllowed(TenantNotAllowed):
    """Enough machines exist, but too many of them are for other tenants."""

    label: str
    CLAUSE: ClassVar[str] = (
        "{self.who} may not use as many machines of label {self.label} as it requests at once (allowed-tenants)"
    )
    WHERE: ClassVar[str] = "machines with label {self.label}"


@dataclass(frozen=True, slots=True)
class LabelUnusable(Reason):
    label: str
    detail: str
    CLAUSE: ClassVar[str] = "label {self.label} can't be launched here: {self.detail}"
    REMEDY: ClassVar[str] = "correct the label's configuration, or add what is missing in the cloud"


@dataclass(frozen=True, slots=True)
class ImageMissing(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the image of label {self.label} is not available"
    REMEDY: ClassVar[str] = "build and upload the image, or name one that the cloud has"


@dataclass(frozen=True, slots=True)
class NeverFits(Reason):
    """The request needs more than the limit of the provider or the pool."""

    resource: str
    wanted: float
    limit: float
    CLAUSE: ClassVar[str] = "needs {self.amount}; the limit is {self.limit:.15g}"
    REMEDY: ClassVar[str] = "raise the limit of {self.resource} to {self.wanted:.15g}, or request less at once"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TenantNeverFits(Reason):
    tenant: str
    resource: str
    wanted: float
    limit: float
    CLAUSE: ClassVar[str] = "needs {self.amount}; the limit of tenant {self.tenant} is {self.limit:.15g}"
    REMEDY: ClassVar[str] = "raise the tenant's limit of {self.resource} to {self.wanted:.15g}, or request less at once"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TooFewMachines(Reason):
    label: str
    CLAUSE: ClassVar[str] = "there are fewer machines of label {self.label} than the request needs at once"
    REMEDY: ClassVar[str] = "add machines with label {self.label}, or request fewer at once"


@dataclass(frozen=True, slots=True)
class AtCapacity(Reason):
    """Nodes for min-ready use only capacity that no request needs."""

    resource: str
    CLAUSE: ClassVar[str] = "no free {self.resource} for min-ready nodes"
    REMEDY: ClassVar[str] = "free {self.resource}, or raise its limit"


@dataclass(frozen=True, slots=True)
class LaunchesFailed(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "the nodes could not be launched: {self.detail}"
    REMEDY: ClassVar[str] = "see the launch errors; other pools may still serve it"


@dataclass(frozen=True, slots=True)
class HandlerFailed(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "an internal error occurred: {self.detail}"
    REMEDY: ClassVar[str] = "see the log for the traceback; please report this defect"


@dataclass(frozen=True, slots=True)
class ProviderWanted(Reason):
    provider: str
    CLAUSE: ClassVar[str] = "the request names provider {self.provider}, which is available"
    REMEDY: ClassVar[str] = "pools of provider {self.provider} have to serve or decline the request first"


@dataclass(frozen=True, slots=True)
class BetterPool(Reason):
    pool_id: str
    priority: int
    CLAUSE: ClassVar[str] = "pool {self.pool_id} has priority {self.priority} and is served first"
    REMEDY: ClassVar[str] = "that pool has to decline the request, or to run out of capacity"


@dataclass(frozen=True, slots=True)
class TurnOfAnother(Reason):
    """Launchers of equal priority take turns, so that they don't compete for each request."""

    pool_id: str
    CLAUSE: ClassVar[str] = "the launcher with pool {self.pool_id} is next in turn"
    REMEDY: ClassVar[str] = "no action is needed: this launcher takes the request if the other one is full or too slow"


@dataclass(frozen=True, slots=True)
class LeftToOthers(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the pool does not offer label {self.label}; other pools do"
    REMEDY: ClassVar[str] = "the other pools have to serve or decline the request first"


@dataclass(frozen=True, slots=True)
class NoFreeMachine(Reason):
    label: str
    CLAUSE: ClassVar[str] = "no machine of label {self.label} is free"
    REMEDY: ClassVar[str] = "a machine with label {self.label} has to be returned"


@dataclass(frozen=True, slots=True)
class MachineAway(Reason):
    """A machine has failed, and is not used again until a check succeeds."""

    label: str
    hostname: str
    username: str | None
    port: int
    is_quarantined: bool
    cause: str
    """``unreachable``, or ``wrong key``."""
    detail: str
    for_s: int
    next_look_s: int
    CLAUSE: ClassVar[str] = (
        "machine {self.hostname} (user {self.username}, port {self.port}) {self.how} for {self.for_s} s: "
        "{self.detail}; the next check is in {self.next_look_s} s"
    )

    @property
    def how(self) -> str:
        return "is in quarantine" if self.is_quarantined else "is not used"

    @property
    def remedy(self) -> str:
        what = "compare the host keys and correct the wrong one" if self.cause == "wrong key" else "make it reachable"
        return f"{what}; the machine is used again after the next successful check"


@dataclass(frozen=True, slots=True)
class MoreMachinesAway(Reason):
    label: str
    count: int
    CLAUSE: ClassVar[str] = "{self.count} more machines of label {self.label} are in quarantine or not used"
    REMEDY: ClassVar[str] = "see the reasons above"


@dataclass(frozen=True, slots=True)
class MachinesFailTogether(Reason):
    unreachable: int
    hosts: int
    CLAUSE: ClassVar[str] = (
        "{self.unreachable} of {self.hosts} machines became unreachable at the same time: the fault is probably at "
        "this launcher"
    )
    REMEDY: ClassVar[str] = (
        "check the launcher's network, its name server and its open files; registered nodes stay registered"
    )


@dataclass(frozen=True, slots=True)
class NoRoom(Reason):
    resource: str
    wanted: float
    left: float
    CLAUSE: ClassVar[str] = "needs {self.amount}; {self.left:.15g} available after reservations for earlier requests"
    REMEDY: ClassVar[str] = "wait until nodes with {self.amount} in total are deleted, or raise the limit"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TenantFull(Reason):
    tenant: str
    resource: str
    wanted: float
    left: float
    CLAUSE: ClassVar[str] = "needs {self.amount}; tenant {self.tenant} has {self.left:.15g} available"
    REMEDY: ClassVar[str] = "the tenant has to return nodes, or its limit has to be raised"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class ConcurrencyReached(Reason):
    limit: int
    CLAUSE: ClassVar[str] = "the provider already runs as many launches as max-concurrency allows ({self.limit})"
    REMEDY: ClassVar[str] = "wait until a launch ends, or raise max-concurrency"


@dataclass(frozen=True, slots=True)
class ProviderPaused(Reason):
    """The provider takes no requests, and declines none."""

    CLAUSE: ClassVar[str] = "the provider is paused: its max-concurrency is 0"
    REMEDY: ClassVar[str] = "raise max-concurrency, or remove it from the configuration"


@dataclass(frozen=True, slots=True)
class PoolPaused(Reason):
    """An operator has paused the pool, its provider or its launcher."""

    target: str
    """The target's name, as commands take it."""
    what: str
    drains: bool
    by: str | None
    at: float
    """Seconds since 1970."""
    why: str | None
    CLAUSE: ClassVar[str] = "{self.what}"
    REMEDY: ClassVar[str] = "nodelaunch resume {self.target}"

    @classmethod
    def of(cls, pause: Pause) -> PoolPaused:
        return cls(pause.target.explicit, str(pause), pause.drains, pause.by, pause.at, pause.reason)


@dataclass(frozen=True, slots=True)
class ImageOnTheWay(Reason):
    """The label's first image is being built or uploaded."""

    label: str
    until: float
    CLAUSE: ClassVar[str] = "the image of label {self.label} is still being built or uploaded"
    REMEDY: ClassVar[str] = "wait until the upload finishes; a request waits for a limited time"


@dataclass(frozen=True, slots=True)
class OffererAway(Reason):
    """A pool that offers all labels of the request is not registered at the moment, as during a restart."""

    provider: str
    pool: str
    until: float
    CLAUSE: ClassVar[str] = (
        "pool {self.pool} of provider {self.provider} offers the labels, but is not registered at the moment"
    )
    REMEDY: ClassVar[str] = "start the pool's launcher; the request is declined if the pool does not return"


@dataclass(frozen=True, slots=True)
class NobodyLeft(Reason):
    CLAUSE: ClassVar[str] = "every registered pool has declined the request"
    REMEDY: ClassVar[str] = "start a launcher with a pool that can serve the request"


@dataclass(frozen=True, slots=True)
class ProviderDown(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "the provider is unavailable: {self.detail}"
    REMEDY: ClassVar[str] = "the provider has to answer again; the launcher retries with back-off"


# -- verdicts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Take the request. ``reuse[i]`` is the idle node for the i-th label, None where a node has to be launched."""

    reuse: tuple[NodeId | None, ...]
    need: Usage
    """The quota of all nodes to be launched."""
    zone: str | None = None
    """The zone of the reused nodes; the other nodes have to be in it too."""
    resumed: frozenset[int] = frozenset()
    """Indexes of labels whose nodes are already being launched for this request: they need no further quota."""


@dataclass(frozen=True, slots=True)
class Decline:
    """This pool can never serve the request."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Defer:
    """The pool can't serve the request now; decide again when something changes."""

    reasons: tuple[Reason, ...]
    need: Usage = NOTHING
    """The quota that the request waits for: that of the nodes to be launched if it waits for capacity, that of all its
    nodes if it waits for its tenant's limit."""
    waits_for_provider: bool = False
    """True if the request waits for the provider's capacity, which the provider's other pools share."""
    until: float | None = None
    """The time, by the wall clock, when to decide again even if nothing changes."""
    kept: tuple[NodeId, ...] = ()
    """Idle nodes that are kept for the request meanwhile."""

    @property
    def waits_for_capacity(self) -> bool:
        return any(isinstance(reason, NoRoom) for reason in self.reasons)

    @property
    def holds_others_back(self) -> bool:
        """Return True if pools of larger priority numbers yield although this pool can't serve the request yet.

        They don't yield to a pool that is full, unavailable or paused. Source: Nodepool 11, where they pass over only
        a paused pool.
        """
        return not any(isinstance(reason, NoRoom | ProviderDown | PoolPaused) for reason in self.reasons)


Verdict = Accept | Decline | Defer
