"""The commands, as processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.process import Serve, run

CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    cloud-file: {folder}/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 4, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


class Site:
    def __init__(self, folder: Path) -> None:
        self.config = folder / "nodepool.yaml"
        self.cloud_file = folder / "cloud.sqlite"
        self.folder = folder
        self.running: list[Serve] = []

    def serve(self, *, boot_time: float = 0.0, drain_timeout_s: float = 0.5) -> Serve:
        self.config.write_text(CONFIG.format(folder=self.folder, boot_time=boot_time))
        serve = Serve(self.config, "--drain-timeout", str(drain_timeout_s))
        self.running.append(serve)
        serve.await_log("pool_registered")
        serve.await_log("http_listening")
        return serve

    def cloud(self) -> list[dict[str, object]]:
        done = run("fake-cloud", str(self.cloud_file), "show", "--json", check=True)
        instances: list[dict[str, object]] = json.loads(done.stdout)["instances"]
        return instances


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for serve in made.running:
        serve.kill()


def test_demo_fulfils_everything_and_leaks_nothing() -> None:
    done = run("demo", timeout_s=20.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 requests fulfilled, all nodes returned, nothing leaked" in done.stdout
    assert "median" in done.stdout


def test_explain_says_why_a_request_waits_and_how_one_ended(site: Site) -> None:
    site.serve()
    with subprocess.Popen(
        [sys.executable, "-m", "nodelaunch", "request", *["small"] * 4, "--hold", "60", "-c", str(site.config)]
    ) as holder:
        while len(site.cloud()) < 4 or "in-use" not in run("list", "-c", str(site.config)).stdout:
            assert holder.poll() is None
        with subprocess.Popen(
            [sys.executable, "-m", "nodelaunch", "request", "small", "--timeout", "50", "-c", str(site.config)],
            stdout=subprocess.DEVNULL,
        ) as waiting:
            while not (open_requests := _requests(site, "requested")):
                assert waiting.poll() is None
            done = run("explain", open_requests[0], "-c", str(site.config))
            assert done.returncode == 0, done.stderr
            assert "cloud/main: deferred" in done.stdout
            assert "because needs 1 instance; 0 available" in done.stdout
            assert "to change that: wait until nodes with 1 instance in total are deleted" in done.stdout
            waiting.terminate()
        holder.terminate()
    failed = run("request", "nobody-has-this", "-c", str(site.config))
    assert failed.returncode == 1
    request_id = failed.stderr.split("request ")[1][:14]
    done = run("explain", request_id, "--json", "-c", str(site.config))
    assert done.returncode == 0
    (pool,) = json.loads(done.stdout)["pools"]
    assert pool["history"][0]["reasons"][0]["text"] == "the pool does not offer label nobody-has-this"
    assert run("explain", "200-9999999999", "-c", str(site.config)).returncode == 1


def _requests(site: Site, state: str) -> list[str]:
    rows = json.loads(run("list", "--requests", "--json", "-c", str(site.config), check=True).stdout)
    return [row["id"] for row in rows if row["state"] == state]


def test_request_prints_its_nodes_and_gives_them_back(site: Site) -> None:
    serve = site.serve()
    done = run("request", "small", "small", "--count", "3", "--json", "-c", str(site.config))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [[node["label"] for node in answer["nodes"]] for answer in answers] == [["small", "small"]] * 3
    assert "fulfilled" in done.stderr
    serve.await_log("node_deleted", count=6)
    assert site.cloud() == []
    listed = run("list", "--json", "-c", str(site.config), check=True)
    assert json.loads(listed.stdout) == []
    assert serve.stop() == 0
    assert serve.complaints == []


def test_request_that_fails_says_who_declined(site: Site) -> None:
    site.serve()
    done = run("request", "no-such-label", "-c", str(site.config))
    assert done.returncode == 1
    assert "declined by" in done.stderr
    done = run("request", "no-such-label", "--json", "-c", str(site.config))
    assert done.returncode == 1
    (said,) = json.loads(done.stdout)
    assert said["nodes"] == []
    assert f"node request {said['request']} failed; declined by: " in said["error"]
    assert said["reasons"] == ["cloud/main: declined: the pool does not offer label no-such-label"]


def test_commands_without_a_launcher_say_so(site: Site) -> None:
    site.config.write_text(CONFIG.format(folder=site.folder, boot_time=0))
    done = run("list", "-c", str(site.config))
    assert done.returncode == 1
    assert "is 'nodelaunch serve' running with this configuration?" in done.stderr
    assert "it serves the old store until it is restarted" in done.stderr


def test_second_launcher_on_the_same_file_is_refused(site: Site) -> None:
    first = site.serve()
    done = run("serve", "-c", str(site.config))
    assert done.returncode == 1
    assert f"is in use by process {first.process.pid}" in done.stderr
    assert "http_listening" not in done.stderr


def test_wrong_configuration_starts_nothing(site: Site) -> None:
    site.config.write_text("labels: [{name: a}]\nproviders:\n  - name: x\n    driver: fake\n    pols: []\n")
    for command in (("serve", "-c", str(site.config)), ("config", "check", str(site.config))):
        done = run(*command)
        assert done.returncode == 2
        assert f"{site.config}:5:5: unknown key" in done.stderr
        assert "pools" in done.stderr
    assert not (site.folder / "store.sqlite").exists()


def test_unreadable_tls_files_are_named_with_their_place(site: Site) -> None:
    site.config.write_text(
        "zookeeper-servers: [{host: 127.0.0.1}]\nzookeeper-tls:\n  cert: /no/cert\n  key: /no/key\n  ca: /no/ca\n"
        "labels: [{name: a}]\n"
    )
    done = run("serve", "-c", str(site.config))
    assert done.returncode == 2
    assert f"{site.config}:3:9: cert: /no/cert can't be read: No such file or directory" in done.stderr


def test_health_turns_while_draining_and_a_second_signal_stops_at_once(site: Site) -> None:
    serve = site.serve(boot_time=3600, drain_timeout_s=3600)
    assert serve.get("/health/live") == (200, "OK\n")
    assert serve.get("/ready")[0] == 200
    with subprocess.Popen(
        [sys.executable, "-m", "nodelaunch", "request", "small", "-c", str(site.config)], stderr=subprocess.DEVNULL
    ) as request:
        serve.await_log("request_accepted")
        serve.process.send_signal(signal.SIGTERM)
        serve.await_log("draining")
        for count in range(1, 10_000):  # those that come at once are the first one again
            serve.process.send_signal(signal.SIGTERM)
            if serve.await_either(("signal", 2), ("signal_repeated", count)) == "signal":
                break
        assert serve.wait() == 1
        assert request.wait(timeout=60) == 1


def test_drained_launcher_hands_back_and_deletes(site: Site) -> None:
    serve = site.serve(boot_time=3600)
    with subprocess.Popen(
        [sys.executable, "-m", "nodelaunch", "request", "small", "-c", str(site.config)], stderr=subprocess.DEVNULL
    ) as request:
        serve.await_log("request_accepted")
        assert serve.stop() == 0
        assert request.wait(timeout=60) == 1
    assert site.cloud() == []
    assert serve.complaints == []


def test_launcher_whose_log_has_no_reader_serves_on_and_drains_at_a_signal(site: Site) -> None:
    site.config.write_text(CONFIG.format(folder=site.folder, boot_time=0))
    command = [sys.executable, "-m", "nodelaunch", "serve", "--no-webapp", "-c", str(site.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stderr is not None
            assert any("pool_registered" in line for line in serve.stderr)
            serve.stderr.close()
            done = run("request", "small", "-c", str(site.config))
            assert done.returncode == 0, done.stderr
            serve.send_signal(signal.SIGTERM)
            assert serve.wait(timeout=60) == 0
        finally:
            serve.kill()


def test_killed_launcher_leaves_nothing_after_the_next_start(site: Site) -> None:
    first = site.serve(boot_time=3600)
    with subprocess.Popen(
        [sys.executable, "-m", "nodelaunch", "request", "small", "small", "-c", str(site.config)],
        stderr=subprocess.DEVNULL,
    ) as request:
        first.await_log("request_accepted")
        deadline = time.monotonic() + 60
        while len(site.cloud()) < 2:
            assert time.monotonic() < deadline
        first.kill()
        assert request.wait(timeout=60) == 1
    second = site.serve()
    second.await_log("node_deleted", count=2)
    assert site.cloud() == []
    with sqlite3.connect(site.folder / "store.sqlite") as db:
        left = [path for (path,) in db.execute("SELECT path FROM znodes WHERE path LIKE '/nodepool/nodes/%'")]
    db.close()
    assert left == []


def test_fake_hosts_answer_only_when_asked(site: Site) -> None:
    site.config.write_text(
        f"embedded-store: {{path: {site.folder}/store.sqlite}}\n"
        "webapp: {port: 0, listen_address: 127.0.0.1}\n"
        "labels: [{name: bare}]\n"
        "providers:\n"
        "  - name: lab\n"
        "    driver: static\n"
        "    pools: [{name: rack, nodes: [{name: fake-host-1, labels: [bare], timeout: 1}]}]\n"
    )
    plain = Serve(site.config)
    site.running.append(plain)
    plain.await_log("machine_unusable", hostname="fake-host-1")
    assert plain.stop() == 0
    serve = Serve(site.config, "--fake-hosts")
    site.running.append(serve)
    serve.await_log("machine_registered", hostname="fake-host-1")
    done = run("request", "bare", "--json", "-c", str(site.config), check=True)
    assert json.loads(done.stdout)[0]["nodes"][0]["host_keys"] == ["ssh-rsa FAKEKEY"]
    assert serve.stop() == 0


@pytest.mark.parametrize(
    ("inherited", "sent", "code"),
    [("default", signal.SIGINT, 130), ("default", signal.SIGTERM, 143), ("ignore", signal.SIGTERM, 143)],
)
def test_kept_demo_serves_on_until_a_signal_ends_it(
    tmp_path: Path, inherited: str, sent: signal.Signals, code: int
) -> None:
    """The signal ends the demo even if it inherits ignored signals: background jobs of a script have SIGINT ignored."""
    demo = subprocess.Popen(
        ["env", f"--{inherited}-signal=INT", sys.executable, "-m", "nodelaunch", "demo", "--keep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "still serving requests" in line:
                break
        demo.send_signal(sent)
        _, complaints = demo.communicate(timeout=60)
        assert (demo.returncode, complaints) == (code, "")
        assert list(tmp_path.iterdir()) == []
    finally:
        demo.kill()
        demo.communicate()


def test_explain_says_what_a_node_is_there_for_and_who_offers_a_label(site: Site) -> None:
    serve = site.serve()
    asking = [sys.executable, "-m", "nodelaunch", "request", "small", "--hold", "60", "--tenant", "acme"]
    with subprocess.Popen(
        [*asking, "-c", str(site.config)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        node_id = holder.stdout.readline().partition("id=")[2].split()[0]
        done = run("explain", node_id, "-c", str(site.config))
        assert done.returncode == 0, done.stderr
        assert f"node {node_id}\n  in-use for " in done.stdout
        assert ", locked; labels: small\n  provider: cloud, pool: main, instance: " in done.stdout
        assert done.stdout.count("  tenant: acme\n") == 2, "of the node, and of the request that is remembered"
        assert f"the request was fulfilled; its nodes: {node_id} (in-use)" in done.stdout
        assert "cloud/main: served: its requestor took the nodes" in done.stdout
        request_id = done.stdout.partition("  for request ")[2].partition(":")[0]
        as_json = json.loads(run("explain", node_id, "--json", "-c", str(site.config), check=True).stdout)
        assert (as_json["node"]["id"], as_json["node"]["tenant"], as_json["id"]) == (node_id, "acme", request_id)
        label = run("explain", "small", "-c", str(site.config))
        assert "label small\n  offered by: cloud/main\n  nodes: 1 in-use\n  requests: none\n" in label.stdout
        holder.terminate()
        assert holder.wait(timeout=60) == 143
    serve.await_log("node_deleted")
    done = run("explain", request_id, "-c", str(site.config))
    assert "the request was fulfilled; its nodes have been returned" in done.stdout
    unknown = run("explain", "nonsense", "-c", str(site.config))
    assert (unknown.returncode, unknown.stdout) == (
        1,
        "nonsense: no request, node or registered pool has this id or label\n",
    )


def test_nodes_are_held_freed_and_deleted_by_hand(site: Site) -> None:
    serve = site.serve()
    with subprocess.Popen(
        [sys.executable, "-m", "nodelaunch", "request", "small", "--hold", "60", "-c", str(site.config)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        node_id = holder.stdout.readline().partition("id=")[2].split()[0]
        refused = run("hold", node_id, "-c", str(site.config))
        assert refused.returncode == 1
        assert f"node {node_id} is locked: it is in use by nodelaunch-client:" in refused.stderr
        holder.terminate()
    serve.await_log("node_deleted", node_id=node_id)
    missing = run("delete", node_id, "-c", str(site.config))
    assert (missing.returncode, missing.stderr) == (1, f"nodelaunch: there is no node '{node_id}'\n")


def test_plan_names_the_nodes_that_a_running_launcher_would_delete(site: Site) -> None:
    site.serve()
    assert run("request", "small", "-c", str(site.config)).returncode == 0
    new = site.folder / "new.yaml"
    new.write_text(
        site.config.read_text().replace("labels: [{name: small}]", "labels: [{name: small, min-ready: 1}]", 1)
    )
    site.config.write_text(new.read_text())
    os.kill(site.running[0].process.pid, signal.SIGHUP)
    while "ready" not in run("list", "-c", str(site.config)).stdout:
        assert site.running[0].process.poll() is None
    new.write_text(new.read_text().replace("pools: [{name: main", "pools: [{name: other"))
    done = run("config", "plan", str(new), "-c", str(site.config))
    assert done.returncode == 0, done.stderr
    assert "(cloud/main, small, ready) is deleted: its pool is not configured any more" in done.stdout
