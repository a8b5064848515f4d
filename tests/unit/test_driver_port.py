"""The values that pass between engine and drivers."""

from __future__ import annotations

from nodelaunch.protocol.driver import Instance, LabelTraits, Machine, Resource


def test_a_machine_slot_is_known_by_name_user_port_and_slot() -> None:
    machine = Machine(pool="rack", name="bm1", labels=("bare",), slot=1, username="zuul", connection_port=2222)
    assert machine.identity == ("bm1", "zuul", 2222, 1)


def test_defaults_are_nodepools() -> None:
    traits = LabelTraits()
    assert (traits.connection_type, traits.connection_port, traits.python_path) == ("ssh", 22, "auto")
    assert traits.host_key_checking
    assert not Instance("i").is_active  # type: ignore[arg-type]


def test_resource_says_what_it_is() -> None:
    assert str(Resource("port", "1234")) == "port 1234"
    assert str(Resource("floating IP", "1234", detail="192.0.2.7")) == "floating IP 1234 (192.0.2.7)"
