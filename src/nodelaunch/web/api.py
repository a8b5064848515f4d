"""The HTTP API for clients with a token: request, keep and return nodes; hold and delete nodes.

    POST   /api/v1/requests              make a request
    GET    /api/v1/requests              list the requests that have not ended
    GET    /api/v1/requests/ID           show a request, its reasons and its nodes; ?wait_s=30 waits for a change
    POST   /api/v1/requests/ID/renew     extend a request
    DELETE /api/v1/requests/ID           return its nodes
    GET    /api/v1/nodes/ID              show a node
    POST   /api/v1/nodes/ID/hold         hold a node; ../unhold ends the hold
    DELETE /api/v1/nodes/ID              delete a node
    GET    /api/v1/openapi.json          show the description of this API; needs no token

messages.py has the bodies, rentals.py serves the requests, operations/nodes.py changes nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from nodelaunch.engine.serve.scheduler import Scheduler
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import (
    AccessDeniedError,
    NodelaunchError,
    OutcomeUnknownError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
)
from nodelaunch.operations.nodes import NodeBusyError, NodeNotFoundError, Operator
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import Store
from nodelaunch.web.bodies import number_in_query, read_body
from nodelaunch.web.messages import (
    Hold,
    NewRequest,
    Renewal,
    RequestExplained,
    RequestList,
    RequestShown,
    Unhold,
    shown_node,
)
from nodelaunch.web.openapi import description
from nodelaunch.web.operations import LONGEST_WAIT_S, OPERATIONS, PREFIX, Operation
from nodelaunch.web.problems import Problem, on_http_exception, on_problem
from nodelaunch.web.rentals import Rental, RentalService, ReusedKeyError, TooManyError
from nodelaunch.web.tokens import TokenFile

ACTION_S: Final = 30.0
"""Time that the store may take for one action."""
LONGEST_KEY: Final = 255
RETRY_S: Final = 2
"""Retry-After for clients that send too many requests."""

STORE_AWAY: Final = (
    "the launcher can't reach its store, ZooKeeper or its own file: retry later; /health/ready reports when the store "
    "is back, and the launcher's log has the cause"
)

Answer = tuple[int, Any]
"""Status and body."""
Handler = Callable[[Request], Awaitable[Answer]]


class Hosting(Protocol):
    """The launcher behind the API."""

    @property
    def store(self) -> Store: ...

    @property
    def view(self) -> ClusterView:
        """Raises: RuntimeError before the launcher is entered."""

    @property
    def scheduler(self) -> Scheduler: ...

    def readiness(self) -> list[str]:
        """Return why the launcher can't take requests now."""


class Api:
    """Answers for *launcher* to clients with a token in *token_file*. Mount `route`, and keep `open` entered while the
    launcher is entered."""

    def __init__(self, launcher: Hosting, *, token_file: str | None) -> None:
        self._launcher = launcher
        self._tokens = TokenFile(token_file)
        self._rentals: RentalService | None = None
        self._description = b""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take requests inside the block; at its end, return the nodes that are still in use.

        Without tokens the API accepts no client and follows no requests.
        """
        if not self._tokens.are_given:
            yield
            return
        async with RentalService(self._launcher.store, self._explain) as self._rentals:
            try:
                yield
            finally:
                self._rentals = None

    def route(self) -> Mount:
        routes = [self._routed(operation) for operation in OPERATIONS]
        handlers: dict[Any, Any] = {Problem: on_problem, HTTPException: on_http_exception}
        app = Starlette(routes=[*routes, Route("/openapi.json", self._describe)], exception_handlers=handlers)
        return Mount(PREFIX, app)

    def _routed(self, operation: Operation) -> Route:
        handler: Handler = getattr(self, operation.name)

        async def respond(request: Request) -> Response:
            await self._tokens.admit(request.headers.get("authorization", ""))
            try:
                status, body = await handler(request)
            except NodelaunchError as error:
                raise _problem(error) from None
            except TimeoutError:
                raise Problem(504, "store-slow", "the store did not answer in time", STORE_AWAY) from None
            headers = {"Cache-Control": "no-store"}
            if status == 201:
                headers["Location"] = f"{request.scope.get('root_path', '')}/requests/{body.id}"
            return Response(msgspec.json.encode(body), status, headers, "application/json")

        return Route(operation.path, respond, methods=[operation.method], name=operation.name)

    async def _describe(self, _request: Request) -> Response:
        if not self._description:
            self._description = msgspec.json.encode(description())
        return Response(self._description, media_type="application/json")

    def _explain(self, request_id: RequestId) -> list[dict[str, Any]]:
        return [standing.to_json() for standing in self._launcher.scheduler.explainer.explain(request_id)]

    # -- requests ---------------------------------------------------------------------------------------------------

    def _at_work(self) -> RentalService:
        if self._rentals is None:
            raise Problem(503, "not-ready", "the launcher is not connected to its store", STORE_AWAY, headers=_LATER)
        return self._rentals

    def _rental(self, request: Request) -> Rental:
        request_id = request.path_params["request_id"]
        rental = self._at_work().find(request_id)
        if rental is None:
            raise Problem(
                404, "no-such-request", "no such request was made here",
                "a launcher knows only the requests made over its own HTTP, until it ends",
            )  # fmt: skip
        return rental

    async def make_request(self, request: Request) -> Answer:
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= LONGEST_KEY:
            raise Problem(400, "bad-key", f"an Idempotency-Key has 1 to {LONGEST_KEY} characters")
        wanted = await read_body(request, NewRequest)
        rentals = self._at_work()
        if "draining" in self._launcher.readiness():
            raise Problem(503, "draining", "the launcher is stopping and takes no more requests", headers=_LATER)
        async with asyncio.timeout(ACTION_S):
            rental = await rentals.submit(wanted, key)
        return 201, _shown(rental)

    async def list_requests(self, _request: Request) -> Answer:
        return 200, RequestList([_shown(rental) for rental in self._at_work().rentals])

    async def show_request(self, request: Request) -> Answer:
        wait_s = number_in_query(request, "wait_s", least=0, most=LONGEST_WAIT_S)
        version = number_in_query(request, "version", least=0, most=2**53)
        rental = self._rental(request)
        if wait_s:
            await self._at_work().wait(rental, None if version is None else int(version), wait_s)
        pools = self._at_work().standings(rental)
        return 200, RequestExplained(**msgspec.structs.asdict(_shown(rental)), pools=pools)

    async def renew_request(self, request: Request) -> Answer:
        renewal = await read_body(request, Renewal)
        rental = self._rental(request)
        if not self._at_work().renew(rental, renewal.ttl_s):
            detail = f"the request is {rental.state.value}" + (f": {rental.detail}" if rental.detail else "")
            raise Problem(410, "ended", "the request has ended", detail)
        return 200, _shown(rental)

    async def release_request(self, request: Request) -> Answer:
        rental = self._rental(request)
        is_done = await self._at_work().release(rental)
        return 200 if is_done else 202, _shown(rental)

    # -- nodes ------------------------------------------------------------------------------------------------------

    async def show_node(self, request: Request) -> Answer:
        node = self._view().node(request.path_params["node_id"])
        if node is None:
            raise NodeNotFoundError(f"there is no node {request.path_params['node_id']!r}")
        return 200, shown_node(node)

    async def hold_node(self, request: Request) -> Answer:
        hold = await read_body(request, Hold)
        return await self._act(
            200, request,
            lambda operator, node_id: operator.hold(
                node_id, reason=hold.reason, expires_s=hold.expires_s, force=hold.force
            ),
        )  # fmt: skip

    async def unhold_node(self, request: Request) -> Answer:
        unhold = await read_body(request, Unhold)
        return await self._act(200, request, lambda operator, node_id: operator.unhold(node_id, reuse=unhold.reuse))

    async def delete_node(self, request: Request) -> Answer:
        return await self._act(202, request, lambda operator, node_id: operator.delete(node_id))

    async def _act(self, status: int, request: Request, action: Callable[[Operator, str], Awaitable[Node]]) -> Answer:
        operator = Operator(self._launcher.store, self._view())
        async with asyncio.timeout(ACTION_S):
            return status, shown_node(await action(operator, request.path_params["node_id"]))

    def _view(self) -> ClusterView:
        self._at_work()
        return self._launcher.view


_LATER: Final = {"Retry-After": str(RETRY_S)}


def _problem(error: NodelaunchError) -> Problem:
    """Return the problem document for *error*."""
    match error:
        case NodeNotFoundError():
            return Problem(404, "no-such-node", "there is no such node", str(error))
        case NodeBusyError():
            return Problem(409, "node-busy", "the node is in use", str(error))
        case TooManyError():
            return Problem(429, "too-many", "too many requests", str(error), headers=_LATER)
        case ReusedKeyError():
            return Problem(422, "key-reused", "the Idempotency-Key is already in use", str(error))
        case StoreError():
            return Problem(503, "store", "the store did not perform the action", _store_detail(error), headers=_LATER)
        case _:
            return Problem(409, "not-possible", "the action is not possible now", str(error))


def _store_detail(error: StoreError) -> str:
    """Return the fault and its remedy, without paths and addresses of the store, which clients must not see."""
    match error:
        case StoreUnavailableError() | SessionLostError():
            return STORE_AWAY
        case OutcomeUnknownError():
            return "the connection to the store broke, perhaps after the action was performed: check before a retry"
        case AccessDeniedError():
            return "the store's access control lists forbid the action: see the launcher's log"
        case _:
            return "another client changed the same record at the same time: retry"


def _shown(rental: Rental) -> RequestShown:
    request, wanted = rental.handle.request, rental.wanted
    return RequestShown(
        id=rental.id,
        state=rental.state.value,
        version=rental.version,
        labels=wanted.labels,
        priority=wanted.priority,
        relative_priority=wanted.relative_priority,
        provider=wanted.provider,
        tenant=wanted.tenant,
        requestor=request.requestor,
        ttl_s=rental.ttl_s,
        expires_in_s=round(rental.remaining_s, 3),
        declined_by=list(request.declined_by),
        nodes=[shown_node(node) for node in rental.nodes],
        detail=rental.detail,
    )
