"""Servers that run a real sshd, or none: what the node record says of their host keys."""

from __future__ import annotations

import asyncio
import base64
import getpass
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from ruamel.yaml import YAML

from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import RequestState
from support import firstboot
from support.openstack import DEADLINE_S, IMAGES, Found, Lab, Start, label, pool, provider
from support.process import run
from support.sshd import why_no_sshd
from support.zookeeper import ZooKeeperServer

sys.path.insert(0, str(Path(__file__).parent))
from guest import CONSOLE_KEY, KEYS, PORT

pytestmark = [pytest.mark.openstack, pytest.mark.sshd, pytest.mark.skipif(why_no_sshd() is not None, reason="no sshd")]


def keys_of(lab: Lab, node: Node) -> set[str]:
    """The host keys a guest has at last, as it says on its console."""
    said: dict[str, Any] = lab.cloud().compute.get_server_console_output(node.external_id)
    lines = str(said["output"]).splitlines()
    return {line.removeprefix(CONSOLE_KEY) for line in lines if line.startswith(CONSOLE_KEY)}


@pytest.mark.parametrize("kind", ["sshd", "rekey"])
async def test_host_keys_are_those_the_guest_ends_up_with(lab: Lab, launcher: Start, kind: str) -> None:
    """The node has a key of each algorithm; if the guest changes its keys two seconds after it starts to listen,
    the final keys.
    """
    site = await launcher(provider(pool([kind], host_key_settle_time=4)))

    def look(nodes: list[Node]) -> None:
        for node in nodes:
            assert {key.split()[0] for key in node.host_keys} == set(KEYS)
            assert set(node.host_keys) == keys_of(lab, node)

    await site.job(kind, kind, use=look)
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


async def test_guest_without_sshd_is_deleted_and_another_tried(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool(["silent"]), boot_timeout=3, launch_retries=2))
    handle = await site.client.submit(["silent"])
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    assert request.state is RequestState.FAILED
    failures = [entry for entry in site.entries if entry["event"] == "launch_failed"]
    assert [entry["attempt"] for entry in failures] == [1, 2]
    assert len({entry["external_id"] for entry in failures}) == 2
    assert all(entry["error"] == "KeyScanError" for entry in failures)
    assert "not usable within 3 s: Connection refused" in await site.explain(request)
    await site.until_empty()
    assert lab.found() == Found()


async def test_node_is_ready_once_its_user_gets_in(lab: Lab, launcher: Start) -> None:
    images = [IMAGES[0] | {"username": getpass.getuser()}]
    key = lab.state / "id_ed25519"
    site = await launcher(provider(pool(["key"], login_key=str(key)), cloud_images=images))

    def log_in(nodes: list[Node]) -> None:
        options = (
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        )
        where = f"{getpass.getuser()}@{nodes[0].interface_ip}"
        subprocess.run(["ssh", *options, "-i", str(key), "-p", "28022", where, "true"], check=True, timeout=30)

    await site.job("key", use=log_in)
    await site.until_empty()


async def test_node_whose_user_does_not_get_in_is_not_handed_out(lab: Lab, launcher: Start) -> None:
    key = lab.state / "id_ed25519"
    site = await launcher(provider(pool(["key"], login_key=str(key)), boot_timeout=12, launch_retries=1))
    handle = await site.client.submit(["key"])
    async with asyncio.timeout(DEADLINE_S):
        request = await handle.finished()
    assert request.state is RequestState.FAILED
    assert "zuul could not log in in time" in await site.explain(request)
    await site.until_empty()
    assert lab.found() == Found()


# -- host keys that servers are given -------------------------------------------------------------------------------


def given(name: str, guest: str = "cloud-init", **more: Any) -> dict[str, Any]:
    """A label whose servers are given their host keys."""
    properties = {"guest": guest, **more.pop("properties", {})}
    return label(name, host_key_checking=True, host_key_injection=True, instance_properties=properties, **more)


def accepts(node: Node) -> bool:
    """Return whether OpenSSH's own client accepts the server, given only the host key in the record."""
    with tempfile.NamedTemporaryFile("w", suffix=".known") as known:
        known.writelines(f"[{node.interface_ip}]:{PORT} {key}\n" for key in node.host_keys)
        known.flush()
        options = ("-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes")
        where = ("-o", f"UserKnownHostsFile={known.name}", "-p", str(PORT), f"nobody@{node.interface_ip}", "true")
        done = subprocess.run(["ssh", *options, *where], capture_output=True, text=True, timeout=30, check=False)
    assert "Permission denied" in done.stderr or "verification failed" in done.stderr, done.stderr
    return "Permission denied" in done.stderr


@firstboot.needed
async def test_server_has_the_host_key_it_was_given_whatever_else_its_user_data_says(lab: Lab, launcher: Start) -> None:
    """The guest answers with keys of its image until a real cloud-init has read its user data."""
    script = given("script", userdata="#!/bin/sh\necho booted\n")
    config = given("config", userdata="#cloud-config\nfqdn: label.example.org\nssh_genkeytypes: [rsa]\n")
    site = await launcher(provider(pool([given("given"), script, config])))

    def look(nodes: list[Node]) -> None:
        for node in nodes:
            (key,) = node.host_keys
            assert keys_of(lab, node) == {key}
            assert node.node_properties == {"host_key_assurance": "verified"}
            assert lab.cloud().compute.get_server(node.external_id).metadata["nodelaunch_host_key"] == key
            assert accepts(node)
        said = [str(lab.cloud().compute.get_server_console_output(node.external_id)["output"]) for node in nodes]
        assert "echo booted" in said[1]
        assert "label.example.org" in said[2]
        assert len({node.host_keys for node in nodes}) == len(nodes)

    await site.job("given", "script", "config", use=look)
    await site.until_empty()
    assert lab.found() == Found()
    assert site.complaints == []


async def test_server_whose_image_ignores_its_user_data_is_not_handed_out(lab: Lab, launcher: Start) -> None:
    site = await launcher(provider(pool([given("deaf", "sshd")]), boot_timeout=10, launch_retries=1))
    request = await site.finished("deaf")
    assert request.state is RequestState.FAILED
    (failure,) = [entry for entry in site.entries if entry["event"] == "launch_failed"]
    assert failure["error"] == "KeyScanError"
    fingerprint = r"SHA256:[A-Za-z0-9+/]{43}"
    assert re.fullmatch(
        rf"127\.\S+ port {PORT} does not have the host key that it was given: expected ssh-ed25519 {fingerprint}, "
        rf"found ecdsa-sha2-nistp256 {fingerprint}, ssh-ed25519 {fingerprint}, ssh-rsa {fingerprint}",
        failure["detail"],
    )
    assert "does not have the host key that it was given" in await site.explain(request)
    await site.until_empty()
    assert lab.found() == Found()


@firstboot.needed
async def test_launch_that_another_process_goes_on_with_is_verified_by_the_clouds_list(
    lab: Lab, launcher: Start
) -> None:
    site = await launcher(provider(pool([given("slow", properties={"lab_spawn_delay": "8"})])))
    handle = await site.client.submit(["slow"])
    async with asyncio.timeout(DEADLINE_S):
        while not (servers := await asyncio.to_thread(lambda: list(lab.cloud().compute.servers()))):
            await asyncio.sleep(0.2)
        (server,) = servers
        await site.kill()
        await site.start()
        request = await handle.finished()
    assert request.state is RequestState.FULFILLED
    async with site.client.hold(request) as (node,):
        assert node.external_id == server.id
        assert node.host_keys == (server.metadata["nodelaunch_host_key"],)
        assert node.node_properties == {"host_key_assurance": "verified"}
    assert any(entry["event"] == "launch_resumed" for entry in site.entries)
    await site.until_empty()
    assert lab.found() == Found()


@firstboot.needed
async def test_private_host_key_is_in_the_servers_user_data_and_nowhere_of_ours(
    lab: Lab, launcher: Start, zookeeper_server: ZooKeeperServer, zk_chroot: str
) -> None:
    site = await launcher(provider(pool([given("given")])))
    seen: dict[str, str] = {}
    private: list[str] = []

    def look(nodes: list[Node]) -> None:
        server = lab.cloud("devcloud-admin").compute.get_server(nodes[0].external_id)
        text = base64.b64decode(server.user_data).decode()
        key = YAML(typ="safe").load(text)["ssh_keys"]["ed25519_private"].splitlines()
        private.extend([server.user_data, *key[2:-1]])  # lines in which keys differ
        kazoo = zookeeper_server.kazoo(zk_chroot)
        seen["records"] = "\n".join(records(kazoo, "/"))
        kazoo.stop()
        kazoo.close()
        seen["list"] = run("list", "--json", "-c", str(site.config)).stdout
        seen["metadata"] = json.dumps(server.metadata)

    await site.job("given", use=look)
    assert site.serve is not None
    seen["command"] = Path(f"/proc/{site.serve.process.pid}/cmdline").read_text()
    await site.until_empty()
    seen["log"] = json.dumps(site.entries)
    assert "node_ready" in seen["log"]
    assert "host_key_assurance" in seen["records"]
    assert len(private) > 3
    for part in private:
        assert [where for where, text in seen.items() if part in text] == []


def records(kazoo: KazooClient, path: str) -> Iterator[str]:
    """All znodes below *path*, names and contents."""
    try:
        yield f"{path} {kazoo.get(path)[0].decode(errors='replace')}"
        for name in kazoo.get_children(path):
            yield from records(kazoo, f"{path.rstrip('/')}/{name}")
    except NoNodeError:
        return
