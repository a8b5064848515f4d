"""The launch of one node, as straight-line code: write its record, create its instance, wait until it is ready.

Write before act: a record is stored before the cloud call that creates the instance. The cloud's id for the instance is
stored right after, or together with the ready node if the instance is active at once. After a crash at any point,
either a record or a listed instance shows what exists. slots.py decides about retries and capacity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodelaunch.decisions.breaker import FailureCause
from nodelaunch.engine.cleanup.deletion import DELETE_TIMEOUT_S, delete_instance
from nodelaunch.engine.launch.keyscan import HostKeys, given_keys, scan_node
from nodelaunch.engine.nodelocks import GIVE_UP_TIMEOUT_S, HeldNode, PoolContext, save, take_node
from nodelaunch.engine.provider.breakers import SHORTEST_BACKOFF_S, cause_of
from nodelaunch.engine.view import Versioned
from nodelaunch.errors import (
    DriverError,
    InstanceNotFoundError,
    InsufficientCapacityError,
    KeyScanError,
    LabelUnusableError,
    LaunchFailedError,
    LaunchTimeoutError,
    LockBusyError,
    LockLostError,
    ProviderUnavailableError,
    QuotaExceededError,
    Scope,
    StaleFenceError,
    legible,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    ExternalId,
    Instance,
    InstanceSpec,
    LabelTraits,
    Login,
)
from nodelaunch.protocol.hostkeys import ASSURANCE, SSH_CONNECTION_TYPES, Assurance
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.soundness import sound_id, sound_instance, sound_keys, sound_traits
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Create, Entry

log: Logger = get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0
"""Seconds between calls of one launch, after a call without an answer, while the provider's breaker is closed."""
MAX_CONSOLE = 64 << 10
"""Characters of a console that are logged at most."""
_ANSWERS = (LaunchFailedError, QuotaExceededError, InsufficientCapacityError, LabelUnusableError)
"""Errors that an available provider may return."""


async def create_node(
    ctx: PoolContext, request: NodeRequest, label: str, zone: str | None, recorded: Callable[[], None]
) -> HeldNode:
    """Create a node for *request*, locked and ``building``: in one step if this launcher is alone, else it is recorded
    ``init`` before. *recorded* is called as soon as the node has a record, which counts from then on.

    Raises: StoreError; OvertakenError; DriverError for a label that can't be launched.
    """
    now = ctx.clock.now()
    blank = Node(
        id=NodeId(""), state=NodeState.INIT, state_time=now, created_time=now,
        provider=ctx.provider.name, pool=ctx.pool.name, launcher=ctx.pool_id, type=(label,), az=zone,
        allocated_to=request.id, tenant_name=request.tenant_name, requestor=request.requestor,
        attributes=dict(ctx.pool.node_attributes) if ctx.pool.node_attributes is not None else None,
        resources=ctx.provider.need(ctx.pool.name, label).to_resources(),
        node_properties={},
    )  # fmt: skip
    building = _building(ctx, blank, label)
    if ctx.is_alone:
        made = await ctx.store.create_locked(paths.NEW_NODE, building.to_bytes(), record=building)
        if made is not None:
            entry, lock = made
            recorded()
            return HeldNode(building.changed(id=_id_of(entry)), entry.stat.version, lock)
    op = Create(paths.NEW_NODE, blank.to_bytes(), sequence=True)
    created = await ctx.shared.create(ctx.pool.name, request.tenant_name, op)
    recorded()
    node_id = _id_of(created)
    held = await take_node(ctx.store, Versioned(blank.changed(id=node_id), created), building.changed(id=node_id))
    if held is None:
        raise LockBusyError(created.path, "another client took the new node")
    return held


def _id_of(entry: Entry) -> NodeId:
    return paths.node_id_at(entry.path) or NodeId("")


def resumable(ctx: PoolContext, request: NodeRequest) -> list[Node]:
    """Return the nodes that a launcher, which has died since, was launching here for *request*."""
    here = (ctx.provider.name, ctx.pool.name, request.id)
    return [node for node in ctx.view.interrupted_nodes() if (node.provider, node.pool, node.allocated_to) == here]


async def resume_node(ctx: PoolContext, request: NodeRequest, label: str) -> HeldNode | None:
    """Take over one of the interrupted launches for *label*; None if there is none. Raises: StoreError."""
    for node in resumable(ctx, request):
        seen = ctx.view.nodes[node.id]
        if node.type == (label,):
            held = await take_node(ctx.store, seen, node.changed(launcher=ctx.pool_id))
            if held is not None:
                held.is_resumed = True
                log.info("launch_resumed", provider=ctx.provider.name, node_id=held.id, external_id=held.external_id)
                return held
    return None


def _building(ctx: PoolContext, blank: Node, label: str) -> Node:
    """Return *blank* as ``building``, with the traits that the configuration gives its label, and the image to boot as
    of now."""
    traits = sound_traits(ctx.driver.label_traits(ctx.pool.name, label))
    image_id = traits.image_id
    if traits.diskimage is not None:
        upload = ctx.view.newest_upload(traits.diskimage, ctx.provider.name)
        image_id = upload.path if upload else None
    return blank.changed(
        state=NodeState.BUILDING,
        image_id=image_id,
        username=traits.username,
        connection_type=traits.connection_type,
        shell_type=traits.shell_type,
        python_path=traits.python_path,
    ).with_port(traits.connection_port)


async def launch_node(
    ctx: PoolContext,
    held: HeldNode,
    request: NodeRequest,
    label: str,
    attempt: int,
    zone: str | None,
    *,
    is_last: Callable[[], bool],
) -> None:
    """Launch the instance of *held*, which is ``building``, in *zone*, and record it ``ready``. If it *is_last* of its
    request, the record is left to be written together with the fulfilled request.

    The leftovers of a failed attempt are deleted, if possible, before its error is raised. ``launch-timeout`` covers
    the time from the first call until the machine can be used. A node that another launcher took over meanwhile, as the
    cloud reports, ends as if the lock were lost. Raises: DriverError as the launch ended; StoreError.
    """
    try:
        await _launch(ctx, held, request, label, attempt, zone, is_last)
    except StaleFenceError as error:
        held.is_overtaken = True
        log.warning("launch_overtaken", provider=ctx.provider.name, node_id=held.id, detail=str(error))
        ctx.report(request, f"launch of node {held.id} ended because another launcher has taken it over: {error}")
        raise LockLostError(held.lock.contender, str(error)) from error


async def _launch(
    ctx: PoolContext,
    held: HeldNode,
    request: NodeRequest,
    label: str,
    attempt: int,
    zone: str | None,
    is_last: Callable[[], bool],
) -> None:
    started = asyncio.get_running_loop().time()
    limit_s = ctx.launching.timeout_s
    log_ = log.bind(provider=ctx.provider.name, pool=ctx.pool.name, request_id=request.id, node_id=held.id)
    try:
        try:
            async with asyncio.timeout(limit_s):
                if zone != held.node.az:
                    await save(ctx, held, held.node.changed(az=zone))
                instance = await _boot(ctx, held, request, label, attempt)
                keys = await _host_keys(ctx, instance, label)
                held.stages.ended("keys")
        except TimeoutError:
            if held.external_id is None and held.waits_for is None:  # a call that creates, or looks for, an instance
                ctx.provider.breakers.launches.failed(FailureCause("no answer", f"no answer within {limit_s:g} s"))
            held.waits_for = None
            raise LaunchTimeoutError(f"not ready within launch-timeout ({limit_s:g} s)") from None
        ready = _ready(ctx, held.node, instance, keys)
        if is_last():
            held.note(ready)
        else:
            await save(ctx, held, ready)
    except StaleFenceError:
        raise
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
    """Create the instance, record its id, and wait until it is active. Wait while the provider is unavailable.

    The instance is looked for first after a create with unknown outcome, and in a launch that another launcher started.
    """
    backoff = FIRST_BACKOFF_S
    gate = ctx.provider.breakers.launches
    is_unsure = held.is_resumed
    fencing = ctx.generation.fencing if held.is_resumed else None
    await _enter(ctx, held)
    while True:
        began = asyncio.get_running_loop().time()
        try:
            # Without the fence, a call under way may delete the instance found now, or create another.
            if fencing is not None:
                await fencing.raise_fence(held.fence)
                fencing = None
            if held.external_id is None:
                look_first, is_unsure = is_unsure, True
                await _create(ctx, held, request, label, attempt, look_first=look_first)
                gate.answered(began)
            held.stages.ended("create")
            with ctx.provider.events.calling(ctx.provider.name, "wait"):
                instance = await _until_active(ctx, held)
            held.stages.ended("active")
            gate.answered(began)
            return instance
        except ProviderUnavailableError as error:
            if not held.is_written:
                await save(ctx, held, held.node)
            await _put_off(ctx, held, request, label, error, backoff)
            backoff = min(LAST_BACKOFF_S, backoff * 2)
            if held.external_id is None and (left := ctx.provider.owners.left_by(error, held)) is not None:
                await save(ctx, held, held.node.changed(external_id=left))
        except InstanceNotFoundError:
            gate.answered(began)
            if not held.is_resumed or held.external_id is None:
                raise
            held.check()
            await delete_instance(
                ctx.provider, held.external_id, held.fence
            )  # the launcher that started the launch was giving it up
            held.is_resumed = is_unsure = False
            await save(ctx, held, held.node.changed(external_id=None))
        except _ANSWERS as error:
            if not isinstance(error, LaunchTimeoutError):
                gate.answered(began)
            raise


async def _create(
    ctx: PoolContext, held: HeldNode, request: NodeRequest, label: str, attempt: int, *, look_first: bool
) -> None:
    """Create the instance of *held*, unless *look_first* finds it. Its id is noted.

    Raises: DriverError.
    """
    external_id = await _made_before(ctx, held) if look_first else None
    if external_id is None:
        held.check()
        with ctx.provider.events.calling(ctx.provider.name, "create"):
            external_id = sound_id(await ctx.driver.create_instance(_spec(ctx, held, request, label, attempt)))
    ctx.provider.owners.take(external_id, held)
    held.note(held.node.changed(external_id=external_id))


async def _put_off(
    ctx: PoolContext,
    held: HeldNode,
    request: NodeRequest,
    label: str,
    error: ProviderUnavailableError,
    backoff_s: float,
) -> None:
    """Wait, after a call without an answer, until the next call may be made."""
    gate = ctx.provider.breakers.launches
    if error.scope in (Scope.REQUEST, Scope.PROVIDER):
        gate.failed(cause_of(error), error.retry_after_s)
    else:
        ctx.provider.breakers.launch_failed(ctx.pool.name, label, held.node.az, error)
    ctx.report(request, f"node {held.id} waits for the provider: {error}")
    if gate.is_open:
        await _enter(ctx, held)
        return
    log.warning("provider_unavailable", provider=ctx.provider.name, node_id=held.id, detail=str(error))
    held.waits_for = str(error)
    await asyncio.sleep(max(error.retry_after_s or backoff_s, SHORTEST_BACKOFF_S))
    held.waits_for = None


async def _enter(ctx: PoolContext, held: HeldNode) -> None:
    """Wait until the provider's breaker allows the launch to make calls."""
    gate = ctx.provider.breakers.launches
    if gate.is_open:
        held.waits_for = gate.why
        await gate.enter(has_instance=held.external_id is not None)
        held.waits_for = None


async def _until_active(ctx: PoolContext, held: HeldNode) -> Instance:
    """Wait until the instance of *held* is active. Its id is recorded meanwhile, unless it is active at once."""
    external_id = held.external_id
    assert external_id is not None  # noqa: S101
    waiting = asyncio.ensure_future(ctx.driver.wait_until_active(external_id))
    try:
        await asyncio.sleep(0)
        if not waiting.done() and not held.is_written:
            await save(ctx, held, held.node)
        return sound_instance(await waiting, external_id)
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
        elif not waiting.cancelled():
            waiting.exception()  # the await above raises it, if the caller still waits


async def _made_before(ctx: PoolContext, held: HeldNode) -> ExternalId | None:
    """Return the instance that an earlier create without an answer made for the node. Raises: DriverError."""
    found = (await ctx.provider.instances_by_node()).get(held.id, [])
    return found[0] if found else None


def _spec(ctx: PoolContext, held: HeldNode, request: NodeRequest, label: str, attempt: int) -> InstanceSpec:
    node = held.node
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
        fence=held.fence,
    )


async def _host_keys(ctx: PoolContext, instance: Instance, label: str) -> HostKeys:
    """Return the keys to record for *instance*, once it can be used. Raises: DriverError if it can't be."""
    traits = ctx.driver.label_traits(ctx.pool.name, label)
    if given := given_keys(traits, instance.expected_host_keys):
        return await _given(ctx, instance, traits, given)
    scanned = await _scanned(ctx, instance, traits)
    return HostKeys(scanned if instance.host_keys is None else tuple(instance.host_keys))


async def _given(ctx: PoolContext, instance: Instance, traits: LabelTraits, given: tuple[str, ...]) -> HostKeys:
    """Return the *given* keys, which the driver gave the machine, after checking that it has them where that is
    configured."""
    if not traits.host_key_checking:
        return HostKeys(given, Assurance.UNSEEN)
    port = _port(instance, traits)
    if instance.interface_ip is None or port is None:
        raise KeyScanError("the driver gives neither the machine's address nor its port, so its key can't be checked")
    timeout_s = float(ctx.launching.boot_timeout_s)
    await scan_node(ctx.scanner, instance.interface_ip, port, traits, expected=given, timeout_s=timeout_s)
    return HostKeys(given, Assurance.VERIFIED)


async def _scanned(ctx: PoolContext, instance: Instance, traits: LabelTraits) -> tuple[str, ...]:
    """Return the keys found by a scan of the machine; an attacker on the network path could have replaced them."""
    scanner = ctx.generation.key_scanner
    if scanner is not None:
        is_ssh = traits.connection_type in SSH_CONNECTION_TYPES
        if not traits.host_key_checking or not is_ssh:
            return ()
        return tuple(sound_keys(await scanner.host_keys(instance.external_id)))
    port = _port(instance, traits)
    if instance.interface_ip is None or port is None:
        return ()
    return await scan_node(
        ctx.scanner, instance.interface_ip, port, traits, timeout_s=float(ctx.launching.boot_timeout_s)
    )


def _port(instance: Instance, traits: LabelTraits) -> int | None:
    """Return the port to connect to; None for a value that is no number, as Kubernetes' drivers have it."""
    port = instance.connection_port if instance.connection_port is not None else traits.connection_port
    return port if isinstance(port, int) else None


def _ready(ctx: PoolContext, node: Node, instance: Instance, keys: HostKeys) -> Node:
    """Return *node* as it is offered: ready, with the instance's addresses; the public address also serves as the
    private one."""
    own = node.attributes or {}
    resources = instance.resources.to_resources() if instance.resources else node.resources
    properties = dict(instance.node_properties)
    if keys.assurance is not None:
        properties[ASSURANCE] = keys.assurance.value
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
        host_keys=keys.keys,
        attributes=node.attributes if instance.attributes is None else {**instance.attributes, **own},
        slot=instance.slot,
        driver_data=instance.driver_data,
        node_properties=properties,
    )
    if instance.login is not None:
        return _logged_in_by(ready, instance.login)
    return ready if instance.connection_port is None else ready.with_port(instance.connection_port)


def _logged_in_by(node: Node, login: Login) -> Node:
    return node.changed(
        username=login.username,
        connection_type=login.connection_type,
        shell_type=login.shell_type,
        python_path=login.python_path,
    ).with_port(login.connection_port)


async def _console(ctx: PoolContext, held: HeldNode, label: str) -> None:
    """Log the machine's console for the operator, if the label asks for it."""
    traits: LabelTraits = ctx.driver.label_traits(ctx.pool.name, label)
    console = ctx.generation.console
    if not traits.console_log or held.external_id is None or console is None:
        return
    try:
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            text = await console.console_log(held.external_id)
    except (DriverError, TimeoutError) as error:
        log.info("console_unavailable", node_id=held.id, detail=str(error))
    else:
        shown = None if text is None else "\n".join(map(legible, text[-MAX_CONSOLE:].splitlines()))
        log.warning("console", node_id=held.id, external_id=held.external_id, text=shown)


async def _clean_up_attempt(ctx: PoolContext, held: HeldNode, error: DriverError) -> bool:
    """Delete the leftovers of the failed attempt, so that the next attempt starts clean. Return True if nothing is
    left.

    An instance that can't be deleted now stays in the node's record, for the sweeper. Raises: StoreError.
    """
    external_id = held.external_id or ctx.provider.owners.left_by(error, held)
    leftovers = [external_id] if external_id else []
    try:
        if external_id is None and isinstance(error, (LaunchFailedError, ProviderUnavailableError)):
            leftovers = (await _instances_by_node(ctx)).get(held.id, [])
        for leftover in leftovers:
            held.check()  # else another launcher may be using it to continue the launch
            await delete_instance(ctx.provider, leftover, held.fence)
    except StaleFenceError:
        raise
    except DriverError as problem:
        log.warning("launch_not_cleaned_up", node_id=held.id, external_id=external_id, detail=str(problem))
        if external_id != held.external_id:
            await save(ctx, held, held.node.changed(external_id=external_id))
        return False
    if held.external_id is not None:
        await save(ctx, held, held.node.changed(external_id=None))
    return True


async def _instances_by_node(ctx: PoolContext) -> dict[str, list[ExternalId]]:
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S):
            return await ctx.provider.instances_by_node()
    except TimeoutError:
        raise LaunchTimeoutError("could not find the leftovers of a failed launch") from None
