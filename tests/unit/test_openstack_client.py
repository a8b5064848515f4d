"""Answers of a real OpenStack, as recorded by tests/real_openstack/record.py, and the driver's results from them."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.errors import of_fault
from nodelaunch.drivers.openstack.floating import metadata_in
from nodelaunch.drivers.openstack.model import Port, Share
from nodelaunch.errors import (
    InsufficientCapacityError,
    LabelUnusableError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from support.exchanges import CLOUD, Player, client_through, recorded

T = TypeVar("T")
METADATA = {"nodepool_node_id": "0000000007", "nodepool_provider_name": "lab", "nodepool_pool_name": "main"}
GONE = "00000000-0000-4000-8000-000000000000"
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clouds.yaml"
    path.write_text(json.dumps({"clouds": {"devcloud": CLOUD}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))


async def asked(case: str, call: Callable[[Client], Awaitable[T]]) -> tuple[T, Player]:
    player = recorded(case)
    client = client_through(player)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await call(client), player
    finally:
        await client.aclose()


async def answer(case: str, call: Callable[[Client], Awaitable[T]]) -> T:
    return (await asked(case, call))[0]


def body_of(player: Player) -> dict[str, Any]:
    """Return the body that was posted to Nova."""
    (body,) = [json.loads(body) for method, url, body in player.sent if method == "POST" and url.endswith("/servers")]
    return body["server"]  # type: ignore[no-any-return]


# -- lists ----------------------------------------------------------------------------------------------------------


async def test_servers() -> None:
    servers = {server.name: server for server in await answer("servers", lambda client: client.servers())}
    assert {name: server.status for name, server in servers.items()} == {
        "floating": "ACTIVE", "volume": "ACTIVE", "error": "ERROR", "building": "BUILD",
    }  # fmt: skip
    floating = servers["floating"]
    assert METADATA.items() <= floating.metadata.items()
    assert [(each.network, each.is_floating) for each in floating.addresses] == [("private", False), ("private", True)]
    assert len({each.mac for each in floating.addresses}) == 1
    assert floating.zone in ("az-a", "az-b")
    assert floating.host_id
    assert floating.flavor is not None
    assert (floating.flavor.name, floating.flavor.vcpus) == ("lab.tiny", 1)
    assert len(servers["volume"].volume_ids) == 1
    assert not servers["building"].addresses or servers["building"].task_state
    assert "No valid host was found" in servers["error"].fault
    error = of_fault(servers["error"].fault, provider="lab", external_id=servers["error"].id)
    assert isinstance(error, InsufficientCapacityError)


async def test_flavors() -> None:
    flavors = {flavor.name: flavor for flavor in await answer("flavors", lambda client: client.flavors())}
    assert flavors["lab.huge"].vcpus == 4096
    assert {"lab.tiny", "lab.small", "lab.nofit"} <= flavors.keys()
    assert flavors["lab.tiny"].ram < flavors["lab.small"].ram


async def test_images() -> None:
    (image,) = await answer("images", lambda client: client.images("debian-12"))
    assert image.name == "debian-12"
    assert image.created_at.startswith("20")
    assert await answer("images_none", lambda client: client.images("nothing-is-called-that")) == []


async def test_what_is_gone_is_nothing() -> None:
    assert await answer("flavor_gone", lambda client: client.flavor(GONE)) is None
    assert await answer("image_gone", lambda client: client.image_of_id(GONE)) is None
    await answer("delete_gone", lambda client: client.delete_server(GONE))


async def test_networks() -> None:
    networks = await answer("networks", lambda client: client.networks())
    public, private = networks.find("public"), networks.find("private")
    assert public is not None
    assert private is not None
    assert (public.is_external, public.is_floating_source) == (True, True)
    assert (private.is_external, private.is_floating_source) == (False, False)
    assert networks.has_floating_ips
    assert networks.find(private.id) is private


async def test_zones() -> None:
    assert sorted(await answer("zones", lambda client: client.zones())) == ["az-a", "az-b"]


async def test_ports_floating_ips_and_volumes_say_whose_they_are() -> None:
    ports = await answer("ports", lambda client: client.ports())
    (floating_ip,) = await answer("floating_ips", lambda client: client.floating_ips())
    servers = {server.name: server for server in await answer("servers", lambda client: client.servers())}
    (port,) = [port for port in ports if port.id == floating_ip.port_id]
    assert port.device_id == servers["floating"].id
    assert port.is_compute
    assert metadata_in(floating_ip.description) == {key: METADATA[key] for key in METADATA if "pool_name" not in key}
    (volume,) = await answer("volumes", lambda client: client.volumes())
    assert (volume.size, volume.server_ids) == (1, (servers["volume"].id,))


async def test_limits_are_nothing_where_they_are_negative() -> None:
    compute = await answer("compute_limits", lambda client: client.compute_limits())
    assert compute["instances"].limit
    assert compute["instances"].used == 4
    assert set(compute) == {"instances", "cores", "ram"}
    volume = await answer("volume_limits", lambda client: client.volume_limits())
    assert volume["volumes"].used == 1
    network = await answer("network_limits", lambda client: client.network_limits())
    assert network["floating-ips"].used == 1
    assert network["ports"].used >= 3
    assert all(isinstance(share, Share) for share in (*compute.values(), *volume.values(), *network.values()))


async def test_console() -> None:
    text = await answer("console", lambda client: client.console(_id_of("console")))
    assert text


def _id_of(case: str) -> str:
    """The server the recording is of."""
    urls = [url for _, url in ((e["method"], e["url"]) for e in recorded(case)._left) if "/servers/" in url]
    return urls[0].split("/servers/")[1].split("/")[0]


# -- creating -------------------------------------------------------------------------------------------------------


def a_server(player: Player, **more: Any) -> dict[str, Any]:
    return {"name": "np", "flavor_id": "1", "image_id": GONE, "networks": [{"uuid": GONE}], **more}


async def created(case: str, **more: Any) -> tuple[str, dict[str, Any]]:
    player = recorded(case)
    client = client_through(player)
    try:
        async with asyncio.timeout(DEADLINE_S):
            server_id = await client.create_server("create server np", a_server(player, metadata=METADATA, **more))
    finally:
        await client.aclose()
    return server_id, body_of(player)


async def test_server_is_created_in_one_call_with_all_that_belongs_to_it() -> None:
    server_id, body = await created("create", config_drive=True, key_name="ci", availability_zone="az-a")
    assert len(server_id) == len(GONE)
    assert body["metadata"] == METADATA
    assert (body["config_drive"], body["key_name"], body["availability_zone"]) == (True, "ci", "az-a")
    assert (body["imageRef"], body["flavorRef"]) == (GONE, "1")


async def test_create_beyond_the_quota() -> None:
    with pytest.raises(QuotaExceededError, match="create server np: HTTP 403: Quota exceeded for cores"):
        await created("create_beyond_quota")


async def test_create_with_an_image_that_is_gone() -> None:
    with pytest.raises(LabelUnusableError, match=r"create server np: HTTP 400: .*image"):
        await created("create_image_gone")


@pytest.mark.parametrize("cut", [None, 40])
async def test_user_data_that_nova_quotes_in_an_error_is_not_in_ours(cut: int | None) -> None:
    """Nova says the whole value that it refuses, as for one that is too long."""
    player = recorded("create_image_gone")
    secret = base64.b64encode(b"#cloud-config\nssh_keys: {ed25519_private: 48151623}").decode()
    player.say(
        "/servers", f"Invalid input for field/attribute user_data. Value: {secret[:cut]}. '{secret[:cut]}' is no"
    )
    client = client_through(player)
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(LabelUnusableError, match=r"user_data. Value: \*\*\*") as caught:
                await client.create_server("create server np", a_server(player, user_data=secret))
    finally:
        await client.aclose()
    assert secret[:20] not in "".join(traceback.format_exception(caught.value))


async def test_create_in_a_zone_that_is_gone_may_go_well_in_another() -> None:
    with pytest.raises(InsufficientCapacityError, match=r"create server np: HTTP 400: .*zone"):
        await created("create_zone_gone")


async def test_floating_ip_where_no_router_leads_out() -> None:
    port = Port(GONE, GONE, GONE, "ACTIVE", ("127.28.0.1",))
    made = await answer(
        "floating_ip_without_router", lambda client: client.create_floating_ip(GONE, port, "127.28.0.1", "test")
    )
    assert made is None


async def test_account_that_is_not_let_in() -> None:
    with pytest.raises(ProviderUnavailableError, match="HTTP 401") as caught:
        await answer("wrong_password", lambda client: client.servers())
    assert caught.value.retry_after_s == 30
    assert CLOUD["auth"]["password"] not in str(caught.value)  # type: ignore[index]
