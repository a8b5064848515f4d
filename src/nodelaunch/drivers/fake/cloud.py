"""The fake cloud itself: instances, limits, faults to inject, and a log of everything that happened.

Kept in SQLite, in memory or in a file. In a file it outlives the process, and other processes may read and change it at
any time; a call sees what they did at its next look. Each step is one transaction, so a process killed at any moment
leaves an instance created or not created, never half. Calls take well under a millisecond (no waiting for the disk:
what a power cut does to a fake cloud is no matter), so they run on the event loop.
What does *not* belong here: nodes, labels, anything of nodelaunch's; drivers/fake/driver.py translates.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FaultKind = Literal["error", "quota", "capacity", "timeout", "unavailable"]
FAULT_KINDS: tuple[FaultKind, ...] = ("error", "quota", "capacity", "timeout", "unavailable")
FAULT_CALLS = ("create", "boot", "delete", "list")

FLAVORS: Mapping[str, Mapping[str, int]] = {
    "Fake Flavor": {"ram": 8192, "cores": 4},
    "Unreal Flavor": {"ram": 8192, "cores": 4},
}
ZONES = ("az1", "az2")
IMAGES = {"fake-image-id": "Fake Precise"}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY, name TEXT, state TEXT, flavor TEXT, zone TEXT, active_at REAL, gone_at REAL,
    metadata TEXT, resources TEXT, details TEXT);
CREATE TABLE IF NOT EXISTS faults (
    number INTEGER PRIMARY KEY AUTOINCREMENT, call TEXT, kind TEXT, times INTEGER, leave INTEGER);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, what TEXT, id TEXT, detail TEXT);
"""


class CloudRefusedError(Exception):
    """The cloud says no, in the way *kind* names; ``instance_id`` is set where it left an instance all the same."""

    def __init__(self, kind: FaultKind, message: str, instance_id: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.instance_id = instance_id


@dataclass(frozen=True, slots=True)
class Server:
    """One instance as the cloud has it. Times are the cloud's clock, seconds."""

    id: str
    name: str
    state: str
    """building, active, deleting or error; a building one is active from ``active_at`` on."""
    flavor: str | None
    zone: str | None
    active_at: float
    gone_at: float | None
    metadata: Mapping[str, str]
    resources: Mapping[str, float]
    details: Mapping[str, Any]
    """Whatever else it was created with: addresses, image, networks, key, user data."""


class FakeCloud:
    """Open with a file, or without one for a cloud in memory. Not bound to an event loop."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _step(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException as error:
            self._db.execute("COMMIT" if isinstance(error, CloudRefusedError) else "ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _note(self, now: float, what: str, instance_id: str | None, detail: Any = None) -> None:
        self._db.execute(
            "INSERT INTO log (at, what, id, detail) VALUES (?, ?, ?, ?)", (now, what, instance_id, json.dumps(detail))
        )

    # -- looking ----------------------------------------------------------------------------------------------------

    def servers(self) -> list[Server]:
        """Everything there is, oldest first."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM instances ORDER BY rowid")  # noqa: S608  constant
        return [_server(row) for row in rows]

    def server(self, instance_id: str) -> Server | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM instances WHERE id = ?", (instance_id,)).fetchone()  # noqa: S608  constant
        return _server(row) if row else None

    def setting(self, name: str) -> Any:
        """The value set from outside; None where none was."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def settings(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM settings")}

    def faults(self) -> list[dict[str, Any]]:
        """Faults still to come."""
        names = ("number", "call", "kind", "times", "leave")
        rows = self._db.execute("SELECT number, call, kind, times, leave FROM faults ORDER BY number")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def log(self) -> list[dict[str, Any]]:
        """Everything that happened, in order: at, what (create, delete, gone, refused, ...), id, detail."""
        rows = self._db.execute("SELECT at, what, id, detail FROM log ORDER BY number")
        return [{"at": at, "what": what, "id": id_, "detail": json.loads(detail)} for at, what, id_, detail in rows]

    # -- changing from outside --------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Override a setting of the configuration; None gives it back to the configuration."""
        with self._step():
            if value is None:
                self._db.execute("DELETE FROM settings WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))

    def fail(self, call: str, *, kind: FaultKind = "error", times: int = 1, leave: bool = False) -> None:
        """Let the next *times* calls fail as *kind* says; with *leave*, a failed create leaves its instance."""
        with self._step():
            self._db.execute(
                "INSERT INTO faults (call, kind, times, leave) VALUES (?, ?, ?, ?)", (call, kind, times, int(leave))
            )

    def clear_faults(self) -> None:
        with self._step():
            self._db.execute("DELETE FROM faults")

    def set_state(self, instance_id: str, state: str) -> None:
        with self._step():
            self._db.execute("UPDATE instances SET state = ? WHERE id = ?", (state, instance_id))

    # -- calls of the driver ----------------------------------------------------------------------------------------

    def check(self, call: str) -> None:
        """Spend a fault injected for *call*, if there is one. Raises: CloudRefusedError."""
        with self._step():
            self._spend(call)

    def _spend(self, call: str) -> bool:
        row = self._db.execute(
            "SELECT number, kind, times, leave FROM faults WHERE call = ? ORDER BY number LIMIT 1", (call,)
        ).fetchone()
        if row is None:
            return False
        number, kind, times, leave = row
        if times <= 1:
            self._db.execute("DELETE FROM faults WHERE number = ?", (number,))
        else:
            self._db.execute("UPDATE faults SET times = ? WHERE number = ?", (times - 1, number))
        if leave:
            return True
        raise CloudRefusedError(kind, f"injected fault: {call} fails ({kind})")

    def create(
        self,
        *,
        now: float,
        name: str,
        flavor: str,
        zone: str | None,
        metadata: Mapping[str, str],
        resources: Mapping[str, float],
        limits: Mapping[str, float],
        boot_time: float,
        details: Mapping[str, Any],
    ) -> str:
        """Make an instance; its id. Raises: CloudRefusedError, beyond *limits* among other things."""
        instance_id = str(uuid.uuid4())
        with self._step():
            is_left = self._spend("create")
            used = self._used()
            for resource, amount in resources.items():
                if used.get(resource, 0) + amount > limits.get(resource, float("inf")):
                    self._note(now, "refused", None, {"resource": resource})
                    raise CloudRefusedError("quota", f"quota exceeded for {resource}")
            row = (
                instance_id, name, "error" if is_left else "building", flavor, zone, now + boot_time, None,
                json.dumps(dict(metadata)), json.dumps(dict(resources)), json.dumps(dict(details)),
            )  # fmt: skip
            self._db.execute("INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._note(now, "create", instance_id, {"metadata": dict(metadata), "resources": dict(resources)})
            if is_left:
                raise CloudRefusedError("error", "injected fault: create fails, the instance stays", instance_id)
        return instance_id

    def _used(self) -> dict[str, float]:
        used: dict[str, float] = {}
        for (resources,) in self._db.execute("SELECT resources FROM instances"):
            for resource, amount in json.loads(resources).items():
                used[resource] = used.get(resource, 0) + amount
        return used

    def begin_delete(self, instance_id: str, *, now: float, delete_time: float) -> float | None:
        """Start deleting; when it will be gone, None if it is gone already. Raises: CloudRefusedError."""
        with self._step():
            row = self._db.execute("SELECT gone_at FROM instances WHERE id = ?", (instance_id,)).fetchone()
            if row is None:
                return None
            self._spend("delete")
            if row[0] is None:
                self._db.execute(
                    "UPDATE instances SET state = 'deleting', gone_at = ? WHERE id = ?",
                    (now + delete_time, instance_id),
                )
                self._note(now, "delete", instance_id)
                return now + delete_time
            return float(row[0])

    def finish_delete(self, instance_id: str, *, now: float) -> None:
        """Let the instance be gone."""
        with self._step():
            deleted = self._db.execute("DELETE FROM instances WHERE id = ?", (instance_id,)).rowcount
            if deleted:
                self._note(now, "gone", instance_id)


_COLUMNS = "id, name, state, flavor, zone, active_at, gone_at, metadata, resources, details"


def _server(row: tuple[Any, ...]) -> Server:
    id_, name, state, flavor, zone, active_at, gone_at, metadata, resources, details = row
    texts = json.loads(metadata), json.loads(resources), json.loads(details)
    return Server(id_, name, state, flavor, zone, active_at, gone_at, *texts)
