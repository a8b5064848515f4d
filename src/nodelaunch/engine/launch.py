"""The life of one node, as straight-line code: make its record, launch, claim, give up, delete.

Write before act: a record is stored before the cloud call that makes the thing, and the cloud's name for it right
after. After a crash at any point either a record or a listed instance tells of it. Only the holder of a node's lock
writes its record. What does *not* belong here: which node for which request, retries, quota.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from nodelaunch.clock import Clock
from nodelaunch.config.models import Launching, PoolConfig
from nodelaunch.engine.keyscan import scan_node
from nodelaunch.engine.provider import Generation, ProviderRuntime
from nodelaunch.engine.reservations import Reservations
from nodelaunch.engine.view import ClusterView, Seen
from nodelaunch.errors import (
    DriverError,
    InstanceNotFoundError,
    LabelUnusableError,
    LaunchFailedError,
    LaunchTimeoutError,
    LockBusyError,
    NotEmptyError,
    ProviderUnavailableError,
    RecordGoneError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    HostScanner,
    Instance,
    InstanceSpec,
    LabelTraits,
    Login,
    Machine,
    ScansHostKeys,
    SupportsConsoleLog,
    SupportsInventory,
)
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, NodeState
from nodelaunch.protocol.store import Delete, Entry, Lock, Op, Put, ReleaseLock, Store, TakeLock

log = structlog.get_logger(__name__)

DELETE_TIMEOUT_S = 600.0
"""How long one deletion may take before it is given up for now. Source: Nodepool 11."""
GIVE_UP_TIMEOUT_S = 10.0
"""How long the last write about a node may take when its launch is cancelled."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0


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
    reservations: Reservations

    @property
    def driver(self) -> Driver:
        return self.generation.driver

    @property
    def launching(self) -> Launching:
        return self.generation.config.launching

    def tell(self, request: NodeRequest, what: str) -> None:
        """Let it be known what happened to *request* in this pool."""
        self.provider.tell(self.pool.name, request.id, what)


@dataclass(slots=True)
class HeldNode:
    """A node whose lock we hold, as last written."""

    node: Node
    version: int
    lock: Lock
    is_clean: bool = True
    """Whether nothing is left in the cloud of attempts that failed."""
    waits_for: str | None = None
    """Why its launch stands still, while the provider can't be asked."""
    is_resumed: bool = False
    """Whether another launcher began the launch, so that there may be an instance of which no record tells."""

    @property
    def id(self) -> NodeId:
        return self.node.id

    @property
    def external_id(self) -> ExternalId | None:
        return ExternalId(self.node.external_id) if self.node.external_id else None

    def put_op(self, node: Node) -> Put:
        return Put(paths.node(node.id), node.to_bytes(), self.version)

    def give_back_ops(self) -> list[Op]:
        """Free for anybody, in one transaction with whatever else."""
        return [self.put_op(self.node.deallocated()), ReleaseLock(self.lock)]


async def save(ctx: PoolContext, held: HeldNode, node: Node) -> None:
    """Write *node* as the new version of *held*. Whether it was done is known even if we are cancelled meanwhile."""

    async def write() -> None:
        op = held.put_op(node)
        entry = await ctx.store.put(op.path, op.data, version=op.version, under=(held.lock,))
        held.node, held.version = node, entry.stat.version

    await to_the_end(write())


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
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


# -- making and launching -------------------------------------------------------------------------------------------


async def create_node(ctx: PoolContext, request: NodeRequest, label: str, zone: str | None) -> HeldNode:
    """A new node for *request*: recorded ``init``, then locked and ``building`` in one move.

    Raises: StoreError; DriverError for a label that can't be launched.
    """
    now = ctx.clock.now()
    blank = Node(
        id=NodeId(""),
        state=NodeState.INIT,
        state_time=now,
        created_time=now,
        provider=ctx.provider.name,
        pool=ctx.pool.name,
        type=(label,),
        az=zone,
        launcher=ctx.pool_id,
        attributes=dict(ctx.pool.node_attributes) if ctx.pool.node_attributes is not None else None,
        resources=ctx.provider.need(ctx.pool.name, label).to_resources(),
        node_properties={},
    ).allocated(request)
    created = await ctx.store.create(paths.NEW_NODE, blank.to_bytes(), sequence=True)
    node_id = paths.node_id_at(created.path) or NodeId("")
    building = _with_traits(ctx, replace(blank, id=node_id), label).into(NodeState.BUILDING, ctx.clock.now())
    held = await take_node(ctx.store, Seen(replace(blank, id=node_id), created), building)
    if held is None:
        raise LockBusyError(created.path, "the new node was taken by somebody else")
    return held


def resumable(ctx: PoolContext, request: NodeRequest) -> list[Node]:
    """The nodes that somebody who is gone was launching here for *request*."""
    here = (ctx.provider.name, ctx.pool.name, request.id)
    return [node for node in ctx.view.interrupted_nodes() if (node.provider, node.pool, node.allocated_to) == here]


async def resume_node(ctx: PoolContext, request: NodeRequest, label: str) -> HeldNode | None:
    """One of these for *label*, taken over as it is; None: there is none. Raises: StoreError."""
    for node in resumable(ctx, request):
        seen = ctx.view.nodes[node.id]
        if node.type == (label,):
            held = await take_node(ctx.store, seen, replace(node, launcher=ctx.pool_id))
            if held is not None:
                held.is_resumed = True
                log.info("launch_resumed", provider=ctx.provider.name, node_id=held.id, external_id=held.external_id)
                return held
    return None


def _with_traits(ctx: PoolContext, node: Node, label: str) -> Node:
    """*node* with what the configuration says of its label, and the image to boot as of now."""
    traits = ctx.driver.label_traits(ctx.pool.name, label)
    image_id = traits.image_id
    if traits.diskimage is not None:
        upload = ctx.view.newest_upload(traits.diskimage, ctx.provider.name)
        image_id = upload.path if upload else None
    return replace(
        node,
        image_id=image_id,
        username=traits.username,
        connection_type=traits.connection_type,
        shell_type=traits.shell_type,
        python_path=traits.python_path,
    ).with_port(traits.connection_port)


async def launch_node(
    ctx: PoolContext, held: HeldNode, request: NodeRequest, label: str, attempt: int, zone: str | None
) -> None:
    """Launch the instance of *held*, which is ``building``, in *zone*, and record it ``ready``.

    Whatever an unsuccessful attempt left is deleted, if possible, before its error comes out. ``launch-timeout`` covers
    all from the first call until the machine can be used.
    Raises: DriverError as the launch ended; StoreError.
    """
    started = asyncio.get_running_loop().time()
    limit_s = ctx.launching.timeout_s
    log_ = log.bind(provider=ctx.provider.name, pool=ctx.pool.name, request_id=request.id, node_id=held.id)
    try:
        try:
            async with asyncio.timeout(limit_s):
                if zone != held.node.az:
                    await save(ctx, held, replace(held.node, az=zone))
                instance = await _boot(ctx, held, request, label, attempt)
                keys = await _host_keys(ctx, instance, label)
        except TimeoutError:
            raise LaunchTimeoutError(f"not ready within launch-timeout ({limit_s:g} s)") from None
        await save(ctx, held, _ready(ctx, held.node, instance, keys))
    except DriverError as error:
        error.external_id = error.external_id or held.external_id
        log_.warning(
            "launch_failed", attempt=attempt, error=type(error).__name__, detail=str(error),
            external_id=error.external_id, took_s=round(asyncio.get_running_loop().time() - started, 3),
        )  # fmt: skip
        await _console(ctx, held, label)
        held.is_clean = await _clean_up_attempt(ctx, held, error)
        held.is_resumed = held.is_resumed and not held.is_clean
        raise
    ctx.provider.quota_granted()
    log_.info(
        "node_ready", label=label, external_id=held.external_id, attempt=attempt,
        took_s=round(asyncio.get_running_loop().time() - started, 3),
    )  # fmt: skip


async def _boot(ctx: PoolContext, held: HeldNode, request: NodeRequest, label: str, attempt: int) -> Instance:
    """Create the instance, record its id, and wait until it is active; waits out a provider that is away.

    After a create whose outcome is not known, and of a launch that another began, the instance is looked for first.
    """
    backoff = FIRST_BACKOFF_S
    driver = ctx.driver
    is_unsure = held.is_resumed
    while True:
        try:
            if held.external_id is None:
                external_id = await _made_before(ctx, held) if is_unsure else None
                is_unsure = True
                if external_id is None:
                    external_id = await driver.create_instance(_spec(ctx, held.node, request, label, attempt))
                await save(ctx, held, replace(held.node, external_id=external_id))
            assert held.external_id is not None  # noqa: S101
            return await driver.wait_until_active(held.external_id)
        except ProviderUnavailableError as error:
            held.waits_for = str(error)
            ctx.tell(request, f"node {held.id} waits for the provider: {error}")
            log.warning("provider_unavailable", provider=ctx.provider.name, node_id=held.id, detail=str(error))
            await asyncio.sleep(error.retry_after_s or backoff)
            held.waits_for = None
            backoff = min(LAST_BACKOFF_S, backoff * 2)
            if held.external_id is None and error.external_id is not None:
                await save(ctx, held, replace(held.node, external_id=error.external_id))
        except InstanceNotFoundError:
            if not held.is_resumed or held.external_id is None:
                raise
            await delete_instance(ctx.provider, held.external_id)  # whoever began the launch was giving it up
            held.is_resumed = is_unsure = False
            await save(ctx, held, replace(held.node, external_id=None))


async def _made_before(ctx: PoolContext, held: HeldNode) -> ExternalId | None:
    """The instance an earlier create made for the node, whose answer nobody has. Raises: DriverError."""
    found = (await ctx.provider.instances_by_node()).get(held.id, [])
    return found[0] if found else None


def _spec(ctx: PoolContext, node: Node, request: NodeRequest, label: str, attempt: int) -> InstanceSpec:
    traits = ctx.driver.label_traits(ctx.pool.name, label)
    upload = ctx.view.newest_upload(traits.diskimage, ctx.provider.name) if traits.diskimage else None
    if traits.diskimage and upload is None:
        raise LabelUnusableError(f"diskimage {traits.diskimage} has no ready upload", provider=ctx.provider.name)
    return InstanceSpec(
        node_id=node.id,
        name=paths.NODE_NAME_PREFIX + node.id,
        pool=ctx.pool.name,
        label=label,
        metadata={
            METADATA_NODE_ID: node.id,
            METADATA_POOL: ctx.pool.name,
            METADATA_PROVIDER: ctx.provider.name,
        },
        attempt=attempt,
        zone=node.az,
        image_external_id=upload.external_id if upload else None,
        request=request.template_values,
    )


async def _host_keys(ctx: PoolContext, instance: Instance, label: str) -> Sequence[str]:
    traits = ctx.driver.label_traits(ctx.pool.name, label)
    driver = ctx.driver
    if isinstance(driver, ScansHostKeys):
        is_ssh = traits.connection_type in ("ssh", "network_cli")
        return await driver.host_keys(instance.external_id) if traits.host_key_checking and is_ssh else ()
    port = instance.connection_port if instance.connection_port is not None else traits.connection_port
    if instance.interface_ip is None or not isinstance(port, int):
        return ()
    return await scan_node(
        ctx.scanner, instance.interface_ip, port, traits, timeout_s=float(ctx.launching.boot_timeout_s)
    )


def _ready(ctx: PoolContext, node: Node, instance: Instance, keys: Sequence[str]) -> Node:
    """*node* as it is offered: ready, with the instance's addresses; the public address doubles as a private one."""
    own = node.attributes or {}
    resources = instance.resources.to_resources() if instance.resources else node.resources
    ready = node.into(
        NodeState.READY,
        ctx.clock.now(),
        interface_ip=instance.interface_ip,
        public_ipv4=instance.public_ipv4,
        private_ipv4=instance.private_ipv4 or instance.public_ipv4,
        public_ipv6=instance.public_ipv6,
        cloud=instance.cloud,
        region=instance.region,
        az=instance.zone or node.az,
        host_id=instance.host_id,
        hostname=instance.hostname,
        resources=resources,
        host_keys=tuple(keys if instance.host_keys is None else instance.host_keys),
        attributes=node.attributes if instance.attributes is None else {**instance.attributes, **own},
        slot=instance.slot,
        driver_data=instance.driver_data,
        node_properties=dict(instance.node_properties),
    )
    if instance.login is not None:
        return _logged_in_by(ready, instance.login)
    return ready if instance.connection_port is None else ready.with_port(instance.connection_port)


def _logged_in_by(node: Node, login: Login) -> Node:
    return replace(
        node,
        username=login.username,
        connection_type=login.connection_type,
        shell_type=login.shell_type,
        python_path=login.python_path,
    ).with_port(login.connection_port)


async def _console(ctx: PoolContext, held: HeldNode, label: str) -> None:
    """Show the operator what the machine itself said, where the label asks for it."""
    driver = ctx.driver
    traits: LabelTraits = driver.label_traits(ctx.pool.name, label)
    if not traits.console_log or held.external_id is None or not isinstance(driver, SupportsConsoleLog):
        return
    try:
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            text = await driver.console_log(held.external_id)
    except (DriverError, TimeoutError) as error:
        log.info("console_unavailable", node_id=held.id, detail=str(error))
    else:
        log.warning("console", node_id=held.id, external_id=held.external_id, text=text)


async def _clean_up_attempt(ctx: PoolContext, held: HeldNode, error: DriverError) -> bool:
    """Delete what the failed attempt left, so that the next one starts from nothing; whether nothing is left.

    What can't be deleted now stays with the node's record, for the sweeper. Raises: StoreError.
    """
    external_id = held.external_id or (ExternalId(error.external_id) if error.external_id else None)
    leftovers = [external_id] if external_id else []
    try:
        if external_id is None and isinstance(error, (LaunchFailedError, ProviderUnavailableError)):
            leftovers = (await _instances_by_node(ctx)).get(held.id, [])
        for leftover in leftovers:
            await delete_instance(ctx.provider, leftover)
    except DriverError as problem:
        log.warning("launch_not_cleaned_up", node_id=held.id, external_id=external_id, detail=str(problem))
        if external_id != held.external_id:
            await save(ctx, held, replace(held.node, external_id=external_id))
        return False
    if held.external_id is not None:
        await save(ctx, held, replace(held.node, external_id=None))
    return True


async def _instances_by_node(ctx: PoolContext) -> dict[str, list[ExternalId]]:
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S):
            return await ctx.provider.instances_by_node()
    except TimeoutError:
        raise LaunchTimeoutError("could not find out what a failed launch left") from None


async def delete_instance(provider: ProviderRuntime, external_id: ExternalId) -> None:
    """Delete one instance; when it returns the instance is gone.

    Raises: DriverError, also when it takes longer than `DELETE_TIMEOUT_S`.
    """
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S):
            async with provider.using() as driver:
                await driver.delete_instance(external_id)
    except TimeoutError:
        message = f"instance {external_id} not deleted within {DELETE_TIMEOUT_S:g} s"
        raise LaunchFailedError(message, provider=provider.name, external_id=external_id) from None


async def give_up(ctx: PoolContext, held: HeldNode, state: NodeState) -> None:
    """Record a node that won't be ready in *state* (failed or aborted) and unlock it: the sweeper deletes it.

    What can't be written is left as it is: an unlocked building node is deleted all the same.
    """
    node = held.node.into(state, ctx.clock.now())
    try:
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            await ctx.store.commit([held.put_op(node), ReleaseLock(held.lock)], under=(held.lock,))
    except (StoreError, TimeoutError) as error:
        log.info("node_left_behind", node_id=held.id, state=state.value, detail=str(error))
        await held.lock.release()


# -- claiming -------------------------------------------------------------------------------------------------------


async def claim_node(ctx: PoolContext, node_id: NodeId, request: NodeRequest) -> HeldNode | None:
    """Lock an idle node and allocate it to *request*; None when it is not to be had, or does not answer."""
    seen = ctx.view.nodes.get(node_id)
    if seen is None or not seen.record.is_idle:
        return None
    if not await _is_alive(ctx, seen.record):
        log.warning("machine_unreachable", provider=ctx.provider.name, node_id=node_id, hostname=seen.record.hostname)
        await discard_node(ctx.store, ctx.view, seen, ctx.clock)
        return None
    return await take_node(ctx.store, seen, seen.record.allocated(request))


async def _is_alive(ctx: PoolContext, node: Node) -> bool:
    driver = ctx.driver
    if not isinstance(driver, SupportsInventory):
        return True
    return await driver.is_alive(machine_of(node))


def machine_of(node: Node) -> Machine:
    """The machine slot a static node's record stands for."""
    port: Any = node.connection_port
    return Machine(
        pool=node.pool or "",
        name=node.hostname or node.interface_ip or "",
        labels=node.type,
        slot=node.slot or 0,
        username=node.username,
        connection_port=port if isinstance(port, int) else 22,
        connection_type=node.connection_type or "ssh",
        python_path=node.python_path,
        shell_type=node.shell_type,
    )


async def take_node(store: Store, seen: Seen[Node], node: Node) -> HeldNode | None:
    """Lock the node *seen* and write it as *node*; None when it is locked, changed or gone since it was seen.

    Raises: StoreError.
    """
    take, put = TakeLock(paths.node_lock(node.id)), Put(seen.entry.path, node.to_bytes(), seen.version)
    try:
        lock, entry = await store.commit([take, put])
    except (LockBusyError, RecordGoneError, VersionConflictError):
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


# -- deleting -------------------------------------------------------------------------------------------------------


async def delete_node(
    store: Store, view: ClusterView, clock: Clock, provider: ProviderRuntime, node_id: NodeId
) -> bool:
    """Delete an abandoned node: its instance, then its record. False when it is not ours to delete (any more).

    Raises: DriverError when the instance could not be deleted (the record stays ``deleting``); StoreError.
    """
    try:
        lock = await store.lock(paths.node_lock(node_id))
    except (LockBusyError, RecordGoneError):
        return False
    try:
        seen = view.nodes.get(node_id)
        if seen is None or seen.record.state not in ABANDONED_WHEN_UNLOCKED:
            return False  # its holder has let go of it, and not abandoned it
        node, version = seen.record, seen.version
        if node.state is not NodeState.DELETING:
            node = node.into(NodeState.DELETING, clock.now())
            version = (await store.put(seen.entry.path, node.to_bytes(), version=version, under=(lock,))).stat.version
        had_any = await _delete_instances(provider, node)
        await _remove_record(store, clock, node, version, lock)
    except (VersionConflictError, RecordGoneError):
        return False  # it changed under us: look again
    finally:
        await lock.release()
    if had_any:  # else nothing was freed: a refusal by the cloud still stands
        provider.capacity_freed()
    return True


async def _delete_instances(provider: ProviderRuntime, node: Node) -> bool:
    """Whether there was any."""
    if not provider.can_launch:
        return True
    if node.external_id:
        await delete_instance(provider, ExternalId(node.external_id))
        return True
    async with asyncio.timeout(DELETE_TIMEOUT_S):  # a create may have gone unanswered
        leftovers = (await provider.instances_by_node()).get(node.id, [])
    for leftover in leftovers:
        await delete_instance(provider, leftover)
    return bool(leftovers)


async def _remove_record(store: Store, clock: Clock, node: Node, version: int, lock: Lock) -> None:
    path = paths.node(node.id)
    try:
        await store.commit([ReleaseLock(lock), Delete(lock.path), Delete(path, version)], under=(lock,))
    except NotEmptyError:
        # Somebody contends meanwhile. The state tells them that it is over, whenever they get the lock.
        gone = node.into(NodeState.DELETED, clock.now())
        await store.put(path, gone.to_bytes(), version=version, under=(lock,))
        await store.delete_tree(path)
