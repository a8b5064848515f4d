"""The floor: a minimal launcher, as the baseline for measurements of others.

    python -m bench.floor -c CONFIG

It reads a configuration of launchers.py, answers every request whose labels it offers, and does for it the fewest
operations that the protocol allows (seven for one node): a task for each request and each node that goes, pools with a
limit, one line of open requests for each shape, a boot time, and a line of log for each request and node. It knows no
declines, retries, sweeps, reuse, quota but ``max-servers``, nor another session after the first.

1. get the request. 2. One transaction: lock it, set it `pending`, create its nodes by their predicted numbers, locked.
3. Set the external id. 4. One transaction: nodes `ready` and unlocked, request `fulfilled` and unlocked. 5. Get the
node once its user has unlocked it. 6. One transaction: lock it and set it `deleting`. 7. One transaction: delete it.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.zk import wire
from bench.zk.client import Client, ZkError, connected
from bench.zk.server import client_context

REQUESTS, LOCKS, NODES, POOLS = (
    f"/nodepool/{name}" for name in ("requests", "requests-lock", "nodes", "components/pool")
)
GUESSES = 9
"""Attempts to create a node under a free number before a request is given up."""
NODE: dict[str, Any] = {
    "state": "building", "state_time": 0.0, "cloud": None, "provider": None, "pool": None, "type": [],
    "allocated_to": None, "az": None, "region": None, "public_ipv4": None, "private_ipv4": None, "public_ipv6": None,
    "host_id": None, "interface_ip": None, "connection_port": 22, "ssh_port": 22, "image_id": None, "launcher": "floor",
    "created_time": None, "external_id": None, "hostname": None, "comment": None, "user_data": None, "hold_job": None,
    "host_keys": [], "username": "zuul", "connection_type": "ssh", "shell_type": None, "hold_expiration": None,
    "resources": {"cores": 0, "instances": 1, "ram": 0}, "slot": None, "attributes": None, "python_path": "auto",
    "tenant_name": None, "driver_data": None, "requestor": None, "node_properties": {},
}  # fmt: skip


class Request(msgspec.Struct):
    """A request's record; the requestor's data is kept as the original bytes."""

    state: str
    state_time: float = 0.0
    declined_by: list[str] = []
    node_types: list[str] = []
    nodes: list[str] = []
    reuse: bool = True
    requestor: str | None = None
    requestor_data: msgspec.Raw = msgspec.Raw(b"null")
    provider: str | None = None
    relative_priority: int = 0
    event_id: str | None = None
    created_time: float | None = None
    tenant_name: str | None = None


_read_request = msgspec.json.Decoder(Request).decode
_read_node = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Shape = tuple[tuple[str, ...], str | None, str | None]
Waiting = tuple[tuple[str, int, str], str, Request, int]
"""Order, id, record and its version."""


@dataclass
class Pool:
    provider: str
    name: str
    labels: frozenset[str]
    limit: int
    used: int = 0


@dataclass
class Slot:
    """A node of this launcher: its record, its pool and the znode of its lock."""

    id: str
    record: dict[str, Any]
    pool: Pool
    contender: str = ""


@dataclass
class Lines:
    """Open requests by shape, in order; requests that are gone by now are skipped."""

    by_shape: dict[Shape, list[Waiting]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)

    def add(self, request_id: str, request: Request, version: int) -> None:
        priority, _, number = request_id.partition("-")
        shape = tuple(request.node_types), request.provider, request.tenant_name
        entry = (priority, request.relative_priority, number), request_id, request, version
        heapq.heappush(self.by_shape.setdefault(shape, []), entry)
        self.ids.add(request_id)

    def head(self, shape: Shape) -> Waiting | None:
        line = self.by_shape[shape]
        while line and line[0][1] not in self.ids:
            heapq.heappop(line)
        return line[0] if line else None

    def pop(self, shape: Shape) -> None:
        self.ids.discard(heapq.heappop(self.by_shape[shape])[1])


class RejectedError(ZkError):
    """A transaction failed at the operation at index *place*."""

    def __init__(self, code: int, place: int) -> None:
        super().__init__(code)
        self.place = place


class Floor:
    """Serves *pools* on the store behind *client*, below *root*."""

    def __init__(self, client: Client, root: str, pools: Sequence[Pool], boot_s: float) -> None:
        self._client, self._pools, self._boot_s = client, pools, boot_s
        self._requests, self._locks, self._nodes = root + REQUESTS, root + LOCKS, root + NODES
        self._registry = root + POOLS
        self._lines = Lines()
        self._slots: dict[str, Slot] = {}
        self._contenders: set[str] = set()
        self._next_node = 0
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        client.on_event = self._on_event

    async def start(self) -> None:
        client = self._client
        for path in (self._requests, self._locks, self._nodes, self._registry):
            await client.ensure(path)
        await asyncio.gather(client.ask(wire.add_watch(self._requests)), client.ask(wire.add_watch(self._nodes)))
        self._next_node = wire.next_number(await client.stat(self._nodes))
        await client.ask_all(self._registration(pool) for pool in self._pools)
        for request_id in await client.children(self._requests):
            self._look_at(request_id)

    def _registration(self, pool: Pool) -> wire.Op:
        host = socket.gethostname()
        body = {
            "hostname": host, "id": f"{host}-{os.getpid()}-{pool.provider}-{pool.name}", "kind": "pool", "model_api": 0,
            "name": pool.name, "paused": False, "priority": 100, "provider_name": pool.provider, "state": "running",
            "supported_labels": sorted(pool.labels), "version": "0",
        }  # fmt: skip
        return wire.create(f"{self._registry}/{host}", json.dumps(body).encode(), wire.EPHEMERAL | wire.SEQUENCE)

    def _on_event(self, kind: int, path: str) -> None:
        if path.startswith(self._requests):
            request_id = path[len(self._requests) + 1 :]
            if kind == wire.CREATED:
                self._look_at(request_id)
            elif kind == wire.DELETED:
                self._lines.ids.discard(request_id)
        elif kind == wire.DELETED and "/lock/" in path and path not in self._contenders:
            node_id = path[len(self._nodes) + 1 :].partition("/")[0]
            if slot := self._slots.get(node_id):
                self._begin(self._recycle(slot))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _look_at(self, request_id: str) -> None:
        def got(error: int, data: bytes, at: int) -> None:
            if not error:
                body, version = wire.read_data(data, at)
                request = _read_request(body)
                if request.state == "requested":
                    self._lines.add(request_id, request, version)
                    self._wake()

        self._client.call(wire.get(f"{self._requests}/{request_id}"), got)

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        """Serve the first request of each queue, oldest first, while a pool has capacity."""
        self._is_due = False
        heads = [(head, shape) for shape in self._lines.by_shape if (head := self._lines.head(shape))]
        order = [(head[0], shape) for head, shape in heads]
        heapq.heapify(order)
        while order:
            _, shape = heapq.heappop(order)
            head, pool = self._lines.head(shape), self._roomiest(shape)
            if head is None or pool is None:
                continue  # this shape waits; another may fit
            self._lines.pop(shape)
            pool.used += len(shape[0])
            self._begin(self._serve(pool, head[1], head[2], head[3]))
            if (following := self._lines.head(shape)) is not None:
                heapq.heappush(order, (following[0], shape))

    def _roomiest(self, shape: Shape) -> Pool | None:
        labels, provider, _ = shape
        best, most, wanted = None, len(labels) - 1, set(labels)
        for pool in self._pools:
            room = pool.limit - pool.used
            if room > most and wanted <= pool.labels and provider in (None, pool.provider):
                best, most = pool, room
        return best

    # -- a request --------------------------------------------------------------------------------------------------

    async def _serve(self, pool: Pool, request_id: str, request: Request, version: int) -> None:
        began = time.monotonic()
        try:
            lock, slots = await self._accept(pool, request_id, request, version)
            await asyncio.gather(*(self._launch(slot) for slot in slots[1:]), self._launch(slots[0]))
            await self._fulfil(request_id, request, version + 1, lock, slots)
        except ZkError as error:
            pool.used -= len(request.node_types)
            self._wake()
            self._look_at(request_id)  # it may be unlocked
            print(f"request_lost request_id={request_id} error={error.code}")
            return
        took_s = time.monotonic() - began
        print(f"request_fulfilled request_id={request_id} nodes={[slot.id for slot in slots]} took_s={took_s:.3f}")

    async def _accept(self, pool: Pool, request_id: str, request: Request, version: int) -> tuple[str, list[Slot]]:
        """Lock the request and make its nodes, locked, in one transaction. Raises: ZkError if it is locked."""
        lock = f"{self._locks}/{request_id}"
        for _ in range(GUESSES):
            slots = [self._slot(pool, request_id, request, label) for label in request.node_types]
            body = _with_state(request, "pending", [])
            ops = [wire.create(lock), _contender(lock), wire.put(f"{self._requests}/{request_id}", body, version)]
            for slot in slots:
                path = f"{self._nodes}/{slot.id}"
                ops += [
                    wire.create(path, _encode(slot.record)),
                    wire.create(f"{path}/lock"),
                    _contender(f"{path}/lock"),
                ]
            try:
                created = await self._transact(ops)
            except RejectedError as error:
                if error.code != wire.NODE_EXISTS or error.place == 0:  # the first is the request's lock
                    raise
                self._next_node = max(self._next_node, wire.next_number(await self._client.stat(self._nodes)))
                continue
            for slot, contender in zip(slots, created[4::3], strict=True):
                slot.contender = contender
                self._contenders.add(contender)
            return created[1], slots
        raise ZkError(wire.NODE_EXISTS)

    def _slot(self, pool: Pool, request_id: str, request: Request, label: str) -> Slot:
        now = time.time()
        record = {
            **NODE, "state_time": now, "created_time": now, "provider": pool.provider, "pool": pool.name,
            "type": [label], "allocated_to": request_id, "tenant_name": request.tenant_name,
            "requestor": request.requestor,
        }  # fmt: skip
        self._next_node += 1
        return Slot(f"{self._next_node - 1:010d}", record, pool)

    async def _launch(self, slot: Slot) -> None:
        slot.record["external_id"] = f"np{slot.id}"
        self._slots[slot.id] = slot
        await self._client.ask(wire.put(f"{self._nodes}/{slot.id}", _encode(slot.record), 0))
        if self._boot_s:
            await asyncio.sleep(self._boot_s)

    async def _fulfil(self, request_id: str, request: Request, version: int, lock: str, slots: Sequence[Slot]) -> None:
        ops = []
        for slot in slots:
            slot.record["state"], slot.record["state_time"] = "ready", time.time()
            ops += [wire.put(f"{self._nodes}/{slot.id}", _encode(slot.record), 1), wire.delete(slot.contender)]
        body = _with_state(request, "fulfilled", [slot.id for slot in slots])
        ops += [
            wire.put(f"{self._requests}/{request_id}", body, version), wire.delete(lock),
            wire.delete(f"{self._locks}/{request_id}"),
        ]  # fmt: skip
        await self._transact(ops)
        self._loop.call_later(5, self._contenders.difference_update, [slot.contender for slot in slots])

    # -- a node -----------------------------------------------------------------------------------------------------

    async def _recycle(self, slot: Slot) -> None:
        """Lock and delete a node that its user has unlocked; a new lock makes this launcher the first contender."""
        path = f"{self._nodes}/{slot.id}"
        try:
            data, at = await self._client.ask(wire.get(path))
            body, version = wire.read_data(data, at)
            record = _read_node(body)
            if record["state"] not in ("used", "in-use"):
                return
            record["state"], record["state_time"] = "deleting", time.time()
            lock, name = f"{path}/lock", f"{path}/lock/{os.urandom(16).hex()}__lock__"
            mine = f"{name}0000000000"
            self._contenders.add(mine)
            await self._transact([
                wire.delete(lock), wire.create(lock), wire.create(name, b"", wire.EPHEMERAL | wire.SEQUENCE),
                wire.put(path, _encode(record), version),
            ])  # fmt: skip
            await self._transact([wire.delete(mine), wire.delete(lock), wire.delete(path, version + 1)])
            self._contenders.discard(mine)
        except ZkError as error:
            print(f"node_lost node_id={slot.id} error={error.code}")
            return
        self._slots.pop(slot.id, None)
        slot.pool.used -= 1
        if self._lines.ids:
            self._wake()
        print(f"node_deleted node_id={slot.id} was=used")

    async def _transact(self, ops: Sequence[wire.Op]) -> list[str]:
        """Return the paths that *ops* created. Raises: RejectedError, ZkError."""
        created, errors = wire.read_multi(*await self._client.ask(wire.multi(ops)))
        if errors:
            place = next((at for at, code in enumerate(errors) if code not in (0, wire.ROLLED_BACK)), 0)
            raise RejectedError(errors[place], place)
        return created


def _contender(lock: str) -> wire.Op:
    return wire.create(f"{lock}/{os.urandom(16).hex()}__lock__", b"", wire.EPHEMERAL | wire.SEQUENCE)


def _with_state(request: Request, state: str, nodes: list[str]) -> bytes:
    request.state, request.state_time, request.nodes = state, time.time(), nodes
    return _encode(request)


def _pools(providers: Sequence[dict[str, Any]]) -> list[Pool]:
    return [
        Pool(
            provider["name"],
            pool["name"],
            frozenset(label if isinstance(label, str) else label["name"] for label in pool["labels"]),
            pool["max-servers"],
        )
        for provider in providers
        for pool in provider["pools"]
    ]


async def serve(config: dict[str, Any]) -> None:
    """Run until SIGTERM."""
    server, tls = config["zookeeper-servers"][0], config["zookeeper-tls"]
    context = client_context(tls["ca"], tls["cert"], tls["key"])
    boot_s = max(float(provider.get("boot-time", 0)) for provider in config["providers"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with connected(server["host"], server["port"], context) as client:
        await Floor(client, server.get("chroot", ""), _pools(config["providers"]), boot_s).start()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    asyncio.run(serve(json.loads(parser.parse_args().config.read_text())))


if __name__ == "__main__":
    main()
