"""The fake cloud's ledger in a SQLite file, which outlives the process and which other processes may change.

Tables and transactions are in database.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nodelaunch.drivers.fake.database import Database
from nodelaunch.drivers.fake.ledger import FakeServer, LogEntry, PlannedFault

_SELECT = (
    "SELECT number, id, name, state, next_state, next_at, fault, created_at, flavor, image, zone, metadata, resources,"
    " addresses, details FROM instances"
)


class FileLedger:
    """The `CloudLedger` in the file at *path*. Every call may raise CloudRefusedError and CloudBusyError, as `Database`
    does."""

    def __init__(self, path: Path, *, patience_s: float) -> None:
        self._db = Database(path, patience_s=patience_s)

    def close(self) -> None:
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        return self._db.transaction()

    # -- instances --------------------------------------------------------------------------------------------------

    def has_due(self, at: float) -> bool:
        return bool(self._db.rows("SELECT 1 FROM instances WHERE next_at <= ? LIMIT 1", at))

    def due(self, at: float) -> Iterable[FakeServer]:
        return [_server(row) for row in self._db.rows(f"{_SELECT} WHERE next_at <= ? ORDER BY next_at, number", at)]

    def find(self, instance_id: str) -> FakeServer | None:
        rows = self._db.rows(f"{_SELECT} WHERE id = ?", instance_id)
        return _server(rows[0]) if rows else None

    def servers(self, after: int, limit: int) -> list[FakeServer]:
        rows = self._db.rows(f"{_SELECT} WHERE number > ? ORDER BY number LIMIT ?", after, limit)
        return [_server(row) for row in rows]

    def insert(self, server: FakeServer) -> None:
        s = server
        texts = [json.dumps(dict(each)) for each in (s.metadata, s.resources, s.addresses, s.details)]
        self._db.run(
            "INSERT INTO instances (id, name, state, next_state, next_at, fault, created_at, flavor, image, zone,"
            " metadata, resources, addresses, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            s.id, s.name, s.state, s.next_state, s.next_at, s.fault, s.created_at, s.flavor, s.image, s.zone, *texts,
        )  # fmt: skip
        self._count(server, +1)

    def move(self, server: FakeServer, state: str, next_state: str | None, next_at: float | None) -> None:
        query = "UPDATE instances SET state = ?, next_state = ?, next_at = ? WHERE number = ?"
        self._db.run(query, state, next_state, next_at, server.number)

    def drop(self, server: FakeServer) -> None:
        self._db.run("DELETE FROM instances WHERE number = ?", server.number)
        self._count(server, -1)

    def _count(self, server: FakeServer, sign: int) -> None:
        query = "INSERT INTO used VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
        for name, amount in server.resources.items():
            self._db.run(query, name, sign * amount)

    def used(self) -> dict[str, float]:
        return dict(self._db.rows("SELECT resource, amount FROM used WHERE amount != 0 ORDER BY resource"))

    def peak(self) -> dict[str, float]:
        return _peak(self.log())

    def fence(self, node: str) -> int:
        rows = self._db.rows("SELECT number FROM fences WHERE node = ?", node)
        return int(rows[0][0]) if rows else 0

    def set_fence(self, node: str, number: int) -> None:
        self._db.run("INSERT OR REPLACE INTO fences VALUES (?, ?)", node, number)

    # -- the log, settings and faults -------------------------------------------------------------------------------

    def note(self, at: float, what: str, instance_id: str | None, node_id: str | None, detail: Any) -> None:
        query = "INSERT INTO log (at, what, id, node_id, detail) VALUES (?, ?, ?, ?, ?)"
        self._db.run(query, at, what, instance_id, node_id, json.dumps(detail))

    def log(self) -> Iterable[LogEntry]:
        rows = self._db.rows("SELECT at, what, id, node_id, detail FROM log ORDER BY number")
        return [LogEntry(at, what, id_, node_id, json.loads(detail)) for at, what, id_, node_id, detail in rows]

    def settings(self) -> dict[str, Any]:
        rows = self._db.rows("SELECT name, value FROM settings ORDER BY name")
        return {name: json.loads(value) for name, value in rows}

    def set(self, name: str, value: Any) -> None:
        self._db.run("DELETE FROM settings WHERE name = ?", name)
        if value is not None:
            self._db.run("INSERT INTO settings VALUES (?, ?)", name, json.dumps(value))

    def faults(self) -> list[PlannedFault]:
        rows = self._db.rows("SELECT call, kind, times, leaves, names FROM faults ORDER BY number")
        return [PlannedFault(call, kind, times, bool(leaves), bool(names)) for call, kind, times, leaves, names in rows]

    def has_fault(self, call: str) -> bool:
        return bool(self._db.rows("SELECT 1 FROM faults WHERE call = ? LIMIT 1", call))

    def add_fault(self, fault: PlannedFault) -> None:
        query = "INSERT INTO faults (call, kind, times, leaves, names) VALUES (?, ?, ?, ?, ?)"
        self._db.run(query, fault.call, fault.kind, fault.times, int(fault.leaves), int(fault.names))

    def take_fault(self, call: str) -> PlannedFault | None:
        query = "SELECT number, kind, times, leaves, names FROM faults WHERE call = ? ORDER BY number LIMIT 1"
        for number, kind, times, leaves, names in self._db.rows(query, call):
            self._db.run("UPDATE faults SET times = times - 1 WHERE number = ?", number)
            self._db.run("DELETE FROM faults WHERE times < 1")
            return PlannedFault(call, kind, times - 1, bool(leaves), bool(names))
        return None

    def clear_faults(self) -> None:
        self._db.run("DELETE FROM faults")

    def version(self) -> int:
        return int(self._db.rows("PRAGMA data_version")[0][0])


def _server(row: tuple[Any, ...]) -> FakeServer:
    *plain, metadata, resources, addresses, details = row
    return FakeServer(*plain, *map(json.loads, (metadata, resources, addresses, details)))


def _peak(log: Iterable[LogEntry]) -> dict[str, float]:
    taken: dict[str | None, Mapping[str, float]] = {}
    used: dict[str, float] = {}
    most: dict[str, float] = {}
    for entry in log:
        if entry.what == "create":
            taken[entry.id] = entry.detail["resources"]
            for name, amount in taken[entry.id].items():
                used[name] = used.get(name, 0) + amount
                most[name] = max(most.get(name, 0), used[name])
        elif entry.what == "gone":
            for name, amount in taken.pop(entry.id).items():
                used[name] -= amount
    return most
