"""The image, run as it is meant to be: process 1, a user without a name, nothing to write to but two folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from support.containers import BASE, MEGABYTE, Container, Podman
from support.peer import Requestor
from support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.container
MOST_BEYOND_BASE = 200 * MEGABYTE
USER, STRANGER = 10001, 12345
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: /tls/client.crt, key: /tls/client.key, ca: /tls/ca.crt}}
zookeeper-timeout: 4
webapp: {{port: 8005, listen_address: 127.0.0.1}}
labels: [{{name: small}}, {{name: slow}}]
providers:
  - name: quick
    driver: fake
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 4, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
  - name: slow
    driver: fake
    isolation: process
    boot-time: 6.0
    cloud-file: /var/lib/nodelaunch/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 4, labels: [{{name: slow, cloud-image: image, min-ram: 8192}}]}}]
"""

Run = Callable[..., Container]


@pytest.fixture
def requestor(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[Requestor]:
    client: KazooClient = zookeeper_server.kazoo(f"{zk_chroot}-container")
    client.ensure_path("/")
    yield Requestor(client)
    client.stop()
    client.close()


@pytest.fixture
def options(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> list[str]:
    """Return the launcher's podman options, with restrictions as in Kubernetes: no root, nothing writable but
    volumes.
    """
    config = tmp_path / "nodepool.yaml"
    chroot = f"{zk_chroot}-container"
    config.write_text(CONFIG.format(host=zookeeper_server.host, port=zookeeper_server.tls_port, chroot=chroot))
    mounts = [f"{config}:/etc/nodepool/nodepool.yaml:ro"]
    for name in ("client.crt", "client.key", "ca.crt"):
        copy = shutil.copy(zookeeper_server.certificates.folder / name, tmp_path / name)
        shutil.chown(copy, USER, USER)
        Path(copy).chmod(0o400)
        mounts.append(f"{copy}:/tls/{name}:ro")
    for name, where in (("state", "/var/lib/nodelaunch"), ("tmp", "/tmp")):
        folder = tmp_path / name
        folder.mkdir()
        shutil.chown(folder, USER, USER)
        mounts.append(f"{folder}:{where}")
    closed = [
        "--read-only",
        "--read-only-tmpfs=false",
        "--passwd=false",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]
    return [*closed, *(f"--volume={mount}" for mount in mounts)]


def states(container: Container) -> dict[int, str]:
    """Return the state of each process in the container, by its id there."""
    listing = container.exec("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true")
    return {int(line.split()[0]): line.rpartition(")")[2].split()[0] for line in listing.splitlines()}


def test_image_is_small_and_names_no_root(podman: Podman, image: str) -> None:
    beyond = podman.size(image) - podman.size(BASE)
    assert beyond < MOST_BEYOND_BASE, f"{beyond / MEGABYTE:.0f} MB beyond its base"
    config = podman.inspect(image, "image")["Config"]
    assert (config["User"], config["StopSignal"]) == (f"{USER}:{USER}", "SIGTERM")
    assert (config["Entrypoint"], config["Cmd"]) == (["nodelaunch"], ["serve"])


def test_serves_a_request_and_drains_on_stop(run: Run, options: list[str], requestor: Requestor) -> None:
    container = run(*options, arguments=("--log-json", "serve", "--drain-timeout", "40"))
    container.await_log("pool_registered")
    (node,) = requestor.run_job("small")
    assert node["provider"] == "quick"

    begun = requestor.submit("slow")
    requestor.await_state(begun, "pending", "fulfilled")
    assert container.stop(grace_s=50) == 0, "it ended by itself, not by SIGKILL"
    assert requestor.request(begun)["state"] == "fulfilled", "what had begun was finished"
    assert container.log()[-1]["event"] == "stopped"
    assert [entry for entry in container.log() if entry.get("level") in ("error", "critical")] == []
    assert [entry for entry in container.log() if "text" in entry] == []


def test_is_process_1_of_a_user_without_a_name_and_waits_for_orphans(run: Run, options: list[str]) -> None:
    container = run(*options, arguments=("--log-json", "serve"))
    container.await_log("pool_registered")
    assert "nodelaunch" in container.exec("cat", "/proc/1/cmdline")
    assert f"Uid:\t{USER}\t{USER}" in container.exec("cat", "/proc/1/status")
    assert container.exec("getent", "passwd", str(USER), check=False) == "", "nobody by that name"
    for _ in range(3):
        container.exec("sh", "-c", "sleep 0.1 & sleep 0.1 &")
    deadline = 100
    while "Z" in (left := states(container)).values() and deadline:
        deadline -= 1
    assert "Z" not in left.values(), "a process that ended is not waited for"
    for path in ("/etc/nodelaunch", "/opt/nodelaunch/bin/x", "/usr/x"):
        assert container.exec("sh", "-c", f"touch {path} 2>&1 || true").strip().endswith("Read-only file system")


def test_health_check_follows_the_launcher(podman: Podman, run: Run, options: list[str]) -> None:
    container = run(*options, arguments=("--log-json", "serve"))
    container.await_log("http_listening")
    podman("healthcheck", "run", container.name)
    child = container.exec("cat", "/proc/1/task/1/children").split()[0]
    container.exec("sh", "-c", f"kill -STOP {child}")
    with pytest.raises(AssertionError, match="healthcheck"):
        podman("healthcheck", "run", container.name)
    container.exec("sh", "-c", f"kill -CONT {child}")
    podman("healthcheck", "run", container.name)


def test_any_other_user_will_do(run: Run, image: str, podman: Podman, tmp_path: Path) -> None:
    """The user and group are those of OpenShift: a number of its own for the user, and the group 0."""
    out = podman(
        "run", "--rm", "--read-only", "--passwd=false", "--user", f"{STRANGER}:0", "--entrypoint", "python3", image,
        "-c", "import nodelaunch.network.sshclient, os; print(os.getuid())",
    )  # fmt: skip
    assert out.strip() == str(STRANGER)
    checked = tmp_path / "nodepool.yaml"
    checked.write_text("labels: []\n")
    checked.chmod(0o644)
    command = ("run", "--rm", "--user", f"{STRANGER}:0", f"--volume={checked}:/etc/nodepool/nodepool.yaml:ro", image)
    assert "good" in podman(*command, "config", "check", "/etc/nodepool/nodepool.yaml")
    assert json.loads(podman(*command[:-1], image, "config", "schema"))
