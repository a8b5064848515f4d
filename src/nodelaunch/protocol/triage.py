"""What a pool does with the node requests it sees: accept, decline, or defer, each with typed reasons.

`triage` goes through the requests in the order they are served by and keeps account as it goes: what it accepts is no
longer there for the next one, and what a deferred request waits for is kept for it. So nothing is over-committed, a
request that fits is not held up by one that does not, and the one that does not fit is never starved: strict order
holds within each resource somebody waits for, and nowhere else.

What does *not* belong here: how the `PoolView` is known, and how a verdict is carried out.
Source of the rules: Nodepool 11's request algorithm, without its pool-wide pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState

# -- reasons --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request is declined or deferred. ``str()`` is one clause for people; the fields are for programs."""

    CLAUSE: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.CLAUSE.format(self=self)


@dataclass(frozen=True, slots=True)
class PoolDisabled(Reason):
    CLAUSE = "the pool is switched off (max-servers is 0)"


@dataclass(frozen=True, slots=True)
class LabelNotOffered(Reason):
    label: str
    CLAUSE = "the pool does not offer label {self.label}"


@dataclass(frozen=True, slots=True)
class LabelUnusable(Reason):
    label: str
    detail: str
    CLAUSE = "label {self.label} can't be launched here: {self.detail}"


@dataclass(frozen=True, slots=True)
class ImageMissing(Reason):
    label: str
    CLAUSE = "the image of label {self.label} is not available"


@dataclass(frozen=True, slots=True)
class NeverFits(Reason):
    """More is wanted than the provider or pool could ever give."""

    resource: str
    wanted: float
    limit: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, the limit is {self.limit:g}"


@dataclass(frozen=True, slots=True)
class TenantNeverFits(Reason):
    tenant: str
    resource: str
    wanted: float
    limit: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, tenant {self.tenant} may have {self.limit:g}"


@dataclass(frozen=True, slots=True)
class TooFewMachines(Reason):
    label: str
    CLAUSE = "there are not as many machines of label {self.label} as the request wants at once"


@dataclass(frozen=True, slots=True)
class AtCapacity(Reason):
    """Only spare capacity is spent on nodes to be kept ready."""

    resource: str
    CLAUSE = "no {self.resource} to spare for keeping nodes ready"


@dataclass(frozen=True, slots=True)
class LaunchesFailed(Reason):
    detail: str
    CLAUSE = "its nodes could not be launched: {self.detail}"


@dataclass(frozen=True, slots=True)
class HandlerFailed(Reason):
    detail: str
    CLAUSE = "handling it failed: {self.detail}"


@dataclass(frozen=True, slots=True)
class DeclinedByAll(Reason):
    CLAUSE = "every registered pool has declined it"


@dataclass(frozen=True, slots=True)
class ProviderWanted(Reason):
    provider: str
    CLAUSE = "it asks for provider {self.provider}, which is there"


@dataclass(frozen=True, slots=True)
class BetterPool(Reason):
    pool_id: str
    priority: int
    CLAUSE = "pool {self.pool_id} has priority {self.priority}, which goes first"


@dataclass(frozen=True, slots=True)
class LeftToOthers(Reason):
    label: str
    CLAUSE = "the pool does not offer label {self.label}, others do"


@dataclass(frozen=True, slots=True)
class NoFreeMachine(Reason):
    label: str
    CLAUSE = "no machine of label {self.label} is free"


@dataclass(frozen=True, slots=True)
class NoRoom(Reason):
    resource: str
    wanted: float
    left: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, {self.left:g} left (what earlier requests wait for set apart)"


@dataclass(frozen=True, slots=True)
class TenantFull(Reason):
    tenant: str
    resource: str
    wanted: float
    left: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, tenant {self.tenant} has {self.left:g} left"


@dataclass(frozen=True, slots=True)
class ConcurrencyReached(Reason):
    limit: int
    CLAUSE = "the provider launches as many nodes at once as max-concurrency allows ({self.limit})"


@dataclass(frozen=True, slots=True)
class ProviderDown(Reason):
    detail: str
    CLAUSE = "the provider can't be asked: {self.detail}"


# -- verdicts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Take it. ``reuse[i]`` is the idle node for the i-th label, None where one has to be launched."""

    reuse: tuple[NodeId | None, ...]
    need: Usage
    """What the nodes to be launched take together."""


@dataclass(frozen=True, slots=True)
class Decline:
    """Never, for this pool."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now; look again when something changes."""

    reasons: tuple[Reason, ...]
    need: Usage = NOTHING
    """What the nodes that would have to be launched take, where it waits for room."""

    @property
    def waits_for_room(self) -> bool:
        return any(isinstance(reason, NoRoom) for reason in self.reasons)


Verdict = Accept | Decline | Defer


ONE_INSTANCE = Usage({INSTANCES: 1})


# -- what is known --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """A registered pool, our own included."""

    pool_id: str
    provider: str
    priority: int
    is_paused: bool
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class LabelView:
    """What the pool knows of one label it offers."""

    need: Usage = ONE_INSTANCE
    is_ready: bool = True
    broken: str | None = None
    """Why it can't be launched until something changes."""


@dataclass(frozen=True, slots=True)
class IdleNode:
    """A ready, unallocated, unlocked node of this provider and pool; ``labels`` it can serve."""

    id: NodeId
    labels: frozenset[str]
    usage: Usage = NOTHING
    ready_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Tenant:
    ceiling: Limits = NO_LIMITS
    room: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class PoolView:
    """All a pool goes by when it decides, as of one moment."""

    pool_id: str
    provider: str
    priority: int
    labels: Mapping[str, LabelView]
    peers: Sequence[Peer]
    is_enabled: bool = True
    can_launch: bool = True
    """False where all machines exist already."""
    ceiling: Limits = NO_LIMITS
    """What provider and pool could give if nothing of ours were there."""
    room: Limits = NO_LIMITS
    """What they can give now."""
    idle: Sequence[IdleNode] = ()
    machines: Sequence[frozenset[str]] = ()
    """Labels of each machine there is, where machines exist already."""
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    launches_left: int | None = None
    """How many more may be launched at once; None: any number."""
    max_concurrency: int = -1
    down: str | None = None
    """Why the provider can't be asked at the moment."""


# -- deciding -------------------------------------------------------------------------------------------------------


def triage(requests: Iterable[NodeRequest], view: PoolView) -> Iterator[tuple[NodeRequest, Verdict]]:
    """The pool's verdict on each of *requests* that is open and not declined by it, in the order of service."""
    if view.max_concurrency == 0:
        return
    account = _Account(view)
    is_open = [
        request
        for request in requests
        if request.state is RequestState.REQUESTED and view.pool_id not in request.declined_by
    ]
    offered = view.labels.keys()
    is_open.sort(key=lambda request: (len(set(request.node_types) - offered), request.order))
    for request in is_open:
        yield request, _yielding(request, view) or account.judge(request)


def _yielding(request: NodeRequest, view: PoolView) -> Defer | None:
    """Whether the request is somebody else's to take."""
    wanted = frozenset(request.node_types)
    candidates = [peer for peer in view.peers if wanted <= peer.labels and peer.pool_id not in request.declined_by]
    wanted_there = [peer for peer in candidates if peer.provider == request.provider]
    if wanted_there and request.provider != view.provider:
        return Defer((ProviderWanted(request.provider or ""),))
    for peer in wanted_there or candidates:  # the others leave it to those, whatever their priority
        if peer.priority < view.priority and not peer.is_paused:
            return Defer((BetterPool(peer.pool_id, peer.priority),))
    missing = wanted - view.labels.keys()
    if missing and candidates:
        return Defer(tuple(LeftToOthers(label) for label in sorted(missing)))
    return None


class _Account:
    """What is left while requests are gone through one by one."""

    def __init__(self, view: PoolView) -> None:
        self.view = view
        self.room = view.room
        self.idle = {node.id: node for node in view.idle}
        self.tenants = {name: tenant.room for name, tenant in view.tenants.items()}
        self.launches_left = view.launches_left

    def judge(self, request: NodeRequest) -> Verdict:
        if impossible := reasons_to_decline(request, self.view):
            return Decline(impossible)
        if self.view.down is not None:
            return Defer((ProviderDown(self.view.down),))
        total = _need(request.node_types, self.view)
        if full := self._tenant_shortage(request, total):
            return Defer(full)
        reuse = self._match(request)
        to_launch = [label for label, node_id in zip(request.node_types, reuse, strict=True) if node_id is None]
        need = _need(to_launch, self.view)
        if to_launch and (missing := self._missing(to_launch, need)):
            return self._refuse(request, missing, reuse, need)
        self._take(request, reuse, need, total)
        if self.launches_left is not None:
            self.launches_left -= len(to_launch)
        return Accept(tuple(reuse), need)

    def _missing(self, to_launch: Sequence[str], need: Usage) -> tuple[Reason, ...]:
        """What keeps the nodes that are not there from being launched."""
        if not self.view.can_launch:
            return tuple(NoFreeMachine(label) for label in sorted(set(to_launch)))
        if short := self.room.shortages(need):
            return tuple(NoRoom(name, need[name], max(0.0, self.room[name])) for name in short)
        if self.launches_left is not None and self.launches_left <= 0:
            return (ConcurrencyReached(self.view.max_concurrency),)
        return ()

    def _refuse(
        self, request: NodeRequest, missing: tuple[Reason, ...], reuse: Sequence[NodeId | None], need: Usage
    ) -> Verdict:
        """Let it wait, and keep for it what it waits for; nodes to be kept ready don't wait."""
        if request.requestor == MIN_READY_REQUESTOR:
            return Decline(tuple(AtCapacity(getattr(reason, "resource", "room")) for reason in missing))
        if not any(isinstance(reason, ConcurrencyReached) for reason in missing):
            self._take(request, reuse, need, NOTHING)
        return Defer(missing, need)

    def _take(self, request: NodeRequest, reuse: Iterable[NodeId | None], need: Usage, tenant: Usage) -> None:
        self.room = self.room.minus(need)
        for node_id in reuse:
            if node_id is not None:
                del self.idle[node_id]
        if request.tenant_name in self.tenants:
            self.tenants[request.tenant_name] = self.tenants[request.tenant_name].minus(tenant)

    def _tenant_shortage(self, request: NodeRequest, total: Usage) -> tuple[Reason, ...]:
        name = request.tenant_name
        if name is None or name not in self.tenants:
            return ()
        room = self.tenants[name]
        return tuple(
            TenantFull(name, resource, total[resource], max(0.0, room[resource])) for resource in room.shortages(total)
        )

    def _match(self, request: NodeRequest) -> list[NodeId | None]:
        if not request.reuse and self.view.can_launch:
            return [None] * len(request.node_types)
        oldest_first = sorted(self.idle.values(), key=lambda node: (node.ready_at, node.id))
        matched = match_labels(request.node_types, [node.labels for node in oldest_first])
        return [None if index is None else oldest_first[index].id for index in matched]


def reasons_to_decline(request: NodeRequest, view: PoolView) -> tuple[Reason, ...]:
    """Why *view*'s pool can never serve *request*; empty: it could."""
    if not view.is_enabled:
        return (PoolDisabled(),)
    wanted = sorted(set(request.node_types))
    if missing := [label for label in wanted if label not in view.labels]:
        return tuple(LabelNotOffered(label) for label in missing)
    labels = [(label, view.labels[label]) for label in wanted]
    if broken := [LabelUnusable(label, known.broken) for label, known in labels if known.broken is not None]:
        return tuple(broken)
    if not all(known.is_ready for _, known in labels):
        return tuple(ImageMissing(label) for label, known in labels if not known.is_ready)
    need = _need(request.node_types, view)
    if over := view.ceiling.shortages(need):
        return tuple(NeverFits(name, need[name], view.ceiling[name]) for name in over)
    if not view.can_launch:
        matched = match_labels(request.node_types, view.machines)
        lacking = sorted({label for label, i in zip(request.node_types, matched, strict=True) if i is None})
        return tuple(TooFewMachines(label) for label in lacking)
    return _beyond_tenant(request, need, view)


def _beyond_tenant(request: NodeRequest, need: Usage, view: PoolView) -> tuple[Reason, ...]:
    name = request.tenant_name
    if name is None or name not in view.tenants:
        return ()
    ceiling = view.tenants[name].ceiling
    return tuple(TenantNeverFits(name, r, need[r], ceiling[r]) for r in ceiling.shortages(need))


def _need(labels: Iterable[str], view: PoolView) -> Usage:
    return Usage.total(view.labels[label].need for label in labels)


def match_labels(wanted: Sequence[str], offers: Sequence[frozenset[str]]) -> list[int | None]:
    """For each wanted label the index of an offer that has it, no offer twice, as many as can be.

    Earlier offers are preferred. Augmenting paths: exact also where offers have several labels each.
    """
    taken_by: dict[int, int] = {}

    def place(want: int, tried: set[int]) -> bool:
        for index, labels in enumerate(offers):
            if wanted[want] in labels and index not in tried:
                tried.add(index)
                if index not in taken_by or place(taken_by[index], tried):
                    taken_by[index] = want
                    return True
        return False

    for want in range(len(wanted)):
        place(want, set())
    result: list[int | None] = [None] * len(wanted)
    for index, want in taken_by.items():
        result[want] = index
    return result


def after_decline(request: NodeRequest, pool_id: str, registered: Iterable[str], now: float) -> NodeRequest:
    """*request* as it is written when pool *pool_id* gives up: failed if no registered pool is left to try.

    The ids of pools that are gone don't matter and stay. A failed request lists no nodes.
    """
    declined_by = request.declined_by if pool_id in request.declined_by else (*request.declined_by, pool_id)
    is_last = set(registered) <= set(declined_by)
    state = RequestState.FAILED if is_last else RequestState.REQUESTED
    return request.into(state, now, declined_by=declined_by, nodes=())


def make_room(need: Usage, room: Limits, freeing: Usage, idle: Iterable[IdleNode]) -> tuple[NodeId, ...]:
    """Which idle nodes to delete so that *need* fits, the longest ready first; none if that would not be enough.

    *freeing* is what nodes on their way out will give back: nothing more is deleted while that is enough.
    """
    chosen: list[NodeId] = []
    freed = freeing
    for node in sorted(idle, key=lambda node: (node.ready_at, node.id)):
        short = [name for name in room.shortages(need) if need[name] > room[name] + freed[name]]
        if not short:
            break
        if any(node.usage[name] for name in short):
            chosen.append(node.id)
            freed = freed + node.usage
    enough = all(need[name] <= room[name] + freed[name] for name in room.shortages(need))
    return tuple(chosen) if enough else ()
