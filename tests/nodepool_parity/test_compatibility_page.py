"""docs/compatibility.md has all keys, defaults, states and times, and says them right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nodelaunch import launcher
from nodelaunch.config.models import Config, PoolConfig, ProviderConfig
from nodelaunch.decisions import quarantine
from nodelaunch.drivers import DriverRegistry
from nodelaunch.engine.cleanup import deletion, sweeper
from nodelaunch.engine.fleet import expected, presence
from nodelaunch.engine.provider import runtime
from nodelaunch.network import sshscan
from nodelaunch.protocol import paths
from nodelaunch.protocol.states import ComponentState, ImageState, NodeState, RequestState

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()

KEY_TABLES = {
    "Top level: the store": "StoreConfig",
    "Top level: the rest": "Config",
    "`zookeeper-servers[]`": "ZooKeeperServer",
    "`zookeeper-tls`": "ZooKeeperTls",
    "`zookeeper-auth`": "ZooKeeperAuth",
    "`zookeeper-acl[]`": "ZooKeeperAcl",
    "`embedded-store`": "EmbeddedStoreConfig",
    "`webapp`": "WebappConfig",
    "`labels[]`": "LabelConfig",
    "`tenant-resource-limits[]`": "TenantLimits",
    "`diskimages[]`": "DiskImageConfig",
    "`providers[]` of every driver": "ProviderConfig",
    "`pools[]` of every driver": "PoolConfig",
    "`labels[]` of a pool, where they are mappings": "PoolLabel",
    "`providers[]` that launch": "LaunchingProviderConfig",
    "Driver `fake`: the provider": "FakeProvider",
    "Driver `fake`: `limits`": "FakeLimits",
    "Drivers `openstack` and `fake`: the provider": "CloudProvider",
    "Drivers `openstack` and `fake`: `diskimages[]`": "CloudDiskImage",
    "Drivers `openstack` and `fake`: `cloud-images[]`": "CloudImage",
    "Drivers `openstack` and `fake`: the pool": "CloudPool",
    "Drivers `openstack` and `fake`: `labels[]` of a pool": "CloudLabel",
    "Driver `openstack`: the provider": "OpenStackProvider",
    "Driver `openstack`: the pool": "OpenStackPool",
    "Driver `openstack`: `labels[]` of a pool": "OpenStackLabel",
    "Driver `test`: the pool": "TestPool",
    "Driver `static`: the pool": "StaticPool",
    "Driver `static`: `nodes[]`": "StaticNode",
    "Driver `metastatic`: the provider": "MetastaticProvider",
    "Driver `metastatic`: the pool": "MetastaticPool",
    "Driver `metastatic`: `labels[]` of a pool": "MetastaticLabel",
}
"""The model of each table of keys, by name: which there are, the installed drivers tell."""


OURS_ALONE = {"garm"}
"""Drivers that Nodepool has none like; their keys are on pages of their own."""


def _rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below *heading*."""
    _, found, below = re.split(rf"^(#+ {re.escape(heading)})$", PAGE, maxsplit=1, flags=re.MULTILINE)
    assert found
    table = re.search(r"^\| .*\n\|[ |-]+\n((?:\|.*\n)+)", below, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table[1].splitlines()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this kind is made of, with their bases."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from (base for base in annotation.__mro__ if issubclass(base, BaseModel))
        for info in annotation.model_fields.values():
            yield from _models_in(info.annotation)
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys that *model* adds to those of its bases, or gives another default."""
    inherited = {name: info for base in model.__bases__ for name, info in getattr(base, "model_fields", {}).items()}
    return {
        info.alias or name: info
        for name, info in model.model_fields.items()
        if name not in inherited or inherited[name].default != info.default
    }


def _models() -> dict[str, type[BaseModel]]:
    """Every model with keys of its own that a configuration is made of, by name."""
    drivers = DriverRegistry()
    tops = [Config, *(drivers.get(name).config_model for name in drivers.names if name not in OURS_ALONE)]
    return {model.__name__: model for top in tops for model in _models_in(top) if _own_fields(model)}


def _default(info: FieldInfo) -> str:
    """The default as the page has to say it."""
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    match value:
        case Path():
            return "computed"
        case BaseModel():
            return "see below"
        case None | () | "":
            return "none"
        case dict() if not value:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:.10g}`"
        case _:
            return f"`{value}`"


@pytest.mark.parametrize("name", sorted(_models()))
def test_every_key_is_there_with_its_default(name: str) -> None:
    """A change that adds a key, or a driver, also adds it to the page."""
    (heading,) = (heading for heading, model in KEY_TABLES.items() if model == name)
    said = {row[0].strip("`"): row[2] for row in _rows(heading)}
    assert said == {key: _default(info) for key, info in _own_fields(_models()[name]).items()}


def test_every_column_of_a_key_says_something() -> None:
    for heading in KEY_TABLES:
        for row in _rows(heading):
            assert len(row) == 4, row
            assert row[3], row


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("Request states", RequestState),
        ("Node states", NodeState),
        ("Component states", ComponentState),
        ("Image upload states", ImageState),
    ],
)
def test_every_state_is_there(heading: str, states: type[StrEnum]) -> None:
    assert [row[0].strip("`") for row in _rows(heading)] == [state.value for state in states]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("between sweeps", sweeper.SWEEP_S),
        ("age of a stale request lock", sweeper.STALE_LOCK_S),
        ("a node that another marked `deleting` left to it", sweeper.GRACE_S[NodeState.DELETING]),
        ("a launch that broke off left to who serves its request next", sweeper.GRACE_S[NodeState.BUILDING]),
        ("a `deleted` node left to its deleter", sweeper.GRACE_S[NodeState.DELETED]),
        ("age of an `init` node left behind", sweeper.ORPHAN_S),
        ("one deletion", deletion.DELETE_TIMEOUT_S),
        ("pause after a failed deletion", sweeper.FIRST_BACKOFF_S),
        ("deletions at once at one provider", sweeper.MAX_DELETIONS),
        ("age of limits and foreign usage", runtime.REFRESH_S),
        ("one question to a cloud about itself", runtime.CALL_TIMEOUT_S),
        ("session timeout", Config.model_fields["zookeeper_timeout"].default),
        ("first session", launcher.CONNECT_TIMEOUT_S),
        ("running requests after a signal", launcher.DRAIN_GRACE_S),
        ("waiting for pools to register before declining", expected.REGISTER_GRACE_S),
        ("waiting for a pool that went away", presence.RETURN_GRACE_S),
        ("waiting for a first image, from when its builder began", runtime.IMAGE_WAIT_S),
        ("one try of a key scan", sshscan.TRY_TIMEOUT_S),
        ("static machine away, first pause", quarantine.RETRY_S),
        ("priority of min-ready requests", float(paths.MIN_READY_PRIORITY)),
        ("priority of a pool", ProviderConfig(name="p", driver="d").pool_priority(PoolConfig(name="p"))),
    ],
)
def test_times_are_those_of_the_code(what: str, value: float) -> None:
    (ours,) = (row[2] for row in _rows("Times and limits") if row[0] == what)
    assert ours.split()[0] == f"{value:g}"
