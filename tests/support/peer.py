"""A requestor that only knows Nodepool's ZooKeeper protocol: kazoo, and the steps Zuul takes."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.recipe.lock import Lock

DEADLINE_S = 30.0


class Requestor:
    """A system that asks for nodes. Blocking; run it in a thread. *deadline_s* is for each of its waits."""

    def __init__(self, client: KazooClient, *, deadline_s: float = DEADLINE_S) -> None:
        self.client = client
        self.deadline_s = deadline_s
        self.system_id = uuid.uuid4().hex

    # -- requests ---------------------------------------------------------------------------------------------------

    def submit(self, *labels: str, priority: str = "200", **more: Any) -> str:
        """Submit a request as Zuul does: persistent, sequential, without the keys a launcher adds."""
        now = time.time()
        body = {
            "requestor_data": {"span_info": {"trace_id": 206015695541625575178169608723763992776}},
            "node_types": list(labels),
            "requestor": self.system_id,
            "created_time": now,
            "provider": None,
            "state": "requested",
            "state_time": now,
            "relative_priority": 0,
            "event_id": uuid.uuid4().hex,
            "tenant_name": None,
            **more,
        }
        path = self.client.create(
            f"/nodepool/requests/{priority}-", json.dumps(body).encode(), sequence=True, makepath=True
        )
        return str(path).rpartition("/")[2]

    def request(self, request_id: str) -> dict[str, Any]:
        return self._read(f"/nodepool/requests/{request_id}")

    def node(self, node_id: str) -> dict[str, Any]:
        return self._read(f"/nodepool/nodes/{node_id}")

    def _read(self, path: str) -> dict[str, Any]:
        data, _ = self.client.get(path)
        found: dict[str, Any] = json.loads(data)
        return found

    def await_state(self, request_id: str, *states: str) -> dict[str, Any]:
        """Wait, by a data watch, until the request is in one of *states*."""
        path = f"/nodepool/requests/{request_id}"
        return self.await_data(path, lambda body: body["state"] in states)

    def await_data(self, path: str, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + self.deadline_s
        while True:
            changed = threading.Event()
            data, _ = self.client.get(path, watch=lambda _event, changed=changed: changed.set())
            body: dict[str, Any] = json.loads(data)
            if is_wanted(body):
                return body
            if not changed.wait(deadline - time.monotonic()):
                raise TimeoutError(f"{path} stays {body}")

    def await_gone(self, path: str) -> None:
        deadline = time.monotonic() + self.deadline_s
        while True:
            changed = threading.Event()
            if self.client.exists(path, watch=lambda _event, changed=changed: changed.set()) is None:
                return
            if not changed.wait(deadline - time.monotonic()):
                raise TimeoutError(f"{path} stays: {self.client.get(path)}")

    def await_children(self, path: str, is_wanted: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + self.deadline_s
        while True:
            changed = threading.Event()
            self.client.ensure_path(path)
            names: list[str] = self.client.get_children(path, watch=lambda _event, changed=changed: changed.set())
            if is_wanted(names):
                return names
            if not changed.wait(deadline - time.monotonic()):
                raise TimeoutError(f"{path} stays {names}")

    def delete_request(self, request_id: str) -> None:
        self.client.delete(f"/nodepool/requests/{request_id}")

    # -- nodes ------------------------------------------------------------------------------------------------------

    @contextmanager
    def accepted(self, request_id: str) -> Iterator[list[dict[str, Any]]]:
        """Accept and use the nodes of a fulfilled request; return them, used, at the end of the block."""
        request = self.request(request_id)
        locks: list[tuple[str, Lock]] = []
        for node_id in request["nodes"]:
            assert self.node(node_id)["allocated_to"] == request_id
            lock = Lock(self.client, f"/nodepool/nodes/{node_id}/lock")
            assert lock.acquire(blocking=True, timeout=30)
            locks.append((node_id, lock))
        self.delete_request(request_id)
        nodes = [self._set_state(node_id, "in-use") for node_id, _ in locks]
        try:
            yield nodes
        finally:
            for node_id, _ in locks:
                self._set_state(node_id, "used")
            for _, lock in locks:
                lock.release()

    def _set_state(self, node_id: str, state: str) -> dict[str, Any]:
        node = {"id": node_id, **self.node(node_id), "state": state, "state_time": time.time()}
        self.client.set(f"/nodepool/nodes/{node_id}", json.dumps(node).encode())
        return node

    def run_job(self, *labels: str) -> list[dict[str, Any]]:
        """Ask, wait, use, give back, and wait until the nodes are gone."""
        request_id = self.submit(*labels)
        assert self.await_state(request_id, "fulfilled", "failed")["state"] == "fulfilled"
        with self.accepted(request_id) as nodes:
            pass
        for node in nodes:
            self.await_gone(f"/nodepool/nodes/{node['id']}")
        return nodes

    def exists(self, path: str) -> bool:
        return self.client.exists(path) is not None

    def children(self, path: str) -> list[str]:
        try:
            return sorted(self.client.get_children(path))
        except NoNodeError:
            return []
