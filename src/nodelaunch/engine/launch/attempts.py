"""Reports the results of attempts to launch the nodes of one request, and the durations of their stages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from nodelaunch.decisions import machine as m
from nodelaunch.engine.nodelocks import HeldNode, PoolContext
from nodelaunch.protocol.events import LaunchEnded, Stage
from nodelaunch.protocol.records import NodeRequest

RESULTS: Mapping[type[object], str] = {m.NodeReady: "ready", m.NodeFailed: "failed", m.NodeAborted: "aborted"}
"""Results by the event with which an attempt ends; an attempt with another event was cancelled."""


@dataclass(slots=True)
class Attempt:
    """An attempt at a launch, with its progress."""

    queue_s: float
    quota_s: float
    held: HeldNode | None = None
    error: Exception | None = None
    event: m.Event | None = None
    """The event with which the attempt ended."""

    def has(self, held: HeldNode) -> None:
        """Note that the node is *held*; later work for the node is a stage of the attempt."""
        self.held = held
        held.stages.begin(queue=self.queue_s, quota=self.quota_s)

    def stages(self) -> tuple[Stage, ...]:
        return tuple(self.held.stages) if self.held else (("queue", self.queue_s), ("quota", self.quota_s))


class Attempts:
    """The attempts of one request, which was made at *asked_at*, in seconds since 1970."""

    def __init__(self, ctx: PoolContext, request: NodeRequest, asked_at: float) -> None:
        self._ctx = ctx
        self._request = request
        self._asked_at = asked_at
        self._waited_s: dict[int, float] = {}
        """Seconds that each slot has waited for capacity since its last attempt."""
        self._first_began: dict[int, float] = {}
        """Start of the first attempt of each slot, by the loop's clock."""

    @contextmanager
    def waiting(self, slot: int) -> Iterator[None]:
        """Count the time inside the block as waiting of *slot* for capacity."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self._waited_s[slot] = self._waited_s.get(slot, 0.0) + loop.time() - began

    async def run(self, slot: int, number: int, launch: Callable[[int, int, Attempt], Awaitable[m.Event]]) -> m.Event:
        """Run attempt *number* of *slot* with *launch*, and report its end to listeners."""
        loop = asyncio.get_running_loop()
        began, quota_s, queue_s = loop.time(), self._waited_s.pop(slot, 0.0), 0.0
        if number == 1:
            self._first_began[slot] = began
            queue_s = max(0.0, self._ctx.clock.now() - self._asked_at - quota_s)
        attempt = Attempt(queue_s, quota_s)
        try:
            attempt.event = await launch(slot, number, attempt)
            return attempt.event
        finally:
            if self._ctx.provider.events.wants(LaunchEnded):
                self._report(slot, number, attempt, began)

    def _report(self, slot: int, number: int, attempt: Attempt, began: float) -> None:
        now = asyncio.get_running_loop().time()
        ctx, request, held, error = self._ctx, self._request, attempt.held, attempt.error
        events = ctx.provider.events
        events.emit(
            LaunchEnded(
                at=events.now(),
                request_id=request.id,
                node_id=held.id if held else None,
                provider=ctx.provider.name,
                pool=ctx.pool.name,
                label=request.node_types[slot],
                zone=held.node.az if held else None,
                requestor=request.requestor,
                attempt=number,
                result=RESULTS.get(type(attempt.event), "cancelled"),
                error=type(error).__name__ if error else None,
                detail=str(error) if error else None,
                took_s=now - began,
                so_far_s=now - self._first_began.get(slot, began),
                stages=attempt.stages(),
            )
        )
