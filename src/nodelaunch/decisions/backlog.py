"""The node requests that wait to be decided on, in lines of equal requests.

All requests of one line ask for the same nodes under the same conditions, so a verdict on the first is valid for the
rest: only heads are looked at. Within a line, requests stand in the order of service.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from heapq import heapify
from typing import NamedTuple

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.protocol.access import LAUNCHER, Asker
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, RequestId
from nodelaunch.protocol.records import NodeRequest, RequestOrder, turn_of
from nodelaunch.protocol.verdicts import Decline, Defer

MAX_EMPTY_LINES = 256
"""Lines without requests that are kept, because the next request is likely to be like the last."""


class Shape(NamedTuple):
    """The properties that decide which pools may serve a request, and with which nodes. Requests of one shape differ
    only in their order."""

    labels: tuple[str, ...]
    provider: str | None
    tenant: str | None
    declined_by: frozenset[str]
    reuse: bool
    is_min_ready: bool
    alone: RequestId | None = None
    """Set for a request in a separate line: launches for it were started, or it is being written."""
    turn: int = 0
    """The number of the launcher that is asked first."""

    @property
    def asker(self) -> Asker:
        return LAUNCHER if self.is_min_ready and self.tenant is None else Asker(self.tenant)


def shape_of(request: NodeRequest, *, is_alone: bool = False, launchers: int = 1) -> Shape:
    """Return the shape of *request*. *is_alone* puts it into a separate line. *launchers*: how many take turns."""
    return Shape(
        request.node_types,
        request.provider,
        request.tenant_name,
        frozenset(request.declined_by),
        request.reuse,
        request.requestor == MIN_READY_REQUESTOR,
        request.id if is_alone else None,
        0 if is_alone else turn_of(request.id, launchers),
    )


class Offer(NamedTuple):
    """A pool that may accept the next request of a line. The smallest is asked first."""

    priority: int
    is_doubtful: bool
    """True if the nodes to launch have failed repeatedly in the pool."""
    reusable: int
    """The negated number of idle nodes that the pool has for the request."""
    capacity: float
    """The negated number of such requests for which the pool has capacity."""
    used: float
    """The number of instances that the pool has, if its capacity has no limit."""
    key: PoolKey
    stamp: int
    """The offer is valid only while it is the latest of its pool."""


@dataclass(slots=True)
class PeerStanding:
    """The relation of a line to the registered pools, of this process and of others."""

    generation: int = -1
    """The generation of the registered pools for which this was computed."""
    pauses: int = -1
    """The generation of the pauses for which ``yields_to`` and ``turn`` were computed."""
    yields_to: tuple[int, str] | None = None
    """Priority and id of the best pool of another process, which precedes pools of larger priority numbers."""
    turn: tuple[int, str] | None = None
    """Priority and id of a pool of the launcher whose turn it is, if that is another launcher. The pool precedes pools
    of equal or larger priority numbers."""
    awaited: RequestId | None = None
    """The head for which the launcher whose turn it is was first awaited."""
    awaited_until: float = 0.0
    """The time, by the wall clock, until which that launcher is awaited."""
    open_until: float = 0.0
    """The time, by the wall clock, until which no turns are taken here, because a launcher missed its turn; 0: turns
    are taken."""
    is_offered: bool = False
    """True if any registered pool that has not declined offers all labels."""
    is_left: bool = False
    """True if every registered pool has declined the request, and no launcher has failed it."""


@dataclass(slots=True)
class FullTenant:
    """The verdicts of a line's pools on its tenant's limits."""

    pools: set[PoolKey] = field(default_factory=set)
    """Pools with the verdict that the tenant is full and the request has to wait."""
    is_uniform: bool = True
    """True if the head needs the same in all pools, as far as a tenant's limits are concerned."""

    @property
    def everywhere(self) -> bool:
        """True if one pool's verdict is valid for all."""
        return bool(self.pools) and self.is_uniform


@dataclass(eq=False, slots=True)
class Line:
    """Requests of one shape, and their standing with each pool of this process."""

    shape: Shape
    waiting: list[tuple[RequestOrder, RequestId]] = field(default_factory=list)
    requests: dict[RequestId, NodeRequest] = field(default_factory=dict)
    is_busy: bool = False
    """True while its one request is being written: its reservations stay, and it gets nothing yet."""
    peers: PeerStanding = field(default_factory=PeerStanding)
    seen: int = 0
    """Number of the last change of a pool that this line knows of."""
    pools: dict[PoolKey, int] = field(default_factory=dict)
    """Pools of this process that may be asked, with their priorities."""
    offers: list[Offer] = field(default_factory=list)
    """Offers of pools, as a heap."""
    stamps: dict[PoolKey, int] = field(default_factory=dict)
    """The latest offer of each pool that was not refused since."""
    deferred: dict[PoolKey, Defer] = field(default_factory=dict)
    """Verdicts of pools that can't serve the head yet."""
    declined: dict[PoolKey, Decline] = field(default_factory=dict)
    """Verdicts of pools that never can."""
    held_back: dict[PoolKey, int] = field(default_factory=dict)
    """Priorities of the pools in ``deferred`` to which pools of larger priority numbers yield."""
    full: FullTenant = field(default_factory=FullTenant)
    to_reopen: set[PoolKey] = field(default_factory=set)
    """Pools in ``deferred`` or ``declined`` to be asked again."""
    possible: dict[PoolKey, object] = field(default_factory=dict)
    """The `PoolView` of each pool that could serve the shape, now or later."""

    @property
    def order(self) -> RequestOrder:
        """The order of the head."""
        return self.waiting[0][0]

    @property
    def head(self) -> NodeRequest:
        return self.requests[self.waiting[0][1]]

    def __len__(self) -> int:
        return len(self.waiting)

    def put(self, request: NodeRequest) -> bool:
        """Add *request* in its place. Return True if it is the head now."""
        insort(self.waiting, (request.order, request.id))
        self.requests[request.id] = request
        return self.waiting[0][1] == request.id

    def take(self, request_id: RequestId) -> bool:
        """Remove the request. Return True if it was the head."""
        request = self.requests.pop(request_id)
        place = bisect_left(self.waiting, (request.order, request_id))
        del self.waiting[place]
        return place == 0

    def drop_stale_offers(self) -> None:
        """Keep only the latest offer of each pool."""
        self.offers = [offer for offer in self.offers if self.stamps.get(offer.key) == offer.stamp]
        heapify(self.offers)

    def forget_pools(self) -> None:
        """Drop all verdicts of pools."""
        for known in (self.pools, self.stamps, self.deferred, self.declined, self.held_back, self.possible):
            known.clear()
        self.offers.clear()
        self.full.pools.clear()


class Backlog:
    """All lines, by shape and by request.

    Invariants: a request stands in one line at most; ``line_of`` has exactly the requests of all lines; at most
    `MAX_EMPTY_LINES` lines are empty.
    """

    def __init__(self) -> None:
        self.lines: dict[Shape, Line] = {}
        self.line_of: dict[RequestId, Line] = {}
        self.launchers = 1
        """How many launchers take turns; may be changed only while no request waits."""
        self._empty: dict[Shape, None] = {}

    def __len__(self) -> int:
        return len(self.line_of)

    def put(self, request: NodeRequest, *, is_alone: bool = False) -> tuple[Line, bool]:
        """Add *request*. Return its line, and True if it is the head."""
        shape = shape_of(request, is_alone=is_alone, launchers=self.launchers)
        line = self.lines.get(shape)
        if line is None:
            line = self.lines[shape] = Line(shape)
        self._empty.pop(shape, None)
        self.line_of[request.id] = line
        return line, line.put(request)

    def take(self, request_id: RequestId) -> tuple[Line, bool] | None:
        """Remove the request, if it waits. Return its line, and True if it was the head."""
        line = self.line_of.pop(request_id, None)
        if line is None:
            return None
        was_head = line.take(request_id)
        if not line.waiting:
            self._spare(line)
        return line, was_head

    def _spare(self, line: Line) -> None:
        """Keep the empty *line* for a next request that is like its last; drop the oldest empty line if there are too
        many."""
        if line.shape.alone is not None:
            del self.lines[line.shape]
            return
        self._empty[line.shape] = None
        if len(self._empty) > MAX_EMPTY_LINES:
            oldest = next(iter(self._empty))
            del self._empty[oldest], self.lines[oldest]
