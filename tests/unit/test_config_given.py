"""Configurations that a program has as data: the same as from a file, and errors that name the path of a key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from ruamel.yaml import YAML

from nodelaunch import Config, Launcher, config_from, load_config
from nodelaunch.config.file import load_config as read_config
from nodelaunch.config.given import read_given
from nodelaunch.config.models import DiskImageConfig, LabelConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.test.config import TestProvider as NullProvider
from nodelaunch.errors import ConfigError
from nodelaunch.store.embedded.store import EmbeddedStore

ROOT = Path(__file__).parents[2]
DRIVERS = DriverRegistry()
GOOD: dict[str, Any] = {
    "labels": [{"name": "small"}],
    "providers": [
        {
            "name": "cloud", "driver": "fake", "cloud-images": [{"name": "image"}],
            "pools": [{"name": "main", "max-servers": 2, "labels": [
                {"name": "small", "cloud-image": "image", "min-ram": 1},
            ]}],
        },
    ],
}  # fmt: skip


def as_read(path: Path) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return yaml.load(path)


def problems(given: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_from(given)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_data_of_a_file_is_the_same_configuration(path: Path) -> None:
    data = as_read(path)
    if "%(" in path.read_text():
        pytest.skip("variables are for files")
    before = copy.deepcopy(data)
    assert read_given(data, drivers=DRIVERS) == (*read_config(path, drivers=DRIVERS, environ={})[:1], ())
    assert data == before


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "unit" / "bad_configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_what_is_wrong_in_a_file_is_wrong_in_its_data(path: Path) -> None:
    """The same complaints, where the trouble is not in the YAML itself."""
    try:
        data = as_read(path)
    except Exception:
        pytest.skip("broken YAML")
    if "&" in path.read_text():
        pytest.skip("what an alias stands for is told of once, where it is written")
    expected = path.with_suffix(".expected").read_text()
    if "# env:" in path.read_text() or "%(" in path.read_text() or "YAML" in expected or "twice; it was" in expected:
        pytest.skip("about YAML or variables")
    with pytest.raises(ConfigError) as caught:
        read_given(data, drivers=DRIVERS)
    assert len(caught.value.problems) == len(expected.splitlines()), caught.value
    assert all(problem.key and not problem.line for problem in caught.value.problems)


def test_problems_name_the_path_of_their_key() -> None:
    given = copy.deepcopy(GOOD)
    given["providers"][0]["pools"][0]["max-servers"] = "2"
    given["providers"][0]["pools"][0]["labels"][0]["name"] = "smal"
    given["providers"].append({"driver": "test", "pool": []})
    given["labels"].append({"name": "small"})
    assert [re.split(r", found|;", text)[0] for text in problems(given)] == [
        "providers[0].pools[0].max-servers: a whole number is expected",
        "providers[0].pools[0].labels[0].name: no label 'smal' in the top-level labels",
        "providers[1]: the key 'name' is missing",
        "providers[1].pool: unknown key 'pool'",
        "labels[1].name: label 'small' is given twice",
    ]
    assert "first in labels[0].name" in problems(given)[-1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "the configuration: a mapping with keys such as labels and providers is expected"),
        ({1: 2}, "the configuration: a key has to be text, found 1"),
        ({"labels": [{"name": b"x"}]}, "labels[0].name: a value of a configuration can't be a bytes"),
        ({"webapp": {"port": object()}}, "webapp.port: a value of a configuration can't be a object"),
    ],
)
def test_data_of_another_kind_is_refused(given: Any, expected: str) -> None:
    assert problems(given)[0] == expected


def test_data_that_contains_itself_is_refused() -> None:
    given: dict[str, Any] = {"labels": []}
    given["labels"].append(given)
    assert any("nested deeper" in text for text in problems(given))


def test_objects_stand_for_their_values(tmp_path: Path) -> None:
    given = {
        "labels": (LabelConfig(name="small", min_ready=1),),
        "embedded-store": {"path": tmp_path / "store"},
        "diskimages": [{"name": "image", "env-vars": {"TOKEN": SecretStr("hunter2")}}],
        "providers": [NullProvider(name="none", driver="test", pools=({"name": "main", "labels": ("small",)},))],
    }
    config = config_from(given)
    assert config.embedded_store.path == tmp_path / "store"
    assert config.labels[0].min_ready == 1
    assert config.diskimages[0].env_vars["TOKEN"].get_secret_value() == "hunter2"
    assert config.providers[0].pools[0].label_names == ("small",)


def test_model_is_checked_and_stays_what_it_is() -> None:
    images = (
        DiskImageConfig(name="base", elements=("a",)),
        DiskImageConfig(name="image", parent="base", elements=("b",)),
    )
    config = Config(labels=(LabelConfig(name="small"),), diskimages=images)
    assert config_from(config) is config
    wrong = Config(
        labels=(LabelConfig(name="a"), LabelConfig(name="a")), providers=(FakeProvider(name="x", driver="aws"),)
    )
    assert [text.partition(";")[0] for text in problems(wrong)] == [
        "providers[0].driver: unknown driver 'aws'", "labels[1].name: label 'a' is given twice",
    ]  # fmt: skip


def test_secrets_are_not_shown() -> None:
    said = problems(
        {"zookeeper-auth": {"user": "u", "password": ["hunter2"], "other": 1}, "zookeeper-servers": [{"host": "h"}]}
    )
    assert "hunter2" not in "\n".join(said)
    assert said[0].startswith("zookeeper-auth.password: ")


def test_variables_are_not_replaced() -> None:
    assert config_from({"labels": [{"name": "%(NODEPOOL_X)"}]}).labels[0].name == "%(NODEPOOL_X)"


def test_load_config_takes_data_too() -> None:
    assert load_config(GOOD) == config_from(GOOD)
    with pytest.raises(ValueError, match="needs a configuration file"):
        load_config(GOOD, secure="secure.yaml")


@pytest.mark.looptime
async def test_launcher_takes_data_and_goes_on_with_other_data() -> None:
    async with Launcher(GOOD, store=EmbeddedStore(None)) as launcher:
        assert launcher.config == config_from(GOOD)
        changed = copy.deepcopy(GOOD)
        changed["providers"][0]["pools"][0]["max-servers"] = 3
        assert (await launcher.reload(changed)).changed == ("cloud",)
        with pytest.raises(ConfigError, match=r"providers\[0\]: the key 'name' is missing"):
            await launcher.reload({"providers": [{"driver": "fake"}]})
        assert launcher.config == config_from(changed)
