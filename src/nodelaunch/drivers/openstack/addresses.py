"""Classifies a server's addresses, chooses the one to connect to, and decides if the server needs a floating IP.

The decision uses the lists of servers and networks, without a call per server. floating.py creates floating IPs.
Source: openstacksdk, openstack/cloud/meta.py, which has the same order of preference.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from nodelaunch.drivers.openstack.model import Address, Network, Networks, Server

PUBLIC_NETWORK, PRIVATE_NETWORK = "public", "private"
"""Network names that decide if nothing else does."""


@dataclass(frozen=True, slots=True)
class Addresses:
    public_ipv4: str | None = None
    private_ipv4: str | None = None
    public_ipv6: str | None = None
    interface_ip: str | None = None


def addresses_of(
    server: Server,
    networks: Networks,
    *,
    floating_ip: str | None = None,
    prefers_internal: bool = False,
    has_ipv6: bool | None = None,
) -> Addresses:
    """Return the addresses of *server*.

    *floating_ip*: an address that the server's listing may not show yet. *has_ipv6*: True if this machine has a route
    to IPv6 addresses; None: find out.
    """
    public_ipv4 = _public_ipv4(server, networks, floating_ip)
    private_ipv4 = _private_ipv4(server, networks, public_ipv4)
    public_ipv6 = server.access_ipv6 or next((each.ip for each in server.addresses if each.version == 6), None)
    found = Addresses(public_ipv4, private_ipv4, public_ipv6)
    internal_first = prefers_internal or networks.is_private
    uses_ipv6 = public_ipv6 is not None and not networks.is_ipv4_forced
    if uses_ipv6 and not (internal_first and private_ipv4):
        uses_ipv6 = has_ipv6_route() if has_ipv6 is None else has_ipv6
    interface_ip = _interface_ip(server, networks, found, internal_first=internal_first, uses_ipv6=uses_ipv6)
    return Addresses(public_ipv4, private_ipv4, public_ipv6, interface_ip)


def _interface_ip(
    server: Server, networks: Networks, found: Addresses, *, internal_first: bool, uses_ipv6: bool
) -> str | None:
    if internal_first and found.private_ipv4:
        return found.private_ipv4
    default = [each for each in server.addresses if networks.default is not None and each.network == networks.default]
    by_preference = sorted(default, key=lambda each: -each.version if uses_ipv6 else each.version)
    usable = [each.ip for each in by_preference if uses_ipv6 or each.version == 4]
    if usable:
        return usable[0]
    if uses_ipv6:
        return found.public_ipv6
    return found.public_ipv4 or found.private_ipv4 or found.public_ipv6


def _ipv4(server: Server) -> Iterator[Address]:
    return (each for each in server.addresses if each.version == 4)


def _public_ipv4(server: Server, networks: Networks, floating_ip: str | None) -> str | None:
    if server.access_ipv4:
        return server.access_ipv4
    fixed = [each for each in _ipv4(server) if not each.is_floating]
    outside = (each.ip for each in fixed if networks.is_external(each.network))
    floating = (each.ip for each in _ipv4(server) if each.is_floating)
    named = (each.ip for each in fixed if each.network == PUBLIC_NETWORK)
    routable = (each.ip for each in fixed if ipaddress.ip_address(each.ip).is_global)
    return (
        next(outside, None) or floating_ip or next(floating, None) or next(named, None) or next(routable, None)
    )  # fmt: skip


def _private_ipv4(server: Server, networks: Networks, public_ipv4: str | None) -> str | None:
    """Return the address behind the floating IP if there is one, otherwise an address of a network that is not
    external."""
    macs = {each.mac for each in server.addresses if each.is_floating}
    fixed = [each for each in _ipv4(server) if not each.is_floating and each.ip != public_ipv4]
    inside = [each for each in fixed if not networks.is_external(each.network)] or [
        each for each in fixed if each.network == PRIVATE_NETWORK
    ]
    behind = (each.ip for each in inside if each.mac in macs)
    return next(behind, None) or next((each.ip for each in inside), None)


def needs_floating_ip(server: Server, networks: Networks) -> bool:
    """Return True if *server* can't be reached from outside without a floating IP, and the cloud can supply one."""
    if not networks.has_floating_ips or networks.is_private or floating_source(networks) is None:
        return False
    if any(each.is_floating for each in server.addresses) or _public_ipv4(server, networks, None) is not None:
        return False
    return any(not each.is_floating for each in _ipv4(server))


def floating_source(networks: Networks, name_or_id: str | None = None) -> Network | None:
    """Return the network that floating IPs come from: the given one, otherwise the first suitable one."""
    if name_or_id is not None:
        return networks.find(name_or_id)
    return next((network for network in networks.all if network.is_floating_source), None)


def has_ipv6_route() -> bool:
    """Return True if this machine has a route to global IPv6 addresses. No packet is sent."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 9))  # an address of the range for documentation
    except OSError:
        return False
    return True
