"""The driver on a client whose cloud is plain data: what it asks for, what it makes of answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from nodelaunch.drivers.openstack.config import OpenStackProvider
from nodelaunch.drivers.openstack.driver import OpenStackDriver
from nodelaunch.drivers.openstack.model import (
    Address,
    Flavor,
    FloatingIp,
    Image,
    Network,
    Networks,
    Port,
    Server,
    Share,
    Volume,
)
from nodelaunch.errors import InstanceNotFoundError, LabelUnusableError, LaunchFailedError, ProviderUnavailableError
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_POOL,
    METADATA_PROVIDER,
    DriverContext,
    ExternalId,
    InstanceSpec,
    Resource,
)
from support.fakeclouds import NoScanner

pytestmark = pytest.mark.looptime

METADATA = {METADATA_NODE_ID: "0000000001", METADATA_POOL: "main", METADATA_PROVIDER: "lab"}
PUBLIC = Network("n-public", "public", is_external=True, is_floating_source=True)
PRIVATE = Network("n-private", "private")
TINY, SMALL, BIG = Flavor("1", "tiny", 1, 1024), Flavor("2", "small.gp", 2, 4096), Flavor("3", "big.gp", 8, 4096)


class PlainCloud:
    """Stands for the client."""

    provider = "lab"

    def __init__(self) -> None:
        self.servers_: dict[str, Server] = {}
        self.ports_: list[Port] = []
        self.ips: list[FloatingIp] = []
        self.volumes_: list[Volume] = []
        self.images_ = [Image("i-old", "debian", "2026-01-01"), Image("i-new", "debian", "2026-02-01")]
        self.flavors_ = [BIG, TINY, SMALL]
        self.limits: dict[str, Share] = {}
        self.created: list[Mapping[str, Any]] = []
        self.deleted: list[str] = []
        self.marked: list[tuple[str, Mapping[str, str]]] = []
        self.gone_images: set[str] = set()
        self.stubborn = 0
        """Deletions that end in ERROR."""
        self.goes_on_after: int | None = None
        """Listings that have a server whose deletion ended in ERROR; None: it stays."""

    async def servers(self) -> list[Server]:
        listed = list(self.servers_.values())
        for server in listed:
            if self.goes_on_after is not None and server.status == "ERROR":
                self.goes_on_after -= 1
                if self.goes_on_after == 0:
                    del self.servers_[server.id]
        return listed

    async def server(self, server_id: str) -> Server | None:
        return self.servers_.get(server_id)

    async def create_server(self, what: str, body: Mapping[str, Any]) -> str:
        self.created.append(body)
        if body.get("image_id") in self.gone_images:
            raise LabelUnusableError("HTTP 400: no such image")
        server_id = f"s{len(self.created)}"
        fixed = Address("private", f"10.0.0.{len(self.created)}", mac=server_id)
        self.servers_[server_id] = Server(
            server_id, "ACTIVE", metadata=body["metadata"], addresses=(fixed,), flavor_id=body["flavor_id"]
        )
        self.ports_.append(Port(f"p-{server_id}", server_id, PRIVATE.id, "ACTIVE", (fixed.ip,), is_compute=True))
        return server_id

    async def delete_server(self, server_id: str) -> None:
        self.deleted.append(server_id)
        if self.stubborn and server_id in self.servers_:
            self.stubborn -= 1
            self.servers_[server_id] = replace(self.servers_[server_id], status="ERROR", fault="it hung")
            return
        self.servers_.pop(server_id, None)
        self.ports_ = [port for port in self.ports_ if port.device_id != server_id]

    async def flavors(self) -> list[Flavor]:
        return self.flavors_

    async def flavor(self, flavor_id: str) -> Flavor | None:
        return None

    async def images(self, name: str) -> list[Image]:
        return [image for image in self.images_ if image.name == name]

    async def image_of_id(self, image_id: str) -> Image | None:
        return next((image for image in self.images_ if image.id == image_id), None)

    async def networks(self) -> Networks:
        return Networks(all=(PUBLIC, PRIVATE))

    async def server_groups(self) -> dict[str, str]:
        return {"apart": "g1", "g1": "g1"}

    async def zones(self) -> list[str]:
        return ["a", "b"]

    async def ports(self) -> list[Port]:
        return self.ports_

    async def floating_ips(self) -> list[FloatingIp]:
        return self.ips

    async def create_floating_ip(self, network_id: str, port: Port, fixed_ip: str, description: str) -> FloatingIp:
        self.ips.append(FloatingIp(f"f{len(self.ips)}", "203.0.113.1", port.id, fixed_ip, description))
        return self.ips[-1]

    async def delete_floating_ip(self, floating_ip_id: str) -> None:
        self.deleted.append(floating_ip_id)
        self.ips = [ip for ip in self.ips if ip.id != floating_ip_id]

    async def delete_port(self, port_id: str) -> None:
        self.deleted.append(port_id)

    async def volumes(self) -> list[Volume]:
        return self.volumes_

    async def delete_volume(self, volume_id: str) -> None:
        self.deleted.append(volume_id)

    async def mark_volume(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        self.marked.append((volume_id, metadata))

    async def compute_limits(self) -> dict[str, Share]:
        return {name: share for name, share in self.limits.items() if name in ("instances", "cores", "ram")}

    async def volume_limits(self) -> dict[str, Share]:
        return {name: share for name, share in self.limits.items() if name in ("volumes", "volume-gb")}

    async def network_limits(self) -> dict[str, Share]:
        return {name: share for name, share in self.limits.items() if name in ("ports", "floating-ips")}

    async def settled(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def a_provider(label: dict[str, Any] | None = None, pool: dict[str, Any] | None = None, **more: Any) -> Any:
    known = {"name": "small", "cloud-image": "debian", "flavor-name": "tiny"} | (label or {})
    wanted = {key: value for key, value in known.items() if value is not None}
    return OpenStackProvider.model_validate({
        "name": "lab", "driver": "openstack", "cloud": "c", "cloud-images": [{"name": "debian"}],
        "pools": [{"name": "main", "networks": ["private"], "labels": [wanted], **(pool or {})}], **more,
    })  # fmt: skip


@pytest.fixture
def cloud() -> PlainCloud:
    return PlainCloud()


@pytest.fixture
async def opened(cloud: PlainCloud, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Opens drivers on the cloud."""
    monkeypatch.setattr("nodelaunch.drivers.openstack.driver.Client", lambda *_, **__: cloud)
    drivers = []

    def open_driver(*args: Any, **more: Any) -> OpenStackDriver:
        drivers.append(OpenStackDriver(a_provider(*args, **more), DriverContext(NoScanner())))
        return drivers[-1]

    async with asyncio.timeout(10_000):
        yield open_driver
    for driver in drivers:
        await driver.aclose()


def a_spec(**more: Any) -> InstanceSpec:
    return InstanceSpec(node_id="0000000001", name="np1", pool="main", label="small", metadata=METADATA, **more)


# -- what servers are made of ---------------------------------------------------------------------------------------


async def test_everything_is_in_the_creating_call(cloud: PlainCloud, opened: Any) -> None:
    label = {"key-name": "ci", "userdata": "#!", "server-group": "apart", "instance-properties": {"team": "x"}}
    driver = opened(label, {"security-groups": ["ssh"]})
    await driver.create_instance(a_spec(zone="a"))
    (body,) = cloud.created
    assert body == {
        "name": "np1", "flavor_id": "1", "image_id": "i-new", "networks": [{"uuid": "n-private"}],
        "security_groups": [{"name": "ssh"}], "key_name": "ci", "user_data": "IyE=", "availability_zone": "a",
        "scheduler_hints": {"group": "g1"},
        "metadata": {**METADATA, "team": "x", "groups": "lab,debian,small"},
    }  # fmt: skip


async def test_host_key_is_in_the_creating_call_and_known_from_the_list(cloud: PlainCloud, opened: Any) -> None:
    """The launcher that resumes the launch learns the public key from the server's metadata alone."""
    driver = opened({"userdata": "#!/bin/sh\n"}, {"host-key-injection": True, "auto-floating-ip": False})
    first, second = await driver.create_instance(a_spec()), await driver.create_instance(a_spec())
    keys = [body["metadata"]["nodelaunch_host_key"] for body in cloud.created]
    assert len({*keys}) == 2
    for body, key in zip(cloud.created, keys, strict=True):
        text = base64.b64decode(body["user_data"]).decode()
        assert f"ed25519_public: {key}\n" in text
        assert "#!/bin/sh\n" in text
        assert "PRIVATE" not in str(body["metadata"])
    another = opened()
    for server_id, key in ((first, keys[0]), (second, keys[1])):
        instance = await another.wait_until_active(server_id)
        assert (instance.expected_host_keys, instance.host_keys) == ((key,), None)
        assert instance.metadata["nodelaunch_host_key"] == key
        assert "PRIVATE" not in repr(instance)


@pytest.mark.parametrize(
    ("pool", "label", "image", "is_given"),
    [
        (None, None, "ssh", False),
        (True, None, "ssh", True),
        (None, True, "network_cli", True),
        (True, False, "ssh", False),
        (True, None, "winrm", False),
    ],
)
async def test_host_key_is_given_where_label_or_pool_say_so_and_there_is_ssh(
    cloud: PlainCloud, opened: Any, pool: bool | None, label: bool | None, image: str, is_given: bool
) -> None:
    keys = [{} if each is None else {"host-key-injection": each} for each in (label, pool)]
    images = [{"name": "debian", "connection-type": image}]
    driver = opened(keys[0], {**keys[1], "auto-floating-ip": False}, **{"cloud-images": images})
    instance = await driver.wait_until_active(await driver.create_instance(a_spec()))
    assert ("user_data" in cloud.created[0]) is is_given
    assert (instance.expected_host_keys is not None) is is_given


async def test_server_is_asked_for_again_with_the_same_host_key(cloud: PlainCloud, opened: Any) -> None:
    """The driver compares the refused create with the present targets of the names."""
    driver = opened({"host-key-injection": True})
    await driver.create_instance(a_spec())
    cloud.gone_images.add("i-new")
    with pytest.raises(LabelUnusableError):
        await driver.create_instance(a_spec())
    assert len(cloud.created) == 2


async def test_volume_goes_with_its_server(cloud: PlainCloud, opened: Any) -> None:
    await opened({"boot-from-volume": True, "volume-size": 7, "volume-type": "fast"}).create_instance(a_spec())
    (body,) = cloud.created
    assert "image_id" not in body
    (volume,) = body["block_device_mapping"]
    assert (volume["uuid"], volume["volume_size"], volume["volume_type"]) == ("i-new", 7, "fast")
    assert volume["delete_on_termination"] is True


@pytest.mark.parametrize(
    ("label", "flavor"),
    [
        ({"flavor-name": "small.gp"}, "2"),
        ({"flavor-name": "3"}, "3"),
        ({"min-ram": 1000}, "1"),
        ({"min-ram": 1025}, "3"),
        ({"min-ram": 1000, "flavor-name": "gp"}, "3"),
        ({"min-ram": 1000, "flavor-name": "small"}, "2"),
    ],
)
async def test_flavor_is_found_by_name_or_by_memory(
    cloud: PlainCloud, opened: Any, label: dict[str, Any], flavor: str
) -> None:
    await opened({"flavor-name": None} | label).create_instance(a_spec())
    assert cloud.created[0]["flavor_id"] == flavor


async def test_label_without_a_flavor_is_unusable(opened: Any) -> None:
    with pytest.raises(LabelUnusableError, match="label small: no flavor is nothing"):
        await opened({"flavor-name": "nothing"}).quota_for_label("main", "small")


async def test_image_that_was_replaced_is_looked_up_again(cloud: PlainCloud, opened: Any) -> None:
    driver = opened()
    await driver.create_instance(a_spec())
    cloud.gone_images.add("i-new")
    cloud.images_ = [Image("i-newest", "debian", "2026-03-01")]
    await driver.create_instance(a_spec())
    assert [body["image_id"] for body in cloud.created] == ["i-new", "i-new", "i-newest"]


async def test_bad_request_that_nothing_explains_comes_out(cloud: PlainCloud, opened: Any) -> None:
    cloud.gone_images.add("i-new")
    with pytest.raises(LabelUnusableError, match="no such image"):
        await opened().create_instance(a_spec())
    assert len(cloud.created) == 1


async def test_image_that_is_not_there_yet_makes_the_label_wait(cloud: PlainCloud, opened: Any) -> None:
    cloud.images_ = []
    driver = opened()
    assert not await driver.label_ready("main", "small")
    cloud.images_ = [Image("i", "debian")]
    await asyncio.sleep(20)
    assert await driver.label_ready("main", "small")


# -- waiting and deleting -------------------------------------------------------------------------------------------


async def test_server_gets_a_floating_ip_that_says_whose_it_is(cloud: PlainCloud, opened: Any) -> None:
    driver = opened()
    instance = await driver.wait_until_active(await driver.create_instance(a_spec()))
    assert (instance.interface_ip, instance.private_ipv4) == ("203.0.113.1", "10.0.0.1")
    (ip,) = cloud.ips
    assert ip.description == "nodelaunch node 0000000001 of provider lab"
    await driver.wait_until_active(instance.external_id)
    assert len(cloud.ips) == 1
    await driver.delete_instance(instance.external_id)
    assert cloud.deleted == ["f0", "s1"]


async def test_floating_ip_of_another_process_that_no_list_of_servers_shows_goes_with_the_server(
    cloud: PlainCloud, opened: Any
) -> None:
    first, second = opened(), opened()
    instance = await first.wait_until_active(await first.create_instance(a_spec()))
    await second.delete_instance(instance.external_id)
    assert cloud.deleted == ["f0", "s1"]


async def test_deletion_that_nova_is_at_already_is_no_trouble(
    cloud: PlainCloud, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = opened(pool={"auto-floating-ip": False})
    server_id = await driver.create_instance(a_spec())

    async def refuse(_: str) -> None:
        raise ProviderUnavailableError("HTTP 500: Unexpected API Error")

    monkeypatch.setattr(cloud, "delete_server", refuse)
    with pytest.raises(ProviderUnavailableError):
        await driver.delete_instance(server_id)
    cloud.servers_[server_id] = replace(cloud.servers_[server_id], task_state="deleting")
    deletion = asyncio.ensure_future(driver.delete_instance(server_id))
    await asyncio.sleep(5)
    assert not deletion.done()
    del cloud.servers_[server_id]
    await deletion


async def test_no_floating_ip_where_none_is_wanted(cloud: PlainCloud, opened: Any) -> None:
    driver = opened(pool={"auto-floating-ip": False})
    instance = await driver.wait_until_active(await driver.create_instance(a_spec()))
    assert (instance.interface_ip, instance.public_ipv4, instance.public_ipv6) == ("10.0.0.1", "", "")
    assert cloud.ips == []


async def test_internal_address_is_connected_to_where_that_is_wanted(cloud: PlainCloud, opened: Any) -> None:
    driver = opened(pool={"use-internal-ip": True})
    instance = await driver.wait_until_active(await driver.create_instance(a_spec()))
    assert (instance.interface_ip, instance.public_ipv4) == ("10.0.0.1", "203.0.113.1")


async def test_server_that_vanishes_is_not_waited_for(cloud: PlainCloud, opened: Any) -> None:
    with pytest.raises(InstanceNotFoundError, match="it was deleted"):
        await opened().wait_until_active(ExternalId("gone"))


@pytest.mark.parametrize("status", ["SHUTOFF", "SHELVED", "ERROR"])
async def test_server_that_will_not_become_active_is_not_waited_for(
    cloud: PlainCloud, opened: Any, status: str
) -> None:
    driver = opened()
    server_id = await driver.create_instance(a_spec())
    cloud.servers_[server_id] = replace(cloud.servers_[server_id], status=status, fault="it broke")
    with pytest.raises(LaunchFailedError):
        await driver.wait_until_active(server_id)


async def test_deletion_that_ends_in_error_is_told_at_once_and_can_be_repeated(cloud: PlainCloud, opened: Any) -> None:
    driver = opened(pool={"auto-floating-ip": False})
    server_id = await driver.create_instance(a_spec())
    cloud.stubborn = 2
    for _ in range(2):
        with pytest.raises(LaunchFailedError, match="deletion failed: it hung"):
            await driver.delete_instance(server_id)
    await driver.delete_instance(server_id)
    assert cloud.deleted == [server_id] * 3


async def test_boot_that_a_deletion_breaks_off_is_no_failed_deletion(cloud: PlainCloud, opened: Any) -> None:
    """Nova has the server in ERROR until the deletion continues."""
    driver = opened(pool={"auto-floating-ip": False})
    server_id = await driver.create_instance(a_spec())
    cloud.stubborn = 1
    cloud.goes_on_after = 1
    await driver.delete_instance(server_id)
    assert cloud.deleted == [server_id]


# -- what stays behind ----------------------------------------------------------------------------------------------


async def test_what_stays_behind_is_known_by_whose_it_was(cloud: PlainCloud, opened: Any) -> None:
    driver = opened({"boot-from-volume": True})
    server_id = await driver.create_instance(a_spec())
    cloud.servers_[server_id] = replace(cloud.servers_[server_id], volume_ids=("v1",))
    await driver.wait_until_active(server_id)
    assert [volume_id for volume_id, _ in cloud.marked] == ["v1"]
    cloud.ips[0] = replace(cloud.ips[0], port_id=None)
    cloud.volumes_ = [
        Volume("v1", 50, "available", {}), Volume("v2", 1, "available", METADATA), Volume("v3", 1, "available", {}),
    ]  # fmt: skip
    left = cloud.ports_[:]
    await cloud.delete_server(server_id)
    strange = [Port("p-x", "s-x", "n", "DOWN", is_compute=True), Port("p-y", "", "n", "DOWN")]
    cloud.ports_ = [*left, *strange]
    cloud.ips.append(FloatingIp("f-x", "203.0.113.2", None, None, ""))
    _ = [instance async for instance in driver.list_instances()]
    found = {(each.kind, each.external_id) for each in await driver.resources()}
    assert found == {("floating-ip", "f0"), ("port", "p-s1"), ("volume", "v1"), ("volume", "v2")}
    assert all(each.metadata[METADATA_PROVIDER] == "lab" for each in await driver.resources())


async def test_unattached_floating_ips_are_ours_where_the_project_is(cloud: PlainCloud, opened: Any) -> None:
    cloud.ips = [FloatingIp("f1", "203.0.113.2", None, None, ""), FloatingIp("f2", "203.0.113.3", "p", None, "")]
    (found,) = await opened(**{"clean-floating-ips": True}).resources()
    assert (found.external_id, found.metadata) == ("f1", {METADATA_PROVIDER: "lab"})
    assert await opened().resources() == []


async def test_ports_are_left_alone_where_that_is_wanted(cloud: PlainCloud, opened: Any) -> None:
    driver = opened(pool={"auto-floating-ip": False}, **{"port-cleanup-interval": 0})
    server_id = await driver.create_instance(a_spec())
    await driver.wait_until_active(server_id)
    left = cloud.ports_
    await cloud.delete_server(server_id)
    cloud.ports_ = left
    assert await driver.resources() == []


@pytest.mark.parametrize("kind", ["floating-ip", "port", "volume"])
async def test_each_kind_can_be_deleted(cloud: PlainCloud, opened: Any, kind: str) -> None:
    await opened().delete_resource(Resource(kind, "x"))
    assert cloud.deleted == ["x"]


# -- quota ----------------------------------------------------------------------------------------------------------


async def test_limits_are_less_what_no_server_accounts_for(cloud: PlainCloud, opened: Any) -> None:
    driver = opened(pool={"auto-floating-ip": False})
    await driver.wait_until_active(await driver.create_instance(a_spec()))
    cloud.ports_.append(Port("router", "r", "n", "ACTIVE"))
    cloud.ips.append(FloatingIp("f", "203.0.113.2", None, None, "somebody's"))
    cloud.volumes_ = [Volume("v", 30, "available", {}), Volume("w", 5, "creating", {})]
    cloud.limits = {
        "instances": Share(10, 1), "cores": Share(None, 1), "ports": Share(50, 2), "floating-ips": Share(5, 1),
        "volumes": Share(4, 2), "volume-gb": Share(100, 35),
    }  # fmt: skip
    limits = await driver.quota_limits()
    assert {name: limits[name] for name in limits} == {
        "instances": 10, "ports": 49, "floating-ips": 4, "volumes": 3, "volume-gb": 70,
    }  # fmt: skip


async def test_need_of_a_label(cloud: PlainCloud, opened: Any) -> None:
    driver = opened({"boot-from-volume": True, "volume-size": 7})
    cloud.limits = {"ports": Share(50), "floating-ips": Share(5)}
    await driver.quota_limits()
    need = await driver.quota_for_label("main", "small")
    assert {name: need[name] for name in need} == {
        "instances": 1, "cores": 1, "ram": 1024, "volumes": 1, "volume-gb": 7, "ports": 1, "floating-ips": 1,
    }  # fmt: skip


async def test_server_of_an_unknown_flavor_counts_as_one(cloud: PlainCloud, opened: Any) -> None:
    """Its flavor may be embedded, listed, or gone."""
    cloud.servers_ = {
        "a": Server("a", "ACTIVE", flavor_id="gone"),
        "b": Server("b", "ACTIVE", flavor=Flavor("", "odd", 16, 999)),
        "c": Server("c", "ACTIVE", flavor_id="3"),
    }
    found = {each.external_id: each.resources async for each in opened().list_instances()}
    assert {name: (usage["instances"], usage["cores"]) for name, usage in found.items() if usage} == {
        "a": (1, 0), "b": (1, 16), "c": (1, 8),
    }  # fmt: skip
