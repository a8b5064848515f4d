"""A real OpenStack control plane on loopback, with a launcher beside it.

Tests start it, break and repair it, and examine it with its own tools. The scripts that run the control plane are no
part of this project: ``NODELAUNCH_OPENSTACK_LAB`` names their folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nodelaunch.client.nodes import NodeClient
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import Node, NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support.process import Serve, run
from support.zookeeper import ZooKeeperServer

ROOT = Path(__file__).parents[2]
VARIABLE = "NODELAUNCH_OPENSTACK_LAB"
STATE_VARIABLE = "NODELAUNCH_OPENSTACK_STATE"
GUEST = ROOT / "tests" / "real_openstack" / "guest.py"
UP_TIMEOUT_S = 900.0
"""The first time, it installs and fills all of OpenStack."""
HOST_DISCOVERY_S = 15.0
"""Nova's interval between two looks for new hosts (10 s, discover_hosts_in_cells_interval), and a margin."""
COMMAND_TIMEOUT_S = 120.0
DEADLINE_S = 240.0
"""Time limit for all waits of a test."""
PROVIDER = "lab"


def scripts() -> Path:
    return Path(os.environ[VARIABLE])


def why_not() -> str | None:
    """Return why there is no control plane to test with, or None if there is one."""
    if not os.environ.get(VARIABLE):
        return f"{VARIABLE} is not set: it names the folder of openstack-up and its fellows"
    if not (scripts() / "openstack-up").exists():
        return f"no openstack-up in {scripts()}, which {VARIABLE} names"
    return None


# -- the control plane ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Resources in the project, by names or addresses."""

    servers: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    floating_ips: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


class Lab:
    """The control plane of this machine; there is one."""

    def __init__(self) -> None:
        self.state = Path(os.environ.get(STATE_VARIABLE) or Path.home() / ".cache" / "nodelaunch-openstack")
        self.has_started = False
        self._connections: dict[str, Any] = {}

    @property
    def clouds(self) -> Path:
        return self.state / "clouds.yaml"

    def clouds_with(self, more: Mapping[str, Any], folder: Path) -> Path:
        """A copy of ``clouds.yaml``, with *more* in each entry."""
        content = YAML(typ="safe").load(self.clouds)
        for entry in content["clouds"].values():
            entry.update(more)
        path = folder / "clouds.yaml"
        path.write_text(json.dumps(content))
        return path

    def revoke(self, tokens: Iterable[str]) -> None:
        """Make Keystone revoke *tokens*, and make the services, which cache its answers for minutes, ask again."""
        for token in tokens:
            answer = self.cloud("devcloud-admin").identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
            assert answer.status_code == 204, answer.text
        settings = (self.state / "etc" / "keystone.conf").read_text()
        found = re.search(r"^memcache_servers = ([^:]+):(\d+)", settings, re.MULTILINE)
        assert found is not None, settings
        with socket.create_connection((found[1], int(found[2])), timeout=10) as memcached:
            memcached.sendall(b"flush_all\r\n")
            assert memcached.recv(100) == b"OK\r\n"

    def endpoint(self, service: str) -> str:
        """Return the address of a service, "compute" or another type."""
        return str(self.cloud().endpoint_for(service))

    def start(self) -> None:
        """Start all services, with volumes and with guests. openstack-up continues where it failed. At the first
        start on a busy machine its test server is refused if Nova has not discovered the hosts yet.
        """
        self.has_started = self.command("openstack-status", check=False).returncode != 0
        settings = {"LAB_CINDER": "1", "LAB_GUEST_RUN": str(GUEST)}
        settings |= {"LAB_QUOTA_INSTANCES": "300", "LAB_QUOTA_FIPS": "300"}
        first = self.command("openstack-up", check=False, timeout_s=UP_TIMEOUT_S, **settings)
        if first.returncode != 0:
            time.sleep(HOST_DISCOVERY_S)
            self.command("openstack-up", timeout_s=UP_TIMEOUT_S, **settings)

    def stop(self) -> None:
        for connection in self._connections.values():
            connection.close()
        if self.has_started:
            self.command("openstack-down")

    def command(
        self, name: str, *arguments: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(scripts() / name), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment | settings, check=False
        )
        assert not check or done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done

    async def fault(self, *arguments: str) -> None:
        """Cause a fault; starting a service takes longer than the session of a frozen client lasts."""
        await asyncio.to_thread(self.command, "openstack-fault", *arguments)

    def mend(self) -> None:
        """Remove the fault."""
        for service in self.paused:
            self.command("openstack-fault", "resume", service)
        self.command("openstack-fault", "clear")
        self.command("openstack-fault", "start")

    @property
    def paused(self) -> list[str]:
        shown = self.command("openstack-fault", "show").stdout
        return re.findall(r"^(\S+) paused$", shown, re.MULTILINE)

    # -- looked at, from outside --

    def cloud(self, name: str = "devcloud") -> Any:
        """A connection of openstacksdk; "devcloud-admin" sees everything."""
        import openstack

        if name not in self._connections:
            os.environ["OS_CLIENT_CONFIG_FILE"] = str(self.clouds)
            self._connections[name] = openstack.connect(cloud=name)
        return self._connections[name]

    def found(self) -> Found:
        """Everything in the project that a launcher may have made."""
        cloud = self.cloud()
        mine = {"project_id": cloud.current_project_id}
        return Found(
            servers=tuple(sorted(server.name for server in cloud.compute.servers())),
            ports=tuple(
                port.id for port in cloud.network.ports(**mine) if not (port.device_owner or "").startswith("network:")
            ),
            floating_ips=tuple(ip.floating_ip_address for ip in cloud.network.ips(**mine)),
            volumes=tuple(volume.id for volume in cloud.block_storage.volumes()),
        )

    def empty(self) -> None:
        """Delete all resources of the project, and wait until they are gone."""
        cloud = self.cloud()
        mine = {"project_id": cloud.current_project_id}
        deadline = time.monotonic() + DEADLINE_S
        while (left := self.found()) != Found():
            assert time.monotonic() < deadline, left
            for server in cloud.compute.servers():
                cloud.compute.delete_server(server, ignore_missing=True)
            for ip in cloud.network.ips(**mine):
                cloud.network.delete_ip(ip, ignore_missing=True)
            if not left.servers:
                for port_id in left.ports:
                    cloud.network.delete_port(port_id, ignore_missing=True)
                for volume in cloud.block_storage.volumes():
                    if volume.status in ("available", "error", "error_deleting"):
                        cloud.block_storage.delete_volume(volume, ignore_missing=True)
            time.sleep(0.5)

    def calls(self) -> Calls:
        """Return the calls to the services so far."""
        return Calls(self.state / "log", self.cloud().current_user_id)


_LINE = re.compile(r'"(\S+) (\S+?)(?:\?\S*)? HTTP/\S+" (\d+)')
_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_NOVA_LINE = re.compile(r'requestlog \[\S+ \S+ (\S+) .*"(\S+) (\S+?)(?:\?\S*)?" status: (\d+)')


class Calls:
    """Counts requests in the services' logs from where they end now."""

    def __init__(self, folder: Path, user_id: str) -> None:
        self._folder = folder
        self._user_id = user_id
        self._begin = {path: path.stat().st_size for path in folder.glob("*.log")}

    def _lines(self, name: str) -> Iterable[str]:
        path = self._folder / f"{name}.log"
        with path.open(errors="replace") as log:
            log.seek(self._begin.get(path, 0))
            yield from log

    def made(self, service: str) -> Counter[str]:
        """Return how often each kind of request was made of *service*. Nova logs the user: only the project's user
        counts. Other services do not: their counts include requests between services.
        """
        counts: Counter[str] = Counter()
        if service == "nova":
            for line in self._lines("nova"):
                found = _NOVA_LINE.search(line)
                if found and found[1] == self._user_id:
                    counts[f"{found[2]} {_ID.sub('ID', found[3])}"] += 1
            return counts
        for line in self._lines(f"{service}-access"):
            if found := _LINE.search(line):
                counts[f"{found[1]} {_ID.sub('ID', found[2])}"] += 1
        return counts


# -- a launcher beside it -------------------------------------------------------------------------------------------

IMAGES = [{"name": "debian", "image-name": "debian-12", "username": "zuul", "connection-port": 28022}]


def label(name: str, **more: Any) -> dict[str, Any]:
    known = {"name": name, "cloud-image": "debian", "flavor-name": "lab.tiny", "host-key-checking": False}
    return known | {key.replace("_", "-"): value for key, value in more.items()}


LABELS = {
    each["name"]: each
    for each in (
        label("plain"),
        label("floating", networks=["private"]),
        label("volume", boot_from_volume=True, volume_size=1),
        label("everything", networks=["private"], boot_from_volume=True, volume_size=1),
        label("sshd", host_key_checking=True, instance_properties={"guest": "sshd"}),
        label("rekey", host_key_checking=True, instance_properties={"guest": "rekey", "rekey_after": "2"}),
        label("key", host_key_checking=True, key_name="launcher-key", instance_properties={"guest": "sshd"}),
        label("silent", host_key_checking=True, console_log=True),
        label("nofit", flavor_name="lab.nofit"),
        label("huge", flavor_name="lab.huge"),
    )
}
"""Kinds of nodes; those without anything else are in a network that needs no floating IP."""


def pool(labels: Sequence[str | dict[str, Any]] = tuple(LABELS), **more: Any) -> dict[str, Any]:
    known = {
        "name": "main",
        "networks": ["loopnet"],
        "security-groups": ["launcher"],
        "labels": [LABELS[each] if isinstance(each, str) else each for each in labels],
    }
    return known | {key.replace("_", "-"): value for key, value in more.items()}


def provider(*pools: dict[str, Any], **more: Any) -> dict[str, Any]:
    known = {
        "name": PROVIDER, "driver": "openstack", "cloud": "devcloud", "region-name": "RegionOne", "rate": 0,
        "boot-timeout": 60, "launch-timeout": 180, "launch-retries": 2, "cloud-images": IMAGES,
    }  # fmt: skip
    return known | {key.replace("_", "-"): value for key, value in more.items()} | {"pools": list(pools) or [pool()]}


@dataclass
class Beside:
    """A launcher process on a ZooKeeper, and a client of it, beside the control plane."""

    lab: Lab
    folder: Path
    client: NodeClient
    clouds: Path
    serve: Serve | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    """Log of processes that have ended."""

    @property
    def config(self) -> Path:
        return self.folder / "nodepool.yaml"

    async def start(self, *python: str) -> Serve:
        """Start it, and wait until it works. *python*: what Python is given to become the command."""
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(self.clouds)
        self.serve = Serve(self.config, "--drain-timeout", "5", python=python or ("-m", "nodelaunch"))
        return self.serve

    async def registered(self) -> None:
        assert self.serve is not None
        await asyncio.to_thread(self.serve.await_log, "pool_registered")

    async def kill(self) -> None:
        if self.serve is not None:
            await asyncio.to_thread(self.serve.kill)
            self.log += self.serve.log

    async def died(self) -> None:
        """Wait until the process has killed itself."""
        assert self.serve is not None
        await asyncio.to_thread(self.serve.process.wait, DEADLINE_S)
        await self.kill()

    async def logged(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for a log entry."""
        assert self.serve is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        while not (found := self.serve._matching(event, count, fields)):
            assert loop.time() < deadline, f"no {event} {fields} in {self.serve.log[-20:]}"
            await asyncio.sleep(0.05)
        return found[count - 1]

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [*self.log, *(self.serve.log if self.serve else [])]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Return all log entries that are errors, or not in the form of the log."""
        return [e for e in self.entries if e.get("level") in ("error", "critical") or e["event"] == "unstructured"]

    # -- jobs --

    async def finished(self, *labels: str) -> NodeRequest:
        async with asyncio.timeout(DEADLINE_S):
            return await (await self.client.submit(list(labels))).finished()

    async def job(self, *labels: str, use: Callable[[list[Node]], None] | None = None) -> list[Node]:
        """Ask, wait, use, give back."""
        request = await self.finished(*labels)
        assert request.state is RequestState.FULFILLED, request
        async with self.client.hold(request) as nodes:
            if use is not None:
                await asyncio.to_thread(use, nodes)
            return nodes

    async def until_empty(self) -> None:
        """Wait until no node's record is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        while left := await self.client.store.children(paths.NODES):
            assert loop.time() < deadline, left
            await asyncio.sleep(0.2)

    async def explain(self, request: NodeRequest | str) -> str:
        request_id = request if isinstance(request, str) else request.id
        done = await asyncio.to_thread(run, "explain", request_id, "-c", str(self.config))
        return done.stdout + done.stderr


Start = Callable[..., Awaitable[Beside]]
"""A fixture that makes the launcher of a test."""


@asynccontextmanager
async def beside(
    lab: Lab,
    server: ZooKeeperServer,
    chroot: str,
    folder: Path,
    *providers: dict[str, Any],
    cloud: Mapping[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Beside]:
    """A launcher that is not started yet. *cloud*: more keys of the cloud's entry in ``clouds.yaml``. *more*: of the
    configuration's top."""
    providers = providers or (provider(),)
    names = dict.fromkeys(label["name"] for each in providers for pool in each["pools"] for label in pool["labels"])
    content = {
        "zookeeper-servers": [{"host": server.host, "port": server.port, "chroot": chroot}],
        "zookeeper-timeout": 4,
        "webapp": {"port": 0, "listen_address": "127.0.0.1"},
        "labels": [{"name": name} for name in names],
        "providers": list(providers),
    }
    (folder / "nodepool.yaml").write_text(json.dumps(content | more))
    kazoo = server.kazoo(chroot)
    kazoo.stop()
    kazoo.close()
    async with (
        ZooKeeperStore([(server.host, server.port)], chroot=chroot) as store,
        NodeClient(store) as client,
    ):
        made = Beside(lab, folder, client, lab.clouds if cloud is None else lab.clouds_with(cloud, folder))
        try:
            yield made
        finally:
            await made.kill()
