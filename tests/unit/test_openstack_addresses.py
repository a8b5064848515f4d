"""Kinds of addresses, and the need of a server for a floating IP."""

from __future__ import annotations

from typing import Any

import pytest

from nodelaunch.drivers.openstack.addresses import Addresses, addresses_of, needs_floating_ip
from nodelaunch.drivers.openstack.model import Address, Network, Networks, Server

PUBLIC = Network("1", "outside", is_external=True, is_floating_source=True)
PRIVATE = Network("2", "inside")
BOTH = Networks(all=(PUBLIC, PRIVATE))


def server(*addresses: Address, **more: Any) -> Server:
    return Server(id="s", status="ACTIVE", addresses=addresses, **more)


FIXED = Address("inside", "10.0.0.5", mac="aa")
FLOATING = Address("inside", "203.0.113.9", is_floating=True, mac="aa")
OUTSIDE = Address("outside", "198.51.100.7", mac="bb")
IPV6 = Address("outside", "2001:db8::7", version=6, mac="bb")


def found(*addresses: Address, networks: Networks = BOTH, **options: Any) -> Addresses:
    return addresses_of(server(*addresses), networks, **{"has_ipv6": False, **options})


def test_address_in_an_external_network_is_public() -> None:
    assert found(OUTSIDE, FIXED) == Addresses("198.51.100.7", "10.0.0.5", None, "198.51.100.7")


def test_floating_ip_is_public_and_the_one_behind_it_private() -> None:
    other = Address("inside", "10.0.0.4", mac="cc")
    assert found(other, FIXED, FLOATING) == Addresses("203.0.113.9", "10.0.0.5", None, "203.0.113.9")


def test_floating_ip_that_is_not_listed_yet_counts() -> None:
    assert found(FIXED, floating_ip="203.0.113.9").interface_ip == "203.0.113.9"


def test_server_with_a_private_address_only_is_reached_there() -> None:
    assert found(FIXED) == Addresses(None, "10.0.0.5", None, "10.0.0.5")


def test_ipv6_goes_first_where_there_is_a_route() -> None:
    assert found(OUTSIDE, IPV6, has_ipv6=True).interface_ip == "2001:db8::7"
    assert found(OUTSIDE, IPV6, has_ipv6=False).interface_ip == "198.51.100.7"
    forced = Networks(all=(PUBLIC, PRIVATE), is_ipv4_forced=True)
    assert found(OUTSIDE, IPV6, networks=forced, has_ipv6=True).interface_ip == "198.51.100.7"


@pytest.mark.parametrize("networks", [BOTH, Networks(all=(PUBLIC, PRIVATE), is_private=True)])
def test_internal_address_goes_first_where_that_is_wanted(networks: Networks) -> None:
    wanted = not networks.is_private
    assert found(FIXED, FLOATING, networks=networks, prefers_internal=wanted).interface_ip == "10.0.0.5"


def test_default_network_of_clouds_yaml_is_connected_to() -> None:
    assert found(OUTSIDE, FIXED, networks=Networks(all=(PUBLIC, PRIVATE), default="inside")).interface_ip == "10.0.0.5"


def test_server_without_any_address() -> None:
    assert found() == Addresses()


def test_floating_ip_is_needed_where_nothing_else_leads_in() -> None:
    assert needs_floating_ip(server(FIXED), BOTH)
    assert not needs_floating_ip(server(FIXED, FLOATING), BOTH)
    assert not needs_floating_ip(server(OUTSIDE), BOTH)
    assert not needs_floating_ip(server(FIXED, access_ipv4="192.0.2.1"), BOTH)
    assert not needs_floating_ip(server(FIXED), Networks(all=(PRIVATE,)))
    assert not needs_floating_ip(server(FIXED), Networks(all=(PUBLIC, PRIVATE), is_private=True))
    assert not needs_floating_ip(server(FIXED), Networks(all=(PUBLIC, PRIVATE), has_floating_ips=False))
