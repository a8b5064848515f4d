"""nodelaunch processes on a tree of their own, and what ZooKeeper committed there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from nodelaunch.drivers.fake.cloud import FakeCloud
from support import discipline, txnlog
from support.peer import Requestor
from support.process import Serve
from support.txnlog import History, Write
from support.upstream import PeerError, ZuulPeer
from support.zookeeper import ZooKeeperServer

LABELS = ("small", "big")
SESSION_TIMEOUT_S = 2


def pool(name: str = "main", *labels: str, **more: Any) -> dict[str, Any]:
    """A pool that offers *labels*; *more* are further keys, underscores for hyphens."""
    offered = [{"name": label, "cloud-image": "image", "min-ram": 8192} for label in labels or LABELS]
    return {"name": name, "labels": offered, **_keys(more)}


def provider(name: str = "cloud", *pools: dict[str, Any], **more: Any) -> dict[str, Any]:
    images = [{"name": "image", "username": "zuul", "python-path": "auto"}]
    return {
        "name": name, "driver": "fake", "boot-time": 0, "cloud-images": images, "pools": list(pools or [pool()]),
        **_keys(more),
    }  # fmt: skip


def await_servers(cloud: FakeCloud, count: int) -> None:
    """Wait until the cloud has so many servers."""
    deadline = time.monotonic() + 30
    while len(cloud.servers()) != count:
        assert time.monotonic() < deadline, cloud.servers()
        time.sleep(0.05)


def _keys(more: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in more.items()}


class Site:
    """A tree on the shared ZooKeeper, launchers that serve it, their clouds, and all that was written there."""

    def __init__(self, server: ZooKeeperServer, chroot: str, folder: Path) -> None:
        self.chroot = chroot
        self.client = server.kazoo(chroot)
        self.requestor = Requestor(self.client)
        """Requestor for requests that Zuul never makes, and for reading."""
        self.guests = {self.client.client_id[0]}
        """Sessions that are not nodelaunch's."""
        self._server = server
        self._folder = folder
        self._servers: list[Serve] = []
        self.may_complain = False

    # -- launchers and clouds ---------------------------------------------------------------------------------------

    def serve(self, *providers: dict[str, Any], port: int | None = None, **more: Any) -> Serve:
        """A launcher with *providers*, over TLS, or in plaintext through *port*; back when its pools are registered.

        *more* are further top-level keys, underscores for hyphens.
        """
        chosen = providers or (provider(),)
        for one in chosen:
            if one["driver"] == "fake":
                one["cloud-file"] = str(self._folder / f"{one['name']}.sqlite")
        pools = [each for one in chosen for each in one["pools"]]
        offered = {
            label if isinstance(label, str) else label["name"] for each in pools for label in each.get("labels", [])
        }
        config = {
            "zookeeper-servers": [
                {"host": self._server.host, "port": port or self._server.tls_port, "chroot": self.chroot}
            ],
            "zookeeper-timeout": SESSION_TIMEOUT_S,
            "webapp": {"port": 0, "listen_address": "127.0.0.1"},
            "labels": [{"name": label} for label in sorted(offered)],
            "providers": list(chosen),
            **_keys(more),
        }
        if port is None:
            tls = self._server.certificates.client
            config["zookeeper-tls"] = {"cert": tls.cert, "key": tls.key, "ca": tls.ca}
        file = self._folder / f"nodepool-{len(self._servers)}.yaml"
        file.write_text(json.dumps(config))
        self._servers.append(Serve(file))
        self._servers[-1].await_log("pool_registered", count=sum(len(one["pools"]) for one in chosen))
        return self._servers[-1]

    def cloud(self, name: str = "cloud") -> closing[FakeCloud]:
        """The cloud of a provider, while its launcher has it, too."""
        return closing(FakeCloud(self._folder / f"{name}.sqlite", patience_s=10.0))

    def boot_all(self, name: str = "cloud") -> None:
        """Let all instances that are booting be active; wait for the first one."""
        deadline = time.monotonic() + 30
        with self.cloud(name) as cloud:
            while not (booting := [server.id for server in cloud.servers() if server.state == "building"]):
                assert time.monotonic() < deadline, cloud.servers()
                time.sleep(0.05)
            for instance_id in booting:
                cloud.set_state(instance_id, "active")

    def component(self, provider_name: str) -> str:
        """The path of the registration of the one pool of a provider."""
        root = "/nodepool/components/pool"
        paths = [f"{root}/{name}" for name in self.requestor.children(root)]
        (path,) = [path for path in paths if self.record(path)["provider_name"] == provider_name]
        return path

    def pool_ids(self) -> list[str]:
        root = "/nodepool/components/pool"
        return sorted(self.record(f"{root}/{name}")["id"] for name in self.requestor.children(root))

    def await_paused(self, provider_name: str, *, is_paused: bool) -> None:
        path = self.component(provider_name)
        self.requestor.await_data(path, lambda registration: registration["paused"] is is_paused)

    def record(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.client.get(path)[0])
        return found

    def stop_servers(self) -> None:
        """Stop what still runs; nothing may have gone wrong in it."""
        for server in self._servers:
            if server.process.poll() is None:
                server.stop()
        if not self.may_complain:
            assert [entry for server in self._servers for entry in server.complaints] == []

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        self.client.stop()
        self.client.close()

    # -- what was written -------------------------------------------------------------------------------------------

    def history(self) -> History:
        """Return all writes to the tree, by all clients."""
        return txnlog.history(self._server.data_folder, self.chroot)

    def ours(self, history: History) -> set[int]:
        """The sessions of launchers in *history*."""
        return {write.session for write in history} - self.guests

    def faults(self, zuul: ZuulPeer) -> list[str]:
        """Return the violations in the launchers' writes, by our rules and as *zuul* reads the records."""
        history = self.history()
        ours = self.ours(history)
        return [
            *discipline.faults(history, ours),
            *misread(zuul, (write for write in history if write.session in ours)),
        ]


def misread(zuul: ZuulPeer, history: Iterable[Write]) -> list[str]:
    """The records in *history* that Zuul can't read, or would write back with other values than it found."""
    return [
        f"{write.path} at {write.zxid}: {problem}"
        for write in history
        if write.data and discipline.kind_of(write.path) and (problem := _misread(zuul, write))
    ]


def _misread(zuul: ZuulPeer, write: Write) -> str | None:
    what = "parse_request" if discipline.kind_of(write.path) == "requests" else "parse_node"
    try:
        read = zuul(what, body=write.data.decode())
    except PeerError as error:
        return str(error)
    wrote = write.record
    if "build_set_uuid" not in (wrote.get("requestor_data") or {}):
        wrote.pop("requestor_data", None)  # not a request of Zuul's
    other = {key: (value, read.get(key)) for key, value in wrote.items() if read.get(key) != value}
    return f"read back otherwise: {other}" if other else None
