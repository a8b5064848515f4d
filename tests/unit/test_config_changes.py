"""Differences between two configurations, and detection of changed files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodelaunch.config.changes import Changes, differences
from nodelaunch.config.models import Config, LabelConfig, PoolConfig, ProviderConfig
from nodelaunch.config.standing import ConfigStanding
from nodelaunch.config.watch import FileWatch


class WithFiles(ProviderConfig):
    @property
    def files(self) -> tuple[Path, ...]:
        return (Path("/etc/clouds.yaml"),)


def a_provider(name: str = "cloud", *pools: str, driver: str = "test", **more: object) -> ProviderConfig:
    return ProviderConfig(name=name, driver=driver, pools=tuple(PoolConfig(name=pool) for pool in pools), **more)


def of(*providers: ProviderConfig, **more: object) -> Config:
    return Config(providers=providers, **more)


def test_nothing_differs_from_itself() -> None:
    assert not differences(of(a_provider()), of(a_provider()))
    assert differences(of(), of()).summary() == {}


def test_providers_and_pools_come_go_and_change() -> None:
    before = of(a_provider("a", "x"), a_provider("b", "y"), a_provider("c"), a_provider("d"))
    after = of(a_provider("a", "x", "z"), a_provider("c", driver="fake"), a_provider("d"), a_provider("e", "w"))
    assert differences(before, after) == Changes(
        added=("e",), removed=("b",), replaced=("c",), changed=("a",),
        pools_added=("a/z", "e/w"), pools_removed=("b/y",),
    )  # fmt: skip


def test_settings_are_told_apart_by_when_they_are_in_force() -> None:
    changes = differences(of(), of(labels=(LabelConfig(name="l"),), max_hold_age=5, zookeeper_timeout=20.0))
    assert (changes.settings, changes.needs_restart) == (("labels", "max-hold-age"), ("zookeeper-timeout",))


def test_servers_of_the_same_ensemble_are_live_another_store_is_not() -> None:
    one, two = ({"host": "a"},), ({"host": "a"}, {"host": "b"})
    before = Config.model_validate({"zookeeper-servers": one})
    assert differences(before, Config.model_validate({"zookeeper-servers": two})).settings == ("zookeeper-servers",)
    assert differences(of(), before) == Changes(needs_restart=("zookeeper-servers",))
    elsewhere = Config.model_validate({"zookeeper-servers": [{"host": "a", "chroot": "/other"}]})
    assert differences(before, elsewhere).needs_restart == ("chroot",)


def test_provider_whose_files_changed_has_changed() -> None:
    config = of(WithFiles(name="cloud", driver="test"), a_provider("other"))
    assert not differences(config, config, [Path("/etc/other.yaml")])
    assert differences(config, config, [Path("/etc/clouds.yaml")]).changed == ("cloud",)


# -- files ----------------------------------------------------------------------------------------------------------


def test_only_other_contents_count(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    watch = FileWatch(lambda: [one, two])
    assert watch.look() == frozenset()
    os.utime(one, (1, 1))
    assert watch.look() == frozenset()
    two.write_text("2")
    assert watch.look() == {two}
    one.unlink()
    assert watch.look() == {one}
    assert watch.look() == frozenset()


def test_file_watched_anew_has_not_changed(tmp_path: Path) -> None:
    files = [tmp_path / "one"]
    watch = FileWatch(lambda: files)
    (tmp_path / "two").write_text("2")
    files.append(tmp_path / "two")
    assert watch.look() == frozenset()


@pytest.mark.looptime
async def test_change_is_told_once_it_has_come_to_rest(tmp_path: Path) -> None:
    path = tmp_path / "one"
    watch = FileWatch(lambda: [path])
    path.write_text("1")
    assert await watch.changed() == {path}


def test_restart_is_needed_by_what_the_process_began_with() -> None:
    standing = ConfigStanding(of(zookeeper_timeout=10.0))
    for timeout_s, keys in ((20.0, ("zookeeper-timeout",)), (30.0, ("zookeeper-timeout",)), (10.0, ())):
        standing.follow(of(zookeeper_timeout=timeout_s))
        assert standing.restart_needed == keys
    assert standing.remarks() == []
