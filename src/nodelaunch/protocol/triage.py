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

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, RequestOrder
from nodelaunch.protocol.states import RequestState

# -- reasons --------------------------------------------------------------------------------------------------------


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
    CLAUSE = "the pool is switched off (max-servers is 0)"
    REMEDY = "raise the pool's max-servers above 0"


@dataclass(frozen=True, slots=True)
class LabelNotOffered(Reason):
    label: str
    CLAUSE = "the pool does not offer label {self.label}"
    REMEDY = "add label {self.label} to the pool"


@dataclass(frozen=True, slots=True)
class LabelUnusable(Reason):
    label: str
    detail: str
    CLAUSE = "label {self.label} can't be launched here: {self.detail}"
    REMEDY = "mend what the label's configuration or the cloud lacks"


@dataclass(frozen=True, slots=True)
class ImageMissing(Reason):
    label: str
    CLAUSE = "the image of label {self.label} is not available"
    REMEDY = "build and upload the image, or name one that the cloud has"


@dataclass(frozen=True, slots=True)
class NeverFits(Reason):
    """More is wanted than the provider or pool could ever give."""

    resource: str
    wanted: float
    limit: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, the limit is {self.limit:g}"
    REMEDY = "raise the limit of {self.resource} to {self.wanted:g}, or ask for less at once"


@dataclass(frozen=True, slots=True)
class TenantNeverFits(Reason):
    tenant: str
    resource: str
    wanted: float
    limit: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, tenant {self.tenant} may have {self.limit:g}"
    REMEDY = "raise the tenant's limit of {self.resource} to {self.wanted:g}, or ask for less at once"


@dataclass(frozen=True, slots=True)
class TooFewMachines(Reason):
    label: str
    CLAUSE = "there are not as many machines of label {self.label} as the request wants at once"
    REMEDY = "add machines with label {self.label}, or ask for fewer at once"


@dataclass(frozen=True, slots=True)
class AtCapacity(Reason):
    """Only spare capacity is spent on nodes to be kept ready."""

    resource: str
    CLAUSE = "no {self.resource} to spare for keeping nodes ready"
    REMEDY = "free {self.resource}, or raise its limit"


@dataclass(frozen=True, slots=True)
class LaunchesFailed(Reason):
    detail: str
    CLAUSE = "its nodes could not be launched: {self.detail}"
    REMEDY = "see the launch errors; other pools may still serve it"


@dataclass(frozen=True, slots=True)
class HandlerFailed(Reason):
    detail: str
    CLAUSE = "handling it failed: {self.detail}"
    REMEDY = "see the log for the traceback; it is a defect worth a report"


@dataclass(frozen=True, slots=True)
class ProviderWanted(Reason):
    provider: str
    CLAUSE = "it asks for provider {self.provider}, which is there"
    REMEDY = "pools of provider {self.provider} have to serve or decline it first"


@dataclass(frozen=True, slots=True)
class BetterPool(Reason):
    pool_id: str
    priority: int
    CLAUSE = "pool {self.pool_id} has priority {self.priority}, which goes first"
    REMEDY = "that pool has to decline it, or run out of room"


@dataclass(frozen=True, slots=True)
class LeftToOthers(Reason):
    label: str
    CLAUSE = "the pool does not offer label {self.label}, others do"
    REMEDY = "those have to serve or decline it first"


@dataclass(frozen=True, slots=True)
class NoFreeMachine(Reason):
    label: str
    CLAUSE = "no machine of label {self.label} is free"
    REMEDY = "a machine with label {self.label} has to be given back"


@dataclass(frozen=True, slots=True)
class NoRoom(Reason):
    resource: str
    wanted: float
    left: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, {self.left:g} left (what earlier requests wait for set apart)"
    REMEDY = "nodes with {self.wanted:g} {self.resource} in all have to go, or the limit has to rise"


@dataclass(frozen=True, slots=True)
class TenantFull(Reason):
    tenant: str
    resource: str
    wanted: float
    left: float
    CLAUSE = "{self.wanted:g} {self.resource} wanted, tenant {self.tenant} has {self.left:g} left"
    REMEDY = "the tenant has to give nodes back, or its limit has to rise"


@dataclass(frozen=True, slots=True)
class ConcurrencyReached(Reason):
    limit: int
    CLAUSE = "the provider launches as many nodes at once as max-concurrency allows ({self.limit})"
    REMEDY = "running launches have to end, or max-concurrency has to rise"


@dataclass(frozen=True, slots=True)
class ImageOnTheWay(Reason):
    """Its first image is being built or uploaded."""

    label: str
    until: float
    CLAUSE = "the image of label {self.label} is not there yet, a builder is at it"
    REMEDY = "the upload has to finish; a request waits for it for a limited time"


@dataclass(frozen=True, slots=True)
class OffererAway(Reason):
    """A pool that offers all of it is not registered just now, as during a restart."""

    provider: str
    pool: str
    until: float
    CLAUSE = "pool {self.pool} of provider {self.provider}, which offers it, is away; its return is waited for"
    REMEDY = "its launcher has to come back; otherwise the request is declined after a while"


@dataclass(frozen=True, slots=True)
class NobodyLeft(Reason):
    CLAUSE = "every registered pool has declined it"
    REMEDY = "a pool that can serve it has to register"


@dataclass(frozen=True, slots=True)
class ProviderDown(Reason):
    detail: str
    CLAUSE = "the provider can't be asked: {self.detail}"
    REMEDY = "the provider has to answer again; it is asked with growing pauses"


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
    """What the nodes that would have to be launched take, where it waits for room."""
    waits_for_provider: bool = False
    """Whether it is the provider's room that it waits for, which the provider's other pools share."""
    until: float | None = None
    """When to look again, by the wall clock, even if nothing changes."""

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
    arrives_by: float | None = None
    """While it is not ready: until when, by the wall clock, its first image is waited for."""


@dataclass(frozen=True, slots=True)
class IdleNode:
    """A ready, unallocated, unlocked node of this provider and pool; ``labels`` it can serve."""

    id: NodeId
    labels: frozenset[str]
    usage: Usage = NOTHING
    ready_at: float = 0.0
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Absentee:
    """A pool that is known but not registered just now; its return is waited for *until* then, by the wall clock."""

    provider: str
    pool: str
    labels: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits in another pool of the same provider for room both share."""

    request_id: RequestId
    order: RequestOrder
    need: Usage


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
    """What the pool can give now by its own limits."""
    provider_room: Limits = NO_LIMITS
    """What the provider can give now, to all its pools together."""
    ahead: Sequence[Waiting] = ()
    """What waits for the provider's room in its other pools."""
    idle: Sequence[IdleNode] = ()
    begun: Mapping[RequestId, Sequence[str]] = field(default_factory=dict)
    """By request, labels of nodes whose launch for it broke off, to be gone on with."""
    machines: Sequence[frozenset[str]] = ()
    """Labels of each machine there is, where machines exist already."""
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    launching: int = 0
    """Launches that run or are about to."""
    max_concurrency: int = -1
    """How many may run at once; negative: any number."""
    down: str | None = None
    """Why the provider can't be asked at the moment."""
    absent: Sequence[Absentee] = ()
    now: float = 0.0
    """By the wall clock, seconds since 1970."""


# -- deciding -------------------------------------------------------------------------------------------------------


def triage(requests: Iterable[NodeRequest], view: PoolView) -> Iterator[tuple[NodeRequest, Verdict]]:
    """The pool's verdict on each of *requests* that is open, in the order of service.

    What the pool has declined already is passed over, unless all the others have too and it is left to nobody.
    """
    if view.max_concurrency == 0:
        return
    account = _Account(view)
    is_open = [request for request in requests if request.state is RequestState.REQUESTED]
    offered = view.labels.keys()
    is_open.sort(key=lambda request: (len(set(request.node_types) - offered), request.order))
    for request in is_open:
        if view.pool_id not in request.declined_by:
            yield request, _yielding(request, view) or account.judge(request)
        elif {peer.pool_id for peer in view.peers} <= set(request.declined_by):
            yield request, _wait_for_absentee(request, view) or Decline((NobodyLeft(),))


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


def _wait_for_absentee(request: NodeRequest, view: PoolView) -> Defer | None:
    """Whether a pool that offers all the request wants is away, and may come back in time."""
    if away := absentees(request, view.absent, view.now):
        reasons = tuple(OffererAway(pool.provider, pool.pool, pool.until) for pool in away)
        return Defer(reasons, until=min(reason.until for reason in reasons))
    return None


def absentees(request: NodeRequest, absent: Iterable[Absentee], now: float) -> list[Absentee]:
    """Those of *absent* that offer all the request wants and may still come back in time."""
    wanted = frozenset(request.node_types)
    return [pool for pool in absent if wanted <= pool.labels and pool.until > now]


class _Account:
    """What is left while requests are gone through one by one."""

    def __init__(self, view: PoolView) -> None:
        self.view = view
        self.counted: set[RequestId] = set()
        """Requests whose need is off our room already."""
        self.room = view.room
        self.provider_room = view.provider_room
        self.ahead = sorted(view.ahead, key=lambda waiting: waiting.order, reverse=True)
        self.idle = {node.id: node for node in view.idle}
        self.tenants = {name: tenant.room for name, tenant in view.tenants.items()}
        self.launching = view.launching
        self._needs: dict[tuple[str, ...], Usage] = {}
        self._impossible: dict[tuple[tuple[str, ...], str | None], tuple[Reason, ...]] = {}
        """Requests of a long queue are mostly alike: what holds for one holds for the next."""

    def _need(self, labels: tuple[str, ...]) -> Usage:
        if labels not in self._needs:
            self._needs[labels] = _need(labels, self.view)
        return self._needs[labels]

    def _reasons_to_decline(self, request: NodeRequest) -> tuple[Reason, ...]:
        key = (request.node_types, request.tenant_name)
        if key not in self._impossible:
            self._impossible[key] = reasons_to_decline(request, self.view)
        return self._impossible[key]

    def judge(self, request: NodeRequest) -> Verdict:
        if impossible := self._reasons_to_decline(request):
            return _wait_for_absentee(request, self.view) or Decline(impossible)
        if awaited := images_on_the_way(request, self.view):
            return Defer(awaited, until=min(reason.until for reason in awaited))
        if self.view.down is not None:
            return Defer((ProviderDown(self.view.down),))
        self._let_pass_before(request)
        begun = self.view.begun.get(request.id, ())
        total = self._need(request.node_types) - self._need(tuple(begun))
        if full := self._tenant_shortage(request, total):
            self._take_share(request, total)
            return Defer(full)
        reuse, zone = self._match(request)
        resumed = _resumed(request.node_types, reuse, begun)
        to_launch = tuple(label for i, label in enumerate(request.node_types) if reuse[i] is None and i not in resumed)
        need = self._need(to_launch)
        if to_launch and (missing := self._missing(to_launch, need)):
            return self._refuse(request, missing, reuse, need)
        self._take(request, reuse, need)
        self._take_share(request, total)
        self.launching += len(to_launch)
        return Accept(tuple(reuse), need, zone, resumed)

    def _let_pass_before(self, request: NodeRequest) -> None:
        """Set apart what earlier requests wait for in other pools of the provider."""
        while self.ahead and self.ahead[-1].order < request.order:
            waiting = self.ahead.pop()
            if waiting.request_id not in self.counted:
                self.provider_room = self.provider_room.minus(waiting.need)

    def _missing(self, to_launch: Sequence[str], need: Usage) -> tuple[Reason, ...]:
        """What keeps the nodes that are not there from being launched."""
        if not self.view.can_launch:
            return tuple(NoFreeMachine(label) for label in sorted(set(to_launch)))
        short = {*self.room.shortages(need), *self.provider_room.shortages(need)}
        if short:
            left = {name: max(0.0, min(self.room[name], self.provider_room[name])) for name in sorted(short)}
            return tuple(NoRoom(name, need[name], left[name]) for name in left)
        if self._is_too_much_at_once(len(to_launch)):
            return (ConcurrencyReached(self.view.max_concurrency),)
        return ()

    def _is_too_much_at_once(self, launches: int) -> bool:
        """More launches than may run at once; a node set that is larger than that has to be alone."""
        limit = self.view.max_concurrency
        return limit >= 0 and self.launching > 0 and self.launching + launches > limit

    def _refuse(
        self, request: NodeRequest, missing: tuple[Reason, ...], reuse: Sequence[NodeId | None], need: Usage
    ) -> Verdict:
        """Let it wait, and keep for it what it waits for; nodes to be kept ready don't wait."""
        if request.requestor == MIN_READY_REQUESTOR:
            return Decline(tuple(AtCapacity(getattr(reason, "resource", "room")) for reason in missing))
        if isinstance(missing[0], ConcurrencyReached):
            self.launching = max(self.launching, self.view.max_concurrency)
            return Defer(missing, need)
        waits_for_provider = bool(self.provider_room.shortages(need))
        self._take(request, reuse, need)
        return Defer(missing, need, waits_for_provider)

    def _take(self, request: NodeRequest, reuse: Iterable[NodeId | None], need: Usage) -> None:
        self.counted.add(request.id)
        self.room = self.room.minus(need)
        self.provider_room = self.provider_room.minus(need)
        for node_id in reuse:
            if node_id is not None:
                del self.idle[node_id]

    def _take_share(self, request: NodeRequest, total: Usage) -> None:
        if request.tenant_name in self.tenants:
            self.tenants[request.tenant_name] = self.tenants[request.tenant_name].minus(total)

    def _tenant_shortage(self, request: NodeRequest, total: Usage) -> tuple[Reason, ...]:
        name = request.tenant_name
        if name is None or name not in self.tenants:
            return ()
        room = self.tenants[name]
        return tuple(
            TenantFull(name, resource, total[resource], max(0.0, room[resource])) for resource in room.shortages(total)
        )

    def _match(self, request: NodeRequest) -> tuple[list[NodeId | None], str | None]:
        """Idle nodes for the request, all in one zone, as many as can be; and that zone."""
        if not request.reuse and self.view.can_launch:
            return [None] * len(request.node_types), None
        if not self.idle:
            return [None] * len(request.node_types), None
        oldest_first = sorted(self.idle.values(), key=lambda node: (node.ready_at, node.id))
        fitting = [node for node in oldest_first if not node.labels.isdisjoint(request.node_types)]
        best: tuple[list[NodeId | None], str | None] = ([None] * len(request.node_types), None)
        for zone in dict.fromkeys(node.zone for node in fitting):
            together = [node for node in fitting if node.zone in (zone, None)]
            matched = match_labels(request.node_types, [node.labels for node in together])
            if sum(i is not None for i in matched) > sum(node_id is not None for node_id in best[0]):
                best = ([None if i is None else together[i].id for i in matched], zone)
        return best


def images_on_the_way(request: NodeRequest, view: PoolView) -> tuple[ImageOnTheWay, ...]:
    """Which labels of *request* have no image yet, but soon will."""
    labels = ((label, view.labels[label]) for label in sorted(set(request.node_types)))
    return tuple(
        ImageOnTheWay(label, known.arrives_by)
        for label, known in labels
        if not known.is_ready and known.arrives_by is not None
    )


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
    if missing := [label for label, known in labels if not known.is_ready and not _arrives(known, view.now)]:
        return tuple(ImageMissing(label) for label in missing)
    need = _need(request.node_types, view)
    if over := view.ceiling.shortages(need):
        return tuple(NeverFits(name, need[name], view.ceiling[name]) for name in over)
    if not view.can_launch:
        matched = match_labels(request.node_types, view.machines)
        lacking = sorted({label for label, i in zip(request.node_types, matched, strict=True) if i is None})
        return tuple(TooFewMachines(label) for label in lacking)
    return _beyond_tenant(request, need, view)


def _arrives(label: LabelView, now: float) -> bool:
    return label.arrives_by is not None and label.arrives_by > now


def _beyond_tenant(request: NodeRequest, need: Usage, view: PoolView) -> tuple[Reason, ...]:
    name = request.tenant_name
    if name is None or name not in view.tenants:
        return ()
    ceiling = view.tenants[name].ceiling
    return tuple(TenantNeverFits(name, r, need[r], ceiling[r]) for r in ceiling.shortages(need))


def _need(labels: Iterable[str], view: PoolView) -> Usage:
    return Usage.total(view.labels[label].need for label in labels)


def _resumed(labels: Sequence[str], reuse: Sequence[NodeId | None], begun: Iterable[str]) -> frozenset[int]:
    """Which of *labels* that reuse nothing are served by the launches *begun*."""
    free = [i for i, node_id in enumerate(reuse) if node_id is None]
    found: set[int] = set()
    for label in begun:
        found.update([i for i in free if labels[i] == label and i not in found][:1])
    return frozenset(found)


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


def after_decline(
    request: NodeRequest, pool_id: str, registered: Iterable[str], now: float, absent: Iterable[Absentee] = ()
) -> NodeRequest:
    """*request* as it is written when pool *pool_id* gives up: failed if no registered pool is left to try, and none
    that is away could.

    The ids of pools that are gone don't matter and stay. A failed request lists no nodes.
    """
    declined_by = request.declined_by if pool_id in request.declined_by else (*request.declined_by, pool_id)
    is_last = set(registered) <= set(declined_by) and not absentees(request, absent, now)
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
