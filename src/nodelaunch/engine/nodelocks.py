"""Nodes in our hands: taking, claiming, writing and letting go of their records, under their locks.

Only the holder of a node's lock writes its record. What does *not* belong here: clouds (engine/launch/node.py,
deletion.py), and which node for which request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nodelaunch.clock import Clock
from nodelaunch.config.models import Launching, PoolConfig
from nodelaunch.engine.limits.sharing import SharedRoom
from nodelaunch.engine.provider.fencing import fence_of
from nodelaunch.engine.provider.hostwatch import NOT_ANSWERED, machine_of
from nodelaunch.engine.provider.runtime import Generation, ProviderRuntime
from nodelaunch.engine.view import ClusterView, Seen
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
"""The node is locked, changed or gone."""
GIVE_UP_TIMEOUT_S = 10.0
"""How long the last write about a node may take when its launch is cancelled."""


@dataclass(frozen=True, slots=True)
class PoolContext:
    """What working for one pool takes. Shared by its handlers; a reload makes another for the next ones."""

    store: Store
    view: ClusterView
    clock: Clock
    scanner: HostScanner
    provider: ProviderRuntime
    generation: Generation
    """What of the provider's may change in a reload, as it was when this was made."""
    pool: PoolConfig
    pool_id: str
    shared: SharedRoom

    @property
    def driver(self) -> Driver:
        return self.generation.driver

    @property
    def launching(self) -> Launching:
        return self.generation.launching

    @property
    def is_alone(self) -> bool:
        """Whether no other process has pools registered, so that nobody else makes nodes or contends for requests."""
        return self.view.is_alone(self.pool_id)

    def tell(self, request: NodeRequest, what: str) -> None:
        """Let it be known what happened to *request* in this pool."""
        self.provider.tell(self.pool.name, request.id, what)


class StageClock:
    """How long the stages of one attempt to launch a node take, in the order in which they end."""

    __slots__ = ("_at", "_took")

    def __init__(self) -> None:
        self._took: dict[str, float] = {}
        self._at = 0.0

    def begin(self, **took_s: float) -> None:
        """An attempt begins now; stages before it took *took_s*."""
        self._took = took_s
        self._at = asyncio.get_running_loop().time()

    def ended(self, stage: str) -> None:
        """*stage* ends now. One that is gone through again counts all of its time."""
        now = asyncio.get_running_loop().time()
        self._took[stage] = self._took.get(stage, 0.0) + now - self._at
        self._at = now

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._took.items())


@dataclass(slots=True, weakref_slot=True)
class HeldNode:
    """A node whose lock we hold, as last written, or as it is to be written with whatever is written of it next."""

    node: Node
    version: int
    lock: Lock
    is_clean: bool = True
    """Whether nothing is left in the cloud of attempts that failed."""
    waits_for: str | None = None
    """Why its launch stands still, while the provider can't be asked."""
    is_written: bool = True
    """Whether the store has ``node`` as it is."""
    is_resumed: bool = False
    """Whether another launcher began the launch, so that there may be an instance of which no record tells."""
    stages: StageClock = field(default_factory=StageClock)
    """What the present attempt of its launch has taken so far."""
    is_overtaken: bool = False
    """Whether the cloud had a call of a later holder of the lock: nothing is ours to do any more."""

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
        """To be called right before a call that changes the cloud: whoever slept may learn only later that the lock is
        lost. Raises: LockLostError."""
        if not self.lock.is_held:
            raise LockLostError(self.lock.contender)

    def note(self, node: Node) -> None:
        """It is *node* from now on; that is written with whatever is written of it next."""
        self.node, self.is_written = node, False

    def put_op(self, node: Node) -> Put:
        return Put(paths.node(node.id), node.to_bytes(), self.version, node)

    def hand_over_ops(self) -> list[Op]:
        """Unlocked, and otherwise as it is, in one transaction with whatever else."""
        unlock = ReleaseLock(self.lock)
        return [unlock] if self.is_written else [self.put_op(self.node), unlock]

    def give_back_ops(self) -> list[Op]:
        """Free for anybody, in one transaction with whatever else."""
        return [self.put_op(self.node.deallocated()), ReleaseLock(self.lock)]


async def save(ctx: PoolContext, held: HeldNode, node: Node) -> None:
    """Write *node* as the new version of *held*. Whether it was done is known even if we are cancelled meanwhile."""

    async def write() -> None:
        op = held.put_op(node)
        (entry,) = await ctx.store.commit([op], under=(held.lock,))
        assert isinstance(entry, Entry)  # noqa: S101
        held.node, held.version, held.is_written = node, entry.stat.version, True

    await to_the_end(write())


async def to_the_end(work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Await *work*, whose effect must not be lost from sight, to its end even if we are cancelled meanwhile, and again.

    It is a few calls to the store, so the delay is bounded by the session timeout.
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

    What can't be written is left as it is: an unlocked building node is deleted all the same. Nothing is written of one
    that another has by now.
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
    """Lock an idle node and allocate it to *request*; None when it is not to be had, or does not answer.

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


async def _is_alive(ctx: PoolContext, seen: Seen[Node]) -> bool:
    """Whether the node's machine answers. One that does not is not handed out before it was looked at again; a node
    whose machine nobody looks at any more is given up."""
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


def _taking_ops(seen: Seen[Node], node: Node) -> tuple[TakeLock, Put]:
    return TakeLock(paths.node_lock(node.id)), Put(seen.path, node.to_bytes(), seen.version, node)


async def take_node(store: Store, seen: Seen[Node], node: Node) -> HeldNode | None:
    """Lock the node *seen* and write it as *node*; None when it is locked, changed or gone since it was seen.

    Raises: StoreError.
    """
    try:
        lock, entry = await store.commit(_taking_ops(seen, node))
    except _TAKEN:
        return None
    assert isinstance(entry, Entry) and lock is not None and not isinstance(lock, Entry)  # noqa: S101, PT018
    return HeldNode(node, entry.stat.version, lock)


async def rewrite_node(store: Store, seen: Seen[Node], node: Node) -> bool:
    """Write the node *seen*, which nobody may hold, as *node*; whether that was still possible. Raises: StoreError."""
    held = await take_node(store, seen, node)
    if held is not None:
        await held.lock.release()
    return held is not None


async def discard_node(store: Store, view: ClusterView, seen: Seen[Node], clock: Clock) -> bool:
    """Mark a node that nobody holds for deletion; whether that was still possible. Raises: StoreError."""
    node = seen.record.into(NodeState.DELETING, clock.now())
    view.discarded.add(node.id)  # the change may be seen before the write is answered
    is_done = await rewrite_node(store, seen, node)
    if not is_done:
        view.discarded.discard(node.id)
    return is_done
