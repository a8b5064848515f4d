"""What a pool decides on a node request, and why: reasons to decline it or to let it wait, and what would change that.

Each reason is a class with the facts as fields, a clause and a remedy for people. What does *not* belong here: when one
holds (decisions/triage.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.quota import NOTHING, Usage

# -- reasons --------------------------------------------------------------------------------------------------------


def amount_of(count: float, resource: str) -> str:
    """``1 instance``, ``3 instances``."""
    one = {"instances": "instance", "cores": "core", "volumes": "volume"}.get(resource, resource)
    return f"{count:.15g} {one if count == 1 else resource}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request is declined or deferred. ``str()`` is one clause for people; the fields are for programs."""

    CLAUSE: ClassVar[str] = ""
    REMEDY: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.CLAUSE.format(self=self)

    @property
    def remedy(self) -> str:
        """What would have to change for the reason to go away."""
        return self.REMEDY.format(self=self)


@dataclass(frozen=True, slots=True)
class PoolDisabled(Reason):
    CLAUSE: ClassVar[str] = "the pool is switched off (max-servers is 0)"
    REMEDY: ClassVar[str] = "raise the pool's max-servers above 0"


@dataclass(frozen=True, slots=True)
class LabelNotOffered(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the pool does not offer label {self.label}"
    REMEDY: ClassVar[str] = "add label {self.label} to the pool"


@dataclass(frozen=True, slots=True)
class TenantNotAllowed(Reason):
    """Something is for other tenants only."""

    tenant: str | None
    """None: the request has none, and may use only what is for everybody."""
    WHERE: ClassVar[str] = ""

    @property
    def who(self) -> str:
        return "a request without a tenant" if self.tenant is None else f"tenant {self.tenant}"

    @property
    def remedy(self) -> str:
        where = self.WHERE.format(self=self)
        if self.tenant is None:
            return f"the request has to be of a tenant in allowed-tenants of {where}"
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
    """There are enough machines, but too many of them are for others."""

    label: str
    CLAUSE: ClassVar[str] = (
        "{self.who} may not use as many machines of label {self.label} as it wants at once (allowed-tenants)"
    )
    WHERE: ClassVar[str] = "machines with label {self.label}"


@dataclass(frozen=True, slots=True)
class LabelUnusable(Reason):
    label: str
    detail: str
    CLAUSE: ClassVar[str] = "label {self.label} can't be launched here: {self.detail}"
    REMEDY: ClassVar[str] = "mend what the label's configuration or the cloud lacks"


@dataclass(frozen=True, slots=True)
class ImageMissing(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the image of label {self.label} is not available"
    REMEDY: ClassVar[str] = "build and upload the image, or name one that the cloud has"


@dataclass(frozen=True, slots=True)
class NeverFits(Reason):
    """More is wanted than the provider or pool could ever give."""

    resource: str
    wanted: float
    limit: float
    CLAUSE: ClassVar[str] = "{self.amount} wanted, the limit is {self.limit:.15g}"
    REMEDY: ClassVar[str] = "raise the limit of {self.resource} to {self.wanted:.15g}, or ask for less at once"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TenantNeverFits(Reason):
    tenant: str
    resource: str
    wanted: float
    limit: float
    CLAUSE: ClassVar[str] = "{self.amount} wanted, tenant {self.tenant} may have {self.limit:.15g}"
    REMEDY: ClassVar[str] = "raise the tenant's limit of {self.resource} to {self.wanted:.15g}, or ask for less at once"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TooFewMachines(Reason):
    label: str
    CLAUSE: ClassVar[str] = "there are not as many machines of label {self.label} as the request wants at once"
    REMEDY: ClassVar[str] = "add machines with label {self.label}, or ask for fewer at once"


@dataclass(frozen=True, slots=True)
class AtCapacity(Reason):
    """Only spare capacity is spent on nodes to be kept ready."""

    resource: str
    CLAUSE: ClassVar[str] = "no {self.resource} to spare for keeping nodes ready"
    REMEDY: ClassVar[str] = "free {self.resource}, or raise its limit"


@dataclass(frozen=True, slots=True)
class LaunchesFailed(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "its nodes could not be launched: {self.detail}"
    REMEDY: ClassVar[str] = "see the launch errors; other pools may still serve it"


@dataclass(frozen=True, slots=True)
class HandlerFailed(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "handling it failed: {self.detail}"
    REMEDY: ClassVar[str] = "see the log for the traceback; it is a defect worth a report"


@dataclass(frozen=True, slots=True)
class ProviderWanted(Reason):
    provider: str
    CLAUSE: ClassVar[str] = "it asks for provider {self.provider}, which is there"
    REMEDY: ClassVar[str] = "pools of provider {self.provider} have to serve or decline it first"


@dataclass(frozen=True, slots=True)
class BetterPool(Reason):
    pool_id: str
    priority: int
    CLAUSE: ClassVar[str] = "pool {self.pool_id} has priority {self.priority}, which goes first"
    REMEDY: ClassVar[str] = "that pool has to decline it, or run out of room"


@dataclass(frozen=True, slots=True)
class TurnOfAnother(Reason):
    """Launchers of equal priority share requests out among themselves, instead of racing for each."""

    pool_id: str
    CLAUSE: ClassVar[str] = "it is the turn of the launcher with pool {self.pool_id}"
    REMEDY: ClassVar[str] = "nothing has to be done: this launcher takes it if the other one is full or too slow"


@dataclass(frozen=True, slots=True)
class LeftToOthers(Reason):
    label: str
    CLAUSE: ClassVar[str] = "the pool does not offer label {self.label}, others do"
    REMEDY: ClassVar[str] = "those have to serve or decline it first"


@dataclass(frozen=True, slots=True)
class NoFreeMachine(Reason):
    label: str
    CLAUSE: ClassVar[str] = "no machine of label {self.label} is free"
    REMEDY: ClassVar[str] = "a machine with label {self.label} has to be given back"


@dataclass(frozen=True, slots=True)
class MachineAway(Reason):
    """A machine that has failed, and that is not handed out before a good look at it."""

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
        "{self.detail}; the next look is in {self.next_look_s} s"
    )

    @property
    def how(self) -> str:
        return "is in quarantine" if self.is_quarantined else "is not handed out"

    @property
    def remedy(self) -> str:
        what = "compare the host keys and correct the wrong one" if self.cause == "wrong key" else "have it answer"
        return f"{what}; the machine comes back by itself at the first good look"


@dataclass(frozen=True, slots=True)
class MoreMachinesAway(Reason):
    label: str
    count: int
    CLAUSE: ClassVar[str] = "{self.count} more machines of label {self.label} are away"
    REMEDY: ClassVar[str] = "as for those before"


@dataclass(frozen=True, slots=True)
class MachinesFailTogether(Reason):
    unreachable: int
    hosts: int
    CLAUSE: ClassVar[str] = (
        "{self.unreachable} of {self.hosts} machines became unreachable together: the fault is probably at this "
        "launcher"
    )
    REMEDY: ClassVar[str] = (
        "look at the launcher's network, its name server and its open files; nodes that are registered stay so"
    )


@dataclass(frozen=True, slots=True)
class NoRoom(Reason):
    resource: str
    wanted: float
    left: float
    CLAUSE: ClassVar[str] = "{self.amount} wanted, {self.left:.15g} left (what earlier requests wait for set apart)"
    REMEDY: ClassVar[str] = "nodes with {self.amount} in all have to go, or the limit has to rise"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class TenantFull(Reason):
    tenant: str
    resource: str
    wanted: float
    left: float
    CLAUSE: ClassVar[str] = "{self.amount} wanted, tenant {self.tenant} has {self.left:.15g} left"
    REMEDY: ClassVar[str] = "the tenant has to give nodes back, or its limit has to rise"

    @property
    def amount(self) -> str:
        return amount_of(self.wanted, self.resource)


@dataclass(frozen=True, slots=True)
class ConcurrencyReached(Reason):
    limit: int
    CLAUSE: ClassVar[str] = "the provider launches as many nodes at once as max-concurrency allows ({self.limit})"
    REMEDY: ClassVar[str] = "running launches have to end, or max-concurrency has to rise"


@dataclass(frozen=True, slots=True)
class ProviderPaused(Reason):
    """It is to take no requests, and to decline none either."""

    CLAUSE: ClassVar[str] = "the provider is paused: its max-concurrency is 0"
    REMEDY: ClassVar[str] = "raise max-concurrency, or take it out of the configuration"


@dataclass(frozen=True, slots=True)
class PoolPaused(Reason):
    """An operator has paused it, its provider or its launcher."""

    target: str
    """As commands name it."""
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
    """Its first image is being built or uploaded."""

    label: str
    until: float
    CLAUSE: ClassVar[str] = "the image of label {self.label} is not there yet, a builder is at it"
    REMEDY: ClassVar[str] = "the upload has to finish; a request waits for it for a limited time"


@dataclass(frozen=True, slots=True)
class OffererAway(Reason):
    """A pool that offers all of it is not registered just now, as during a restart."""

    provider: str
    pool: str
    until: float
    CLAUSE: ClassVar[str] = (
        "pool {self.pool} of provider {self.provider}, which offers it, is away; its return is waited for"
    )
    REMEDY: ClassVar[str] = "its launcher has to come back; otherwise the request is declined after a while"


@dataclass(frozen=True, slots=True)
class NobodyLeft(Reason):
    CLAUSE: ClassVar[str] = "every registered pool has declined it"
    REMEDY: ClassVar[str] = "a pool that can serve it has to register"


@dataclass(frozen=True, slots=True)
class ProviderDown(Reason):
    detail: str
    CLAUSE: ClassVar[str] = "the provider can't be asked: {self.detail}"
    REMEDY: ClassVar[str] = "the provider has to answer again; it is asked with growing pauses"


# -- verdicts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Take it. ``reuse[i]`` is the idle node for the i-th label, None where one has to be launched."""

    reuse: tuple[NodeId | None, ...]
    need: Usage
    """What the nodes to be launched take together."""
    zone: str | None = None
    """Where the reused nodes are; the others have to be there too."""
    resumed: frozenset[int] = frozenset()
    """Indexes of labels whose nodes are being launched already, for this request: nothing more is taken for them."""


@dataclass(frozen=True, slots=True)
class Decline:
    """Never, for this pool."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now; look again when something changes."""

    reasons: tuple[Reason, ...]
    need: Usage = NOTHING
    """What the nodes that would have to be launched take, where it waits for room; where it waits for its tenant, what
    they all take."""
    waits_for_provider: bool = False
    """Whether it is the provider's room that it waits for, which the provider's other pools share."""
    until: float | None = None
    """When to look again, by the wall clock, even if nothing changes."""
    kept: tuple[NodeId, ...] = ()
    """Idle nodes that are kept for it meanwhile."""

    @property
    def waits_for_room(self) -> bool:
        return any(isinstance(reason, NoRoom) for reason in self.reasons)

    @property
    def holds_others_back(self) -> bool:
        """Whether pools of larger priority numbers yield although this one can't serve the request yet.

        They don't while it is full, away or paused. Source: Nodepool 11, where only a paused pool is passed over.
        """
        return not any(isinstance(reason, NoRoom | ProviderDown | PoolPaused) for reason in self.reasons)


Verdict = Accept | Decline | Defer
