"""An instance's name yields its purpose, for any names of provider and pool."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.drivers.garm import naming
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    ExternalId,
    InstanceSpec,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def spec(node_id: str = "0000000012", provider: str = "local", pool: str = "main", attempt: int = 1) -> InstanceSpec:
    metadata = {METADATA_NODE_ID: node_id, METADATA_POOL: pool, METADATA_PROVIDER: provider}
    return InstanceSpec(node_id, f"np{node_id}", pool, "small", metadata, attempt=attempt)


@given(NAMES, NAMES, NAMES, st.integers(1, 99))
def test_metadata_comes_back_and_the_name_is_a_hosts(node_id: str, provider: str, pool: str, attempt: int) -> None:
    asked = spec(node_id, provider, pool, attempt)
    name = naming.instance_name(asked)
    assert naming.metadata_of(name) == asked.metadata
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_name_can_be_read_by_people() -> None:
    assert naming.instance_name(spec(provider="dfw-1")) == "nl-0000000012-1-dfwx2d1-main"


def test_each_attempt_has_a_name_of_its_own() -> None:
    assert naming.instance_name(spec(attempt=1)) != naming.instance_name(spec(attempt=2))


@given(st.text())
def test_names_of_others_say_nothing(name: str) -> None:
    metadata = naming.metadata_of(name)
    assert not metadata or name.startswith("nl-")


def test_broken_escapes_say_nothing() -> None:
    for name in ("nl-1-1-a-x", "nl-1-1-a-xzz", "nl-1-1-a-xff", "nl-1-1-A-b", "nl-1-1-a", "nl-1-1-a-b-c"):
        assert naming.metadata_of(name) == {}


def test_ids_follow_from_names_and_differ() -> None:
    controller = naming.controller_id("local")
    assert controller == naming.controller_id("local") != naming.controller_id("other")
    pools = {naming.pool_id(controller, pool, label) for pool in ("a", "b") for label in ("x", "y")}
    assert len(pools) == 4


def test_external_id_is_taken_apart_again() -> None:
    assert naming.split(naming.external_id("i-1@zone", "pool")) == ("i-1@zone", "pool")
    assert naming.split(ExternalId("00000000-0000-4000-8000-000000000000")) is None
