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

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId, RequestId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest, RequestOrder
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import (
    Accept,
    AtCapacity,
    BetterPool,
    ConcurrencyReached,
    Decline,
    Defer,
    ImageMissing,
    ImageOnTheWay,
    LabelNotOffered,
    LabelUnusable,
    LeftToOthers,
    NeverFits,
    NobodyLeft,
    NoFreeMachine,
    NoRoom,
    OffererAway,
    PoolDisabled,
    ProviderDown,
    ProviderWanted,
    Reason,
    TenantFull,
    TenantNeverFits,
    TooFewMachines,
    Verdict,
)

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
