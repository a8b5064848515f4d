"""Options that a driver announces as JSON Schemas are checked like any other: with their place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.config.models import ProviderConfig
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.wire.messages import Schemas
from nodelaunch.drivers import DriverPlugin, DriverRegistry
from nodelaunch.errors import ConfigError, DriverError
from nodelaunch.protocol.driver import Driver, DriverContext

DISK = {
    "type": "object",
    "additionalProperties": False,
    "required": ["gb"],
    "properties": {"gb": {"type": "integer", "minimum": 1}, "kind": {"enum": ["ssd", "hdd"]}},
}
PROVIDER = {
    "additionalProperties": False,
    "required": ["region"],
    "$defs": {"Disk": DISK},
    "properties": {
        "region": {"type": "string"},
        "disks": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Disk"}},
        "mode": {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 2}]},
        "tags": {"type": "object", "additionalProperties": {"type": "string"}},
        "size": {"type": ["integer", "null"], "multipleOf": 5},
        "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "boot-disk": {"oneOf": [{"$ref": "#/$defs/Disk"}, {"type": "null"}]},
        "zone": {"type": "string", "pattern": "^(?!x-)"},
    },
}
POOL = {"additionalProperties": False, "properties": {"net": {"type": "string", "pattern": "^n-"}}}
LABEL = {"additionalProperties": False, "required": ["flavor"], "properties": {"flavor": {"type": "string"}}}


def _open(config: ProviderConfig, context: DriverContext) -> Driver:
    raise DriverError("never opened here")


def problems(folder: Path, lines: str) -> list[str]:
    """Return the problems of a provider that has these *lines*, the first of which is line 5 of its file."""
    path = folder / "nodelaunch.yaml"
    path.write_text(f"labels: [{{name: a}}]\nproviders:\n  - name: x\n    driver: far\n{lines}")
    model = provider_model(Schemas(provider=PROVIDER, pool=POOL, label=LABEL))
    try:
        load_config(path, drivers=DriverRegistry([DriverPlugin("far", model, _open)]), environ={})
    except ConfigError as error:
        return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
    return []


def test_right_options_are_taken(tmp_path: Path) -> None:
    lines = """    region: north
    disks: [{gb: 5, kind: ssd}]
    mode: 3
    tags: {a: b}
    size: null
    share: 0.5
    boot-disk: {gb: 1}
    zone: y-1
    pools: [{name: main, net: n-1, labels: [{name: a, flavor: big}]}]
"""
    assert problems(tmp_path, lines) == []
    assert problems(tmp_path, lines.replace("mode: 3", "mode: auto").replace("size: null", "size: 10")) == []


def test_who_may_use_pool_and_label_is_said_as_for_any_driver(tmp_path: Path) -> None:
    lines = """    region: north
    pools:
      - {name: main, allowed-tenants: [acme], labels: [{name: a, flavor: big, allowed-tenants: [acme]}]}
      - {name: other, allowed-tenants: [], labels: [{name: a, flavor: big}]}
"""
    assert problems(tmp_path, lines) == [
        "8:40: allowed-tenants: names no tenant; leave the key out to allow every tenant"
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("regoin: y", ["3:5: the key 'region' is missing", "5:5: unknown key 'regoin'; did you mean 'region'?"]),
        ("region: 5", ["5:13: region: text is expected, found 5; put it in quotes"]),
        ("{r}disks: []", ["6:12: disks: must not be empty"]),
        ("{r}disks:\n      - gb: 0", ["7:13: gb: must be at least 1, found 0"]),
        ("{r}disks:\n      - kind: ssd", ["7:9: the key 'gb' is missing"]),
        ("{r}disks:\n      - {gb: 1, kind: sdd}", ["7:23: kind: must be ssd or hdd, found text 'sdd'"]),
        ("{r}disks:\n      - {gb: 1, kidn: ssd}", ["7:17: unknown key 'kidn'; did you mean 'kind'?"]),
        ("{r}mode: 1", ["6:11: mode: must be at least 2, found 1", "6:11: mode: must be auto, found 1"]),
        ("{r}tags:\n      a: 5", ["7:10: a: text is expected, found 5; put it in quotes"]),
        ("{r}size: 7", ["6:11: size: must be a multiple of 5, found 7", "6:11: size: nothing is expected, found 7"]),
        ("{r}share: 1", ["6:12: share: must be less than 1, found 1"]),
        ("{r}share: 0", ["6:12: share: must be more than 0, found 0"]),
        ("{r}zone: x-1", ["6:11: zone: must match ^(?!x-), found text 'x-1'"]),
        ("{r}pools:\n      - {name: p, net: q}", ["7:24: net: must match ^n-, found text 'q'"]),
        ("{r}pools:\n      - name: p\n        labels:\n          - name: a", ["9:13: the key 'flavor' is missing"]),
    ],
)
def test_wrong_option_is_placed_and_worded(tmp_path: Path, lines: str, expected: list[str]) -> None:
    found = problems(tmp_path, f"    {lines.replace('{r}', 'region: north' + chr(10) + '    ')}\n")
    assert len(found) == len(expected), found
    for text, beginning in zip(found, expected, strict=True):
        assert text.startswith(beginning)


def test_wrong_option_of_one_kind_of_several_is_placed_within_it(tmp_path: Path) -> None:
    found = problems(tmp_path, "    region: north\n    boot-disk:\n      gb: x\n")
    assert "7:11: gb: a whole number is expected, found text 'x'" in found


@pytest.mark.parametrize("option", [{"type": "string", "pattern": "("}, {"$ref": "#/$defs/nowhere"}, {"type": "fish"}])
def test_what_makes_no_sense_is_left_to_the_driver(option: dict[str, Any]) -> None:
    model = provider_model(Schemas(provider={"properties": {"it": option}}))
    assert model.model_validate({"name": "x", "driver": "far", "it": "anything"})
