"""The fake cloud itself: instances, limits, faults to inject, and a log of everything that happened.

Kept in SQLite, in memory or in a file. In a file it outlives the process, and other processes may read and change it at
any time; a call sees what they did at its next look. Each step is one transaction, so a process killed at any moment
leaves an instance created or not created, never half. What only takes time (booting, being deleted) is stored with the
time it is due, and done by whoever looks next: an instance boots on while no process runs.

A step takes some 0.1 ms: the log is written ahead (WAL) without waiting for the disk, which keeps it whole when a
process is killed, if not when the power goes, and a busy file is never waited for unless asked (``patience_s``). So
calls may run on the event loop.
What does *not* belong here: pools, labels and waiting (driver.py), and what may be set and broken (controls.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodelaunch.drivers.fake.controls import CloudRefusedError, FaultKind, check_fault, check_setting
from nodelaunch.drivers.fake.database import Database
from nodelaunch.protocol.driver import METADATA_NODE_ID
from nodelaunch.protocol.quota import CORES, INSTANCES, RAM

FLAVORS: Mapping[str, Mapping[str, int]] = {
    "Fake Flavor": {CORES: 4, RAM: 8192},
    "Unreal Flavor": {CORES: 4, RAM: 8192},
}
ZONES = ("az1", "az2")
IMAGES = {"fake-image-id": "Fake Precise"}

TICK_S = 1e-3
"""What is due within this is due now: timers of an event loop may fire a hair early."""
_Beginning = tuple[str, str | None, float | None, FaultKind | None]
"""A new instance's state, what follows when, and why if that is an error."""
_BOOT_FAILURES: Mapping[str, FaultKind] = {"error": "error", "timeout": "never"}
"""Random failures that show only while the instance boots, and how."""
_SELECT = (
    "SELECT number, id, name, state, next_state, next_at, fault, created_at, flavor, image, zone, metadata, resources,"
    " addresses, details FROM instances"
)


@dataclass(frozen=True, slots=True)
class Server:
    """One instance as the cloud has it. Times are the cloud's: of the wall in a file, else of the event loop."""

    number: int
    """Grows with each instance made."""
    id: str
    name: str
    state: str
    """building, active, deleting or error; what was deleted is not there any more."""
    next_state: str | None
    next_at: float | None
    """When the next state comes, or None if it never does."""
    fault: FaultKind | None
    """Why it is, or will be, in error."""
    created_at: float
    flavor: str | None
    image: str | None
    zone: str | None
    metadata: Mapping[str, str]
    resources: Mapping[str, float]
    addresses: Mapping[str, str | None]
    """``public_ipv4``, ``private_ipv4``, ``public_ipv6``."""
    details: Mapping[str, Any]
    """Whatever else it was created with: networks, security groups, key, user data."""


class FakeCloud:
    """Open with a file, or without one for a cloud in memory; drivers may share it. Belongs to the thread using it.

    The file is opened, and made if need be, by the first call. Every call may raise CloudRefusedError of kind
    ``unavailable`` when the file can't be used, and `CloudBusyError` when another process holds it for longer than
    *patience_s*.
    """

    def __init__(self, path: Path | None = None, *, seed: int | None = None, patience_s: float = 0.0) -> None:
        self.path = path
        self._db = Database(path, patience_s=patience_s)
        self._clock: Callable[[], float] = time.time if path else _loop_time
        self._touched: set[str] = set()
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        # Ids from a seed come again after a restart, when instances in a file still have them.
        self._ids = random.Random(seed if path is None else None)  # noqa: S311  nothing secret

    @property
    def now(self) -> float:
        """The cloud's time, seconds."""
        return self._clock()

    def close(self) -> None:
        """Close the file. In memory: forget everything."""
        self._db.close()

    # -- steps ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self) -> Iterator[float]:
        """One transaction, at the time it gives; what is due by then is done first. Listeners hear of it afterwards."""
        self._touched = set()
        try:
            with self._db.transaction():
                now = self.now
                self._settle(now)
                yield now
        finally:
            for instance_id in sorted(self._touched):
                for listener in tuple(self._listeners.get(instance_id, ())):
                    listener()

    def _rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What *query* gives, as of now. Not to be used within a step."""
        if self._db.rows("SELECT 1 FROM instances WHERE next_at <= ? LIMIT 1", self.now + TICK_S):
            with self._step():
                pass
        return self._db.rows(query, *parameters)

    def _find(self, instance_id: str) -> Server | None:
        """The instance as last stored."""
        rows = self._db.rows(f"{_SELECT} WHERE id = ?", instance_id)
        return _server(rows[0]) if rows else None

    def _settle(self, now: float) -> None:
        """Do what is due, in the order of its times."""
        for server in map(
            _server, self._db.rows(f"{_SELECT} WHERE next_at <= ? ORDER BY next_at, number", now + TICK_S)
        ):
            at = server.next_at or now
            if server.next_state == "gone":
                self._drop(server, at)
            else:
                self._move(server, server.next_state or server.state, at)

    def _move(
        self, server: Server, state: str, at: float, next_state: str | None = None, next_at: float | None = None
    ) -> None:
        query = "UPDATE instances SET state = ?, next_state = ?, next_at = ? WHERE number = ?"
        self._db.run(query, state, next_state, next_at, server.number)
        self._note(at, state, server.id, server.metadata)

    def _drop(self, server: Server, at: float) -> None:
        self._db.run("DELETE FROM instances WHERE number = ?", server.number)
        self._count(server.resources, -1)
        self._note(at, "gone", server.id, server.metadata)

    def _count(self, resources: Mapping[str, float], sign: int) -> None:
        query = "INSERT INTO used VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
        for name, amount in resources.items():
            self._db.run(query, name, sign * amount)

    def _note(
        self, at: float, what: str, instance_id: str | None, metadata: Mapping[str, str], detail: Any = None
    ) -> None:
        if instance_id is not None:
            self._touched.add(instance_id)
        query = "INSERT INTO log (at, what, id, node_id, detail) VALUES (?, ?, ?, ?, ?)"
        self._db.run(query, at, what, instance_id, metadata.get(METADATA_NODE_ID), json.dumps(detail))

    # -- looking ----------------------------------------------------------------------------------------------------

    def servers(self, *, after: int = 0, limit: int = -1) -> list[Server]:
        """Instances, oldest first: those with a number above *after*, at most *limit* (negative: all)."""
        return [_server(row) for row in self._rows(f"{_SELECT} WHERE number > ? ORDER BY number LIMIT ?", after, limit)]

    def server(self, instance_id: str) -> Server | None:
        rows = self._rows(f"{_SELECT} WHERE id = ?", instance_id)
        return _server(rows[0]) if rows else None

    def settings(self) -> dict[str, Any]:
        """What was set from outside."""
        return {name: json.loads(value) for name, value in self._rows("SELECT name, value FROM settings ORDER BY name")}

    def faults(self) -> list[dict[str, Any]]:
        """Faults still to come: call, kind, times, leaves (an instance), names (it in the error)."""
        rows = self._rows("SELECT call, kind, times, leaves, names FROM faults ORDER BY number")
        return [
            {"call": call, "kind": kind, "times": times, "leaves": bool(leaves), "names": bool(names)}
            for call, kind, times, leaves, names in rows
        ]

    def log(self) -> list[dict[str, Any]]:
        """Everything that happened, in order: at, what, id, node_id, detail.

        What: create (its detail has metadata and resources), refused, active, error, deleting, gone.
        """
        rows = self._rows("SELECT at, what, id, node_id, detail FROM log ORDER BY number")
        names = ("at", "what", "id", "node_id")
        return [{**dict(zip(names, row, strict=False)), "detail": json.loads(row[-1])} for row in rows]

    def used(self) -> dict[str, float]:
        """What all instances take together."""
        return dict(self._rows("SELECT resource, amount FROM used WHERE amount != 0 ORDER BY resource"))

    def peak(self) -> dict[str, float]:
        """The most that was ever taken of each resource, by the log: to check that capacity was never exceeded."""
        taken: dict[str, Mapping[str, float]] = {}
        used: dict[str, float] = {}
        most: dict[str, float] = {}
        for entry in self.log():
            if entry["what"] == "create":
                taken[entry["id"]] = entry["detail"]["resources"]
                for name, amount in taken[entry["id"]].items():
                    used[name] = used.get(name, 0) + amount
                    most[name] = max(most.get(name, 0), used[name])
            elif entry["what"] == "gone":
                for name, amount in taken.pop(entry["id"]).items():
                    used[name] -= amount
        return most

    def version(self) -> int:
        """Differs after another process changed the file."""
        return int(self._db.rows("PRAGMA data_version")[0][0])

    def subscribe(self, instance_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Have *listener* called after each change of the instance through this object, at once, until the function
        given back is called."""
        self._listeners.setdefault(instance_id, []).append(listener)

        def unsubscribe() -> None:
            self._listeners[instance_id].remove(listener)
            if not self._listeners[instance_id]:
                del self._listeners[instance_id]

        return unsubscribe

    # -- changing from outside --------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Override a setting of the configuration; None gives it back to the configuration. Raises: ValueError."""
        self.update({name: value})

    def update(self, settings: Mapping[str, Any]) -> None:
        """`set` several, or none if one is wrong."""
        checked = {name: check_setting(name, value) for name, value in settings.items()}
        with self._step():
            for name, value in checked.items():
                self._db.run("DELETE FROM settings WHERE name = ?", name)
                if value is not None:
                    self._db.run("INSERT INTO settings VALUES (?, ?)", name, json.dumps(value))

    def fail(
        self, call: str, *, kind: str | None = None, times: int = 1, leave: bool = False, with_id: bool = True
    ) -> None:
        """Let the next *times* calls fail, as *kind* says; calls and kinds are those of `controls.FAULTS`.

        With *leave* a failed create leaves its instance, in ERROR for kind ``error``, else as if all were well; its
        error names the instance, unless *with_id* is false. Raises: ValueError.
        """
        checked = check_fault(call, kind, times, leaves=leave)
        query = "INSERT INTO faults (call, kind, times, leaves, names) VALUES (?, ?, ?, ?, ?)"
        with self._step():
            self._db.run(query, call, checked, times, int(leave), int(with_id))

    def clear_faults(self) -> None:
        with self._step():
            self._db.run("DELETE FROM faults")

    def set_state(self, instance_id: str, state: str) -> bool:
        """Let an instance be ``active`` or in ``error`` now; whether there is one. Raises: ValueError."""
        if state not in ("active", "error"):
            raise ValueError(f"no state {state!r} to set; there are: active, error")
        with self._step() as now:
            server = self._find(instance_id)
            if server is not None:
                self._move(server, state, now)
        return server is not None

    def add(
        self,
        *,
        name: str = "foreign",
        metadata: Mapping[str, str] | None = None,
        flavor: str = "Fake Flavor",
        zone: str = ZONES[0],
    ) -> str:
        """Make an active instance as somebody else would, whatever limits and faults there are; its id."""
        resources = {INSTANCES: 1, **FLAVORS[flavor]}
        with self._step() as now:
            named = (name, flavor, IMAGES["fake-image-id"], zone)
            return self._insert(now, ("active", None, None, None), named, metadata or {}, resources, {}, {})

    def remove(self, instance_id: str) -> bool:
        """Let an instance vanish; whether there was one."""
        with self._step() as now:
            server = self._find(instance_id)
            if server is not None:
                self._drop(server, now)
        return server is not None

    # -- what the driver asks ---------------------------------------------------------------------------------------

    def check(self, call: str) -> None:
        """Refuse *call* if the cloud is down, or is to fail it. Raises: CloudRefusedError."""
        self._refuse_if_down()
        if self._db.rows("SELECT 1 FROM faults WHERE call = ? LIMIT 1", call):
            with self._step():
                self._spend(call)

    def _refuse_if_down(self) -> None:
        if self._db.rows("SELECT 1 FROM settings WHERE name = 'unavailable' AND value = 'true'"):
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
    ) -> str:
        """Make an instance; its id. With *failure* it comes to nothing: it is refused, or, for ``error`` and
        ``timeout``, breaks while it boots or never boots.

        Raises: CloudRefusedError, as a fault says; beyond *limits*; for a zone that doesn't exist.
        """
        with self._step() as now:
            try:
                self._refuse_if_down()
                if failure is not None and failure not in _BOOT_FAILURES:
                    raise CloudRefusedError(failure, f"random fault ({failure})")
                fault = self._spend("create")
                self._admit(resources, limits or {}, zone)
            except CloudRefusedError as error:
                self._note(now, "refused", None, metadata, {"kind": error.kind, "message": str(error)})
                raise
            boot = self._next_fault("boot")
            broken = boot.kind if boot else _BOOT_FAILURES.get(failure or "")
            beginning = self._beginning(fault, broken, now + max(0.0, boot_time))
            content = (metadata, resources, addresses or {}, details or {})
            instance_id = self._insert(now, beginning, (name, flavor, image, zone), *content)
            if fault is not None:
                left = instance_id if fault.names else None
                raise CloudRefusedError(fault.kind, f"injected fault: create fails ({fault.kind})", left)
        return instance_id

    def _insert(
        self,
        now: float,
        beginning: _Beginning,
        named: tuple[str, str | None, str | None, str | None],
        metadata: Mapping[str, str],
        resources: Mapping[str, float],
        *more: Mapping[str, Any],
    ) -> str:
        instance_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        texts = [json.dumps(dict(each)) for each in (metadata, resources, *more)]
        query = (
            "INSERT INTO instances (state, next_state, next_at, fault, name, flavor, image, zone, id, created_at,"
            " metadata, resources, addresses, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self._db.run(query, *beginning, *named, instance_id, now, *texts)
        self._count(resources, +1)
        made = {"metadata": dict(metadata), "resources": dict(resources)}
        self._note(now, "create", instance_id, metadata, made)
        self._settle(now)
        return instance_id

    def _admit(self, resources: Mapping[str, float], limits: Mapping[str, float], zone: str | None) -> None:
        if zone is not None and zone not in ZONES:
            raise CloudRefusedError("error", f"availability zone {zone} does not exist; there are: {', '.join(ZONES)}")
        used = dict(self._db.rows("SELECT resource, amount FROM used"))
        for name, amount in resources.items():
            if used.get(name, 0) + amount > limits.get(name, float("inf")):
                raise CloudRefusedError("quota", f"quota exceeded for {name}")

    @staticmethod
    def _beginning(fault: _Fault | None, broken: FaultKind | None, boots_at: float) -> _Beginning:
        if fault is not None and fault.kind == "error":
            return "error", None, None, "error"
        if broken is None:
            return "building", "active", boots_at, None
        return ("building", None, None, None) if broken == "never" else ("building", "error", boots_at, broken)

    def delete(self, instance_id: str, *, delete_time: float = 0.0) -> Server | None:
        """Begin to delete; the instance as it is now, None when it is gone. Raises: CloudRefusedError."""
        with self._step() as now:
            self._refuse_if_down()
            server = self._find(instance_id)
            if server is None:
                return None
            fault = self._next_fault("delete")
            if fault is not None and fault.kind != "never":
                raise CloudRefusedError(fault.kind, f"injected fault: delete fails ({fault.kind})", instance_id)
            if fault is not None:
                self._move(server, "deleting", now)
            elif server.state != "deleting" or server.next_at is None:
                self._move(server, "deleting", now, "gone", now + max(0.0, delete_time))
                self._settle(now)
            return self._find(instance_id)

    def _next_fault(self, call: str) -> _Fault | None:
        """Take one injected fault of *call*."""
        query = "SELECT number, kind, leaves, names FROM faults WHERE call = ? ORDER BY number LIMIT 1"
        for number, kind, leaves, names in self._db.rows(query, call):
            self._db.run("UPDATE faults SET times = times - 1 WHERE number = ?", number)
            self._db.run("DELETE FROM faults WHERE times < 1")
            return _Fault(kind, bool(leaves), bool(names))
        return None

    def _spend(self, call: str) -> _Fault | None:
        """Fail *call* if it is to fail; the fault, where it leaves an instance first."""
        fault = self._next_fault(call)
        if fault is None or fault.leaves:
            return fault
        raise CloudRefusedError(fault.kind, f"injected fault: {call} fails ({fault.kind})")


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: FaultKind
    leaves: bool
    names: bool


def _loop_time() -> float:
    """The running event loop's time, which tests may set; outside one, that which loops usually have."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def _server(row: tuple[Any, ...]) -> Server:
    *plain, metadata, resources, addresses, details = row
    return Server(*plain, *map(json.loads, (metadata, resources, addresses, details)))
