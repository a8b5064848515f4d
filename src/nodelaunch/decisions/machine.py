"""The request machine: a pure function for a launcher's work on one node request after the decision.

``start(request, verdict)`` begins, and ``step(state, event)`` follows for each event. Both return the new state and the
effects to perform, in order. Nothing here waits, writes or reads the clock.

    LOCKING   lock and first save under way  ── LockGranted ──▶ WORKING, or CLOSING for a decline
    WORKING   claiming, launching, waiting   ── all ready ────▶ CLOSING (hand over, fulfil, unlock)
                                             ── given up ─────▶ DRAINING
    DRAINING  running tasks are cancelled    ── all stopped ──▶ CLOSING (release, save as meant, unlock)
    CLOSING   the last saves under way       ── Closed ───────▶ DONE
                                             ── refused, or a node gone ─▶ DRAINING with another outcome
    DONE      nothing follows; a late NodeReady is still answered, with Release

Consecutive store effects are performed as one transaction. engine/launch has the steps of one node's launch.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from nodelaunch.errors import InvalidTransitionError
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, NodeId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, AtCapacity, Decline, LaunchesFailed, Reason


class Phase(Enum):
    LOCKING = "locking"
    WORKING = "working"
    DRAINING = "draining"
    CLOSING = "closing"
    DONE = "done"


class Outcome(Enum):
    """The outcome of a request, as far as this pool is concerned."""

    FULFILLED = "fulfilled"
    DECLINED = "declined"
    HANDED_BACK = "handed back"
    """The request returns to `requested`, and any launcher may decide on it again."""
    GONE = "gone"
    """The requestor deleted it."""
    LOST = "lost"
    """This launcher's lock is lost: nothing may be written."""
    LOCK_REFUSED = "refused"
    """This launcher never got the lock, or the request had changed by then."""


class SlotState(Enum):
    """The stage of the node for one wanted label."""

    CLAIMING = "claiming"
    LAUNCHING = "launching"
    WAITING = "waiting"
    READY = "ready"
    STOPPED = "stopped"


_BUSY = frozenset({SlotState.CLAIMING, SlotState.LAUNCHING, SlotState.WAITING})


class Slot(Struct, frozen=True):
    """The node for ``request.node_types[i]``."""

    state: SlotState
    node_id: NodeId | None = None
    attempt: int = 1


class State(Struct, frozen=True):
    phase: Phase
    request: NodeRequest
    plan: Accept | Decline
    slots: tuple[Slot, ...] = ()
    outcome: Outcome | None = None
    reasons: tuple[Reason, ...] = ()
    story: tuple[Event, ...] = ()
    """Every event so far; the error for an impossible event names them."""

    @property
    def is_done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def held(self) -> tuple[NodeId, ...]:
        """Nodes that are ready and locked for the request, in label order."""
        return tuple(slot.node_id for slot in self.slots if slot.state is SlotState.READY and slot.node_id)


# -- events: things that happened -----------------------------------------------------------------------------------


class LockGranted(Struct, frozen=True):
    """The lock is held and the first save is done; the request was as decided on."""


class LockRefused(Struct, frozen=True):
    """Another process has the lock, or the request changed or was deleted meanwhile; nothing was written."""


class LockLost(Struct, frozen=True):
    """This launcher has lost the request's lock."""


class RequestGone(Struct, frozen=True):
    """The requestor deleted the request."""


class Withdrawn(Struct, frozen=True):
    """This launcher stops working on the request: it drains, or the pool is removed."""


class Failed(Struct, frozen=True):
    """An unexpected error ended the handling of the request, as *detail* says."""

    reason: Reason


class NodeClaimed(Struct, frozen=True):
    """An idle node is locked and allocated."""

    slot: int
    node_id: NodeId


class ClaimLost(Struct, frozen=True):
    """Another process has the idle node, or the node did not answer."""

    slot: int


class NodeReady(Struct, frozen=True):
    """A launched node is recorded ready, locked and allocated."""

    slot: int
    node_id: NodeId


class NodeFailed(Struct, frozen=True):
    """An attempt failed, and its leftovers were removed. ``is_final``: another attempt can't help."""

    slot: int
    detail: str
    is_final: bool = False


class NodeAborted(Struct, frozen=True):
    """The cloud has no quota. The node's record is given up, and no attempt was spent."""

    slot: int


class QuotaFreed(Struct, frozen=True):
    """There is capacity for the node of a waiting slot, and it is reserved for the node."""

    slot: int


class Stopped(Struct, frozen=True):
    """The slot's task was cancelled and has ended; its node, if any, is given up."""

    slot: int


class NodesLost(Struct, frozen=True):
    """Nodes that were ready for the request no longer exist, or this launcher has lost their locks."""

    node_ids: tuple[NodeId, ...]


class Closed(Struct, frozen=True):
    """The closing effects are done."""


class CloseRefused(Struct, frozen=True):
    """The closing effects were not done, because the request was deleted. Only the handler that performs them knows
    this: a RequestGone that was seen meanwhile may be of a deletion before or after them."""


Event = (
    LockGranted | LockRefused | LockLost | RequestGone | Withdrawn | Failed | NodeClaimed | ClaimLost | NodeReady
    | NodeFailed | NodeAborted | QuotaFreed | Stopped | NodesLost | Closed | CloseRefused
)  # fmt: skip

_SlotEvent = NodeClaimed | ClaimLost | NodeReady | NodeFailed | NodeAborted | QuotaFreed | Stopped


# -- effects: orders to the outside ---------------------------------------------------------------------------------


class LockRequest(Struct, frozen=True):
    """Store: take the request's lock."""


class Save(Struct, frozen=True):
    """Store: write the request, in *state*, with *nodes*. With *declined* set, the pool declines for these reasons, and
    the handler that performs the effect decides between requested and failed."""

    state: RequestState
    nodes: tuple[NodeId, ...] = ()
    declined: tuple[Reason, ...] = ()


class HandOver(Struct, frozen=True):
    """Store: unlock nodes that stay allocated to the request."""

    node_ids: tuple[NodeId, ...]


class ReleaseNodes(Struct, frozen=True):
    """Store: deallocate and unlock nodes, so that any launcher may take them."""

    node_ids: tuple[NodeId, ...]


class UnlockRequest(Struct, frozen=True):
    """Store: release the request's lock."""


class ClaimNode(Struct, frozen=True):
    """Task: lock and allocate idle node *node_id*; ends in NodeClaimed, ClaimLost or Stopped."""

    slot: int
    node_id: NodeId


class Launch(Struct, frozen=True):
    """Task: launch a node for the slot, under the record of the previous attempt if there is one; ends in NodeReady,
    NodeFailed, NodeAborted or Stopped."""

    slot: int
    attempt: int


class AwaitQuota(Struct, frozen=True):
    """Task: wait for capacity for the slot's node, and reserve it; ends in QuotaFreed or Stopped."""

    slot: int


class CancelLaunches(Struct, frozen=True):
    """Cancel every task; each one still answers."""


class Abandon(Struct, frozen=True):
    """Drop locks and nodes without writing anything: this launcher has lost some or all of them."""


Effect = (
    LockRequest
    | Save
    | HandOver
    | ReleaseNodes
    | UnlockRequest
    | ClaimNode
    | Launch
    | AwaitQuota
    | CancelLaunches
    | Abandon
)
Step = tuple[State, tuple[Effect, ...]]


# -- the machine ----------------------------------------------------------------------------------------------------


def start(request: NodeRequest, verdict: Accept | Decline) -> Step:
    """Start with *request* as it was when *verdict* was reached."""
    state = State(Phase.LOCKING, request, verdict)
    if isinstance(verdict, Decline):
        return state, (LockRequest(), Save(RequestState.REQUESTED, declined=verdict.reasons))
    return state, (LockRequest(), Save(RequestState.PENDING))


def step(state: State, event: Event, *, retries: int, can_launch: bool = True) -> Step:
    """Return what follows from *event*. *retries*: how many attempts each node has in all. Without *can_launch* a lost
    claim sends the request back instead of waiting for capacity.

    Raises: InvalidTransitionError for an event that can't happen in *state*.
    """
    state = replace(state, story=(*state.story, event))
    match state.phase:
        case Phase.LOCKING:
            return _locking(state, event)
        case Phase.WORKING:
            return _working(state, event, retries=retries, can_launch=can_launch)
        case Phase.DRAINING:
            return _draining(state, event)
        case Phase.CLOSING:
            return _closing(state, event)
        case Phase.DONE:
            return _done(state, event)
        case _:
            assert_never(state.phase)


def _locking(state: State, event: Event) -> Step:
    match event:
        case LockGranted() if isinstance(state.plan, Decline):
            return replace(state, phase=Phase.CLOSING, outcome=Outcome.DECLINED), (UnlockRequest(),)
        case LockGranted() if state.outcome is not None:
            return _settle(state)
        case LockGranted() if isinstance(state.plan, Accept):
            return _begin(state, state.plan)
        case LockRefused():
            return replace(state, phase=Phase.DONE, outcome=Outcome.LOCK_REFUSED), ()
        case LockLost():
            return replace(state, phase=Phase.DONE, outcome=Outcome.LOST), (Abandon(),)
        case RequestGone():
            return replace(state, outcome=Outcome.GONE), ()  # the attempt to take the lock is still under way
        case Withdrawn():
            return replace(state, outcome=state.outcome or Outcome.HANDED_BACK), ()
        case _:
            raise _impossible(state, event)


def _begin(state: State, plan: Accept) -> Step:
    slots: list[Slot] = []
    effects: list[Effect] = []
    for index, node_id in enumerate(plan.reuse):
        if node_id is None:
            slots.append(Slot(SlotState.LAUNCHING))
            effects.append(Launch(index, attempt=1))
        else:
            slots.append(Slot(SlotState.CLAIMING, node_id))
            effects.append(ClaimNode(index, node_id))
    working = replace(state, phase=Phase.WORKING, slots=tuple(slots))
    return (working, tuple(effects)) if slots else _fulfil(working)


def _working(state: State, event: Event, *, retries: int, can_launch: bool) -> Step:
    match event:
        case NodeClaimed() | ClaimLost() | NodeReady() | NodeFailed() | NodeAborted() | QuotaFreed():
            return _slot_moved(state, event, retries=retries, can_launch=can_launch)
        case Failed(reason):
            return _drain(state, Outcome.DECLINED, (reason,))
        case NodesLost(node_ids):
            return _drain(_without(state, node_ids), Outcome.HANDED_BACK)
        case RequestGone():
            return _drain(state, Outcome.GONE)
        case Withdrawn():
            return _drain(state, Outcome.HANDED_BACK)
        case LockLost():
            return _drain(state, Outcome.LOST)
        case _:
            raise _impossible(state, event)


def _slot_moved(
    state: State,
    event: NodeClaimed | ClaimLost | NodeReady | NodeFailed | NodeAborted | QuotaFreed,
    *,
    retries: int,
    can_launch: bool,
) -> Step:
    slot = event.slot
    match event:
        case NodeClaimed(_, node_id):
            return _fulfil_if_ready(_move(state, event, {SlotState.CLAIMING}, SlotState.READY, node_id=node_id))
        case NodeReady(_, node_id):
            return _fulfil_if_ready(_move(state, event, {SlotState.LAUNCHING}, SlotState.READY, node_id=node_id))
        case ClaimLost():
            if can_launch:
                return _move(state, event, {SlotState.CLAIMING}, SlotState.WAITING), (AwaitQuota(slot),)
            return _drain(_move(state, event, {SlotState.CLAIMING}, SlotState.STOPPED), Outcome.HANDED_BACK)
        case NodeAborted() if state.request.requestor == MIN_READY_REQUESTOR:
            stopped = _move(state, event, {SlotState.LAUNCHING}, SlotState.STOPPED)
            return _drain(stopped, Outcome.DECLINED, (AtCapacity("room"),))  # it uses only spare capacity
        case NodeAborted():
            return _move(state, event, {SlotState.LAUNCHING}, SlotState.WAITING), (AwaitQuota(slot),)
        case QuotaFreed():
            state = _move(state, event, {SlotState.WAITING}, SlotState.LAUNCHING)
            return state, (Launch(slot, state.slots[slot].attempt),)
        case NodeFailed(_, detail, is_final):
            failed = _move(state, event, {SlotState.LAUNCHING}, SlotState.STOPPED)
            attempt = failed.slots[slot].attempt + 1
            if is_final or attempt > retries:
                return _drain(failed, Outcome.DECLINED, (LaunchesFailed(detail),))
            return _move(state, event, {SlotState.LAUNCHING}, SlotState.LAUNCHING, attempt=attempt), (
                Launch(slot, attempt),
            )
        case _:
            assert_never(event)


def _draining(state: State, event: Event) -> Step:
    match event:
        case NodeClaimed(_, node_id) | NodeReady(_, node_id):
            state = _move(state, event, _BUSY, SlotState.READY, node_id=node_id)
        case ClaimLost() | NodeFailed() | NodeAborted() | QuotaFreed() | Stopped():
            state = _move(state, event, _BUSY, SlotState.STOPPED)
        case NodesLost(node_ids):
            state = _without(state, node_ids)
        case LockLost():
            state = replace(state, outcome=Outcome.LOST)
        case RequestGone() if state.outcome is not Outcome.LOST:
            state = replace(state, outcome=Outcome.GONE)
        case RequestGone() | Withdrawn() | Failed(_):
            pass  # the request is ending already
        case _:
            raise _impossible(state, event)
    return _settle(state)


def _closing(state: State, event: Event) -> Step:
    match event:
        case Closed():
            return replace(state, phase=Phase.DONE), ()
        case LockLost():
            return replace(state, phase=Phase.DONE, outcome=Outcome.LOST), (Abandon(),)
        case CloseRefused():
            return _drain(state, Outcome.GONE)
        case NodesLost(node_ids):
            outcome = state.outcome or Outcome.HANDED_BACK
            remaining = _without(state, node_ids)
            return _drain(remaining, Outcome.HANDED_BACK if outcome is Outcome.FULFILLED else outcome, state.reasons)
        case RequestGone() | Withdrawn() | Failed(_):
            return state, ()  # the request is ending already
        case _:
            raise _impossible(state, event)


def _done(state: State, event: Event) -> Step:
    match event:
        case NodeReady(_, node_id) | NodeClaimed(_, node_id):
            return state, (ReleaseNodes((node_id,)),)
        case LockGranted() | LockRefused() | Closed() | CloseRefused():
            raise _impossible(state, event)
        case _:
            return state, ()


def _fulfil_if_ready(state: State) -> Step:
    return _fulfil(state) if all(slot.state is SlotState.READY for slot in state.slots) else (state, ())


def _fulfil(state: State) -> Step:
    nodes = state.held
    effects = (HandOver(nodes), Save(RequestState.FULFILLED, nodes), UnlockRequest())
    return replace(state, phase=Phase.CLOSING, outcome=Outcome.FULFILLED), effects


def _drain(state: State, outcome: Outcome, reasons: tuple[Reason, ...] = ()) -> Step:
    state = replace(state, phase=Phase.DRAINING, outcome=outcome, reasons=reasons)
    if any(slot.state in _BUSY for slot in state.slots):
        return state, (CancelLaunches(),)
    return _settle(state)


def _settle(state: State) -> Step:
    """Once no task runs any more: end as `outcome` says."""
    if any(slot.state in _BUSY for slot in state.slots):
        return state, ()
    held = (ReleaseNodes(state.held),) if state.held else ()
    closing = replace(state, phase=Phase.CLOSING)
    match state.outcome:
        case Outcome.LOST:
            return replace(state, phase=Phase.DONE), (Abandon(),)
        case Outcome.GONE:
            return closing, (*held, UnlockRequest())
        case Outcome.HANDED_BACK:
            return closing, (*held, Save(RequestState.REQUESTED), UnlockRequest())
        case _:
            return closing, (*held, Save(RequestState.REQUESTED, declined=state.reasons), UnlockRequest())


def _move(
    state: State,
    event: _SlotEvent,
    expected: Iterable[SlotState],
    to: SlotState,
    *,
    node_id: NodeId | None = None,
    attempt: int | None = None,
) -> State:
    """Return *state* with the event's slot moved; only from an *expected* slot state."""
    slot = event.slot
    if not 0 <= slot < len(state.slots) or state.slots[slot].state not in expected:
        raise _impossible(state, event)
    before = state.slots[slot]
    after = replace(before, state=to, node_id=node_id, attempt=attempt or before.attempt)
    return replace(state, slots=(*state.slots[:slot], after, *state.slots[slot + 1 :]))


def _without(state: State, node_ids: tuple[NodeId, ...]) -> State:
    """Return *state* with the slots of lost nodes stopped."""
    slots = tuple(
        replace(slot, state=SlotState.STOPPED) if slot.state is SlotState.READY and slot.node_id in node_ids else slot
        for slot in state.slots
    )
    return replace(state, slots=slots)


def _impossible(state: State, event: Event) -> InvalidTransitionError:
    detail = f"{event!r} can't happen to request {state.request.id} in phase {state.phase.value}"
    return InvalidTransitionError(detail, [repr(earlier) for earlier in state.story])
