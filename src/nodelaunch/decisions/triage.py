"""The verdict of one pool on one node request: accept, decline or defer, each with typed reasons.

`judge` decides on one request and one pool, given the free capacity there. The order of requests, the choice among
pools, and the reservations of earlier requests are in decisions/scheduling.py.

Source of the rules: Nodepool 11's request algorithm, without its pool-wide pause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nodelaunch.protocol.access import Allowed, Asker, asker_of
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.pauses import Pause
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, NOTHING, Limits, Usage
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import (
    Accept,
    AtCapacity,
    ConcurrencyReached,
    Decline,
    Defer,
    ImageMissing,
    ImageOnTheWay,
    LabelNotAllowed,
    LabelNotOffered,
    LabelUnusable,
    MachinesNotAllowed,
    NeverFits,
    NoFreeMachine,
    NoRoom,
    OffererAway,
    PoolDisabled,
    PoolNotAllowed,
    PoolPaused,
    ProviderDown,
    Reason,
    TenantFull,
    TenantNeverFits,
    TooFewMachines,
    Verdict,
)

ONE_INSTANCE = Usage({INSTANCES: 1})
PoolKey = tuple[str, str]
"""The names of a provider and a pool."""


# -- what is known --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelView:
    """A label that the pool offers."""

    need: Usage = ONE_INSTANCE
    is_ready: bool = True
    broken: str | None = None
    """The reason why the label can't be launched until its configuration or image changes."""
    arrives_by: float | None = None
    """The time, by the wall clock, until which the first image of a label that is not ready is awaited."""
    allowed_tenants: Allowed = None
    """Tenants that may use the label here, among the tenants that may use the pool."""


@dataclass(frozen=True, slots=True)
class MachineView:
    """A machine that exists without being launched."""

    labels: frozenset[str]
    allowed_tenants: Allowed = None
    """Tenants that may use the machine, among the tenants that may use the pool."""


@dataclass(frozen=True, slots=True)
class IdleNode:
    """A ready, unallocated, unlocked node of this provider and pool. ``labels``: the labels it can serve."""

    id: NodeId
    labels: frozenset[str]
    usage: Usage = NOTHING
    ready_at: float = 0.0
    zone: str | None = None
    machine: str | None = None
    """The machine's name, if the node shares it with others."""


@dataclass(frozen=True, slots=True)
class Absentee:
    """A known pool that is not registered now. Its return is awaited until *until*, by the wall clock."""

    provider: str
    pool: str
    labels: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class Tenant:
    ceiling: Limits = NO_LIMITS
    free: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool of this process, without its free capacity."""

    key: PoolKey
    pool_id: str
    priority: int
    labels: Mapping[str, LabelView]
    is_enabled: bool = True
    can_launch: bool = True
    """False if all machines of the pool exist already."""
    shares_provider_quota: bool = True
    limits: Limits = NO_LIMITS
    """The pool's own limits."""
    ceiling: Limits = NO_LIMITS
    """The capacity of provider and pool if this system had no nodes there."""
    machines: Sequence[MachineView] = ()
    """The machines of the pool, if they exist already."""
    max_concurrency: int = -1
    """The most launches that may run at once at the provider; negative: no limit."""
    down: str | None = None
    """The reason why the provider can't be called at the moment."""
    launches_down: str | None = None
    """The reason why nothing can be launched at the moment."""
    allowed_tenants: Allowed = None
    """Tenants that may use the pool."""
    pauses: tuple[Pause, ...] = ()
    """The pauses by which an operator has paused the pool."""

    @property
    def takes_requests(self) -> bool:
        """False where ``max-concurrency`` is 0: the pool takes no request and declines none."""
        return self.max_concurrency != 0


class IdleNodes(Protocol):
    """The ready, unallocated, unlocked nodes of one pool that the requestor may have, the longest ready first."""

    def first(self, label: str, count: int) -> Sequence[IdleNode]:
        """Return, for each zone, at most *count* nodes with *label*."""


class NoIdleNodes:
    """The idle nodes of a pool without any."""

    def first(self, label: str, count: int) -> Sequence[IdleNode]:  # noqa: ARG002
        return ()


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """The capacity for one request in one pool, after reservations for earlier requests."""

    pool: Limits = NO_LIMITS
    provider: Limits = NO_LIMITS
    tenant: Limits = NO_LIMITS
    """The capacity that the request's tenant has left."""
    tenant_ceiling: Limits = NO_LIMITS
    launching: int = 0
    """Launches that run, or are about to start, at the provider."""
    is_overtaking: bool = False
    """True if an earlier request waits until fewer launches run: nothing is launched before it."""
    idle: IdleNodes = field(default_factory=NoIdleNodes)
    begun: Sequence[str] = ()
    """Labels of nodes whose launch for the request was interrupted in the pool, to be resumed."""
    absent: Sequence[Absentee] = ()
    now: float = 0.0
    """The time by the wall clock, in seconds since 1970."""


# -- judging --------------------------------------------------------------------------------------------------------


def judge(request: NodeRequest, pool: PoolView, free: FreeCapacity, *, is_possible: bool = False) -> Verdict:
    """Return the verdict of *pool* on *request*, if no other pool goes first.

    *is_possible*: an earlier verdict of the same *pool* on an equal request was neither a decline nor about images.
    """
    if not is_possible:
        if impossible := reasons_to_decline(request, pool, free.tenant_ceiling, free.now):
            return wait_for_absentee(request, free.absent, free.now) or Decline(impossible)
        if not pool.pauses and (awaited := images_on_the_way(request, pool)):
            return Defer(awaited, until=min(reason.until for reason in awaited))
    if pool.pauses:
        return Defer(tuple(PoolPaused.of(pause) for pause in pool.pauses))
    if pool.down is not None:
        return Defer((ProviderDown(pool.down),))
    total = need_of(request.node_types, pool)
    if free.begun:
        total = total - need_of(free.begun, pool)
    if full := _tenant_shortage(request, total, free.tenant):
        return Defer(full, total)
    reuse, zone = _match(request, pool, free.idle)
    resumed = _resumed(request.node_types, reuse, free.begun) if free.begun else frozenset()
    to_launch = [label for i, label in enumerate(request.node_types) if reuse[i] is None and i not in resumed]
    need = total if len(to_launch) == len(request.node_types) else need_of(to_launch, pool)
    if to_launch and pool.launches_down is not None:
        return Defer((ProviderDown(pool.launches_down),))
    if to_launch and (missing := _missing(to_launch, need, pool, free)):
        return _defer_or_decline(request, missing, reuse, need, free)
    return Accept(tuple(reuse), need, zone, resumed)


def _missing(to_launch: Sequence[str], need: Usage, pool: PoolView, free: FreeCapacity) -> tuple[Reason, ...]:
    """Return the reasons why the missing nodes can't be launched."""
    if not pool.can_launch:
        return tuple(NoFreeMachine(label) for label in sorted(set(to_launch)))
    short = {*free.pool.shortages(need), *free.provider.shortages(need)}
    if short:
        left = {name: max(0.0, min(free.pool[name], free.provider[name])) for name in sorted(short)}
        return tuple(NoRoom(name, need[name], left[name]) for name in left)
    limit = pool.max_concurrency
    is_too_much = limit >= 0 and free.launching > 0 and free.launching + len(to_launch) > limit
    if is_too_much or free.is_overtaking:  # a node set larger than the limit has to be launched alone
        return (ConcurrencyReached(limit),)
    return ()


def _defer_or_decline(
    request: NodeRequest, missing: tuple[Reason, ...], reuse: Sequence[NodeId | None], need: Usage, free: FreeCapacity
) -> Verdict:
    """Return a deferral with the capacity to reserve meanwhile; requests for min-ready nodes don't wait."""
    if request.requestor == MIN_READY_REQUESTOR:
        return Decline(tuple(AtCapacity(getattr(reason, "resource", "room")) for reason in missing))
    kept = tuple(node_id for node_id in reuse if node_id is not None)
    return Defer(missing, need, waits_for_provider=bool(free.provider.shortages(need)), kept=kept)


def _tenant_shortage(request: NodeRequest, total: Usage, left: Limits) -> tuple[Reason, ...]:
    name = request.tenant_name
    if name is None or not (short := left.shortages(total)):
        return ()
    return tuple(TenantFull(name, resource, total[resource], max(0.0, left[resource])) for resource in short)


def _match(request: NodeRequest, pool: PoolView, idle: IdleNodes) -> tuple[list[NodeId | None], str | None]:
    """Return idle nodes for the request, all in one zone and as many as possible, and that zone."""
    best: tuple[list[NodeId | None], str | None] = ([None] * len(request.node_types), None)
    if not request.reuse and pool.can_launch:
        return best
    # A label wanted n times in a request of n nodes never needs more than the first n nodes that have it.
    found = {node.id: node for label in set(request.node_types) for node in idle.first(label, len(request.node_types))}
    fitting = spread(sorted(found.values(), key=lambda node: (node.ready_at, node.id)))
    most = 0
    for zone in dict.fromkeys(node.zone for node in fitting):
        together = [node for node in fitting if node.zone in (zone, None)]
        matched = match_labels(request.node_types, [node.labels for node in together])
        count = sum(i is not None for i in matched)
        if count > most:
            most, best = count, ([None if i is None else together[i].id for i in matched], zone)
    return best


def spread(nodes: Sequence[IdleNode]) -> list[IdleNode]:
    """Return *nodes* ordered so that the first ones are on as many machines as possible, otherwise in the given
    order."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, IdleNode]] = []
    for node in nodes:
        rank = 0
        if node.machine is not None:
            rank = seen[node.machine]
            seen[node.machine] += 1
        ranked.append((rank, node))
    if not seen:
        return list(nodes)
    return [node for _, node in sorted(ranked, key=lambda each: each[0])]


def wait_for_absentee(request: NodeRequest, absent: Sequence[Absentee], now: float) -> Defer | None:
    """Return a deferral if a pool that offers all wanted labels is away and may return in time."""
    if away := absentees(request, absent, now):
        reasons = tuple(OffererAway(pool.provider, pool.pool, pool.until) for pool in away)
        return Defer(reasons, until=min(reason.until for reason in reasons))
    return None


def absentees(request: NodeRequest, absent: Iterable[Absentee], now: float) -> list[Absentee]:
    """Return the pools of *absent* that offer all wanted labels and may still return in time."""
    wanted = frozenset(request.node_types)
    return [pool for pool in absent if wanted <= pool.labels and pool.until > now]


def images_on_the_way(request: NodeRequest, pool: PoolView) -> tuple[ImageOnTheWay, ...]:
    """Return the labels of *request* that have no image yet but soon will."""
    labels = ((label, pool.labels[label]) for label in sorted(set(request.node_types)))
    return tuple(
        ImageOnTheWay(label, known.arrives_by)
        for label, known in labels
        if not known.is_ready and known.arrives_by is not None
    )


def reasons_to_decline(request: NodeRequest, pool: PoolView, tenant_ceiling: Limits, now: float) -> tuple[Reason, ...]:
    """Return why *pool* can never serve *request*; empty: it can.

    While the pool is paused, only its configuration counts: its cloud may be in any state then.
    """
    if not pool.is_enabled:
        return (PoolDisabled(),)
    wanted = sorted(set(request.node_types))
    if missing := [label for label in wanted if label not in pool.labels]:
        return tuple(LabelNotOffered(label) for label in missing)
    asker = asker_of(request)
    if barred := _barred(wanted, pool, asker):
        return barred
    if pool.pauses:
        return ()
    labels = [(label, pool.labels[label]) for label in wanted]
    if broken := [LabelUnusable(label, known.broken) for label, known in labels if known.broken is not None]:
        return tuple(broken)
    if missing := [label for label, known in labels if not known.is_ready and not _arrives(known, now)]:
        return tuple(ImageMissing(label) for label in missing)
    need = need_of(request.node_types, pool)
    if over := pool.ceiling.shortages(need):
        return tuple(NeverFits(name, need[name], pool.ceiling[name]) for name in over)
    if not pool.can_launch:
        return _too_few_machines(request, pool.machines, asker)
    over = tenant_ceiling.shortages(need)
    return tuple(TenantNeverFits(request.tenant_name or "", name, need[name], tenant_ceiling[name]) for name in over)


def _barred(wanted: Iterable[str], pool: PoolView, asker: Asker) -> tuple[Reason, ...]:
    """Return the reasons why the *asker* may not use the pool, or some of its labels."""
    if not asker.may_use(pool.allowed_tenants):
        return (PoolNotAllowed(asker.tenant),)
    barred = [label for label in wanted if not asker.may_use(pool.labels[label].allowed_tenants)]
    return tuple(LabelNotAllowed(asker.tenant, label) for label in barred)


def _too_few_machines(request: NodeRequest, machines: Sequence[MachineView], asker: Asker) -> tuple[Reason, ...]:
    """Return a reason for each label with too few machines, or too few that the *asker* may use."""
    if lacking := _lacking(request.node_types, [machine.labels for machine in machines]):
        return tuple(TooFewMachines(label) for label in lacking)
    lacking = _lacking(
        request.node_types, [machine.labels for machine in machines if asker.may_use(machine.allowed_tenants)]
    )
    return tuple(MachinesNotAllowed(asker.tenant, label) for label in lacking)


def _lacking(wanted: Sequence[str], offers: Sequence[frozenset[str]]) -> list[str]:
    """Return the labels for which no offer is left."""
    matched = match_labels(wanted, offers)
    return sorted({label for label, i in zip(wanted, matched, strict=True) if i is None})


def _arrives(label: LabelView, now: float) -> bool:
    return label.arrives_by is not None and label.arrives_by > now


def need_of(labels: Collection[str], pool: PoolView) -> Usage:
    """Return the total usage of a node of each of *labels*; labels that the pool does not offer use nothing."""
    known = pool.labels
    if len(labels) == 1:
        (label,) = labels
        return known[label].need if label in known else NOTHING
    return Usage.total(known[label].need for label in labels if label in known)


def _resumed(labels: Sequence[str], reuse: Sequence[NodeId | None], begun: Iterable[str]) -> frozenset[int]:
    """Return the indexes of *labels* that reuse no node, and for which an interrupted launch is resumed."""
    free = [i for i, node_id in enumerate(reuse) if node_id is None]
    found: set[int] = set()
    for label in begun:
        found.update([i for i in free if labels[i] == label and i not in found][:1])
    return frozenset(found)


def match_labels(wanted: Sequence[str], offers: Sequence[frozenset[str]]) -> list[int | None]:
    """Return, for each wanted label, the index of an offer that has it, or None.

    No offer is used twice, and as many labels as possible get one. Earlier offers are preferred. Augmenting paths make
    the result exact even if offers have several labels each.
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
    request: NodeRequest,
    pool_ids: Iterable[str],
    registered: Iterable[str],
    now: float,
    absent: Iterable[Absentee] = (),
) -> NodeRequest:
    """Return *request* as it is written when the pools *pool_ids* decline it. It is failed if no other pool, registered
    or absent, could serve it.

    Ids of pools that no longer exist are ignored, and stay. A failed request lists no nodes.
    """
    declined_by = tuple(dict.fromkeys((*request.declined_by, *pool_ids)))
    is_last = set(registered) <= set(declined_by) and not absentees(request, absent, now)
    state = RequestState.FAILED if is_last else RequestState.REQUESTED
    return request.into(state, now, declined_by=declined_by, nodes=())


def nodes_to_evict(need: Usage, free: Limits, freeing: Usage, idle: Iterable[IdleNode]) -> tuple[NodeId, ...]:
    """Return the idle nodes to delete so that *need* fits, the longest ready first; none if that would not be enough.

    *freeing* is the quota that nodes being deleted will free: no more is deleted while that is enough.
    """
    chosen: list[NodeId] = []
    freed = freeing
    for node in sorted(idle, key=lambda node: (node.ready_at, node.id)):
        short = [name for name in free.shortages(need) if need[name] > free[name] + freed[name]]
        if not short:
            break
        if any(node.usage[name] for name in short):
            chosen.append(node.id)
            freed = freed + node.usage
    enough = all(need[name] <= free[name] + freed[name] for name in free.shortages(need))
    return tuple(chosen) if enough else ()
