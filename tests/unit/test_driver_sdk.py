"""Self-description of an executable, taken from its driver."""

from __future__ import annotations

import pytest

from nodelaunch.driverhost.process.driver import class_with
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.schemas import capabilities_of, schemas_of
from nodelaunch.driverhost.wire.messages import CAPABILITIES, Schemas
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.protocol.driver import SupportsHostKeyScan, SupportsInventory, SupportsUpkeep

REGISTRY = DriverRegistry()


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("fake", {"host_keys", "console_log", "zones"}),
        ("static", {"inventory"}),
        ("test", set()),
        ("metastatic", {"host_keys", "upkeep"}),
    ],
)
def test_capabilities_are_those_of_the_class(name: str, capabilities: set[str]) -> None:
    plugin = REGISTRY.get(name)
    assert set(capabilities_of(plugin)) & CAPABILITIES.keys() >= capabilities - {"host_keys"}
    made = class_with(capabilities_of(plugin))
    assert issubclass(made, SupportsInventory) == ("inventory" in capabilities)
    assert issubclass(made, SupportsUpkeep) == ("upkeep" in capabilities)


def test_every_capability_is_a_part_of_the_class() -> None:
    made = class_with(CAPABILITIES)
    assert all(issubclass(made, protocol) for protocol in CAPABILITIES.values())
    assert not issubclass(class_with(()), SupportsHostKeyScan)
    assert class_with(["zones"]) is class_with(["zones", "telepathy"])


def fake() -> DriverPlugin:
    return REGISTRY.get("fake")


def test_schemas_are_of_the_drivers_own_options() -> None:
    schemas = schemas_of(fake().config_model)
    assert {"cloud-file", "boot-time", "cloud-images"} <= schemas.provider["properties"].keys()
    assert schemas.provider["properties"].keys().isdisjoint({"name", "driver", "pools", "launch-retries", "isolation"})
    assert "availability-zones" in schemas.pool["properties"]
    assert schemas.pool["properties"].keys().isdisjoint({"max-servers", "allowed-tenants"})
    assert "cloud-image" in schemas.label["properties"]
    assert schemas.label["properties"].keys().isdisjoint({"name", "allowed-tenants"})


CONTENT = {
    "name": "cloud", "driver": "fake", "boot-time": 1.5, "launch-retries": 2,
    "cloud-images": [{"name": "image"}], "limits": {"max-servers": 3},
    "pools": [{"name": "main", "labels": [{"name": "small", "cloud-image": "image", "min-ram": 8192}]}],
}  # fmt: skip


def test_model_made_of_schemas_takes_what_the_drivers_own_takes() -> None:
    made = provider_model(schemas_of(fake().config_model))
    config = made.model_validate(CONTENT)
    assert config.pools[0].label_names == ("small",)
    assert config.launching.retries == 2
    again = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert again == CONTENT
    assert fake().config_model.model_validate(again)


@pytest.mark.parametrize(
    "wrong",
    [
        {"boot-tiem": 1}, {"boot-time": "soon"}, {"boot-time": -1}, {"failure-rate": 2}, {"failure-kind": "odd"},
        {"limits": {"max-severs": 1}}, {"pools": [{"name": "main", "sise": 1}]}, {"seed": 1.5},
        {"pools": [{"name": "main", "labels": [{"name": "small", "min-ram": "much"}]}]},
    ],
)  # fmt: skip
def test_model_made_of_schemas_refuses_what_the_drivers_own_refuses(wrong: dict[str, object]) -> None:
    made = provider_model(schemas_of(fake().config_model))
    for model in (made, fake().config_model):
        with pytest.raises(ValueError, match="validation error"):
            model.model_validate({**CONTENT, **wrong})


def test_what_a_schema_does_not_close_is_open() -> None:
    assert provider_model(Schemas()).model_validate({"name": "a", "driver": "b", "size": 1})


def test_schema_that_is_not_understood_is_left_to_the_driver() -> None:
    odd = {"properties": {"a": {"if": {}}, "b": {"type": "colour"}, "c": {"$ref": "#/$defs/none"}, "d": True}}
    config = provider_model(Schemas(provider=odd)).model_validate(
        {"name": "a", "driver": "b", "a": 1, "b": [], "c": "x"}
    )
    assert config.model_dump(by_alias=True, exclude_unset=True)["b"] == []
