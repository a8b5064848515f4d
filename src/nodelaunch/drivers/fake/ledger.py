"""The fake cloud's content: instances, their resources, settings, faults and a log; and the ledger in memory.

The file's ledger is in filed.py, the life of instances in life.py.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nodelaunch.drivers.fake.controls import CloudRefusedError, FaultKind
from nodelaunch.protocol.driver import METADATA_NODE_ID

LOG_KEPT = 10_000
"""Log entries that a cloud in memory keeps. A file keeps all entries."""
FENCES_KEPT = 10_000
"""Number of nodes whose fence a cloud in memory keeps. A file keeps all fences."""


@dataclass(frozen=True, slots=True)
class FakeServer:
    """Instance of the cloud. Times are wall-clock time in a file, otherwise the event loop's time."""

    number: int
    """Number of the instance: higher for each later one."""
    id: str
    name: str
    state: str
    """building, active, deleting or error. Deleted instances have no entry."""
    next_state: str | None
    next_at: float | None
    """Time of the next state, or None if no state follows."""
    fault: FaultKind | None
    """Kind of the present or future error."""
    created_at: float
    flavor: str | None
    image: str | None
    zone: str | None
    metadata: Mapping[str, str]
    resources: Mapping[str, float]
    addresses: Mapping[str, str | None]
    """``public_ipv4``, ``private_ipv4``, ``public_ipv6``."""
    details: Mapping[str, Any]
    """All other attributes of the create call: networks, security groups, key, user data."""


@dataclass(slots=True)
class PlannedFault:
    """A fault for the next ``times`` calls. ``leaves``: the failed create leaves an instance. ``names``: the error
    names it."""

    call: str
    kind: FaultKind
    times: int
    leaves: bool
    names: bool


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event of an instance, or a refusal."""

    at: float
    what: str
    id: str | None
    node_id: str | None
    detail: Any


class CloudLedger(Protocol):
    """Storage of the cloud's content. Changes are made inside `transaction` only."""

    def close(self) -> None: ...

    def transaction(self) -> AbstractContextManager[None]:
        """Run one transaction. A refusal by the cloud does not roll back: its log entry and other effects are kept."""

    def has_due(self, at: float) -> bool:
        """Return True if the next state of any instance is due by *at*."""

    def due(self, at: float) -> Iterable[FakeServer]:
        """Return the instances whose next state is due by *at*, the earliest first."""

    def find(self, instance_id: str) -> FakeServer | None: ...

    def servers(self, after: int, limit: int) -> list[FakeServer]:
        """Return at most *limit* (negative: all) of the instances with a number above *after*, oldest first."""

    def insert(self, server: FakeServer) -> None:
        """Add *server* under the next free number."""

    def move(self, server: FakeServer, state: str, next_state: str | None, next_at: float | None) -> None: ...

    def drop(self, server: FakeServer) -> None: ...

    def used(self) -> dict[str, float]:
        """Return the resources that all instances use together."""

    def peak(self) -> dict[str, float]:
        """Return the highest total use of each resource so far."""

    def fence(self, node: str) -> int:
        """Return the highest fence so far for *node*; 0: none."""

    def set_fence(self, node: str, number: int) -> None: ...

    def note(self, at: float, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None: ...

    def log(self) -> Iterable[LogEntry]: ...

    def settings(self) -> dict[str, Any]: ...

    def set(self, name: str, value: Any) -> None:
        """Set a setting; None removes it."""

    def faults(self) -> list[PlannedFault]: ...

    def has_fault(self, call: str) -> bool: ...

    def add_fault(self, fault: PlannedFault) -> None: ...

    def take_fault(self, call: str) -> PlannedFault | None:
        """Return the first fault of *call* and count it down by one."""

    def clear_faults(self) -> None: ...

    def version(self) -> int:
        """Return a number that changes when another process makes a change."""


class MemoryLedger:
    """The ledger of a cloud in memory, which ends with its process."""

    def __init__(self) -> None:
        self._servers: dict[int, FakeServer] = {}
        """Keys are numbers, so the oldest is first."""
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        self._due: list[tuple[float, int]] = []
        """Heap of times and numbers. `has_due` skips entries that are no longer valid."""
        self._used: dict[str, float] = {}
        self._peak: dict[str, float] = {}
        self._fences: dict[str, int] = {}
        self._settings: dict[str, Any] = {}
        self._faults: list[PlannedFault] = []
        self._log: deque[LogEntry] = deque(maxlen=LOG_KEPT)
        self._is_closed = False
        self._transaction = nullcontext()

    def close(self) -> None:
        self._is_closed = True

    def transaction(self) -> AbstractContextManager[None]:
        self._check()
        return self._transaction

    def _check(self) -> None:
        if self._is_closed:
            raise CloudRefusedError("unavailable", "the driver of the fake cloud is closed")

    # -- instances --------------------------------------------------------------------------------------------------

    def has_due(self, at: float) -> bool:
        self._check()
        due = self._due
        while due and due[0][0] <= at:
            when, number = due[0]
            server = self._servers.get(number)
            if server is not None and server.next_at == when:
                return True
            heapq.heappop(due)
        return False

    def due(self, at: float) -> Iterable[FakeServer]:
        found = []
        while self.has_due(at):
            found.append(self._servers[heapq.heappop(self._due)[1]])
        return found

    def find(self, instance_id: str) -> FakeServer | None:
        self._check()
        number = self._numbers.get(instance_id)
        return None if number is None else self._servers[number]

    def servers(self, after: int, limit: int) -> list[FakeServer]:
        self._check()
        numbers = list(self._servers)
        start = bisect_right(numbers, after)
        return [self._servers[number] for number in numbers[start : None if limit < 0 else start + limit]]

    def insert(self, server: FakeServer) -> None:
        self._last_number += 1
        self._numbers[server.id] = self._last_number
        self._put(replace(server, number=self._last_number))
        for name, amount in server.resources.items():
            self._used[name] = used = self._used.get(name, 0) + amount
            self._peak[name] = max(self._peak.get(name, 0), used)

    def move(self, server: FakeServer, state: str, next_state: str | None, next_at: float | None) -> None:
        self._put(replace(server, state=state, next_state=next_state, next_at=next_at))

    def _put(self, server: FakeServer) -> None:
        self._servers[server.number] = server
        if server.next_at is not None:
            heapq.heappush(self._due, (server.next_at, server.number))

    def drop(self, server: FakeServer) -> None:
        del self._servers[server.number], self._numbers[server.id]
        for name, amount in server.resources.items():
            self._used[name] -= amount

    def used(self) -> dict[str, float]:
        self._check()
        return {name: amount for name, amount in sorted(self._used.items()) if amount}

    def peak(self) -> dict[str, float]:
        self._check()
        return dict(self._peak)

    def fence(self, node: str) -> int:
        return self._fences.get(node, 0)

    def set_fence(self, node: str, number: int) -> None:
        self._fences.pop(node, None)
        self._fences[node] = number
        if len(self._fences) > FENCES_KEPT:
            del self._fences[next(iter(self._fences))]

    # -- the log, settings and faults -------------------------------------------------------------------------------

    def note(self, at: float, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None:
        self._log.append(LogEntry(at, what, instance_id, node_id, detail))

    def log(self) -> Iterable[LogEntry]:
        self._check()
        return list(self._log)

    def settings(self) -> dict[str, Any]:
        self._check()
        return dict(self._settings)

    def set(self, name: str, value: Any) -> None:
        if value is None:
            self._settings.pop(name, None)
        else:
            self._settings[name] = value

    def faults(self) -> list[PlannedFault]:
        self._check()
        return list(self._faults)

    def has_fault(self, call: str) -> bool:
        self._check()
        return any(fault.call == call for fault in self._faults)

    def add_fault(self, fault: PlannedFault) -> None:
        self._faults.append(fault)

    def take_fault(self, call: str) -> PlannedFault | None:
        for fault in self._faults:
            if fault.call == call:
                fault.times -= 1
                if fault.times < 1:
                    self._faults.remove(fault)
                return fault
        return None

    def clear_faults(self) -> None:
        self._faults.clear()

    def version(self) -> int:
        return 0


def node_of(metadata: Mapping[str, str]) -> str | None:
    """Return the id of the node that an instance was created for, from its metadata."""
    return metadata.get(METADATA_NODE_ID)
