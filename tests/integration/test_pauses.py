"""Pause, drain and resume by the command, with launchers as processes of their own, on both stores."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve, run
from support.zookeeper import ZooKeeperServer

DEADLINE_S = 60.0
ZOOKEEPER = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
"""
EMBEDDED = "embedded-store: {{path: {folder}/store.sqlite}}\n"
REST = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: 1}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {folder}/cloud.sqlite
    boot-time: 0.1
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 20
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""


def until(holds: Callable[[], Any]) -> Any:
    """Return the first true result of *holds*; each call is a command, or a read of the store."""
    ends = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        assert time.monotonic() < ends, "it never came to be"
    return found


@dataclass
class Site:
    config: Path
    serves: list[Serve] = field(default_factory=list)

    def start(self) -> Serve:
        serve = Serve(self.config)
        self.serves.append(serve)
        serve.await_log("pool_registered")
        return serve

    def say(self, *arguments: str, code: int = 0) -> str:
        done = run(*arguments, "-c", str(self.config))
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def listed(self) -> list[dict[str, Any]]:
        return list(json.loads(self.say("list", "--json")))

    def request(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nodelaunch", "request", "small", "--json", "-c", str(self.config)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def why_waiting(self) -> list[str]:
        """The reasons why the oldest request of a user's waits."""
        requests = json.loads(self.say("request-list", "--json"))
        ids = [each["id"] for each in requests if each["id"].startswith("200-")]
        if not ids:
            return []
        (pool,) = json.loads(self.say("explain", ids[0], "--json"))["pools"]
        return [reason["text"] for reason in pool["reasons"]]


@pytest.fixture(params=[pytest.param("zookeeper", marks=pytest.mark.zookeeper), "embedded"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    values: dict[str, Any] = {"folder": tmp_path}
    if request.param == "zookeeper":
        server: ZooKeeperServer = request.getfixturevalue("zookeeper_server")
        chroot = request.getfixturevalue("zk_chroot")
        values |= {"host": server.host, "port": server.tls_port, "chroot": chroot}
        values["tls"] = server.certificates.client
    path = tmp_path / "nodepool.yaml"
    path.write_text(((ZOOKEEPER if request.param == "zookeeper" else EMBEDDED) + REST).format(**values))
    made = Site(path)
    yield made
    for serve in made.serves:
        serve.kill()


def test_pause_holds_across_a_restart_and_is_seen_everywhere(site: Site) -> None:
    serve = site.start()
    until(lambda: [node["state"] for node in site.listed()] == ["ready"])
    assert "by " in site.say("pause", "cloud", "--reason", "new disks")
    serve.await_log("paused_by_operator", target="provider cloud", reason="new disks")
    code, text = serve.get("/health/ready")
    assert (code, text.splitlines()[0]) == (200, "OK")
    assert "provider cloud is paused" in text
    asking = site.request()
    (reason,) = until(site.why_waiting)
    assert reason.endswith(": new disks")
    status = json.loads(site.say("status", "--json"))
    assert [(each["answers"], each["config"]["path"]) for each in status["launchers"]] == [(True, str(site.config))]
    assert [(each["pool"], each["state"], each["nodes"]) for each in status["pools"]] == [
        ("main", "paused", {"ready": 1})
    ]
    assert status["waiting"][0]["why"] == [f"cloud/main: {reason}"]
    assert f"    cloud/main: {reason}" in site.say("status").splitlines()
    asking.kill()
    asking.communicate()

    assert serve.stop() == 0
    serve = site.start()
    serve.await_log("paused_by_operator")
    asking = site.request()
    until(lambda: any("new disks" in reason for reason in site.why_waiting()))
    assert site.say("resume", "cloud") == "provider cloud is resumed\n"
    assert site.say("resume", "cloud") == "provider cloud was not paused\n"
    answer, _ = asking.communicate(timeout=DEADLINE_S)
    assert (asking.returncode, len(json.loads(answer))) == (0, 1)
    assert serve.stop() == 0
    assert serve.complaints == []


def test_drain_empties_the_pool_and_says_when(site: Site) -> None:
    serve = site.start()
    (node,) = until(lambda: [node for node in site.listed() if node["state"] == "ready"])
    site.say("hold", node["id"])
    late = site.say("drain", "cloud/main", "--wait", "--timeout", "0.5", code=1)
    assert "pool cloud/main is not empty after 0.5 s: 1 node left: 1 hold" in late
    site.say("unhold", node["id"])
    told = site.say("drain", "cloud/main", "--wait", "--timeout", "60").splitlines()
    assert told[0].startswith("pool cloud/main is draining since")
    assert told[-1] == "pool cloud/main is empty"
    assert site.listed() == []
    site.say("pause", "cloud")
    after = site.say("resume", "cloud/main").splitlines()
    assert after[0] == "pool cloud/main is resumed"
    assert after[1].startswith("but provider cloud is paused")
    site.say("resume", "cloud")
    until(lambda: [node["state"] for node in site.listed()] == ["ready"])
    assert serve.stop() == 0


def test_names_that_nobody_has_are_refused_unless_they_say_what_they_are(site: Site) -> None:
    site.start()
    refused = site.say("pause", "clod", code=1)
    assert "there is no provider, pool or launcher 'clod'; known are: " in refused
    assert "cloud, cloud/main" in refused
    assert json.loads(site.say("drain", "provider:later", "--json"))["state"] == "draining"
    assert site.say("resume", "later") == "provider later is resumed\n"


@pytest.mark.zookeeper
@pytest.mark.parametrize("site", ["zookeeper"], indirect=True)
def test_one_of_two_launchers_is_paused(site: Site, zookeeper_server: ZooKeeperServer, zk_chroot: str) -> None:
    """The id of the process names the launcher: both have the host name of this machine."""
    first, _ = site.start(), site.start()
    client = zookeeper_server.kazoo(zk_chroot)
    try:
        peer = Requestor(client)
        presences = until(lambda: _presences(client))
        paused, other = presences
        site.say("pause", paused["id"])
        path = next(
            f"/nodepool/components/pool/{name}"
            for name in client.get_children("/nodepool/components/pool")
            if json.loads(client.get(f"/nodepool/components/pool/{name}")[0])["id"] in paused["pools"]
        )
        peer.await_data(path, lambda record: record["paused"])
        for _ in range(8):
            request_id = peer.submit("small", reuse=False)
            (node_id,) = peer.await_state(request_id, "fulfilled")["nodes"]
            assert peer.node(node_id)["launcher"] in other["pools"]
        refused = site.say("pause", presences[0]["hostname"])
        assert "launcher" in refused
        site.say("resume", paused["id"])
        site.say("resume", paused["hostname"])
        peer.await_data(path, lambda record: not record["paused"])
        assert client.exists("/nodelaunch/pauses") is not None
        assert client.get_children("/nodelaunch/pauses") == []
        assert first.stop() == 0
    finally:
        client.stop()
        client.close()


def _presences(client: KazooClient) -> list[dict[str, Any]]:
    """Return the presences of both launchers, once they have pools."""
    names = client.get_children("/nodelaunch/launchers")
    found = [json.loads(client.get(f"/nodelaunch/launchers/{name}")[0]) for name in names]
    return found if len(found) == 2 and all(each["pools"] for each in found) else []
