"""Warnings: values that are allowed, but that the author probably does not mean."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Any

from nodelaunch.config.messages import close_to
from nodelaunch.config.models import TenantLimits
from nodelaunch.config.positions import Source
from nodelaunch.config.rules import find
from nodelaunch.config.spans import Remedy

_TLS_PORT = 2281
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
_NAMES_UNCHECKED = (
    "any client with a certificate of this CA can pose as a server; set check-host-name: true if the servers'"
    " certificates name their hosts, or false to turn the check off"
)
_LIMITS = ("max-servers", "max-cores", "max-ram", "max-volumes", "max-volume-gb")
_SHOWN = 10
"""The most names that a message lists."""


def advise(source: Source, data: dict[str, Any], offered: Collection[str] | None) -> None:
    """Add all warnings. *offered*: the labels that the pools offer; None: not known."""
    _on_tenants(source, data)
    _on_connection(source, data)
    _on_limits(source, data)
    _on_host_keys(source, data)
    if offered is not None:
        _on_labels(source, data, offered)


def _on_labels(source: Source, data: dict[str, Any], offered: Collection[str]) -> None:
    """Warn of labels that no pool offers, of min-ready above the limits of the pools, and of pools without labels."""
    missing = []
    for place, label in find(data, "labels[]"):
        name, wanted = (label.get("name"), label.get("min-ready")) if isinstance(label, dict) else (None, None)
        if not isinstance(name, str):
            continue
        kept = wanted if isinstance(wanted, int) else 0
        if name in offered:
            most = _most(data, name)
            if most is not None and kept > most:
                text = f"more than the pools that offer this label allow: the sum of their max-servers is {most}"
                source.warn((*place, "min-ready"), text)
        elif kept > 0:
            source.warn((*place, "min-ready"), "no pool offers this label, so no node can be kept ready")
        elif not source.is_hidden((*place, "name")):
            missing.append(name)
    if missing and data.get("providers"):
        rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        source.warn(("labels",), f"no pool here offers {', '.join(missing[:_SHOWN])}{rest}", of_key=True)
    for place, pool in find(data, "providers[].pools[]"):
        if isinstance(pool, dict) and not pool.get("labels") and not pool.get("nodes"):
            source.warn(place, "this pool offers no label, so it serves no request")


def _most(data: dict[str, Any], label: str) -> int | None:
    """Return the most nodes of all pools that offer *label*; None: no limit, or not known."""
    limits = [
        pool.get("max-servers")
        for _, pool in find(data, "providers[].pools[]")
        if isinstance(pool, dict) and label in _labels_of(pool)
    ]
    known = [max(0, limit) for limit in limits if isinstance(limit, int)]
    return sum(known) if known and len(known) == len(limits) else None


def _labels_of(pool: dict[str, Any]) -> Iterable[object]:
    """Return the labels that the pool launches."""
    return (name for _, name in find(pool, "labels[].name"))


def _on_limits(source: Source, data: dict[str, Any]) -> None:
    """Warn of limits without a value, which mean no limit, and of limits below zero."""
    for place, pool in find(data, "providers[].pools[]"):
        for key in _LIMITS if isinstance(pool, dict) else ():
            if key not in pool:
                continue
            limit = pool[key]
            if limit is None:
                text = f"{key} has no value, which means no limit; give a number, or leave the key out"
                source.warn((*place, key), text, of_key=True, remedy=Remedy("drop", (*place, key)))
            elif isinstance(limit, int) and limit < 0:
                text = f"{key} below zero declines every request; write 0 if that is intended"
                source.warn((*place, key), text, remedy=Remedy("set", (*place, key), 0))


def _on_tenants(source: Source, data: dict[str, Any]) -> None:
    """Warn of keys close to the name of a limit: any key is a resource's name there, so a typing error is no error."""
    known = [info.alias or name for name, info in TenantLimits.model_fields.items()]
    limits = [key for key in known if key.startswith("max-")]
    for place, tenant in find(data, "tenant-resource-limits[]"):
        for key in tenant if isinstance(tenant, dict) else ():
            meant = close_to(key, limits)
            if key not in limits and meant is not None and (*place, key) not in source.hidden_keys:
                text = f"{key!r} limits a resource of that name; did you mean {meant!r}?"
                source.warn((*place, key), text, of_key=True)


def _on_connection(source: Source, data: dict[str, Any]) -> None:
    """Warn of connections that an attacker in the network could read or change."""
    tls = data.get("zookeeper-tls")
    if tls is not None:
        if isinstance(tls, dict) and "check-host-name" not in tls:
            remedy = Remedy("set", ("zookeeper-tls", "check-host-name"), False)
            source.warn(("zookeeper-tls",), _NAMES_UNCHECKED, of_key=True, remedy=remedy)
        return
    told = "the password of zookeeper-auth" if data.get("zookeeper-auth") else "the data that is read and written"
    for place, server in find(data, "zookeeper-servers[]"):
        if not isinstance(server, dict):
            continue
        if server.get("port", _TLS_PORT) == _TLS_PORT:
            text = f"port {_TLS_PORT} usually accepts TLS only: set zookeeper-tls, or use the plain port (2181)"
            source.warn((*place, "port"), text)
        elif isinstance(host := server.get("host"), str) and not _is_loopback(host):
            text = f"without zookeeper-tls, an attacker in the network can read {told}, and change it"
            source.warn((*place, "host"), text)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() in _LOOPBACK_NAMES


def _on_host_keys(source: Source, data: dict[str, Any]) -> None:
    """Warn of host keys that no server can have."""
    for place, node in find(data, "providers[].pools[].nodes[]"):
        keys = node.get("host-key") if isinstance(node, dict) else None
        for key in keys.splitlines() if isinstance(keys, str) else keys if isinstance(keys, list) else ():
            if isinstance(key, str) and key.strip() and not _is_public_key(key):
                text = "host-key: '<type> <base64>' of a public key is expected; this value is not a public key"
                source.warn((*place, "host-key"), text)


def _is_public_key(line: str) -> bool:
    """Return True if *line* is a public key in OpenSSH's format. Source: RFC 4253, section 6.6."""
    kind, _, rest = line.strip().partition(" ")
    try:
        blob = base64.b64decode(rest.split()[0] if rest.split() else "", validate=True)
    except binascii.Error:
        return False
    length = int.from_bytes(blob[:4], "big")
    return len(blob) > 4 + length and blob[4 : 4 + length] == kind.encode()
