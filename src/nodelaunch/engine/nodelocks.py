"""Held nodes: takes, claims, writes and releases node records under their locks.

Only the holder of a node's lock writes its record. engine/launch and engine/cleanup call the clouds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nodelaunch.clock import Clock
from nodelaunch.config.models import Launching, PoolConfig
from nodelaunch.engine.limits.sharing import SharedCapacity
from nodelaunch.engine.provider.fencing import fence_of
from nodelaunch.engine.provider.hostwatch import NOT_ANSWERED, machine_of
from nodelaunch.engine.provider.runtime import Generation, ProviderRuntime
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.errors import (
    DriverError,
    LockBusyError,
    LockLostError,
    RecordGoneError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Driver, ExternalId, Fence, HostScanner
from nodelaunch.protocol.events import Stage
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Entry, Lock, Op, Put, ReleaseLock, Store, TakeLock

log: Logger = get_logger(__name__)

_TAKEN = (LockBusyError, RecordGoneError, VersionConflictError)
"""Errors for a node that was locked, changed or deleted."""
GIVE_UP_TIMEOUT_S = 10.0
"""Seconds that the last write about a node may take when its launch is cancelled."""


@dataclass(frozen=True, slots=True)
class PoolContext:
    """The objects that work for one pool needs. The pool's handlers share them; a reload makes a new context for later
    handlers."""

    store: Store
    view: ClusterView
    clock: Clock
    scanner: HostScanner
    provider: ProviderRuntime
    generation: Generation
    """The parts of the provider that may change in a reload, as of the creation of this context."""
    pool: PoolConfig
    pool_id: str
    shared: SharedCapacity
    driver: Driver = field(init=False)
    launching: Launching = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "driver", self.generation.driver)
        object.__setattr__(self, "launching", self.generation.launching)

    @property
    def is_alone(self) -> bool:
        """True if no other process has pools registered: no other process creates nodes or contends for requests."""
        return self.view.is_alone(self.pool_id)

    def report(self, request: NodeRequest, what: str) -> None:
        """Emit an event that says what happened to *request* in this pool."""
        self.provider.report(self.pool.name, request.id, what)


class StageClock:
    """Durations of the stages of one attempt to launch a node, in the order in which the stages end."""

    __slots__ = ("_at", "_took")

    def __init__(self) -> None:
        self._took: dict[str, float] = {}
        self._at = 0.0

    def begin(self, **took_s: float) -> None:
        """Start an attempt; stages before it took *took_s*."""
        self._took = took_s
        self._at = asyncio.get_running_loop().time()

    def ended(self, stage: str) -> None:
        """Note the end of *stage*. A repeated stage counts all of its time."""
        now = asyncio.get_running_loop().time()
        self._took[stage] = self._took.get(stage, 0.0) + now - self._at
        self._at = now

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._took.items())


@dataclass(slots=True, weakref_slot=True)
class HeldNode:
    """A node whose lock this launcher holds, as last written, or as it will be written with its next change."""

    node: Node
    version: int
    lock: Lock
    is_clean: bool = True
    """True if no leftovers of failed attempts are in the cloud."""
    waits_for: str | None = None
    """The reason why its launch waits while the provider is unavailable."""
    is_written: bool = True
    """True if the store has ``node`` as it is."""
    is_resumed: bool = False
    """True if another launcher started the launch: there may be an instance that no record names."""
    stages: StageClock = field(default_factory=StageClock)
    """Durations of the stages of the present attempt so far."""
    is_overtaken: bool = False
    """True if a later holder of the lock has called the cloud: this launcher must not act on the node any more."""

    @property
    def id(self) -> NodeId:
        return self.node.id

    @property
    def external_id(self) -> ExternalId | None:
        return ExternalId(self.node.external_id) if self.node.external_id else None

    @property
    def fence(self) -> Fence:
        return fence_of(self.node, self.lock)

    def check(self) -> None:
        """Check the lock right before a call that changes the cloud: after a sleep, the loss of the lock may be noticed
        only later. Raises: LockLostError."""
        if not self.lock.is_held:
            raise LockLostError(self.lock.contender)

    def note(self, node: Node) -> None:
        """Set the record to *node*; it is written with the next change."""
        self.node, self.is_written = node, False

    def put_op(self, node: Node) -> Put:
        return Put(paths.node(node.id), node.to_bytes(), self.version, node)

    def hand_over_ops(self) -> list[Op]:
        """Return the operations that unlock the node as it is, for use in a larger transaction."""
        unlock = ReleaseLock(self.lock)
        return [unlock] if self.is_written else [self.put_op(self.node), unlock]

    def give_back_ops(self) -> list[Op]:
        """Return the operations that free the node for any requestor, for use in a larger transaction."""
        return [self.put_op(self.node.deallocated()), ReleaseLock(self.lock)]


async def save(ctx: PoolContext, held: HeldNode, node: Node) -> None:
    """Write *node* as the new version of *held*. The outcome is known even if the caller is cancelled meanwhile."""

    async def write() -> None:
        op = held.put_op(node)
        (entry,) = await ctx.store.commit([op], under=(held.lock,))
        assert isinstance(entry, Entry)  # noqa: S101
        held.node, held.version, held.is_written = node, entry.stat.version, True

    await to_the_end(write())


async def to_the_end(work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Await *work* to its end even if the caller is cancelled meanwhile: its effect has to be known. Then raise the
    cancellation.

    The work is a few calls to the store, so the delay is bounded by the session timeout.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.exception()
        raise


async def give_up(ctx: PoolContext, held: HeldNode, state: NodeState) -> None:
    """Record a node that won't be ready in *state* (failed or aborted) and unlock it: the sweeper deletes it.

    If the write fails the record stays as it is: an unlocked building node is deleted too. The record of a node that
    another launcher has taken over is not written.
    """
    if held.is_overtaken:
        await held.lock.release()
        return
    node = held.node.into(state, ctx.clock.now())
    try:
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            await ctx.store.commit([held.put_op(node), ReleaseLock(held.lock)], under=(held.lock,))
    except (StoreError, TimeoutError) as error:
        log.info("node_left_behind", node_id=held.id, state=state.value, detail=str(error))
        await held.lock.release()


async def claim_node(ctx: PoolContext, node_id: NodeId, request: NodeRequest) -> HeldNode | None:
    """Lock an idle node and allocate it to *request*; None if it can't be taken, or does not answer.

    Raises: OvertakenError, StoreError.
    """
    seen = ctx.view.nodes.get(node_id)
    if seen is None or not seen.record.is_idle:
        return None
    if not await _is_alive(ctx, seen):
        return None
    node = seen.record.allocated(request)
    try:
        lock, entry = await ctx.shared.claim(request.tenant_name, *_taking_ops(seen, node))
    except _TAKEN:
        return None
    return HeldNode(node, entry.stat.version, lock)


async def _is_alive(ctx: PoolContext, seen: Versioned[Node]) -> bool:
    """Return True if the node's machine answers. A machine that does not answer is checked again before it is handed
    out; a node whose machine is no longer watched is given up."""
    inventory, hosts = ctx.generation.inventory, ctx.provider.breakers.hosts
    if inventory is None or hosts is None:
        return True
    machine, detail = machine_of(seen.record), NOT_ANSWERED
    try:
        if await inventory.is_alive(machine):
            hosts.handed_out(machine)
            return True
    except (DriverError, TimeoutError) as error:
        detail = str(error) or detail
    if not hosts.not_handed_out(machine, detail):
        await discard_node(ctx.store, ctx.view, seen, ctx.clock)
    return False


def _taking_ops(seen: Versioned[Node], node: Node) -> tuple[TakeLock, Put]:
    return TakeLock(paths.node_lock(node.id)), Put(seen.path, node.to_bytes(), seen.version, node)


async def take_node(store: Store, seen: Versioned[Node], node: Node) -> HeldNode | None:
    """Lock the node *seen* and write it as *node*; None if it was locked, changed or deleted since it was seen.

    Raises: StoreError.
    """
    try:
        lock, entry = await store.commit(_taking_ops(seen, node))
    except _TAKEN:
        return None
    assert isinstance(entry, Entry) and lock is not None and not isinstance(lock, Entry)  # noqa: S101, PT018
    return HeldNode(node, entry.stat.version, lock)


async def rewrite_node(store: Store, seen: Versioned[Node], node: Node) -> bool:
    """Write the unlocked node *seen* as *node*. Return True if that was still possible. Raises: StoreError."""
    held = await take_node(store, seen, node)
    if held is not None:
        await held.lock.release()
    return held is not None


async def discard_node(store: Store, view: ClusterView, seen: Versioned[Node], clock: Clock) -> bool:
    """Mark an unlocked node for deletion. Return True if that was still possible. Raises: StoreError."""
    node = seen.record.into(NodeState.DELETING, clock.now())
    view.discarded.add(node.id)  # the change may be seen before the write is answered
    is_done = await rewrite_node(store, seen, node)
    if not is_done:
        view.discarded.discard(node.id)
    return is_done
