"""The fake driver: what the options of provider, pool, label and image come to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from nodelaunch.config.models import DiskImageConfig
from nodelaunch.drivers.fake import PLUGIN
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.drivers.fake.ledger import FakeServer
from nodelaunch.errors import InstanceNotFoundError, LabelUnusableError, LaunchFailedError
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    DriverContext,
    ExternalId,
    Instance,
    InstanceSpec,
    LabelTraits,
    SupportsConsoleLog,
    SupportsHostKeyScan,
    SupportsInventory,
)
from nodelaunch.protocol.quota import Limits, Usage
from support.fakeclouds import NoScanner

DEADLINE_S = 30.0
METADATA = {METADATA_NODE_ID: "0000000001", METADATA_POOL: "main", METADATA_PROVIDER: "cloud"}


@pytest.fixture
def cloud():
    cloud = FakeCloud()
    yield cloud
    cloud.close()


def a_driver(
    cloud: FakeCloud,
    *,
    label: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    provider: dict[str, Any] | None = None,
    diskimages: tuple[DiskImageConfig, ...] = (),
) -> FakeDriver:
    """A driver of one pool with one label, which boots the cloud image ``debian`` unless *label* says otherwise."""
    image = {} if label and "diskimage" in label else {"cloud-image": "debian"}
    flavor = {} if label and "flavor-name" in label else {"min-ram": 8000}
    labels = [{"name": "small", **image, **flavor, **(label or {})}]
    pools = [{"name": "main", "labels": labels, **(pool or {})}]
    content = {
        "name": "cloud", "driver": "fake", "boot-time": 0.0, "cloud-images": [{"name": "debian"}],
        "diskimages": [{"name": "built"}], **(provider or {}), "pools": pools,
    }  # fmt: skip
    context = DriverContext(NoScanner(), {image.name: image for image in diskimages})
    return FakeDriver(FakeProvider.model_validate(content), context, cloud=cloud)


async def launched(driver: FakeDriver, **more: Any) -> tuple[Instance, FakeServer]:
    """An instance as the engine gets it, and as the cloud has it."""
    spec = InstanceSpec("0000000001", "np0000000001", "main", "small", METADATA, **more)
    async with asyncio.timeout(DEADLINE_S):
        external_id = await driver.create_instance(spec)
        instance = await driver.wait_until_active(external_id)
    server = driver.cloud.server(external_id)
    assert server is not None
    return instance, server


def test_it_scans_keys_and_shows_consoles_but_keeps_no_inventory(cloud: FakeCloud) -> None:
    driver = a_driver(cloud)
    assert isinstance(driver, SupportsHostKeyScan)
    assert isinstance(driver, SupportsConsoleLog)
    assert not isinstance(driver, SupportsInventory)
    assert PLUGIN.open is FakeDriver


# -- what the record says ---------------------------------------------------------------------------------------------


def test_traits_of_a_cloud_image(cloud: FakeCloud) -> None:
    image = {"name": "debian", "username": "deb", "python-path": "/usr/bin/python3", "shell-type": "sh"}
    driver = a_driver(cloud, provider={"cloud-images": [image]}, label={"console-log": True})
    assert driver.label_traits("main", "small") == LabelTraits(
        image_id="debian", username="deb", python_path="/usr/bin/python3", shell_type="sh", console_log=True
    )


def test_traits_of_a_diskimage_come_from_the_top_level(cloud: FakeCloud) -> None:
    built = DiskImageConfig(name="built", username="root", python_path="/opt/python", shell_type="bash")
    driver = a_driver(cloud, label={"diskimage": "built"}, diskimages=(built,))
    assert driver.label_traits("main", "small") == LabelTraits(
        diskimage="built", username="root", python_path="/opt/python", shell_type="bash"
    )


def test_traits_of_a_diskimage_nothing_more_is_said_of(cloud: FakeCloud) -> None:
    driver = a_driver(cloud, label={"diskimage": "built"})
    assert driver.label_traits("main", "small") == LabelTraits(diskimage="built", username="zuul")


@pytest.mark.parametrize(("image", "port"), [
    ({"connection-type": "winrm"}, 5986),
    ({"connection-type": "winrm", "connection-port": 5985}, 5985),
    ({"connection-type": "network_cli"}, 22),
    ({"connection-port": 2222}, 2222),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["cloud-images", "diskimages"])
def test_connection_of_an_image(cloud: FakeCloud, kind: str, image: dict, port: int) -> None:
    label = {"diskimage": "built"} if kind == "diskimages" else {}
    name = "built" if kind == "diskimages" else "debian"
    traits = a_driver(cloud, provider={kind: [{"name": name, **image}]}, label=label).label_traits("main", "small")
    assert (traits.connection_type, traits.connection_port) == (image.get("connection-type", "ssh"), port)


@pytest.mark.parametrize(("pool", "label", "checked"), [
    ({}, {}, True),
    ({"host-key-checking": False}, {}, False),
    ({"host-key-checking": False}, {"host-key-checking": True}, True),
    ({}, {"host-key-checking": False}, False),
])  # fmt: skip
def test_label_overrides_the_pools_host_key_checking(cloud: FakeCloud, pool: dict, label: dict, checked: bool) -> None:
    assert a_driver(cloud, pool=pool, label=label).label_traits("main", "small").host_key_checking is checked


def test_unknown_label_is_unusable(cloud: FakeCloud) -> None:
    with pytest.raises(LabelUnusableError, match="pool main has no label large"):
        a_driver(cloud).label_traits("main", "large")


# -- what the cloud is asked for --------------------------------------------------------------------------------------


async def test_metadata_is_groups_then_properties_then_ours(cloud: FakeCloud) -> None:
    """Later entries win, as in Nodepool: an operator may replace the groups, but not the entries that name the
    owner.
    """
    label = {
        "instance-properties": {"a": "static", "b": "static", "count": 3, METADATA_NODE_ID: "mine"},
        "dynamic-instance-properties": {"b": "{request.id} for {request.tenant_name}", "c": "{request.labels[0]}"},
    }
    request = {"id": "100-1", "tenant_name": "acme", "labels": ["small"]}
    instance, server = await launched(a_driver(cloud, label=label), request=request)
    expected = {"groups": "cloud,debian,small", "a": "static", "b": "100-1 for acme", "c": "small", "count": "3"}
    assert server.metadata == instance.metadata == {**expected, **METADATA}
    replaced, _ = await launched(a_driver(cloud, label={"instance-properties": {"groups": "others"}}))
    assert replaced.metadata["groups"] == "others"


@pytest.mark.parametrize("template", ["{request.colour}", "{0}", "{request.labels[7]}", "{request.labels:d}", "{"])
async def test_failing_template_is_logged_and_skipped(cloud: FakeCloud, template: str) -> None:
    label = {"dynamic-instance-properties": {"bad": template, "good": "{request.id}"}}
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    with structlog.testing.capture_logs() as logs:
        instance, _ = await launched(a_driver(cloud, label=label), request={"id": "100-1", "labels": ["small"]})
    assert [(entry["event"], entry["key"], entry["label"]) for entry in logs] == [("template_failed", "bad", "small")]
    assert instance.metadata["good"] == "100-1"
    assert "bad" not in instance.metadata


async def test_other_options_reach_the_instance(cloud: FakeCloud) -> None:
    label = {
        "key-name": "key", "userdata": "#cloud-config", "boot-from-volume": True, "volume-size": 80,
        "networks": ["mine"], "flavor-name": "Unreal Flavor",
    }  # fmt: skip
    pool = {"networks": ["pools"], "security-groups": ["web"]}
    provider = {"cloud-images": [{"name": "debian", "config-drive": True}], "region-name": "north", "cloud": "acme"}
    instance, server = await launched(a_driver(cloud, label=label, pool=pool, provider=provider))
    assert (server.name, server.image, server.flavor) == ("np0000000001", "debian", "Unreal Flavor")
    assert server.details == {
        "networks": ["mine"], "security_groups": ["web"], "key_name": "key", "userdata": "#cloud-config",
        "config_drive": True, "boot_from_volume": True, "volume_size": 80,
    }  # fmt: skip
    assert (instance.cloud, instance.region, instance.hostname) == ("acme", "north", None)


async def test_diskimage_boots_the_upload(cloud: FakeCloud) -> None:
    _, server = await launched(a_driver(cloud, label={"diskimage": "built"}), image_external_id="upload-7")
    assert server.image == "upload-7"
    assert server.metadata["groups"] == "cloud,built,small"


@pytest.mark.parametrize(("pool", "label", "public", "ipv6"), [
    ({}, {}, True, False),
    ({"auto-floating-ip": False}, {}, False, False),
    ({"networks": ["no-auto-ip-network-name"]}, {}, False, False),
    ({"networks": ["fake-ipv6-network-name"]}, {}, True, True),
    ({"networks": ["fake-ipv6-network-name"]}, {"networks": ["other"]}, True, False),
    ({}, {"networks": ["fake-ipv6-network-name", "no-auto-ip-network-name"]}, False, True),
])  # fmt: skip
async def test_networks_decide_on_addresses(
    cloud: FakeCloud, pool: dict, label: dict, public: bool, ipv6: bool
) -> None:
    instance, _ = await launched(a_driver(cloud, pool=pool, label=label))
    assert "fake" in instance.private_ipv4
    assert (instance.public_ipv4 is not None, instance.public_ipv6 is not None) == (public, ipv6)
    assert instance.interface_ip == (instance.public_ipv6 or instance.public_ipv4 or instance.private_ipv4)


@pytest.mark.parametrize(("label", "flavor"), [
    ({"min-ram": 1}, "Fake Flavor"),
    ({"min-ram": 8192}, "Fake Flavor"),
    ({"min-ram": 1, "flavor-name": "Unreal"}, "Unreal Flavor"),
    ({"flavor-name": "Unreal Flavor"}, "Unreal Flavor"),
])  # fmt: skip
async def test_flavor_by_memory_name_or_both(cloud: FakeCloud, label: dict, flavor: str) -> None:
    _, server = await launched(a_driver(cloud, label=label))
    assert server.flavor == flavor


@pytest.mark.parametrize("label", [{"min-ram": 8193}, {"flavor-name": "Unreal"}, {"min-ram": 1, "flavor-name": "huge"}])
async def test_label_without_a_flavor_is_unusable(cloud: FakeCloud, label: dict) -> None:
    driver = a_driver(cloud, label=label)
    with pytest.raises(LabelUnusableError, match="no flavor"):
        await driver.quota_for_label("main", "small")
    with pytest.raises(LabelUnusableError, match="no flavor"):
        await launched(driver)


async def test_zone_is_the_specs_or_one_of_the_pools_or_of_the_cloud(cloud: FakeCloud) -> None:
    driver = a_driver(cloud, pool={"availability-zones": ["az2"]}, provider={"limits": {"max-servers": 99}})
    assert (await launched(driver))[0].zone == "az2"
    assert (await launched(driver, zone="az1"))[0].zone == "az1"
    anywhere = a_driver(cloud, provider={"seed": 1})
    assert {(await launched(anywhere))[0].zone for _ in range(12)} == {"az1", "az2"}
    with pytest.raises(LaunchFailedError, match="az3 does not exist"):
        await launched(driver, zone="az3")


# -- quota and images -------------------------------------------------------------------------------------------------


async def test_limits_are_the_fake_clouds_unless_configured(cloud: FakeCloud) -> None:
    usual = Limits({"volume-gb": 1_000_000}, instances=20, cores=100, ram=1_000_000, volumes=100)
    assert await a_driver(cloud).quota_limits() == usual
    configured = a_driver(cloud, provider={"limits": {"max-cores": 8}})
    assert (await configured.quota_limits())["cores"] == 8
    cloud.update({"max-servers": 1, "max-ram": 2, "max-volumes": 3, "max-cores": 4, "max-volume-gb": 5})
    assert await configured.quota_limits() == Limits({"volume-gb": 5}, instances=1, ram=2, volumes=3, cores=4)


async def test_label_takes_a_volume_when_it_boots_from_one(cloud: FakeCloud) -> None:
    plain = Usage(instances=1, cores=4, ram=8192)
    assert await a_driver(cloud).quota_for_label("main", "small") == plain
    driver = a_driver(cloud, label={"boot-from-volume": True})
    assert await driver.quota_for_label("main", "small") == plain + Usage({"volumes": 1, "volume-gb": 50})
    instance, _ = await launched(driver)
    assert instance.resources == plain + Usage({"volumes": 1, "volume-gb": 50})


@pytest.mark.parametrize("name", ["debian", "Debian 12", "other"])
async def test_image_is_there_unless_said_otherwise(cloud: FakeCloud, name: str) -> None:
    driver = a_driver(cloud, provider={"cloud-images": [{"name": "debian", "image-name": "Debian 12"}]})
    assert await driver.label_ready("main", "small")
    cloud.set("missing-images", [name])
    assert await driver.label_ready("main", "small") is (name == "other")
    if name != "other":
        with pytest.raises(LabelUnusableError, match="debian does not exist"):
            await launched(driver)


# -- keys and consoles ------------------------------------------------------------------------------------------------


async def test_host_key_is_always_the_same(cloud: FakeCloud) -> None:
    driver = a_driver(cloud)
    instance, _ = await launched(driver)
    assert list(await driver.host_keys(instance.external_id)) == ["ssh-rsa FAKEKEY"]
    with pytest.raises(InstanceNotFoundError):
        await driver.host_keys(ExternalId("nobody"))


async def test_console_tells_of_its_machine(cloud: FakeCloud) -> None:
    driver = a_driver(cloud)
    instance, _ = await launched(driver)
    assert await driver.console_log(instance.external_id) == "fake console of np0000000001, active"
    assert await driver.console_log(ExternalId("nobody")) is None
