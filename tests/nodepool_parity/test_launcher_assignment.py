"""Assignment of nodes, and the record of the assignment. A test has the name of Nodepool's test of the same
behaviour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.fake.cloud import ZONES
from nodelaunch.drivers.fake.driver import HOST_KEY, IPV6_NETWORK
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import ImageState, NodeState
from support.sites import config, label, launched, pool, provider, write_config

pytestmark = pytest.mark.looptime
DEBIAN = {"diskimages": [{"name": "debian"}]}


async def test_node_assignment(tmp_path: Path) -> None:
    properties: dict[str, Any] = {
        "instance_properties": {"team": "ci"},
        "dynamic_instance_properties": {"asked-by": "{request.requestor}", "tenant": "{request.tenant_name}"},
    }
    cloud = provider(pool(label(diskimage="debian", **properties)), cloud="north", region_name="dfw", **DEBIAN)
    top = config(cloud, diskimages=[{"name": "debian", "username": "worker", "python-path": "/usr/bin/python3"}])
    async with launched(tmp_path, top) as site:
        image = await site.upload("debian")
        request = await site.fulfilled("small", tenant="acme")
        (node,) = site.nodes_of(request)
        (server,) = site.cloud.servers()
        assert (node.state, node.allocated_to, site.view.is_node_locked(node.id)) == (
            NodeState.READY,
            request.id,
            False,
        )
        assert (node.cloud, node.region, node.az) == ("north", "dfw", server.zone)
        assert node.az in ZONES
        assert (node.username, node.python_path, node.connection_type) == ("worker", "/usr/bin/python3", "ssh")
        assert (node.connection_port, node.ssh_port, node.host_keys) == (22, 22, (HOST_KEY,))
        assert (node.tenant_name, node.requestor) == ("acme", site.client.requestor)
        assert (node.image_id, server.image) == (image, "debian-at-cloud")
        assert (node.external_id, node.host_id, node.hostname) == (server.id, "fake-hypervisor", None)
        assert (node.interface_ip, node.public_ipv4) == (f"np{node.id}.fake",) * 2
        assert node.resources == {"cores": 4, "instances": 1, "ram": 8192}
        assert (node.launcher, node.type) == (site.launcher.pools["cloud", "main"].ctx.pool_id, ("small",))
        assert server.metadata == {
            "groups": "cloud,debian,small",
            "team": "ci",
            "asked-by": site.client.requestor,
            "tenant": "acme",
            "nodepool_node_id": node.id,
            "nodepool_pool_name": "main",
            "nodepool_provider_name": "cloud",
        }
        await (await site.take(request)).give_all_back()
        await site.until_empty()
        assert await site.store.children(paths.REQUEST_LOCKS) == []


async def test_node_assignment_order(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four")
    ready = {name: {"min-ready": 1} for name in names}
    top = config(provider(pool(*names, availability_zones=["az1"])), labels=ready)
    async with launched(tmp_path, top) as site:
        before = {node.id for node in await site.until_idle(4)}
        for wanted in (("four", "two", "one", "three"), ("two", "two", "one", "two")):
            request = await site.fulfilled(*wanted)
            assert tuple(name for node in site.nodes_of(request) for name in node.type) == wanted
            before -= set(request.nodes)
            await (await site.take(request)).give_all_back()
            await site.until_idle(4)
        assert before == set(), "the nodes that were ready were used first"


async def test_node(tmp_path: Path) -> None:
    top = config(
        provider(pool(label(diskimage="debian"), node_attributes={"zone": "lab", "rack": 7}), **DEBIAN),
        labels={"small": {"min-ready": 1}},
        diskimages=[{"name": "debian", "username": "worker", "shell-type": "csh"}],
    )
    async with launched(tmp_path, top) as site:
        await site.upload("debian")
        (node,) = await site.until_idle(1)
        assert (node.provider, node.pool, node.type) == ("cloud", "main", ("small",))
        assert (node.username, node.shell_type, node.host_keys) == ("worker", "csh", (HOST_KEY,))
        assert node.attributes == {"zone": "lab", "rack": 7}
        assert node.allocated_to is None


async def test_node_metadata(tmp_path: Path) -> None:
    properties = {"dynamic_instance_properties": {"tenant": "{request.tenant_name}"}}
    top = config(provider(pool(label(**properties))), labels={"small": {"min-ready": 1}})
    async with launched(tmp_path, top) as site:
        (node,) = await site.until_idle(1)
        (server,) = site.cloud.servers()
        assert server.metadata["nodepool_node_id"] == node.id
        assert server.metadata["nodepool_provider_name"] == "cloud"
        assert server.metadata["tenant"] == "None"


async def test_node_network_cli(tmp_path: Path) -> None:
    images = [{"name": "debian", "connection-type": "network_cli"}]
    top = config(provider(pool(label(diskimage="debian")), diskimages=images), diskimages=[{"name": "debian"}])
    async with launched(tmp_path, top) as site:
        await site.upload("debian")
        (node,) = await site.got("small")
        assert (node.connection_type, node.host_keys) == ("network_cli", (HOST_KEY,))


async def test_node_host_key_checking_false(tmp_path: Path) -> None:
    off = pool("by-pool", label("label-says-on", host_key_checking=True), name="off", host_key_checking=False)
    on = pool(label("by-label", host_key_checking=False), "checked", name="on")
    async with launched(tmp_path, config(provider(off, on))) as site:
        keys = {
            name: (await site.got(name))[0].host_keys for name in ("by-pool", "by-label", "checked", "label-says-on")
        }
        assert keys == {"by-pool": (), "by-label": (), "checked": (HOST_KEY,), "label-says-on": (HOST_KEY,)}


async def test_node_boot_from_volume(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool(label(boot_from_volume=True, volume_size=80))))) as site:
        (node,) = await site.got("small")
        (server,) = site.cloud.servers()
        assert (server.details["boot_from_volume"], server.details["volume_size"]) == (True, 80)
        assert node.resources == {"cores": 4, "instances": 1, "ram": 8192, "volumes": 1, "volume-gb": 80}


def _has_ipv6(node: Node) -> bool:
    """Return whether the node has an IPv6 address, and the launcher connects to that address."""
    assert node.interface_ip == (node.public_ipv6 or node.public_ipv4)
    return bool(node.public_ipv6)


async def test_node_net_name(tmp_path: Path) -> None:
    labels = label("six", networks=[IPV6_NETWORK]), label("four", networks=["some-name"])
    async with launched(tmp_path, config(provider(pool(*labels)))) as site:
        (six,), (four,) = await site.got("six"), await site.got("four")
        assert (_has_ipv6(six), _has_ipv6(four)) == (True, False)


async def test_node_ipv6(tmp_path: Path) -> None:
    six = provider(pool("six", networks=[IPV6_NETWORK]), name="cloud")
    four = provider(pool("four"), name="other")
    async with launched(tmp_path, config(six, four)) as site:
        (first,), (second,) = await site.got("six"), await site.got("four")
        assert (first.provider, _has_ipv6(first)) == ("cloud", True)
        assert (second.provider, _has_ipv6(second)) == ("other", False)


async def test_node_security_group(tmp_path: Path) -> None:
    pools = pool("guarded", name="guarded", security_groups=["ci", "web"]), pool("open", name="open")
    async with launched(tmp_path, config(provider(*pools))) as site:
        (guarded,), (unguarded,) = await site.got("guarded"), await site.got("open")
        groups = {server.id: server.details["security_groups"] for server in site.cloud.servers()}
        assert groups == {guarded.external_id: ["ci", "web"], unguarded.external_id: []}


async def test_node_flavor_name(tmp_path: Path) -> None:
    flavored = {"name": "small", "cloud-image": "image", "flavor-name": "Unreal Flavor"}
    async with launched(tmp_path, config(provider(pool(flavored)))) as site:
        await site.got("small")
        assert [server.flavor for server in site.cloud.servers()] == ["Unreal Flavor"]


async def test_node_az(tmp_path: Path) -> None:
    async with launched(tmp_path, config(provider(pool("small", availability_zones=["az2"])))) as site:
        nodes = await site.got("small", "small", "small")
        assert [node.az for node in nodes] == ["az2"] * 3
        assert {server.zone for server in site.cloud.servers()} == {"az2"}


async def test_node_auto_floating_ip(tmp_path: Path) -> None:
    pools = [pool(f"l{name}", name=name, auto_floating_ip=on) for name, on in (("off", False), ("on", True))]
    async with launched(tmp_path, config(provider(*pools, pool("ldefault", name="default")))) as site:
        nodes = {name: (await site.got(f"l{name}"))[0] for name in ("off", "on", "default")}
        assert {name: bool(node.public_ipv4) for name, node in nodes.items()} == {
            "off": False, "on": True, "default": True,
        }  # fmt: skip
        assert nodes["off"].interface_ip == nodes["off"].private_ipv4


async def test_multiple_pools(tmp_path: Path) -> None:
    pools = (
        pool("first", name="one", availability_zones=["az1"]),
        pool("second", name="two", availability_zones=["az2"]),
    )
    async with launched(tmp_path, config(provider(*pools))) as site:
        (first,), (second,) = await site.got("first"), await site.got("second")
        assert (first.provider, first.pool, first.az) == ("cloud", "one", "az1")
        assert (second.provider, second.pool, second.az) == ("cloud", "two", "az2")


async def test_unmanaged_image(tmp_path: Path) -> None:
    images = [
        {"name": "plain"},
        {"name": "windows", "connection-type": "winrm", "username": "zuul"},
        {"name": "ported", "connection-type": "winrm", "connection-port": 1234},
        {"name": "shelled", "python-path": "/usr/bin/python3.9", "shell-type": "cmd"},
    ]
    labels = [label(image["name"], cloud_image=image["name"]) for image in images]
    async with launched(tmp_path, config(provider(pool(*labels), cloud_images=images))) as site:
        plain, windows, ported, shelled = await site.got("plain", "windows", "ported", "shelled")
        assert (plain.username, plain.connection_port, plain.host_keys) == (None, 22, (HOST_KEY,))
        assert (plain.python_path, plain.shell_type, plain.image_id) == ("auto", None, "plain")
        assert (windows.connection_type, windows.connection_port, windows.host_keys) == ("winrm", 5986, ())
        assert (windows.username, ported.connection_port) == ("zuul", 1234)
        assert (shelled.python_path, shelled.shell_type) == ("/usr/bin/python3.9", "cmd")


async def _boots_image(folder: Path, said: str, **image: str) -> None:
    """A cloud image is known to the cloud as the provider says, and to us by its own name."""
    top = config(provider(pool("small"), cloud_images=[{"name": "image", **image}]))
    async with launched(folder, top) as site:
        (node,) = await site.got("small")
        assert node.image_id == "image"
        assert [server.image for server in site.cloud.servers()] == [said]
        site.cloud.set("missing-images", [said])
        await site.launcher.providers["cloud"].refresh()
        await site.failed("small")


async def test_unmanaged_image_provider_name(tmp_path: Path) -> None:
    await _boots_image(tmp_path, "Fake Precise", **{"image-name": "Fake Precise"})


async def test_unmanaged_image_provider_id(tmp_path: Path) -> None:
    await _boots_image(tmp_path, "fake-image-id", **{"image-id": "fake-image-id"})


async def _boots_upload_of_each_format(folder: Path, **formats: str) -> None:
    """The format of an upload is the builder's matter: each provider boots the newest ready one it has."""
    providers = [provider(pool(label(f"at-{name}", diskimage="debian")), name=name, **DEBIAN) for name in formats]
    async with launched(folder, config(*providers, diskimages=[{"name": "debian"}])) as site:
        for name, format_ in formats.items():
            await site.upload("debian", name, format=format_, external_id="old", state_time=site.now - 10)
            newest = await site.upload("debian", name, format=format_, external_id=f"{format_}-image")
            await site.upload("debian", name, format=format_, state=ImageState.UPLOADING, state_time=site.now + 10)
            (node,) = await site.got(f"at-{name}")
            assert (node.provider, node.image_id) == (name, newest)
            assert [server.image for server in site.cloud_of(name).servers()] == [f"{format_}-image"]


async def test_node_vhd_image(tmp_path: Path) -> None:
    await _boots_upload_of_each_format(tmp_path, cloud="vhd")


async def test_node_vhd_and_qcow2(tmp_path: Path) -> None:
    await _boots_upload_of_each_format(tmp_path, cloud="vhd", other="qcow2")


async def test_dib_upload_fail(tmp_path: Path) -> None:
    providers = [provider(pool(label(diskimage="debian")), name=name, **DEBIAN) for name in ("cloud", "other")]
    top = config(*providers, labels={"small": {"min-ready": 2}}, diskimages=[{"name": "debian"}])
    async with launched(tmp_path, top) as site:
        await site.upload("debian", "cloud", state=ImageState.FAILED)
        await site.upload("debian", "other")
        nodes = await site.until_idle(2)
        assert [node.provider for node in nodes] == ["other", "other"]
        assert site.cloud.servers() == []


async def test_label_provider(tmp_path: Path) -> None:
    providers = provider(pool("small"), name="cloud"), provider(pool("other"), name="other")
    async with launched(tmp_path, config(*providers)) as site:
        assert [node.provider for node in await site.got(*["other"] * 3)] == ["other"] * 3
        assert site.cloud.servers() == []


async def test_disabled_label(tmp_path: Path) -> None:
    labels = {"small": {"min-ready": 0}, "odd": {"min-ready": -1}}
    async with launched(tmp_path, config(provider(pool("small", "odd")), labels=labels)) as site:
        await site.a_while()
        assert site.view.nodes == {}
        assert not [entry for entry in await site.store.children(paths.REQUESTS) if entry]
        await site.got("odd")  # not kept ready is not switched off


def test_secure_file(tmp_path: Path) -> None:
    main = config(provider(pool(label(diskimage="debian")), **DEBIAN), diskimages=[{"name": "debian"}])
    main["zookeeper-servers"] = [{"host": "not-this-one"}]
    secure = tmp_path / "secure.yaml"
    secure.write_text("""
zookeeper-servers: [{host: zk1, port: 2181, chroot: /test}]
diskimages: [{name: debian, env-vars: {REG_PASSWORD: secret}}]
""")
    path = write_config(tmp_path, main)
    loaded, _ = load_config(str(path), secure=str(secure), drivers=DriverRegistry(), environ={})
    assert [(server.host, server.port) for server in loaded.zookeeper_servers] == [("zk1", 2181)]
    assert loaded.chroot == "/test"
    (image,) = loaded.diskimages
    assert {name: value.get_secret_value() for name, value in image.env_vars.items()} == {"REG_PASSWORD": "secret"}
