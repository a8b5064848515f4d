"""CPU time per record read, written and changed: ours beside ``json`` with frozen dataclasses, in one run.

    python bench/records.py [--rounds 200]

The best of *rounds* rounds of 200 calls counts, the two ways taking turns. Memory is what 10,000 records take,
read from bytes.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import field, fields, make_dataclass, replace
from typing import Any

from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.recordcoding import Record, keys_of
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import NodeState, RequestState

CALLS = 200
RECORDS = 10_000


def node_bytes(number: int) -> bytes:
    """A node as a launcher of OpenStack writes it, in use for a request of Zuul."""
    node = Node(
        id=NodeId(f"{number:010d}"), state=NodeState.IN_USE, state_time=1795219218.6690495 + number, cloud="rax",
        provider="rax-dfw", pool="main", type=("ubuntu-jammy",), allocated_to=RequestId(f"200-{number:010d}"), az="az1",
        public_ipv4=f"203.0.113.{number % 250}", private_ipv4="10.0.0.1", interface_ip="203.0.113.1", region="DFW",
        image_id="/nodepool/images/jammy/builds/d1fd/providers/rax-dfw/images/0000000001", username="zuul",
        launcher="nl01-PoolWorker.rax-dfw-main-0d8f2c6e5b7a", created_time=1795219210.1 + number, connection_type="ssh",
        external_id=f"c1f0b9d2-c4e5-4b0d-8a6e-{number:012d}", hostname=f"np{number:010d}",
        host_keys=("ssh-ed25519 A" * 6,), resources={"cores": 8.0, "instances": 1.0, "ram": 8192.0}, attributes={},
        tenant_name="openstack", requestor="0d8f2c6e5b7a4f1c9e3d2b1a0f9e8d7c", node_properties={"spot": False},
    )  # fmt: skip
    return node.to_bytes()


def request_bytes(number: int) -> bytes:
    """A fulfilled request of Zuul."""
    return json.dumps({
        "requestor_data": {
            "build_set_uuid": f"c1f0b9d2c4e54b0d8a6e{number:012d}",
            "span_info": {"trace_id": 2**127 + number, "start_time": 1795219218669054464},
        },
        "node_types": ["ubuntu-jammy"], "requestor": "0d8f2c6e5b7a4f1c9e3d2b1a0f9e8d7c", "provider": None,
        "created_time": 1795219218.6690545, "state": "fulfilled", "state_time": 1795219218.6690495 + number,
        "relative_priority": 0, "event_id": f"9a8b7c6d5e4f40312233{number:012d}", "tenant_name": "openstack",
        "nodes": [f"{number:010d}"], "declined_by": [], "reuse": True,
    }).encode()  # fmt: skip


class Plain:
    """Return the same record class, made with the standard library alone."""

    def __init__(self, record: type[Record], example: Record) -> None:
        names = [(key.name, Any, field(metadata={"key": key})) for key in keys_of(record)]
        self.kind = make_dataclass("Plain", names, frozen=True, kw_only=True)
        self.example = self.read(example.to_bytes())

    def read(self, data: bytes) -> Any:
        body = json.loads(data)
        values = {f.name: f.metadata["key"].read(body.pop(f.metadata["key"].key)) for f in fields(self.kind)}
        return self.kind(**values)

    def write(self) -> bytes:
        body = {f.metadata["key"].key: getattr(self.example, f.name) for f in fields(self.kind)}
        return json.dumps(body).encode()

    def change(self, state: object) -> object:
        return replace(self.example, state=state, state_time=1.0)


def microseconds(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the best CPU time of each of *calls*."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for place, call in enumerate(calls):
            began = time.process_time_ns()
            for _ in range(CALLS):
                call()
            best[place] = min(best[place], (time.process_time_ns() - began) / CALLS / 1000)
    return best


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], rounds: int) -> None:
    taken = microseconds([ours, plain], rounds)
    beside = f"  json and dataclass {taken[1]:6.2f} us  {taken[1] / taken[0]:5.1f} x"
    print(f"{name:16} {taken[0]:6.2f} us{beside}", flush=True)


def memory(name: str, read: Callable[[bytes, int], object], write: Callable[[int], bytes]) -> None:
    bodies = [write(number) for number in range(RECORDS)]
    tracemalloc.start()
    kept = [read(body, number) for number, body in enumerate(bodies)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{name:16} {taken / 2**20:6.2f} MiB for {len(kept):,}, {taken / len(kept):.0f} bytes each", flush=True)


def read_node(data: bytes, number: int = 1) -> Node:
    return Node.from_bytes("/p", data, node_id=NodeId(f"{number:010d}"))


def read_request(data: bytes, number: int = 1) -> NodeRequest:
    return NodeRequest.from_bytes("/p", data, request_id=RequestId(f"200-{number:010d}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    node, request = read_node(node_bytes(1)), read_request(request_bytes(1))
    written, submitted = node.to_bytes(), request_bytes(1)
    plain_node, plain_request = Plain(Node, node), Plain(NodeRequest, request)
    compare("node read", lambda: read_node(written), lambda: plain_node.read(written), rounds)
    compare("node write", node.to_bytes, plain_node.write, rounds)
    compare("node into", lambda: node.into(NodeState.USED, 1.0), lambda: plain_node.change(NodeState.USED), rounds)
    compare("request read", lambda: read_request(submitted), lambda: plain_request.read(submitted), rounds)
    compare("request write", request.to_bytes, plain_request.write, rounds)
    into = RequestState.PENDING
    compare("request into", lambda: request.into(into, 1.0), lambda: plain_request.change(into), rounds)
    memory("nodes", read_node, node_bytes)
    memory("requests", read_request, request_bytes)


if __name__ == "__main__":
    main()
