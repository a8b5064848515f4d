"""The store's part of the configuration counts even if the rest of the file is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.config.file import load_config, load_store_config
from nodelaunch.config.models import StoreConfig
from nodelaunch.connecting import check_files
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError

STORE = "zookeeper-servers:\n- host: zk1\n  port: 2281\n  chroot: /a\nzookeeper-timeout: 20\n"
BROKEN = (
    "labels: [{name: small}\n",
    "providers:\n  - name: cloud\n   driver: fake\n",
    "labels:\n  - name: 'a\n",
    "labels: []\nlabels: []\n",
    "labels:\n\t- name: a\n",
    "labels: !python/object:os.system {}\n",
)


def store_of(folder: Path, text: str, secure: str | None = None) -> StoreConfig:
    path, other = folder / "nodelaunch.yaml", folder / "secure.yaml"
    path.write_text(text)
    if secure is not None:
        other.write_text(secure)
    with pytest.raises(ConfigError):
        load_config(path, drivers=DriverRegistry())
    config = load_store_config(path, secure=other if secure is not None else None)
    assert list(check_files(config, path, secure=other if secure is not None else None)) == []
    return config


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("is_first", [True, False])
def test_store_of_a_broken_file_is_found(tmp_path: Path, broken: str, is_first: bool) -> None:
    config = store_of(tmp_path, STORE + broken if is_first else broken + STORE)
    assert [(each.host, each.port) for each in config.zookeeper_servers] == [("zk1", 2281)]
    assert (config.chroot, config.zookeeper_timeout) == ("/a", 20)


def test_store_of_a_secure_file_is_found(tmp_path: Path) -> None:
    assert store_of(tmp_path, BROKEN[0], STORE.partition("zookeeper-timeout")[0]).zookeeper_servers[0].host == "zk1"


def test_file_that_says_nothing_of_the_store_means_the_embedded_one(tmp_path: Path) -> None:
    config = store_of(tmp_path, BROKEN[0])
    assert config.zookeeper_servers == ()


@pytest.mark.parametrize("text", ["  zookeeper-servers: [{host: a}]\nlabels: [\n", "zookeeper-servers: [{host: a}\n"])
def test_store_that_can_not_be_told_is_not_guessed(tmp_path: Path, text: str) -> None:
    """The complaint says where the mistake is, and what can be done meanwhile."""
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_store_config(path)
    mistake, hint = caught.value.problems
    assert mistake.line > 0
    assert str(hint).startswith(f"{path}: the store can't be determined from a broken file; correct the file, or ")
