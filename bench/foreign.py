"""Records of another launcher, as a large site has them before the measured launcher starts."""

from __future__ import annotations

import json
import time
from typing import Any

from bench.zk import wire
from bench.zk.client import Client
from bench.zuul import NODES, REQUESTS


async def populate(client: Client, root: str, nodes: int, requests: int) -> None:
    """Create *nodes* nodes in use, of a provider that no launcher here serves, and *requests* fulfilled requests."""
    for path in (NODES, REQUESTS):
        await client.ensure(root + path)
    node, request = (json.dumps(body).encode() for body in (node_body(), request_body()))
    await client.ask_all(wire.create(f"{root}{NODES}/", node, wire.SEQUENCE) for _ in range(nodes))
    await client.ask_all(wire.create(f"{root}{REQUESTS}/100-", request, wire.SEQUENCE) for _ in range(requests))


def node_body() -> dict[str, Any]:
    """A node in use, of provider ``other-provider``."""
    now = time.time()
    return {
        "state": "in-use", "state_time": now, "cloud": "fake", "provider": "other-provider", "pool": "main",
        "type": ["other-label"], "allocated_to": None, "az": "az2", "region": "region", "public_ipv4": "203.0.113.1",
        "private_ipv4": "203.0.113.1", "public_ipv6": "", "host_id": "host", "interface_ip": "203.0.113.1",
        "connection_port": 22, "ssh_port": 22, "image_id": "image", "launcher": "other", "created_time": now,
        "external_id": "external", "hostname": None, "comment": None, "user_data": None, "hold_job": None,
        "host_keys": ["ssh-rsa FAKEKEY"], "username": "zuul", "connection_type": "ssh", "shell_type": None,
        "hold_expiration": None, "resources": {"cores": 4, "instances": 1, "ram": 8192}, "slot": None,
        "attributes": None, "python_path": "auto", "tenant_name": "tenant", "driver_data": None, "requestor": "other",
        "node_properties": {},
    }  # fmt: skip


def request_body() -> dict[str, Any]:
    """A fulfilled request for ``other-label``."""
    now = time.time()
    return {
        "state": "fulfilled", "state_time": now, "declined_by": [], "node_types": ["other-label"],
        "nodes": ["0000000000"], "reuse": True, "requestor": "other", "requestor_data": None, "provider": None,
        "relative_priority": 0, "event_id": None, "created_time": now, "tenant_name": "tenant",
    }  # fmt: skip
