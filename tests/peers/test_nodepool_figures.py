"""Operators see the same of nodelaunch as of Nodepool: rows of commands, lists over HTTP, statsd.

Both look at the same part of ZooKeeper at the same time.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from support.nodepool import CommandResult, Site, commands_fixture, nodepool_fixture, site_fixture  # noqa: F401  fixtures
from support.process import run

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

STATES = ("ready", "building", "in-use", "hold", "used", "deleting", "init", "testing", "failed", "aborted")
PROVIDER = """
labels: [{{name: small}}, {{name: {name}}}]
tenant-resource-limits: [{{tenant-name: acme.example, max-servers: 7, max-cores: 30, max-volume-gb: 100}}]
providers:
  - name: {name}
    driver: fake
    cloud: fake
    boot-time: 0.1
    launch-retries: 1
    cloud-images: [{{name: image, image-id: fake-image-id, username: zuul}}]
    pools:
      - name: main
        max-servers: 4
        labels:
          - {{name: {name}, cloud-image: image, min-ram: 8192}}
          - {{name: small, cloud-image: image, min-ram: 8192}}
      - name: spare
        max-servers: 1
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""
NOBODYS = "labels: []\nproviders: []\n"


def fill(site: Site) -> None:
    """Create nodes, requests and images that stay unchanged: no launcher has the providers of the nodes."""
    client, now = site.client, time.time()
    for number in range(30):
        state = STATES[number % len(STATES)]
        record = {
            "state": state, "state_time": now - 100 * number, "created_time": now - 5000, "provider": f"p{number % 3}",
            "pool": "main", "type": ["small", "medium"] if number % 4 == 0 else [f"label-{number % 5}"],
            "external_id": f"vm-{number}", "public_ipv4": f"203.0.113.{number}", "private_ipv4": f"10.0.0.{number}",
            "public_ipv6": f"2001:db8::{number}" if number % 2 else "", "interface_ip": f"203.0.113.{number}",
            "az": "az1", "launcher": "somebody", "allocated_to": "200-0000000001" if state == "in-use" else None,
            "hostname": f"host-{number}", "connection_port": 22, "connection_type": "ssh", "username": "zuul",
            "comment": "look, at this" if state == "hold" else None, "hold_job": "a b c d" if state == "hold" else None,
            "user_data": None, "driver_data": None, "host_keys": [],
            "resources": {"cores": 2, "instances": 1, "ram": 8},
        }  # fmt: skip
        path = client.create("/nodepool/nodes/", json.dumps(record).encode(), sequence=True, makepath=True)
        if number % 2:
            client.create(f"{path}/lock/x__lock__", b"me", sequence=True, makepath=True)
    for number, state in enumerate(("requested", "fulfilled", "failed", "requested")):
        record = {
            "state": state, "state_time": now, "node_types": ["small"] * (number + 1), "nodes": [],
            "declined_by": ["a", "b"],
            "requestor": "zuul", "requestor_data": None, "relative_priority": number, "event_id": f"e{number}",
            "provider": None, "created_time": now, "tenant_name": "acme", "reuse": True,
        }  # fmt: skip
        client.create(f"/nodepool/requests/{number}00-", json.dumps(record).encode(), sequence=True, makepath=True)
    for request in client.get_children("/nodepool/requests"):
        client.create(f"/nodepool/requests-lock/{request}/x__lock__", b"me", sequence=True, makepath=True)
    build = {"state": "ready", "state_time": now - 300, "builder": "nb01", "builder_id": "1", "formats": "qcow2,raw"}
    upload = {
        "state": "ready",
        "state_time": now - 200,
        "external_id": "img-1",
        "external_name": "debian-1",
        "username": "zuul",
    }
    image = "/nodepool/images/debian/builds/0000000001"
    client.create(image, json.dumps(build).encode(), makepath=True)
    client.create(f"{image}/providers/p0/images/0000000001", json.dumps(upload).encode(), makepath=True)
    client.create("/nodepool/images/fedora/pause", b"", makepath=True)


def without_ages(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows in the order of ids; ages are of two moments, so only their form is compared."""
    assert all(re.fullmatch(r"(\d\d:){3}\d\d", row["Age"]) for row in rows if row.get("Age"))
    kept = [{name: cell for name, cell in row.items() if name != "Age"} for row in rows]
    return sorted(kept, key=lambda row: sorted(row.items()))


@pytest.mark.parametrize(
    "command", [["list"], ["list", "--detail"], ["request-list"], ["image-list"], ["dib-image-list"], ["image-status"]]
)
def test_commands_print_the_same_rows(site: Site, command: list[str]) -> None:
    fill(site)
    config = site.config("nobodys", NOBODYS)
    theirs = site.nodepool(config, *command)
    assert theirs.is_good, theirs
    done = run(*command, "-c", str(config), check=True)
    ours = columns(done.stdout)
    assert theirs.rows
    assert without_ages(ours) == without_ages(theirs.rows)
    assert [*ours[0]] == [*theirs.rows[0]]


def await_list(port: int) -> None:
    """Wait until who listens there, or soon will, has read all nodes and their locks.

    Nodepool caches a table for a second, also one that it makes before it knows the locks.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            table = get(port, "/node-list", "text/plain")[1]
            if table.count("\n") > 30 and len(re.findall(r"\blocked\b", table)) == 15:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ordered(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows in the order of their content, without the ages."""
    kept = [{name: value for name, value in row.items() if name != "age"} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


def columns(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns begin where their titles do."""
    title, *lines = text.splitlines()
    starts = [found.start() for found in re.finditer(r"(?<!\S)(?<!\S )\S", title)]
    ends = [*starts[1:], None]
    cells = [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in (title, *lines)]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def get(port: int, path: str, accept: str) -> tuple[str, str]:
    """Type and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def test_lists_over_http_are_the_same(site: Site) -> None:
    fill(site)
    port = free_port()
    config = site.config("theirs", NOBODYS)
    config.write_text(config.read_text().replace("port: 0", f"port: {port}"))
    launcher = site.launcher(config)
    serve = site.serve(site.config("ours", NOBODYS))
    ours = int(serve.await_log("http_listening")["port"])
    await_list(port)
    await_list(ours)
    one = "/node-list?node_id=0000000003"
    for path in ("/node-list", one, "/request-list", "/image-list", "/dib-image-list", "/label-list"):
        theirs_json = json.loads(get(port, path, "application/json")[1])
        ours_json = json.loads(get(ours, path, "application/json")[1])
        assert ordered(ours_json) == ordered(_told_apart(theirs_json, path == one)), path
        texts = [get(each, path, "text/plain") for each in (ours, port)]
        tables = [CommandResult(path, 0, text, "").rows for _, text in texts]
        if path != one:
            assert without_ages(tables[0]) == without_ages(tables[1]), path
    assert launcher.stop() == 0
    assert serve.stop() == 0


def _told_apart(rows: list[dict[str, object]], is_one: bool) -> list[dict[str, object]]:
    """Return the rows as Nodepool prints them: for a single node, Nodepool looks for no lock, and calls the node
    unlocked.
    """
    return [{**row, "locked": "locked"} for row in rows] if is_one else rows


class Sink:
    """A statsd server that keeps what it is sent."""

    def __init__(self) -> None:
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.timers: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(65536):
            for line in data.decode().splitlines():
                name, _, rest = line.rpartition(":")
                value, kind = rest.split("|")[:2]
                if kind == "g":
                    self.gauges[name] = float(value)
                elif kind == "c":
                    self.counters[name] = self.counters.get(name, 0) + float(value)
                else:
                    self.timers.add(name)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()


@pytest.fixture
def sinks() -> Iterator[tuple[Sink, Sink]]:
    made = Sink(), Sink()
    yield made
    for each in made:
        each.close()


def test_statsd_has_the_same_names_and_values(
    site: Site, sinks: tuple[Sink, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = sinks
    fill(site)
    monkeypatch.setenv("STATSD_HOST", "127.0.0.1")
    monkeypatch.setenv("STATSD_PORT", str(ours.port))
    site.programs.environment |= {"STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(theirs.port)}
    serve = site.serve(site.config("ours", PROVIDER.format(name="ours")))
    launcher = site.launcher(site.config("theirs", PROVIDER.format(name="theirs")))
    site.await_pools(4)
    for label in ("ours", "theirs"):
        request = site.requestor.submit(label)
        assert site.requestor.await_state(request, "fulfilled", "failed")["state"] == "fulfilled"
    ready = "nodepool.label.{}.nodes.ready"
    expected = {ready.format("ours"): 1.0, ready.format("theirs"): 1.0}

    def agree() -> bool:
        common = _common(ours.gauges), _common(theirs.gauges)
        return expected.items() <= common[0].items() and common[0] == common[1]

    deadline = time.monotonic() + 60
    while not agree():
        assert time.monotonic() < deadline, _differences(_common(ours.gauges), _common(theirs.gauges))
        time.sleep(0.2)
    own = _own(ours.gauges, "ours"), _own(theirs.gauges, "theirs")
    assert own[0] == own[1]
    assert ours.gauges["nodepool.tenant_limits.acme_example.cores"] == 30
    for kind in ("counters", "timers"):
        names = [
            {name.replace(who, "WHO") for name in getattr(sink, kind) if name.startswith("nodepool.launch.")}
            for who, sink in (("ours", ours), ("theirs", theirs))
        ]
        assert _without_zones(names[0]) == _without_zones(names[1])
    assert {"nodepool.launch.ready", "nodepool.launch.provider.WHO.ready"} <= names[0]
    assert launcher.stop() == 0
    assert serve.stop() == 0


def _common(gauges: dict[str, float]) -> dict[str, float]:
    """Return the gauges that are the same for both launchers."""
    common = re.compile(r"nodepool\.(nodes|label\..+\.nodes|provider\..+\.nodes|provider\..+\.addressable_requests).*")
    return {name: value for name, value in gauges.items() if common.fullmatch(name)}


def _own(gauges: dict[str, float], who: str) -> dict[str, float]:
    """Return each launcher's own gauges: limits that are finite."""
    return {
        name.replace(who, "WHO"): value
        for name, value in gauges.items()
        if name.startswith("nodepool.tenant_limits") or name == f"nodepool.provider.{who}.max_servers"
        if value != float("inf")
    }


def _without_zones(names: set[str]) -> set[str]:
    """The two fake clouds have zones of other names."""
    return {name for name in names if not re.fullmatch(r"nodepool\.launch\.provider\.WHO\..+\.ready", name)}


def _differences(first: dict[str, float], second: dict[str, float]) -> dict[str, tuple[float | None, float | None]]:
    names = sorted({*first, *second})
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
