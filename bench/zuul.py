"""Plays Zuul's part of the protocol with little CPU, so that the measurement shows the launcher.

For each request: create it with the keys of Zuul 14.3; read it when it has changed twice (the first change is
`pending`); then for each node read it, take its lock as kazoo does and check whom it is allocated to; delete the
request; set the nodes in-use; hold them; set them used; unlock. Calls are pipelined: what may follow goes out at once.
That is nine operations for a request of one node.
Source: Zuul 14.3, zuul/nodepool.py and zuul/zk/nodepool.py; kazoo 2.10, recipe/lock.py.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from bench.zk import wire
from bench.zk.client import Client, ignore

REQUESTS, NODES, POOLS = "/nodepool/requests", "/nodepool/nodes", "/nodepool/components/pool"
TRACE_ID = 206015695541625575178169608723763992776
"""Needs 128 bits: a launcher must return it unchanged."""
STALE_S = 2.0
"""Time after a request's first change until it is read, in case there is no second change."""
LOCK_PAUSE_S = 0.01
PRIORITY = "200"


class Request:
    """A pending request; *number* counts from 0 in the order of submission."""

    __slots__ = (
        "bodies",
        "changes",
        "contenders",
        "id",
        "is_answered",
        "is_reading",
        "left",
        "nodes",
        "number",
        "submitted_at",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.submitted_at = time.monotonic()
        self.changes = 0
        self.is_reading = self.is_answered = False
        self.nodes: list[str] = []
        self.left = 0
        self.bodies: dict[str, dict[str, Any]] = {}
        self.contenders: dict[str, str] = {}


class Record:
    """Measurements so far; times in seconds by the monotonic clock."""

    def __init__(self) -> None:
        self.submitted = self.failed = 0
        self.latencies_s: list[float] = []
        """Time from submission to reading `fulfilled`."""
        self.recycles_s: list[float] = []
        """Time from unlocking a node to the deletion of its record; only if nodes are watched."""
        self.fulfilled_at: list[float] = []
        self.finished_at: list[float] = []
        self.accepted: list[int] = []
        """Numbers of requests in the order in which they were first changed."""
        self.errors: list[str] = []

    @property
    def most_overtaken(self) -> int:
        """Return the largest number of places by which a request was accepted before an earlier request."""
        return max((abs(place - number) for place, number in enumerate(self.accepted)), default=0)


class Zuul:
    """A scheduler. *hold_s* is the time that a node is in use; call `start` before anything else."""

    def __init__(self, client: Client, root: str, *, hold_s: float = 0.0, watches_nodes: bool = False) -> None:
        self.record = Record()
        self.open: dict[str, Request] = {}
        self.on_finished: Callable[[], None] = lambda: None
        self.hold_s = hold_s
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._system = uuid.uuid4().hex
        self._requests, self._nodes = root + REQUESTS, root + NODES
        self._skip = len(self._requests) + 1
        self._watches_nodes = watches_nodes
        self._returned_at: dict[str, float] = {}
        self._used: set[str] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        client.on_event = self._on_event

    async def start(self) -> None:
        for path in (self._requests, self._nodes):
            await self._client.ensure(path)
        await self._client.ask(wire.add_watch(self._requests))
        if self._watches_nodes:
            await self._client.ask(wire.add_watch(self._nodes))
        self._sweep()

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._client.on_event = lambda _kind, _path: None

    # -- requests ---------------------------------------------------------------------------------------------------

    def submit(self, *labels: str) -> None:
        request = Request(self.record.submitted)
        self.record.submitted += 1

        def created(error: int, data: bytes, at: int) -> None:
            if error:
                self.record.errors.append(f"create of a request: {error}")
                return
            request.id = wire.read_text(data, at)[0][self._skip :]
            self.open[request.id] = request

        body = _request_body(self._system, labels)
        self._client.call(wire.create(f"{self._requests}/{PRIORITY}-", body, wire.SEQUENCE), created)

    def _on_event(self, kind: int, path: str) -> None:
        if kind == wire.CHANGED:
            request = self.open.get(path[self._skip :])
            if request is not None and path.startswith(self._requests):
                self._on_change(request)
        elif kind == wire.DELETED and (returned_at := self._returned_at.pop(path, None)) is not None:
            self.record.recycles_s.append(time.monotonic() - returned_at)

    def _on_change(self, request: Request) -> None:
        request.changes += 1
        if request.changes == 1:
            self.record.accepted.append(request.number)
        else:
            self._read(request)

    def _sweep(self) -> None:
        """Read the requests that changed once and not again: the first change may have been the last."""
        stale = time.monotonic() - STALE_S
        for request in list(self.open.values()):
            if request.changes == 1 and request.submitted_at < stale:
                self._read(request)
        self._sweeper = self._loop.call_later(STALE_S, self._sweep)

    def _read(self, request: Request) -> None:
        if request.is_answered or request.is_reading:
            return
        request.is_reading, seen = True, request.changes

        def got(error: int, data: bytes, at: int) -> None:
            request.is_reading = False
            if error:
                self.record.errors.append(f"get of request {request.id}: {error}")
            elif not self._answer(request, wire.read_data(data, at)[0]) and request.changes > seen:
                self._read(request)

        self._client.call(wire.get(f"{self._requests}/{request.id}"), got)

    def _answer(self, request: Request, body: bytes) -> bool:
        """Return True if *body* ends the wait."""
        if b'"fulfilled"' in body:
            request.is_answered = True
            self._fulfilled(request, json.loads(body))
        elif b'"failed"' in body:
            request.is_answered = True
            self.record.failed += 1
            self._client.call(wire.delete(f"{self._requests}/{request.id}"), ignore)
            self._finish(request)
        return request.is_answered

    def _fulfilled(self, request: Request, body: dict[str, Any]) -> None:
        now = time.monotonic()
        self.record.latencies_s.append(now - request.submitted_at)
        self.record.fulfilled_at.append(now)
        if body["requestor_data"]["span_info"]["trace_id"] != TRACE_ID:
            self.record.errors.append(f"request {request.id}: its trace id has changed")
        request.nodes = body["nodes"]
        request.left = len(request.nodes)
        for node in request.nodes:
            self._lock(request, node)

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _lock(self, request: Request, node: str) -> None:
        path = f"{self._nodes}/{node}"

        def got(error: int, data: bytes, at: int) -> None:
            if error:
                self.record.errors.append(f"get of node {node}: {error}")
            else:
                self._take(request, node, json.loads(wire.read_data(data, at)[0]))

        def contending(error: int, data: bytes, at: int) -> None:
            if error:
                self.record.errors.append(f"lock of node {node}: {error}")
            else:
                request.contenders[node] = wire.read_text(data, at)[0]

        self._client.call(wire.get(path), got)
        contender = f"{path}/lock/{uuid.uuid4().hex}__lock__"
        self._client.call(wire.create(contender, b"", wire.EPHEMERAL | wire.SEQUENCE), contending)
        self._await_turn(request, node)

    def _await_turn(self, request: Request, node: str) -> None:
        """List the contenders until this one is first."""

        def listed(error: int, data: bytes, at: int) -> None:
            own = request.contenders.get(node)
            if error or own is None:
                self.record.errors.append(f"contenders of node {node}: {error}")
            elif own.endswith(min(wire.read_children(data, at), key=lambda name: name[-10:])):
                request.left -= 1
                if not request.left:
                    self._use(request)
            else:
                self._loop.call_later(LOCK_PAUSE_S, self._await_turn, request, node)

        self._client.call(wire.children(f"{self._nodes}/{node}/lock"), listed)

    def _take(self, request: Request, node: str, body: dict[str, Any]) -> None:
        if body["allocated_to"] != request.id or body["state"] != "ready":
            self.record.errors.append(f"node {node} is {body['state']} for {body['allocated_to']}, not {request.id}")
        key = f"{node} {request.id}"
        if key in self._used:
            self.record.errors.append(f"node {node} was given to {request.id} twice")
        self._used.add(key)
        request.bodies[node] = body

    def _use(self, request: Request) -> None:
        self._client.call(wire.delete(f"{self._requests}/{request.id}"), self._check)
        self._write(request, "in-use")
        if self.hold_s:
            self._loop.call_later(self.hold_s, self._give_back, request)
        else:
            self._give_back(request)

    def _write(self, request: Request, state: str) -> None:
        now = time.time()
        for node, body in request.bodies.items():
            body["state"], body["state_time"] = state, now
            body["user_data"] = {"zuul_system": self._system, "project_name": "project", "tenant_name": "tenant"}
            self._client.call(wire.put(f"{self._nodes}/{node}", json.dumps(body).encode()), self._check)

    def _check(self, error: int, _data: bytes, _at: int) -> None:
        if error:
            self.record.errors.append(f"a write: {error}")

    def _give_back(self, request: Request) -> None:
        self._write(request, "used")
        now = time.monotonic()
        for node in request.nodes:
            if self._watches_nodes:
                self._returned_at[f"{self._nodes}/{node}"] = now
            self._client.call(wire.delete(request.contenders[node]), self._check)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        self.record.finished_at.append(time.monotonic())
        del self.open[request.id]
        self.on_finished()


def _request_body(system: str, labels: tuple[str, ...]) -> bytes:
    """Return the record that Zuul 14.3 writes; it has no declined_by, nodes and reuse."""
    now = time.time()
    span = {
        "name": "RequestNodes", "trace_id": TRACE_ID, "span_id": 14676514177520838645, "trace_flags": 3,
        "start_time": int(now * 1e9), "parent": None,
    }  # fmt: skip
    requestor_data = {
        "build_set_uuid": uuid.uuid4().hex, "tenant_name": "tenant", "pipeline_name": "check",
        "job_uuid": uuid.uuid4().hex, "job_name": "job", "span_info": span,
    }  # fmt: skip
    body = {
        "requestor_data": requestor_data, "node_types": labels, "requestor": system, "created_time": now,
        "provider": None, "state": "requested", "state_time": now, "relative_priority": 0,
        "event_id": uuid.uuid4().hex, "tenant_name": "tenant",
    }  # fmt: skip
    return json.dumps(body).encode()
