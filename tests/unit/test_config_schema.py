"""The JSON Schema of a configuration takes what `config check` takes, and refuses what a schema can find."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nodelaunch.config.file import load_config
from nodelaunch.config.models import ProviderConfig
from nodelaunch.config.schema import DriverOptions, config_schema, without_unused
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.wire.messages import Schemas
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError

ROOT = Path(__file__).parents[2]
BAD = sorted((Path(__file__).parent / "bad_configs").glob("*.yaml"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DRIVERS = DriverRegistry()
SCHEMA = config_schema(DriverOptions(name, DRIVERS.get(name).config_model) for name in DRIVERS.names)
VALIDATOR = Draft202012Validator(SCHEMA)

BEYOND_A_SCHEMA = {
    "names that have to be defined elsewhere in the file": {
        "cloud_image_undefined", "diskimage_not_attached", "undefined_label",
    },
    "names that have to differ, or to agree, from one item to the next": {
        "label_twice", "label_twice_in_a_pool", "provider_and_pool_twice", "static_machine_twice", "tenant_twice",
        "zookeeper_server_twice", "metastatic_labels_differ",
    },
    "an image or a label that leads to itself": {"diskimage_parents", "metastatic_on_itself"},
    "keys that need or exclude one another": {
        "image_kinds_and_flavor", "static_port_twice", "tls_without_servers", "two_stores",
        "zookeeper_access_of_nobody", "zookeeper_access_without_servers", "openstack_host_key",
    },
    "what variables of the environment hold": {"stray_s"},
}  # fmt: skip
"""Wrong configurations that only `config check` finds, by reason."""


def parsed(text: str) -> Any:
    """Return *text* parsed as YAML 1.1. Raises: YAMLError."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return yaml.load(text)


def complaints(data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_nothing_is_defined_in_vain() -> None:
    assert without_unused(SCHEMA)["$defs"].keys() == SCHEMA["$defs"].keys()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_example_is_taken(path: Path) -> None:
    assert complaints(parsed(path.read_text())) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documented_configurations_are_taken(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        data = parsed(re.sub(r"%\(\w+\)", "1234", block))
        if data.keys() & SCHEMA["properties"].keys():  # else it is another kind of file
            assert complaints(_with_drivers_of_readers_by_path(data)) == []


def _with_drivers_of_readers_by_path(data: Any) -> Any:
    """A page may use a driver that it shows how to write; of a path the schema knows nothing, either."""
    for provider in data.get("providers", []):
        if provider.get("driver", "fake") not in DRIVERS.names:
            provider["driver"] = f"/{provider['driver']}"
    return data


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_wrong_configuration_is_refused_unless_it_is_beyond_a_schema(path: Path) -> None:
    try:
        data = parsed(path.read_text())
    except YAMLError:
        return  # an editor says so before it looks at any schema
    is_beyond = any(path.stem in names for names in BEYOND_A_SCHEMA.values())
    assert bool(complaints(data)) != is_beyond


ANNOTATED: Any = parsed((ROOT / "examples" / "annotated.yaml").read_text())


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deeper for step, item in inner for deeper in _places(item, (*place, step)))]


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from(_places(ANNOTATED)[1:]),
    value=st.sampled_from([None, True, 0, -1, 1.5, "", "x", "5", [], {}, [None], ["x"], {"a": 1}, [{"name": "x"}]]),
)
def test_what_config_check_takes_the_schema_takes(
    place: tuple[Any, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An editor reports no error that is none."""
    data = copy.deepcopy(ANNOTATED)
    around = data
    for step in place[:-1]:
        around = around[step]
    around[place[-1]] = value
    path = tmp_path_factory.mktemp("changed") / "nodelaunch.yaml"
    path.write_text(json.dumps(data, indent=1))
    try:
        load_config(path, drivers=DRIVERS, environ={})
    except ConfigError:
        return
    assert complaints(data) == []


def test_provider_without_driver_is_what_nodepool_takes_it_for() -> None:
    assert complaints({"providers": [{"name": "fake-1", "cloud-file": "/x"}]}) == []
    assert complaints({"providers": [{"name": "cloud-1", "cloud": "here"}]}) == []
    assert complaints({"providers": [{"name": "cloud-1", "cloud": "here", "cloud-file": "/x"}]}) != []
    assert complaints({"providers": [{"name": "cloud-1"}]}) != []


def test_without_the_default_driver_one_has_to_be_named() -> None:
    schema = config_schema([DriverOptions("test", DRIVERS.get("test").config_model)])
    assert not Draft202012Validator(schema).is_valid({"providers": [{"name": "cloud"}]})
    assert Draft202012Validator(schema).is_valid({"providers": [{"name": "cloud", "driver": "test"}]})


def test_path_of_an_executable_is_a_driver_of_which_nothing_is_known() -> None:
    provider = {"name": "cloud", "driver": "/opt/nodelaunch-driver-x", "anything": 1}
    assert complaints({"providers": [provider]}) == []
    assert complaints({"providers": [{**provider, "driver": "x"}]}) != []


def test_old_names_are_taken_as_deprecated() -> None:
    assert complaints({"webapp": {"listen-address": "::"}}) == []
    old = SCHEMA["$defs"]["static.StaticNode"]["properties"]["ssh-port"]
    assert (old["deprecated"], old["maximum"], old["description"]) == (True, 65535, "Old name of connection-port.")


def test_options_are_described_by_their_docstrings() -> None:
    fake = SCHEMA["$defs"]["fake"]["properties"]
    assert fake["boot-time"]["description"] == "Seconds from the create call until the server is active."
    assert fake["boot-time"]["default"] == 0.1
    assert fake["failure-kind"]["enum"] == ["error", "quota", "capacity", "timeout"]
    assert fake["max-concurrency"]["description"].startswith("Most launches at the same time;")
    assert "title" not in fake["boot-time"]


class Shaded(ProviderConfig):
    """A message that an editor should not show."""

    shade: str = "green"
    """Colour
    of ``it``."""


def test_description_is_one_line_of_markdown() -> None:
    schema = config_schema([DriverOptions("shaded", Shaded, "for painters")])["$defs"]["shaded"]
    assert schema["properties"]["shade"]["description"] == "Colour of `it`."
    assert schema["properties"]["driver"] == {"const": "shaded", "description": "for painters"}
    assert "description" not in schema


def _announced(**provider: Any) -> Callable[[Any], bool]:
    """Return a function: whether the schema with a driver that announces these options of a provider accepts a
    value of ``it``.
    """
    model = provider_model(Schemas(provider={"additionalProperties": False, "properties": {"it": provider}}))
    validator = Draft202012Validator(config_schema([DriverOptions("far/away", model)]))
    return lambda value: validator.is_valid({"providers": [{"name": "x", "driver": "far/away", "it": value}]})


def test_options_that_a_driver_announces_are_checked() -> None:
    is_taken = _announced(type="integer", minimum=3, multipleOf=2)
    assert [is_taken(value) for value in (4, 2, 5, "4")] == [True, False, False, False]
    is_taken = _announced(type="array", items={"enum": ["a", "b"]}, uniqueItems=True)
    assert [is_taken(value) for value in (["a", "b"], ["c"], ["a", "a"])] == [True, False, False]
    is_taken = _announced(anyOf=[{"type": "null"}, {"type": "object", "properties": {"x": {"type": "string"}}}])
    assert [is_taken(value) for value in (None, {"x": "y"}, {"x": 5}, 7)] == [True, True, False, False]


def test_what_helps_people_stays_with_an_announced_option() -> None:
    said = {"type": "string", "description": "Where.", "examples": ["here"], "default": "there", "format": "hostname"}
    model = provider_model(Schemas(provider={"properties": {"it": said}}))
    schema = config_schema([DriverOptions("far", model)])["$defs"]["far"]
    assert schema["properties"]["it"] == said
