"""Requests nodes through the store, as Zuul does: write a request, wait, lock the nodes, use them, return them.

    async with NodeClient(store) as client, client.nodes(["debian-12", "debian-12"]) as nodes:
        ...  # nodes[0].interface_ip, nodes[0].host_keys

Source of the steps: Zuul 11.3 to 14.3, its Nodepool client.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol, Self, TypedDict, TypeVar, Unpack

from nodelaunch.clock import Clock, WallClock
from nodelaunch.engine.reporting.explainrpc import why
from nodelaunch.errors import (
    NodelaunchError,
    NodesLostError,
    NodesNotThereError,
    RecordGoneError,
    RequestFailedError,
    SessionLostError,
    StoreError,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import REQUEST_FINAL, NodeState, RequestState
from nodelaunch.protocol.store import (
    Changed,
    Create,
    Delete,
    Entry,
    Lock,
    Op,
    Put,
    ReleaseLock,
    Removed,
    SessionState,
    Store,
    Tree,
    TreeEvent,
)

LOCK_TIMEOUT_S = 30.0
"""Time limit of the wait for the lock of an assigned node. Source: Zuul."""
RETURN_TIMEOUT_S = 30.0
"""Time limit of the return of nodes if the program ends in a hurry."""

_OVER = (SessionState.LOST, SessionState.CLOSED)

Progress = Callable[[NodeRequest], None]
T = TypeVar("T")


class RequestOptions(TypedDict, total=False):
    """Options of a request besides its labels."""

    priority: str
    """Three characters; smaller is served first. Default: 200, Zuul's normal precedence."""
    relative_priority: int
    """Order within the priority; smaller is served first. Default: 0."""
    provider: str | None
    """The only provider whose nodes are accepted."""
    tenant: str | None
    """The tenant of the request; for limits of tenants and nodes that are reserved for tenants."""
    requestor_data: Any
    """Any JSON; passed to drivers and shown by `explain`."""
    requestor: str | None
    """Name of the client in the records of request and nodes. Default: the client's `requestor`."""


class RequestHandle:
    """An open request of this client."""

    def __init__(self, client: NodeClient, request: NodeRequest) -> None:
        self.request: NodeRequest = request
        """The request as last seen."""
        self._client = client

    @property
    def id(self) -> RequestId:
        return self.request.id

    async def finished(self, progress: Progress | None = None, *, timeout_s: float | None = None) -> NodeRequest:
        """Wait until the request is fulfilled or failed; call *progress* at each change.

        Raises: RecordGoneError when the request is deleted; NodesNotThereError after *timeout_s*, with its reasons.
        """
        return await in_time(self, self._finished(progress), timeout_s)

    async def _finished(self, progress: Progress | None) -> NodeRequest:
        async for request in self._client.follow(self.id):
            self.request = request
            if progress is not None:
                progress(request)
            if request.state in REQUEST_FINAL:
                break
        return self.request

    async def why(self) -> tuple[str, ...]:
        """Return the reasons of the launchers' pools, a line each; empty if no launcher answers in time."""
        return await why(self._client.store, self.id)

    async def cancel(self) -> None:
        """Delete the request in any state, even if the caller is cancelled meanwhile."""
        await self._client.withdraw(paths.request(self.id))


class Waiting(Protocol):
    """A request that its client waits for."""

    request: NodeRequest

    async def why(self) -> tuple[str, ...]: ...


async def in_time(handle: Waiting, finished: Coroutine[Any, Any, NodeRequest], timeout_s: float | None) -> NodeRequest:
    """Return the result of *finished* within *timeout_s*. Raises: NodesNotThereError, with the request's reasons."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await finished
    except TimeoutError:
        if timeout_s is None or not limit.expired():
            raise
        request = handle.request
        raise NodesNotThereError(request.id, request.node_types, timeout_s, await handle.why()) from None


class Losable(Protocol):
    """A claim to a node that can be lost, such as its lock."""

    def on_lost(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* when the claim is lost, until the returned function is called."""


class CancelWhenLost:
    """Cancels the block when one of *locks*, one for each node, is lost, and raises NodesLostError at its end."""

    def __init__(self, locks: Sequence[tuple[NodeId, Losable]]) -> None:
        self._locks = locks
        self._lost: list[NodeId] = []
        self._stops: list[Callable[[], None]] = []

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task, self._cancelling = task, task.cancelling()
        self._stops = [lock.on_lost(partial(self._on_lost, node_id)) for node_id, lock in self._locks]

    def _on_lost(self, node_id: NodeId) -> None:
        self._lost.append(node_id)
        if len(self._lost) == 1:
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _where: object) -> None:
        for stop in self._stops:
            stop()
        if not self._lost:
            return
        if kind is not asyncio.CancelledError:
            with suppress(asyncio.CancelledError):  # the cancellation may not be delivered yet
                await asyncio.sleep(0)
        if self._task.uncancel() > self._cancelling:  # the task was also cancelled from elsewhere
            if kind is None:
                raise asyncio.CancelledError
        elif kind is None or kind is asyncio.CancelledError:
            raise NodesLostError(self._lost) from error


class NodeClient:
    """A client of a connected store. Use it as an async context manager."""

    def __init__(self, store: Store, *, requestor: str | None = None, clock: Clock | None = None) -> None:
        self.store = store
        self.requestor: str = requestor or f"nodelaunch-client:{uuid.uuid4().hex}"
        """Name in requests and nodes that identifies this client."""
        self._clock = clock or WallClock()
        self._stack = AsyncExitStack()
        self._tree: Tree | None = None
        self._followed: dict[str, list[asyncio.Event]] = {}
        """Events to set when a request changes, by the request's path. Data of other requests is not read."""
        self._steps: set[asyncio.Task[Any]] = set()
        """Steps that finish even if their callers are cancelled."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            requests = self.store.tree(paths.REQUESTS, wants_data=self._followed.__contains__)
            self._tree = await stack.enter_async_context(requests)
            stack.callback(self._tree.subscribe(self._on_event))
            stack.callback(self.store.session.subscribe(lambda _state: self._wake_all()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._steps:
            await asyncio.wait(self._steps, timeout=RETURN_TIMEOUT_S)
        await self._stack.aclose()

    async def _whole(self, step: Coroutine[Any, Any, T]) -> T:
        """Return the result of *step*, which continues if the caller is cancelled."""
        return await asyncio.shield(self._started(step))

    def _started(self, step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return task

    def _on_event(self, event: TreeEvent) -> None:
        if isinstance(event, Changed | Removed):
            for changed in self._followed.get(event.entry.path, ()):
                changed.set()
        else:
            self._wake_all()

    def _wake_all(self) -> None:
        for followers in self._followed.values():
            for changed in followers:
                changed.set()

    # -- asking -----------------------------------------------------------------------------------------------------

    async def submit(self, labels: Sequence[str], **options: Unpack[RequestOptions]) -> RequestHandle:
        """Request one node for each of *labels*, in this order. The request lasts as long as the store's session.

        Raises: ValueError; TypeError for an unknown option or an option of another type, and for a text as labels,
        which would be a list of its letters; StoreError.
        """
        if isinstance(labels, str):
            raise TypeError(f"a list of labels is expected, as in [{labels!r}], not a text")
        if unknown := sorted(options.keys() - RequestOptions.__annotations__.keys()):
            known = ", ".join(RequestOptions.__annotations__)
            raise TypeError(f"there is no option {', '.join(unknown)} of a request; there are: {known}")
        priority = options.get("priority", paths.CLIENT_PRIORITY)
        for name in ("priority", "provider", "tenant", "requestor"):
            if not isinstance(options.get(name), str | None):
                raise TypeError(f"{name} of a request: a text is expected, not {options.get(name)!r}")
        if not labels or len(priority) != 3:
            raise ValueError("at least one label, and a priority of three characters, are needed")
        now = self._clock.now()
        request = NodeRequest(
            id=RequestId(""),
            state_time=now,
            created_time=now,
            node_types=tuple(labels),
            requestor=options.get("requestor") or self.requestor,
            requestor_data=options.get("requestor_data"),
            provider=options.get("provider"),
            relative_priority=options.get("relative_priority", 0),
            event_id=uuid.uuid4().hex,
            tenant_name=options.get("tenant"),
        )
        where = paths.new_request(priority)
        create = self.store.create(where, request.to_bytes(), ephemeral=True, sequence=True, parents=True)
        creating = self._started(create)
        try:
            entry = await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._started(self._take_back(creating))
            raise
        return RequestHandle(self, request.changed(id=paths.request_id_at(entry.path) or RequestId("")))

    async def _take_back(self, creating: asyncio.Task[Entry]) -> None:
        """Delete a request whose caller was cancelled before it learned the id: no other code would delete it."""
        with suppress(StoreError):
            await self.withdraw((await creating).path)

    async def withdraw(self, path: str) -> None:
        """Delete the request at *path* if it exists, even if the caller is cancelled meanwhile. Raises: StoreError."""

        async def delete() -> None:
            with suppress(RecordGoneError):
                await self.store.delete(path)

        await self._whole(delete())

    async def follow(self, request_id: RequestId) -> AsyncIterator[NodeRequest]:
        """Yield every version of the request that is seen, the present one first.

        Raises: RecordGoneError at its end; SessionLostError when the session ends, and the request with it.
        """
        if self._tree is None:
            raise NodelaunchError("the client is not open: use it with 'async with'")
        path = paths.request(request_id)
        changed = asyncio.Event()
        self._followed.setdefault(path, []).append(changed)
        version, epoch = -1, self.store.session.epoch
        try:
            while True:
                changed.clear()
                if self.store.session.epoch != epoch or self.store.session.state in _OVER:
                    raise SessionLostError(path, "the session with the store ended, and the request with it")
                entry = self._tree.get(path)
                if entry is not None and entry.stat.version > version:
                    if not entry.data:  # an entry from before the subscription has no data
                        entry = await self.store.get(path)
                    version = entry.stat.version
                    yield NodeRequest.from_bytes(path, entry.data, request_id=request_id)
                elif entry is None and self._tree.is_synced:
                    raise RecordGoneError(path, "the request was deleted")
                await changed.wait()
        finally:
            self._followed[path].remove(changed)
            if not self._followed[path]:
                del self._followed[path]

    # -- using ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def nodes(
        self, labels: Sequence[str], *, timeout_s: float | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[list[Node]]:
        """Request nodes of *labels*, in use inside the block and returned at its end; *options* as for `submit`.

        Raises: RequestFailedError if no pool can serve the request, and NodesNotThereError if it is not fulfilled
        within *timeout_s*, both with each pool's reasons; NodesLostError as `hold`.
        """
        handle = await self.submit(labels, **options)
        is_over = False
        try:
            request = await handle.finished(timeout_s=timeout_s)
            if request.state is RequestState.FAILED:
                raise RequestFailedError(request.id, request.declined_by, await handle.why())
            async with self.hold(request) as nodes:
                is_over = True
                yield nodes
        finally:
            if not is_over:
                with suppress(StoreError):
                    await handle.cancel()

    @asynccontextmanager
    async def hold(self, request: NodeRequest) -> AsyncIterator[list[Node]]:
        """Return the nodes of a fulfilled *request*, locked and in use inside the block, used and unlocked after it.

        The request is deleted as soon as the nodes are locked. If the session with the store is lost, launchers delete
        the nodes. The block is then cancelled, as by `asyncio.timeout`, and NodesLostError is raised. Raises:
        StoreError; RecordGoneError for a node that is gone; NodesLostError.
        """
        taken: list[tuple[Node, int, Lock]] = []
        try:
            for node_id in request.nodes:
                taken.append(await self._lock(node_id, request))  # noqa: PERF401  all are released if one fails
            taken[:] = await self._use(request, taken)
            async with CancelWhenLost([(node.id, lock) for node, _, lock in taken]):
                yield [node for node, _, _ in taken]
        finally:
            async with asyncio.timeout(RETURN_TIMEOUT_S):
                await self._give_back(taken)

    async def keep(self, request: NodeRequest, *, user_data: Any, also: Sequence[Op] = ()) -> Node:
        """Take the one node of a fulfilled *request* into use beyond the end of the session.

        Its lock is held by a persistent contender, with `requestor` as its data, until a client deletes the contender.
        One transaction creates the contender, writes the node's record with *user_data*, performs *also* and deletes
        the request: after any interruption the node is either kept or still belongs to the request. Raises: StoreError;
        RecordGoneError for a lost node or request.
        """
        (node_id,) = request.nodes
        node, version, lock = await self._lock(node_id, request)
        try:
            kept = node.into(NodeState.IN_USE, self._clock.now(), user_data=user_data)
            where = paths.contender(lock.path, uuid.uuid4().hex)
            ops = [
                Create(where, self.requestor.encode(), sequence=True),
                Put(paths.node(node_id), kept.to_bytes(), version),
                *also,
                Delete(paths.request(request.id)),
            ]
            made = (await self.store.commit(ops, under=(lock,)))[0]
            assert isinstance(made, Entry)  # noqa: S101
            await self._until_next(lock, made.path)
        finally:
            await lock.release()
        return kept

    async def _until_next(self, lock: Lock, contender: str) -> None:
        """Wait until *contender* is next in line for *lock*: other contenders may be before it."""
        order = await self.store.contenders(lock.path)
        if order[:2] == [lock.contender, contender]:
            return
        async with self.store.tree(lock.path) as tree:
            changed = asyncio.Event()
            tree.subscribe(lambda _event: changed.set())
            with suppress(TimeoutError):  # a contender that waits even longer gets the lock and finds the node used
                async with asyncio.timeout(LOCK_TIMEOUT_S):
                    while (await self.store.contenders(lock.path))[:2] != [lock.contender, contender]:
                        await changed.wait()
                        changed.clear()

    async def _lock(self, node_id: NodeId, request: NodeRequest) -> tuple[Node, int, Lock]:
        path = paths.node(node_id)
        lock = await self.store.lock(paths.node_lock(node_id), timeout_s=LOCK_TIMEOUT_S)
        try:
            entry = await self.store.get(path)
            node = Node.from_bytes(path, entry.data, node_id=node_id)
            if node.allocated_to != request.id:
                raise RecordGoneError(path, f"the node is not allocated to request {request.id} any more")
        except BaseException:
            await lock.release()
            raise
        return node, entry.stat.version, lock

    async def _use(self, request: NodeRequest, taken: Sequence[tuple[Node, int, Lock]]) -> list[tuple[Node, int, Lock]]:
        """Delete *request*, if it still exists, and take its nodes into use, in one transaction."""
        used = [node.into(NodeState.IN_USE, self._clock.now()) for node, _, _ in taken]
        puts: list[Op] = [
            Put(paths.node(node.id), node.to_bytes(), version, record=node)
            for node, (_, version, _) in zip(used, taken, strict=True)
        ]
        locks = [lock for _, _, lock in taken]
        end = Delete(paths.request(request.id))
        try:
            _, *entries = await self.store.commit([end, *puts], under=locks)
        except RecordGoneError as error:
            if error.path != end.path:
                raise
            entries = await self.store.commit(puts, under=locks)
        stats = [entry.stat for entry in entries if isinstance(entry, Entry)]
        return [(node, stat.version, lock) for node, stat, lock in zip(used, stats, locks, strict=True)]

    async def _give_back(self, taken: Sequence[tuple[Node, int, Lock]]) -> None:
        """Write nodes in use as used, and unlock all. Lost nodes are skipped."""
        for node, version, lock in taken:
            ops: list[Op] = [ReleaseLock(lock)]
            if node.state is NodeState.IN_USE:
                used = node.into(NodeState.USED, self._clock.now())
                ops.insert(0, Put(paths.node(node.id), used.to_bytes(), version, record=used))
            try:
                await self.store.commit(ops, under=(lock,))
            except StoreError:
                await lock.release()
