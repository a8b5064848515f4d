"""Requests backing nodes for all waiters, and gives each waiter the result.

A waiter without a free slot takes a seat in an order: one request for one backing node, with one seat for each of its
slots. Orders exist in this process only; their requests and waiters end with it. slots.py assigns slots, regardless of
who ordered the backing node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nodelaunch.drivers.metastatic.config import MetastaticLabel
from nodelaunch.errors import DriverError, LaunchFailedError, ProviderUnavailableError, RequestFailedError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.cluster import Leases
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState

log: Logger = get_logger(__name__)


@dataclass(eq=False, slots=True)
class BackingOrder:
    """Request for one backing node."""

    label: MetastaticLabel
    waiters: set[SlotWaiter] = field(default_factory=set)
    is_accepted: bool = False
    """True once a pool has accepted the request."""
    task: asyncio.Task[None] | None = None

    @property
    def has_seat(self) -> bool:
        return len(self.waiters) < self.label.max_parallel_jobs


@dataclass(eq=False, slots=True)
class SlotWaiter:
    """A launch that waits for a slot."""

    label: MetastaticLabel
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be a slot, or when the order has failed."""
    order: BackingOrder | None = None
    failure: DriverError | None = None


class Supply:
    """The orders of one provider in this process. Orders run while `attached` is active."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._orders: list[BackingOrder] = []
        self._waiters: dict[SlotWaiter, None] = {}
        """Waiters in the order of arrival, in which they are also woken."""
        self._at_work: tuple[asyncio.TaskGroup, Leases] | None = None

    @contextmanager
    def attached(self, group: asyncio.TaskGroup, leases: Leases) -> Iterator[None]:
        """Run orders in *group*. Unfinished orders are cancelled at the end."""
        self._at_work = (group, leases)
        stop = leases.subscribe(self.wake)
        try:
            yield
        finally:
            self._at_work = None
            stop()
            self.wake()

    def wake(self) -> None:
        """Make all waiters check for slots again."""
        for waiter in self._waiters:
            waiter.woken.set()

    @contextmanager
    def waiter(self, label: MetastaticLabel) -> Iterator[SlotWaiter]:
        """Yield a waiter for *label*. At the end it leaves its seat."""
        waiter = SlotWaiter(label)
        self._waiters[waiter] = None
        try:
            yield waiter
        finally:
            del self._waiters[waiter]
            if waiter.order is not None:
                self._leave(waiter, waiter.order)

    def take_seat(self, waiter: SlotWaiter) -> None:
        """Give *waiter* a seat in an order for a backing node.

        Raises: LaunchFailedError when the last order failed, ProviderUnavailableError when none can be placed.
        """
        if waiter.failure is not None:
            raise waiter.failure
        if waiter.order is None:
            open_ones = (order for order in self._orders if order.label.name == waiter.label.name and order.has_seat)
            waiter.order = next(open_ones, None) or self._order(waiter.label)
            waiter.order.waiters.add(waiter)

    def _order(self, label: MetastaticLabel) -> BackingOrder:
        if self._at_work is None:
            raise ProviderUnavailableError(
                "metastatic upkeep is not running, so no backing node can be requested", provider=self._provider
            )
        group, leases = self._at_work
        order = BackingOrder(label)
        self._orders.append(order)
        order.task = group.create_task(self._fulfil(order, leases), name=f"backing node for {label.name}")
        return order

    def _leave(self, waiter: SlotWaiter, order: BackingOrder) -> None:
        """Cancel an order without waiters, unless a pool has accepted it: then its backing node serves the next
        waiter."""
        order.waiters.discard(waiter)
        if not order.waiters and not order.is_accepted and order.task is not None:
            order.task.cancel()
            self._close(order, None)

    async def _fulfil(self, order: BackingOrder, leases: Leases) -> None:
        def progress(request: NodeRequest) -> None:
            order.is_accepted = request.state is not RequestState.REQUESTED

        label = order.label
        failure: tuple[type[DriverError], str] | None = None
        try:
            await leases.obtain(label.backing_label, label=label.name, slots=label.max_parallel_jobs, progress=progress)
        except RequestFailedError as error:
            failure = (LaunchFailedError, f"no backing node: {error}")
        except StoreError as error:
            failure = (ProviderUnavailableError, f"no backing node: {error}")
        except Exception as error:
            log.exception("backing_request_broken", provider=self._provider, label=label.name)
            failure = (LaunchFailedError, f"no backing node: {error!r}")
        if failure is not None:
            log.warning("backing_request_failed", provider=self._provider, label=label.name, detail=failure[1])
        self._close(order, failure)

    def _close(self, order: BackingOrder, failure: tuple[type[DriverError], str] | None) -> None:
        """End the order. Its waiters look for a slot, or get the *failure*."""
        if order in self._orders:
            self._orders.remove(order)
        for waiter in order.waiters:
            waiter.order = None
            if failure is not None:
                kind, detail = failure
                waiter.failure = kind(detail, provider=self._provider)
            waiter.woken.set()
        order.waiters.clear()
