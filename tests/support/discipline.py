"""Rules for all writes by nodelaunch, in any test, checked on everything that a ZooKeeper server committed.

What does *not* belong here: reading the writes (txnlog.py), and rules for a single situation (the tests).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from support.txnlog import Write

REQUEST_KEYS = frozenset({
    "state", "state_time", "declined_by", "node_types", "nodes", "reuse", "requestor", "requestor_data", "provider",
    "relative_priority", "event_id", "created_time", "tenant_name",
})  # fmt: skip
"""A request without one of most of these stops a scheduler."""
NODE_KEYS = frozenset({
    "state", "state_time", "cloud", "provider", "pool", "type", "allocated_to", "az", "region", "public_ipv4",
    "private_ipv4", "public_ipv6", "host_id", "interface_ip", "connection_port", "ssh_port", "image_id", "launcher",
    "created_time", "external_id", "hostname", "comment", "user_data", "hold_job", "host_keys", "username",
    "connection_type", "shell_type", "hold_expiration", "resources", "slot", "attributes", "python_path",
    "tenant_name", "driver_data", "requestor", "node_properties",
})  # fmt: skip
"""Zuul writes back no key of a node that it has not read."""
RESERVED_KEYS = frozenset({"lock", "stat", "label", "name", "aliases", "kubernetes_connection"})
"""Zuul takes every key of a node for an attribute of its object."""
LOCK_OF = {"requests": "/nodepool/requests-lock/{}/", "nodes": "/nodepool/nodes/{}/lock/"}


def kind_of(path: str) -> str | None:
    """Return "requests" or "nodes" if *path* is a request or a node, else None."""
    match path.split("/"):
        case ["", "nodepool", "requests" | "nodes" as kind, _]:
            return kind
    return None


def faults(history: Iterable[Write], ours: Iterable[int]) -> list[str]:
    """Return the violations in the writes of the sessions *ours*; *history* has the writes of all sessions."""
    own, found, contenders = set(ours), [], Contenders()
    for write in history:
        kind = kind_of(write.path)
        if kind and write.session in own and write.kind != "delete":
            found += [f"{write.kind} {write.path} at {write.zxid}: {what}" for what in _record_faults(kind, write)]
            if write.kind == "set" and not contenders.holds(write.session, kind, write.path.rpartition("/")[2]):
                found.append(f"{write.path} at {write.zxid} was written without its lock")
        contenders.follow(write)
    return found


def _record_faults(kind: str, write: Write) -> Iterable[str]:
    keys = write.record.keys()
    if missing := (REQUEST_KEYS if kind == "requests" else NODE_KEYS) - keys:
        yield f"lacks {sorted(missing)}"
    if kind == "nodes" and (reserved := RESERVED_KEYS & keys):
        yield f"has {sorted(reserved)}"


class Contenders:
    """Contenders for each lock, updated with each write."""

    def __init__(self) -> None:
        self._at: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def follow(self, write: Write) -> None:
        folder, _, name = write.path.rpartition("/")
        if "__lock__" not in name:
            return
        if write.kind == "delete":
            self._at[folder + "/"].pop(name, None)
        else:
            self._at[folder + "/"][name] = write.session

    def holds(self, session: int, kind: str, identifier: str) -> bool:
        standing = self._at[LOCK_OF[kind].format(identifier)]
        first = min(standing, key=lambda name: name.rpartition("__")[2], default=None)
        return first is not None and standing[first] == session
