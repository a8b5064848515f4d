"""The fake cloud itself: instances, limits, injected faults, and a log of all events.

The cloud is kept in memory or in a SQLite file. A file outlives the process, and other processes may read and change it
at any time; a call sees their changes when it next reads the file. Each step is one transaction, so an instance is
never half created if a process is killed. Actions that only take time (boot, deletion) are stored with the time when
they are due, and the next process that reads the cloud performs them: an instance continues to boot while no process
runs.

A step in a file takes some 0.1 ms, so calls may run on the event loop. The write-ahead log (WAL) is not flushed to
disk: the file survives a killed process, but perhaps not a power cut. A call waits for a busy file for ``patience_s``
only, by default not at all. Settings and faults are in controls.py, the ledgers in ledger.py and filed.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nodelaunch.drivers.fake.controls import CloudRefusedError, FaultKind, check_fault, check_setting
from nodelaunch.drivers.fake.filed import FileLedger
from nodelaunch.drivers.fake.ledger import CloudLedger, FakeServer, MemoryLedger, PlannedFault, node_of
from nodelaunch.drivers.fake.life import Life
from nodelaunch.protocol.driver import Fence
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM

FLAVORS: Mapping[str, Mapping[str, int]] = {
    "Fake Flavor": {CORES: 4, RAM: 8192},
    "Unreal Flavor": {CORES: 4, RAM: 8192},
}
ZONES = ("az1", "az2")
IMAGES = {"fake-image-id": "Fake Precise"}

_Beginning = tuple[str, str | None, float | None, FaultKind | None]
"""State of a new instance, its next state, the time of that, and the fault if the state is an error."""
_BOOT_FAILURES: Mapping[str, FaultKind] = {"error": "error", "timeout": "never"}
"""Random failures that show only while the instance boots, and the kind of the failure."""


class FakeCloud:
    """A cloud in the file *path*, or in memory if *path* is None. Drivers may share one; it belongs to one thread.

    The first call opens the file, and creates it if it does not exist. Every call may raise CloudRefusedError of kind
    ``unavailable`` when the file can't be used, and `CloudBusyError` when another process holds it for longer than
    *patience_s*.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        seed: int | None = None,
        patience_s: float = 0.0,
        ledger: CloudLedger | None = None,
    ) -> None:
        """*ledger*: where the cloud's content is kept, instead of in *path* or in a memory of its own."""
        self.path = path
        self._clock: Callable[[], float] = time.time if path else _loop_time
        kept_in_file = FileLedger(path, patience_s=patience_s) if path is not None else None
        self._ledger: CloudLedger = ledger or kept_in_file or MemoryLedger()
        self._life = Life(self._ledger, lambda: self.now)
        # After a restart a seed would produce the ids of instances that the file still has.
        self._ids = random.Random(seed if path is None else None)  # noqa: S311  nothing secret

    @property
    def now(self) -> float:
        """Current time of the cloud, in seconds."""
        return self._clock()

    def close(self) -> None:
        """Close the cloud permanently. Later calls are refused."""
        self._ledger.close()

    # -- looking ----------------------------------------------------------------------------------------------------

    def servers(self, *, after: int = 0, limit: int = -1) -> list[FakeServer]:
        """Return instances, oldest first: at most *limit* (negative: all) of the instances with a number above
        *after*."""
        self._life.catch_up()
        return self._ledger.servers(after, limit)

    def server(self, instance_id: str) -> FakeServer | None:
        self._life.catch_up()
        return self._ledger.find(instance_id)

    def settings(self) -> dict[str, Any]:
        """Return the settings that were set from outside."""
        return self._ledger.settings()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults still to come: call, kind, times, leaves (an instance), names (that instance in the
        error)."""
        return [
            {"call": f.call, "kind": f.kind, "times": f.times, "leaves": f.leaves, "names": f.names}
            for f in self._ledger.faults()
        ]

    def log(self) -> list[dict[str, Any]]:
        """Return all events in order: at, what, id, node_id, detail.

        Values of ``what``: create (its detail has metadata and resources), refused, active, error, deleting, gone. A
        cloud in memory has the last 10,000 entries.
        """
        self._life.catch_up()
        return [
            {"at": e.at, "what": e.what, "id": e.id, "node_id": e.node_id, "detail": e.detail}
            for e in self._ledger.log()
        ]

    def used(self) -> dict[str, float]:
        """Return the resources that all instances use together."""
        self._life.catch_up()
        return self._ledger.used()

    def peak(self) -> dict[str, float]:
        """Return the highest total use of each resource so far, to check that capacity was never exceeded."""
        self._life.catch_up()
        return self._ledger.peak()

    def version(self) -> int:
        """Return a number that changes when another process changes the file."""
        return self._ledger.version()

    def subscribe(self, instance_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* after each change of the instance through this object, until the returned function is
        called."""
        return self._life.subscribe(instance_id, listener)

    # -- changing from outside --------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Override a setting of the configuration; None removes the override. Raises: ValueError."""
        self.update({name: value})

    def update(self, settings: Mapping[str, Any]) -> None:
        """`set` all of *settings*, or none if one is wrong. Raises: ValueError."""
        checked = {name: check_setting(name, value) for name, value in settings.items()}
        with self._life.step():
            for name, value in checked.items():
                self._ledger.set(name, value)

    def fail(
        self, call: str, *, kind: str | None = None, times: int = 1, leave: bool = False, with_id: bool = True
    ) -> None:
        """Make the next *times* calls fail as *kind* says. `controls.FAULTS` lists calls and kinds.

        With *leave* a failed create leaves its instance, in ERROR for kind ``error``, otherwise in its usual state. The
        error names the instance, unless *with_id* is false. Raises: ValueError.
        """
        checked = check_fault(call, kind, times, leaves=leave)
        with self._life.step():
            self._ledger.add_fault(PlannedFault(call, checked, times, leave, with_id))

    def clear_faults(self) -> None:
        with self._life.step():
            self._ledger.clear_faults()

    def set_state(self, instance_id: str, state: str) -> bool:
        """Set an instance ``active`` or to ``error`` now. Return False if it does not exist. Raises: ValueError."""
        if state not in ("active", "error"):
            raise ValueError(f"no state {state!r} to set; there are: active, error")
        with self._life.step() as now:
            server = self._ledger.find(instance_id)
            if server is not None:
                self._life.move(server, state, now)
        return server is not None

    def add(
        self,
        *,
        name: str = "foreign",
        metadata: Mapping[str, str] | None = None,
        flavor: str = "Fake Flavor",
        zone: str = ZONES[0],
    ) -> str:
        """Create an active instance as another user of the cloud would, regardless of limits and faults. Return its
        id."""
        resources = {INSTANCES: 1, **FLAVORS[flavor]}
        with self._life.step() as now:
            image = IMAGES["fake-image-id"]
            return self._life.insert(
                FakeServer(0, self._new_id(), name, "active", None, None, None, now, flavor, image, zone, metadata or
                {},
                       resources, {}, {})
            )  # fmt: skip

    def remove(self, instance_id: str) -> bool:
        """Remove an instance without a deletion. Return False if it does not exist."""
        with self._life.step() as now:
            server = self._ledger.find(instance_id)
            if server is not None:
                self._life.drop(server, now)
        return server is not None

    # -- the driver's calls -----------------------------------------------------------------------------------------

    def check(self, call: str) -> None:
        """Refuse *call* if the cloud is down, or if a fault is set for the call. Raises: CloudRefusedError."""
        self._refuse_if_down()
        if self._ledger.has_fault(call):
            with self._life.step():
                self._spend(call)

    def _refuse_if_down(self) -> None:
        if self._ledger.settings().get("unavailable"):
            raise CloudRefusedError("unavailable", "the cloud is down")

    def create(
        self,
        *,
        name: str,
        metadata: Mapping[str, str],
        resources: Mapping[str, float],
        flavor: str | None = "Fake Flavor",
        image: str | None = "Fake Precise",
        zone: str | None = ZONES[0],
        limits: Mapping[str, float] | None = None,
        boot_time: float = 0.0,
        addresses: Mapping[str, str | None] | None = None,
        details: Mapping[str, Any] | None = None,
        failure: FaultKind | None = None,
        fence: Fence | None = None,
    ) -> str:
        """Create an instance and return its id. With *failure* the create fails: the call is refused, or, for ``error``
        and ``timeout``, the instance breaks while it boots or never becomes active.

        Raises: CloudRefusedError if a fault is set, if *fence* is stale, beyond *limits*, or for an unknown zone;
        TypeError for *details* that are not JSON.
        """
        json.dumps(details)  # a cloud in memory accepts what a file accepts
        with self._life.step() as now:
            try:
                self._refuse_if_down()
                self._refuse_if_stale(fence)
                if failure is not None and failure not in _BOOT_FAILURES:
                    raise CloudRefusedError(failure, f"random fault ({failure})")
                fault = self._spend("create")
                _admit(self._ledger.used(), resources, limits or {}, zone)
            except CloudRefusedError as error:
                self._ledger.note(now, "refused", None, node_of(metadata), _told(error))
                raise
            boot = self._ledger.take_fault("boot")
            broken = boot.kind if boot else _BOOT_FAILURES.get(failure or "")
            beginning = _beginning(fault, broken, now + max(0.0, boot_time))
            instance_id = self._life.insert(
                FakeServer(0, self._new_id(), name, *beginning, now, flavor, image, zone, metadata, resources,
                       addresses or {}, details or {})
            )  # fmt: skip
            if fault is not None:
                left = instance_id if fault.names else None
                raise CloudRefusedError(fault.kind, f"injected fault: create fails ({fault.kind})", left)
        return instance_id

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))

    def delete(self, instance_id: str, *, delete_time: float = 0.0, fence: Fence | None = None) -> FakeServer | None:
        """Start a deletion. Return the instance in its new state, or None if it is gone.

        Raises: CloudRefusedError, also when *fence* is stale.
        """
        with self._life.step() as now:
            self._refuse_if_down()
            server = self._ledger.find(instance_id)
            try:
                self._refuse_if_stale(fence)
            except CloudRefusedError as error:
                if server is not None:
                    self._ledger.note(now, "refused", instance_id, node_of(server.metadata), _told(error))
                    raise
            if server is None:
                return None
            fault = self._ledger.take_fault("delete")
            if fault is not None and fault.kind != "never":
                raise CloudRefusedError(fault.kind, f"injected fault: delete fails ({fault.kind})", instance_id)
            if fault is not None:
                self._life.move(server, "deleting", now)
            elif server.state != "deleting" or server.next_at is None:
                self._life.move(server, "deleting", now, "gone", now + max(0.0, delete_time))
                self._life.settle(now)
            return self._ledger.find(instance_id)

    def raise_fence(self, fence: Fence) -> None:
        """Make calls with lower fences stale. Raises: CloudRefusedError when *fence* itself is stale."""
        with self._life.step():
            self._refuse_if_down()
            self._refuse_if_stale(fence)

    def _refuse_if_stale(self, fence: Fence | None) -> None:
        """Within a step, record *fence* if it is the highest so far for its node. Raises: CloudRefusedError when there
        was a higher one."""
        if fence is None:
            return
        highest = self._ledger.fence(fence.node)
        if fence.number < highest:
            raise CloudRefusedError(
                "stale", f"fence {fence.number} of node {fence.node} is stale: there was a call with {highest}"
            )
        if fence.number > highest:
            self._ledger.set_fence(fence.node, fence.number)

    def _spend(self, call: str) -> PlannedFault | None:
        """Apply the next fault of *call*: raise its error, or return the fault if it leaves an instance first."""
        fault = self._ledger.take_fault(call)
        if fault is None or fault.leaves:
            return fault
        raise CloudRefusedError(fault.kind, f"injected fault: {call} fails ({fault.kind})")


def _told(error: CloudRefusedError) -> dict[str, str]:
    """Return the log's detail of a refusal."""
    return {"kind": error.kind, "message": str(error)}


def _admit(
    used: Mapping[str, float], resources: Mapping[str, float], limits: Mapping[str, float], zone: str | None
) -> None:
    """Raise CloudRefusedError for a zone that doesn't exist, and beyond *limits*."""
    if zone is not None and zone not in ZONES:
        raise CloudRefusedError("error", f"availability zone {zone} does not exist; there are: {', '.join(ZONES)}")
    for name, amount in resources.items():
        if used.get(name, 0) + amount > limits.get(name, float("inf")):
            raise CloudRefusedError("quota", f"quota exceeded for {name}")


def _beginning(fault: PlannedFault | None, broken: FaultKind | None, boots_at: float) -> _Beginning:
    if fault is not None and fault.kind == "error":
        return "error", None, None, "error"
    if broken is None:
        return "building", "active", boots_at, None
    return ("building", None, None, None) if broken == "never" else ("building", "error", boots_at, broken)


def _loop_time() -> float:
    """Return the running event loop's time, which tests may set; outside a loop, the clock that loops usually have."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
