"""Serves requests made over HTTP: a request lasts while it is renewed, and its nodes are in use meanwhile.

    async with RentalService(launcher.store, explain) as rentals:
        rental = await rentals.submit(NewRequest(["debian-12"]))

The nodes are locked in the launcher's session with the store, so they are returned when the service closes. api.py is
the HTTP part, client/nodes.py requests and returns the nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from enum import StrEnum
from typing import Any, Self
from weakref import WeakValueDictionary

from nodelaunch.client.nodes import NodeClient, RequestHandle
from nodelaunch.clock import Clock
from nodelaunch.errors import NodelaunchError, NodesLostError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import Store
from nodelaunch.web.messages import NewRequest

log: Logger = get_logger(__name__)

MOST_OPEN = 1000
"""The most requests that have not ended."""
MOST_ENDED = 1000
"""The most ended requests that are remembered."""
MOST_WAITING = 500
"""The most clients that wait for a change at the same time."""
PER_SECOND, AT_ONCE = 50.0, 200.0
"""Limits of new requests: the sustained rate per second, and the burst after a pause."""
RELEASE_S = 40.0
"""Time to wait until nodes are returned; the return continues after it."""
CLOSE_S = 10.0
"""Time to return all nodes at the end; launchers delete the rest."""

Explain = Callable[[RequestId], list[dict[str, Any]]]
"""A function that returns a request's status in each pool of this process, as JSON."""


class RentalState(StrEnum):
    """The state of a request over HTTP. The last four are final."""

    REQUESTED = "requested"
    PENDING = "pending"
    FULFILLED = "fulfilled"
    FAILED = "failed"
    RELEASED = "released"
    EXPIRED = "expired"
    LOST = "lost"


WAITING = frozenset({RentalState.REQUESTED, RentalState.PENDING})
ENDED = frozenset({RentalState.FAILED, RentalState.RELEASED, RentalState.EXPIRED, RentalState.LOST})


class TooManyError(NodelaunchError):
    """The service is at one of its limits."""


class ReusedKeyError(NodelaunchError):
    """The same key was used for another request."""


class Rental:
    """A request that was made over HTTP."""

    def __init__(self, wanted: NewRequest, handle: RequestHandle, key: str | None) -> None:
        self.wanted = wanted
        self.handle = handle
        self.key = key
        self.ttl_s: float = wanted.ttl_s
        self.nodes: Sequence[Node] = ()
        self.pools: list[dict[str, Any]] | None = None
        """Its status in the pools when it failed."""
        self.detail: str | None = None
        self.version: int = 1
        self.changed: asyncio.Event = asyncio.Event()
        """Set at the next change, and then replaced by a new event."""
        self.deadline: float = asyncio.get_running_loop().time() + wanted.ttl_s
        self.lease: asyncio.Timeout | None = None
        self.over: asyncio.Event = asyncio.Event()
        """Set when the request has ended and its nodes are returned."""
        self._state = RentalState.REQUESTED

    @property
    def id(self) -> RequestId:
        return self.handle.id

    @property
    def state(self) -> RentalState:
        is_late = self._state not in ENDED and self.remaining_s == 0
        return RentalState.EXPIRED if is_late else self._state

    @property
    def remaining_s(self) -> float:
        return 0.0 if self._state in ENDED else max(0.0, self.deadline - asyncio.get_running_loop().time())

    def into(self, state: RentalState, nodes: Sequence[Node] = (), detail: str | None = None) -> None:
        """Change to *state*, unless the request has ended or is in *state* already."""
        if self._state in ENDED or state is self._state:
            return
        self._state, self.nodes, self.detail = state, nodes, detail
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def progress(self, request: NodeRequest) -> None:
        if request.state is RequestState.PENDING:
            self.into(RentalState.PENDING)
        elif request.state is RequestState.REQUESTED:
            self.into(RentalState.REQUESTED)

    def last_until(self, deadline: float) -> None:
        """Set the end to *deadline*, by the loop's clock."""
        self.deadline = deadline
        if self.lease is not None and not self.lease.expired():
            self.lease.reschedule(deadline)


class RentalService:
    """Serves requests and holds their nodes. Use it as an async context manager, inside the launcher's."""

    def __init__(self, store: Store, explain: Explain, *, clock: Clock | None = None) -> None:
        self._client = NodeClient(store, requestor="nodelaunch-http", clock=clock)
        self._explain = explain
        self._stack = AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._open: dict[RequestId, Rental] = {}
        self._ended: OrderedDict[RequestId, Rental] = OrderedDict()
        self._by_key: dict[str, Rental] = {}
        self._key_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting = 0
        self._allowance = Allowance(PER_SECOND, AT_ONCE)
        self._submitting = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for rental in self.rentals:
            self._end(rental, RentalState.LOST, "the launcher is stopping")
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._stack.aclose()

    @property
    def rentals(self) -> list[Rental]:
        """Return the requests that have not ended, oldest first."""
        return list(self._open.values())

    def find(self, request_id: str) -> Rental | None:
        return self._open.get(RequestId(request_id)) or self._ended.get(RequestId(request_id))

    async def submit(self, wanted: NewRequest, key: str | None = None) -> Rental:
        """Make a request. The same *key* returns the same request, as long as it is remembered.

        Raises: TooManyError, ReusedKeyError, StoreError.
        """
        if key is None:
            return await self._submit(wanted, None)
        async with self._key_locks.setdefault(key, asyncio.Lock()):
            rental = self._by_key.get(key)
            if rental is None:
                rental = self._by_key[key] = await self._submit(wanted, key)
        if rental.wanted != wanted:
            raise ReusedKeyError(f"the key belongs to request {rental.id}, which differs from this one")
        return rental

    async def _submit(self, wanted: NewRequest, key: str | None) -> Rental:
        if len(self._open) + self._submitting >= MOST_OPEN:
            raise TooManyError(f"the limit of {MOST_OPEN} open requests is reached")
        if not self._allowance.take():
            raise TooManyError(f"more than {PER_SECOND:g} requests a second")
        self._submitting += 1
        try:
            handle = await self._client.submit(
                wanted.labels, priority=wanted.priority, relative_priority=wanted.relative_priority,
                provider=wanted.provider, tenant=wanted.tenant, requestor=wanted.requestor,
                requestor_data=wanted.requestor_data,
            )  # fmt: skip
        finally:
            self._submitting -= 1
        rental = self._open[handle.id] = Rental(wanted, handle, key)
        self._group.create_task(self._serve(rental), name=f"http request {rental.id}")
        log.info("http_request_made", request_id=rental.id, requestor=wanted.requestor, labels=wanted.labels)
        return rental

    def renew(self, rental: Rental, ttl_s: float | None = None) -> bool:
        """Extend *rental* by its lifetime from now, or by *ttl_s* from now on; return False if it has ended."""
        if rental.state in ENDED:
            return False
        rental.ttl_s = rental.ttl_s if ttl_s is None else ttl_s
        rental.last_until(asyncio.get_running_loop().time() + rental.ttl_s)
        return True

    async def release(self, rental: Rental) -> bool:
        """Return the nodes of *rental* to the launcher; return True if that is done within `RELEASE_S`."""
        self._end(rental, RentalState.RELEASED)
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await rental.over.wait()
        return rental.over.is_set()

    def _end(self, rental: Rental, state: RentalState, detail: str | None = None) -> None:
        rental.into(state, detail=detail)
        rental.last_until(asyncio.get_running_loop().time())

    async def wait(self, rental: Rental, version: int | None, wait_s: float) -> None:
        """Wait until the version of *rental* differs from *version* (None: until it no longer waits for nodes), for
        *wait_s* at most.

        Raises: TooManyError.
        """
        if self._waiting >= MOST_WAITING:
            raise TooManyError(f"the limit of {MOST_WAITING} waiting clients is reached")
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    while rental.state not in ENDED and (
                        rental.state in WAITING if version is None else rental.version == version
                    ):
                        await rental.changed.wait()
        finally:
            self._waiting -= 1

    async def _serve(self, rental: Rental) -> None:
        """Serve one request from start to end."""
        try:
            async with asyncio.timeout_at(rental.deadline) as rental.lease:
                await self._use(rental)
        except TimeoutError:
            rental.into(RentalState.EXPIRED)
        except NodesLostError as error:
            rental.into(RentalState.LOST, detail=str(error))
        except NodelaunchError as error:
            rental.into(RentalState.LOST, detail=f"the launcher could not continue the request: {error}")
        except Exception:
            log.exception("http_request_broke", request_id=rental.id)
            rental.into(RentalState.LOST, detail="an internal error in the launcher; see its log")
        finally:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await rental.handle.cancel()
            self._put_aside(rental)
        log.info("http_request_ended", request_id=rental.id, state=rental.state.value, detail=rental.detail)

    async def _use(self, rental: Rental) -> None:
        request = await rental.handle.finished(rental.progress)
        if request.state is RequestState.FAILED:
            rental.pools = self._explain(rental.id)
            rental.into(RentalState.FAILED)
            return
        async with self._client.hold(request) as nodes:
            rental.into(RentalState.FULFILLED, nodes)
            await asyncio.Event().wait()

    def _put_aside(self, rental: Rental) -> None:
        """Remember an ended request, up to `MOST_ENDED` of them."""
        rental.into(RentalState.LOST, detail="the launcher ended")  # unless it has ended otherwise
        self._open.pop(rental.id, None)
        self._ended[rental.id] = rental
        rental.over.set()
        while len(self._ended) > MOST_ENDED:
            _, old = self._ended.popitem(last=False)
            if old.key is not None:
                self._by_key.pop(old.key, None)

    def standings(self, rental: Rental) -> list[dict[str, Any]]:
        """Return the status of *rental* in each pool of this process; after a failure, the status at that time."""
        return self._explain(rental.id) if rental.pools is None else rental.pools


class Allowance:
    """A rate limit: a sustained rate per second, and a burst."""

    def __init__(self, per_second: float, at_once: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._at_once, self._now = per_second, at_once, now
        self._left, self._as_of = at_once, now()

    def take(self) -> bool:
        """Take one from the allowance; return False if none is left."""
        now = self._now()
        self._left = min(self._at_once, self._left + (now - self._as_of) * self._per_second)
        self._as_of = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
