"""Values that the configuration's models accept and refuse by themselves, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nodelaunch.config.models import (
    Config,
    DiskImageConfig,
    EmbeddedStoreConfig,
    LabelConfig,
    Launching,
    LaunchingProviderConfig,
    PoolConfig,
    ProviderConfig,
    TenantLimits,
    ZooKeeperAuth,
    ZooKeeperServer,
    default_store_path,
)
from nodelaunch.drivers.cloudoptions import CloudLabel, CloudPool
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.static.config import StaticNode, StaticPool
from nodelaunch.protocol.quota import NO_LIMITS, Limits


def refusal(model: type[Any], **data: object) -> str:
    """The kind of the first thing *model* has against *data*."""
    with pytest.raises(ValidationError) as caught:
        model(**data)
    return caught.value.errors()[0]["type"]


# -- what is given in confidence ------------------------------------------------------------------------------------


def test_what_is_given_in_confidence_is_not_shown() -> None:
    images = [{"name": "debian", "env-vars": {"TOKEN": "hunter2"}}]
    auth = {"user": "us", "password": "hunter2"}
    config = Config.model_validate({"diskimages": images, "zookeeper-auth": auth})
    assert config.zookeeper_auth is not None
    assert config.zookeeper_auth.password is not None
    assert config.zookeeper_auth.password.get_secret_value() == "hunter2"
    assert "user='us'" in repr(config)
    assert "hunter2" not in repr(config) + str(config) + config.model_dump_json()


def test_one_password_is_enough_and_needed() -> None:
    assert refusal(ZooKeeperAuth, user="us") == "one_password"
    assert refusal(ZooKeeperAuth, user="us", password="a", password_file="b") == "one_password"


# -- the whole ------------------------------------------------------------------------------------------------------


def test_nothing_given_is_a_configuration() -> None:
    config = Config()
    assert config.zookeeper_servers == config.labels == config.providers == config.diskimages == ()
    assert (config.zookeeper_timeout, config.max_hold_age) == (10.0, 0)
    assert (config.webapp.port, config.webapp.listen_address) == (8005, "127.0.0.1")
    assert config == Config()


def test_whole_seconds_of_session_timeout() -> None:
    assert Config(zookeeper_timeout=20).zookeeper_timeout == 20.0


def test_labels_and_providers_by_name() -> None:
    provider = ProviderConfig(name="cloud", driver="test")
    config = Config(labels=(LabelConfig(name="small", min_ready=1),), providers=(provider,))
    assert config.label("small") == LabelConfig(name="small", min_ready=1)
    assert config.label("large") is None
    assert config.provider("cloud") is provider
    assert config.provider("other") is None


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Config().max_hold_age = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("chroots", "expected"),
    [((), ""), (("", ""), ""), (("/zuul", "/zuul"), "/zuul"), (("", "zuul/"), "/zuul"), (("/a/b", ""), "/a/b")],
)
def test_one_chroot_for_all_servers(chroots: tuple[str, ...], expected: str) -> None:
    servers = tuple(ZooKeeperServer(host=f"zk{n}", chroot=chroot) for n, chroot in enumerate(chroots))
    assert Config(zookeeper_servers=servers).chroot == expected


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_address_of_a_server_with_or_without_brackets(host: str) -> None:
    assert ZooKeeperServer(host=host).host == "::1"


@pytest.mark.parametrize("chroot", ["//a//b", "/a/../b", "/a/.", "/a\nb"])
def test_no_znode_path(chroot: str) -> None:
    assert refusal(ZooKeeperServer, host="zk", chroot=chroot) == "not_a_znode_path"


def test_default_store_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert EmbeddedStoreConfig().path == default_store_path() == Path("/state/nodelaunch/store.sqlite")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_store_path() == Path("/home/me/.local/state/nodelaunch/store.sqlite")
    assert EmbeddedStoreConfig(path=Path("~/store")).path == Path("/home/me/store")


def test_default_store_path_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def expanduser(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", expanduser)
    assert default_store_path() == Path("/var/lib/nodelaunch/store.sqlite")


def test_home_that_is_not_known() -> None:
    assert refusal(EmbeddedStoreConfig, path="~nobody-of-this-name/store") == "no_home"


# -- tenants --------------------------------------------------------------------------------------------------------


def test_limits_of_a_tenant() -> None:
    data = {"tenant-name": "acme", "max-servers": 1, "max-ram": 2, "max-volume-gb": 3, "L-1216C47A": 4}
    limits = TenantLimits.model_validate(data).limits()
    assert limits == Limits({"instances": 1, "ram": 2, "volume-gb": 3, "L-1216C47A": 4})
    assert TenantLimits(tenant_name="acme").limits() == NO_LIMITS


# -- images ---------------------------------------------------------------------------------------------------------


def test_image_takes_over_what_it_does_not_say() -> None:
    images = [
        {"name": "leaf", "parent": "middle", "elements": ["c"], "env-vars": {"A": "2", "B": "3"}},
        {"name": "root", "abstract": True, "username": "root", "shell-type": "sh", "elements": ["a"],
         "metadata": {"x": 1}},
        {"name": "middle", "parent": "root", "username": "me", "elements": ["b"], "env-vars": {"A": "1"},
         "metadata": {"y": 2}, "python-path": "/usr/bin/python3"},
    ]  # fmt: skip
    leaf, root, _ = Config.model_validate({"diskimages": images}).diskimages
    assert (leaf.username, leaf.shell_type, leaf.python_path) == ("me", "sh", "/usr/bin/python3")
    assert leaf.elements == ("a", "b", "c")
    assert {name: value.get_secret_value() for name, value in leaf.env_vars.items()} == {"A": "2", "B": "3"}
    assert leaf.metadata == {"y": 2}
    assert not leaf.abstract
    assert (root.username, root.python_path, root.abstract) == ("root", "auto", True)


def test_image_without_a_word_on_logging_in() -> None:
    image = DiskImageConfig(name="plain")
    assert (image.username, image.python_path, image.shell_type) == ("zuul", "auto", None)


def test_images_that_are_their_own_ancestors_end() -> None:
    images = [{"name": "a", "parent": "b", "elements": ["a"]}, {"name": "b", "parent": "a", "elements": ["b"]}]
    a, b = Config.model_validate({"diskimages": images}).diskimages
    assert (a.elements, b.elements) == (("b", "a"), ("a", "b"))


def test_environment_of_an_image_is_not_shown() -> None:
    image = DiskImageConfig.model_validate({"name": "a", "env-vars": {"TOKEN": "hunter2"}})
    assert "hunter2" not in repr(image) + image.model_dump_json()


def test_release_may_be_a_number() -> None:
    assert DiskImageConfig.model_validate({"name": "a", "release": 40}).release == "40"


# -- providers ------------------------------------------------------------------------------------------------------


def test_priority_is_the_pools_then_the_providers() -> None:
    plain, own = PoolConfig(name="plain"), PoolConfig(name="own", priority=0)
    assert ProviderConfig(name="p", driver="d").pool_priority(plain) == 100
    provider = ProviderConfig(name="p", driver="d", priority=50)
    assert (provider.pool_priority(plain), provider.pool_priority(own)) == (50, 0)


def test_launching() -> None:
    assert ProviderConfig(name="p", driver="d").launching == Launching(3, 3600.0, 60.0)
    data = {"name": "p", "driver": "d", "launch-retries": 1, "launch-timeout": 5, "boot-timeout": 0.5}
    assert LaunchingProviderConfig.model_validate(data).launching == Launching(1, 5.0, 0.5)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb"])
def test_names_that_are_no_part_of_a_path(name: str) -> None:
    for model, more in ((ProviderConfig, {"driver": "d"}), (PoolConfig, {}), (DiskImageConfig, {})):
        assert refusal(model, name=name, **more) in ("not_a_path_part", "string_too_short")


def test_limits_of_a_pool() -> None:
    assert PoolConfig(name="p").limits() == NO_LIMITS
    assert PoolConfig(name="p", max_servers=0).limits() == Limits(instances=0)
    pool = CloudPool(name="p", max_servers=1, max_cores=2, max_ram=3, max_volumes=4, max_volume_gb=5)
    assert pool.limits() == Limits({"instances": 1, "cores": 2, "ram": 3, "volumes": 4, "volume-gb": 5})


# -- drivers --------------------------------------------------------------------------------------------------------


def test_fake_pool_as_the_engine_sees_it() -> None:
    labels = tuple(CloudLabel(name=name, cloud_image="x", min_ram=1) for name in ("b", "a"))
    pool = CloudPool(name="p", labels=labels, availability_zones=("az1",), ignore_provider_quota=True)
    assert (pool.label_names, pool.zones, pool.ignores_provider_quota) == (("b", "a"), ("az1",), True)


def test_fake_cloud_grants_what_nodepools_does() -> None:
    limits = FakeProvider(name="p", driver="fake").limits.limits()
    servers = {"instances": 20, "cores": 100, "ram": 1_000_000}
    assert limits == Limits({**servers, "volumes": 100, "volume-gb": 1_000_000})


@pytest.mark.parametrize(("rate", "expected"), [(2, 2.0), ("0.5", 0.5), (0, 0.0)])
def test_rate_may_be_quoted(rate: object, expected: float) -> None:
    assert FakeProvider.model_validate({"name": "p", "driver": "fake", "rate": rate}).rate == expected


@pytest.mark.parametrize("rate", [True, "fast", -1, "nan", None])
def test_rate_is_a_number(rate: object) -> None:
    assert refusal(FakeProvider, name="p", driver="fake", rate=rate)


def test_cloud_file_may_be_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    provider = FakeProvider.model_validate({"name": "p", "driver": "fake", "cloud-file": "~/cloud"})
    assert provider.cloud_file == Path("/home/me/cloud")


def test_static_machine() -> None:
    node = StaticNode.model_validate({"name": "host", "labels": "bare", "host-key": "ssh-rsa A\n\nssh-rsa B\n"})
    assert (node.labels, node.host_key, node.timeout) == (("bare",), ("ssh-rsa A", "ssh-rsa B"), 5.0)
    assert node.identity == ("host", "zuul", 22)
    assert node.is_ssh
    assert not node.model_copy(update={"connection_type": "winrm"}).is_ssh


def test_static_pool_offers_each_label_once() -> None:
    nodes = tuple(StaticNode(name=str(n), labels=labels) for n, labels in enumerate([("a", "b"), ("b", "c")]))
    assert StaticPool(name="p", nodes=nodes).label_names == ("a", "b", "c")
