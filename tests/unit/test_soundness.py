"""Values in a driver's answers: faulty ones are refused, with the field named; correct ones pass."""

from __future__ import annotations

import re
from math import inf, nan
from types import MappingProxyType
from typing import Any

import pytest

from nodelaunch.errors import DriverError, ErrorKind
from nodelaunch.protocol import soundness
from nodelaunch.protocol.driver import ExternalId, Inspection, Instance, LabelTraits, Login, Machine, Resource
from nodelaunch.protocol.quota import Limits, Usage

KEY = "ssh-ed25519 AAAA"
LOGIN = Login("zuul", "ssh", 22, "sh", "auto")
NESTED: Any = []
for _ in range(900):
    NESTED = [NESTED]


def instance(**more: Any) -> Instance:
    return Instance(**{"external_id": ExternalId("i-1"), "is_active": True, **more})


def test_what_drivers_give_passes() -> None:
    given = instance(
        interface_ip="2001:db8::1",
        public_ipv4="",
        private_ipv4="10.0.0.1",
        public_ipv6="fe80::1%eth0",
        cloud="cloud",
        zone="nova",
        hostname="np-0000000001",
        resources=Usage(instances=1, cores=0.5),
        connection_port={"host": "https://k8s", "skiptls": True, "token": "t", "user": None},
        node_properties={"spot": True},
        login=LOGIN,
        host_keys=(KEY,),
        expected_host_keys=(KEY,),
        attributes=MappingProxyType({"a": [1, 2.5, {"b": None}]}),
        slot=0,
        driver_data={"text": "two\nlines"},
    )
    assert soundness.sound_instance(given, "i-1") is given
    assert soundness.sound_listed(instance(is_active=False)).external_id == "i-1"
    assert soundness.sound_instance(instance(connection_port=65535, interface_ip="a.b-c_d."), "i-1")
    assert soundness.sound_instance(instance(login=Login(None, None, None, None, None)), "i-1")


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("external_id", "", "it is empty"),
        ("external_id", "x" * 1001, "longer than 1000 characters"),
        ("external_id", "i-1\n", "control characters"),
        ("external_id", "i-\0", "control characters"),
        ("external_id", "i-\ud800", "control characters"),
        ("external_id", 5, "a text was expected, not int"),
        ("external_id", "i-2", "another instance"),
        ("is_active", False, "instance is not active"),
        ("is_active", "yes", "instance is not active"),
        ("metadata", None, "a mapping was expected, not NoneType"),
        ("interface_ip", "not an ip", "neither an IP address nor the name of a host"),
        ("interface_ip", "1.2.3.4\x1b[2J", "control characters"),
        ("public_ipv4", "-oProxyCommand", "neither"),
        ("private_ipv4", "a" * 300, "neither"),
        ("public_ipv6", 6, "a text was expected"),
        ("cloud", "a\tb", "control characters"),
        ("hostname", "x" * 1001, "longer than 1000"),
        ("resources", Usage(cores=-1), "cores: a number from 0 to 2**53"),
        ("resources", Usage(cores=nan), "cores: a number"),
        ("resources", Usage(ram=1 << 54), "ram: a number"),
        ("resources", Usage({"cores": True}), "cores: a number"),
        ("resources", Usage({"cores": "4"}), "cores: a number"),  # type: ignore[dict-item]
        ("resources", Usage({"\n": 1}), "the name of a resource: it has control"),
        ("connection_port", 0, "a number from 1 to 65535"),
        ("connection_port", 65536, "a number from 1 to 65535"),
        ("connection_port", True, "a number from 1 to 65535"),
        ("connection_port", "22", "a number from 1 to 65535"),
        ("connection_port", {"a": [1]}, "something else than texts, numbers and flags"),
        ("connection_port", {"a": 1 << 70}, "more than 64 bits"),
        ("login", Login("a\nb", None, None, None, None), "invalid at username: it has control"),
        ("login", Login(None, None, 0, None, None), "invalid at login.connection_port"),
        ("host_keys", KEY, "a list of texts"),
        ("host_keys", 5, "a list of texts"),
        ("host_keys", [KEY] * 65, "more than 64"),
        ("host_keys", [KEY, f"{KEY}\n* ssh-rsa AAAA"], "a text of one line"),
        ("host_keys", ["x" * 8193], "of 8192 characters"),
        ("slot", -1, "a whole number"),
        ("slot", True, "a whole number"),
        ("node_properties", None, "an object was expected"),
        ("node_properties", {"a": inf}, "not finite"),
        ("attributes", [], "an object was expected"),
        ("attributes", {1: 2}, "a key in it is no text"),
        ("attributes", {"a": "\x1b"}, "control characters"),
        ("driver_data", NESTED, "nested deeper than 64 levels"),
        ("driver_data", {"a": object()}, "object is no JSON"),
        ("driver_data", {"a": ("x" * 20_000,)}, "more than 16384 bytes"),
        ("driver_data", {"\ud800": 1}, "control characters"),
    ],
)
def test_instance_that_is_wrong_is_refused_with_the_field_named(field: str, value: Any, fault: str) -> None:
    with pytest.raises(DriverError, match=re.escape(fault)) as caught:
        soundness.sound_instance(instance(**{field: value}), "i-1")
    assert caught.value.kind is ErrorKind.INTERNAL
    place = {"login": ""}.get(field, f" at {field}: ")
    assert f"the driver's answer to wait_until_active is invalid{place}" in str(caught.value)


def test_what_is_no_instance_usage_or_limits_is_refused() -> None:
    for check in (soundness.sound_listed, soundness.sound_usage, soundness.sound_limits):
        with pytest.raises(DriverError, match="expected, not NoneType"):
            check(None)


def test_amounts() -> None:
    assert soundness.sound_usage(Usage(cores=1)) == Usage(cores=1)
    assert soundness.sound_limits(Limits(cores=1e300, ram=inf)) == Limits(cores=1e300)
    for check, wrong in (
        (soundness.sound_usage, Usage(cores=inf)),
        (soundness.sound_limits, Limits(cores=nan)),
        (soundness.sound_limits, Limits(cores=-1)),
    ):
        with pytest.raises(DriverError, match="invalid at amounts: cores"):
            check(wrong)


def test_ids_keys_and_zones() -> None:
    assert soundness.sound_id("i/../1") == "i/../1"
    with pytest.raises(DriverError, match="create_instance is invalid at external_id: it is empty"):
        soundness.sound_id("")
    assert soundness.sound_keys([KEY]) == [KEY]
    with pytest.raises(DriverError, match="invalid at host_keys"):
        soundness.sound_keys([5])  # type: ignore[list-item]
    assert soundness.sound_zones(["a", "b"]) == ("a", "b")
    with pytest.raises(DriverError, match="invalid at zones"):
        soundness.sound_zones(["a", "b\0"])


@pytest.mark.parametrize(("field", "value"), [("kind", "a\n"), ("external_id", ""), ("metadata", [])])
def test_resources(field: str, value: Any) -> None:
    content: dict[str, Any] = {"kind": "port", "external_id": "p-1"}
    assert soundness.sound_resource(Resource(**content))
    with pytest.raises(DriverError, match=f"resources is invalid at {field}"):
        soundness.sound_resource(Resource(**{**content, field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("username", "a\0"), ("connection_port", 0), ("connection_port", object()), ("settle_s", nan), ("settle_s", -1)],
)
def test_traits(field: str, value: Any) -> None:
    for sound in (LabelTraits(), LabelTraits(connection_port=None), LabelTraits(connection_port="unknown")):
        assert soundness.sound_traits(sound) is sound
    with pytest.raises(DriverError, match=f"label_traits is invalid at {field}"):
        soundness.sound_traits(LabelTraits(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("name", "", "name: it is empty"),
        ("name", "a b", "name"),
        ("pool", "\n", "pool or labels"),
        ("labels", ("a", "\0"), "pool or labels"),
        ("shell_type", "\r", "shell_type"),
        ("slot", -1, "slot"),
        ("connection_port", 0, "connection_port"),
        ("connection_port", None, "connection_port"),
    ],
)
def test_machines(field: str, value: Any, named: str) -> None:
    content: dict[str, Any] = {"pool": "main", "name": "192.0.2.1", "labels": ("small",)}
    assert soundness.sound_machine(Machine(**content))
    with pytest.raises(DriverError, match=f"machines is invalid at {named}"):
        soundness.sound_machine(Machine(**{**content, field: value}))


def test_inspections() -> None:
    assert soundness.sound_inspection(Inspection((KEY,), "192.0.2.1"))
    for wrong in (Inspection(("\n",)), Inspection(public_ipv6="?")):
        with pytest.raises(DriverError, match="inspect is invalid at"):
            soundness.sound_inspection(wrong)
