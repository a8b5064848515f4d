"""``nodelaunch serve`` before there is a store, as process 1, and with signals that come in pairs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.process import Serve, run
from support.zookeeper import ZooKeeperServer, free_port

AWAY = """
zookeeper-servers: [{{host: 127.0.0.1, port: {port}}}]
webapp: {{port: 0, listen_address: 127.0.0.1}}
"""
EMBEDDED = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    boot-time: {boot_time}
    cloud-file: {folder}/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


TOKEN = "a-token-that-is-long-enough"
WITH_TOKEN = EMBEDDED.replace("webapp: {{", "webapp: {{token-file: {folder}/token, ")


def serve_on(tmp_path: Path, text: str, *arguments: str, python: tuple[str, ...] = ("-m", "nodelaunch")) -> Serve:
    config = tmp_path / "nodelaunch.yaml"
    config.write_text(text)
    return Serve(config, *arguments, python=python)


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Serve]:
    """A launcher whose ZooKeeper is not there."""
    serve = serve_on(tmp_path, AWAY.format(port=free_port()))
    yield serve
    serve.kill()


def test_first_line_says_what_starts(away: Serve, tmp_path: Path) -> None:
    started = away.await_log("starting")
    assert started["config"] == str(tmp_path / "nodelaunch.yaml")
    assert started["store"].startswith("zookeeper 127.0.0.1:")
    assert started["pid"] == away.process.pid
    assert started["version"]


def test_store_that_is_away_at_start_is_waited_for_alive(away: Serve) -> None:
    away.await_log("zookeeper_unreachable")
    assert away.get("/health/live") == (200, "OK\n")
    status, text = away.get("/health/ready")
    assert status == 503
    assert "Connect call failed" in text
    assert away.stop() == 0
    assert away.await_log("stopped")


def test_taken_port_is_found_before_anything_is_registered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = EMBEDDED.format(folder=tmp_path, boot_time=0).replace("port: 0", f"port: {port}")
        serve = serve_on(tmp_path, text)
        assert serve.wait() == 1
    assert not [entry for entry in serve.log if entry["event"] == "pool_registered"]
    assert serve.log[-1]["detail"] == (
        f"nodelaunch: http://127.0.0.1:{port}: can't listen: Address already in use; another process listens "
        "on this port: end that process, or set another port in webapp"
    )


def test_taken_port_is_found_while_zookeeper_is_away(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        serve = serve_on(tmp_path, AWAY.format(port=free_port()).replace("port: 0", f"port: {port}"))
        assert serve.wait() == 1
    assert "can't listen" in serve.log[-1]["detail"]


def test_second_launcher_on_a_file_says_that_the_file_is_in_use(tmp_path: Path) -> None:
    """The message does not blame the port, which the same process has."""
    first = serve_on(tmp_path, EMBEDDED.format(folder=tmp_path, boot_time=0))
    try:
        port = first.await_log("http_listening")["port"]
        text = EMBEDDED.format(folder=tmp_path, boot_time=0).replace("port: 0", f"port: {port}")
        second = serve_on(tmp_path, text)
        assert second.wait() == 1
        assert f"is in use by process {first.process.pid}" in second.log[-1]["detail"]
    finally:
        first.kill()


@pytest.mark.parametrize(
    ("address", "reason"), [("192.0.2.1", "Cannot assign requested address"), ("nobody.invalid", "")]
)
def test_address_of_another_machine_says_what_to_write(tmp_path: Path, address: str, reason: str) -> None:
    text = EMBEDDED.format(folder=tmp_path, boot_time=0).replace(
        "listen_address: 127.0.0.1", f"listen_address: {address}"
    )
    serve = serve_on(tmp_path, text)
    assert serve.wait() == 1
    said = serve.log[-1]["detail"]
    assert reason in said
    assert "listen_address in webapp has to be one of this machine, such as 127.0.0.1" in said


@pytest.mark.zookeeper
def test_store_that_comes_later_is_served(zookeeper_server: ZooKeeperServer, tmp_path: Path) -> None:
    """The file is corrected while the launcher waits for a server that isn't there."""
    serve = serve_on(tmp_path, AWAY.format(port=free_port()))
    try:
        serve.await_log("zookeeper_unreachable")
        (tmp_path / "nodelaunch.yaml").write_text(AWAY.format(port=zookeeper_server.port))
        serve.await_log("zookeeper_connected")
        while serve.get("/health/ready")[0] != 200:
            assert serve.process.poll() is None
        assert serve.stop() == 0
    finally:
        serve.kill()


def test_signal_that_comes_twice_at_once_drains(tmp_path: Path) -> None:
    """``timeout`` of coreutils sends it twice: to the process, then to its group."""
    serve = serve_on(tmp_path, EMBEDDED.format(folder=tmp_path, boot_time=0))
    try:
        serve.await_log("pool_registered")
        serve.process.send_signal(signal.SIGTERM)
        serve.process.send_signal(signal.SIGINT)  # two of one kind may arrive as one
        assert serve.wait() == 0
        assert serve.await_log("draining")
        assert not [entry for entry in serve.log if entry["event"] == "stopped_at_once"]
    finally:
        serve.kill()


def test_task_stacks_are_logged_as_text_too(tmp_path: Path) -> None:
    """On a terminal structlog's console writes the log, which has a meaning of its own for some keys."""
    config = tmp_path / "nodelaunch.yaml"
    config.write_text(EMBEDDED.format(folder=tmp_path, boot_time=0))
    primary, secondary = os.openpty()
    command = [sys.executable, "-m", "nodelaunch", "serve", "-c", str(config)]
    with subprocess.Popen(command, stderr=secondary) as process:
        os.close(secondary)
        seen = b""
        while b"pool_registered" not in seen:
            seen += os.read(primary, 65536)
        process.send_signal(signal.SIGUSR2)
        while b"sweeper" not in seen.partition(b"task_stack")[2]:
            seen += os.read(primary, 65536)
        process.send_signal(signal.SIGTERM)
        try:
            while chunk := os.read(primary, 65536):
                seen += chunk
        except OSError:  # the other end is closed
            pass
        assert process.wait(timeout=30) == 0
    os.close(primary)
    assert b"Traceback" not in seen


def _may_unshare() -> bool:
    done = subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="a PID namespace of our own takes the right to make one")
class TestAsProcessOne:
    def command(self, config: Path, *more: str) -> list[str]:
        unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
        return [*unshare, sys.executable, "-m", "nodelaunch", "--log-json", "serve", "-c", str(config), *more]

    def test_signal_ends_it_before_there_is_a_store(self, tmp_path: Path) -> None:
        config = tmp_path / "nodelaunch.yaml"
        config.write_text(AWAY.format(port=free_port()))
        with subprocess.Popen(self.command(config), stderr=subprocess.PIPE, text=True) as unshared:
            assert unshared.stderr is not None
            for line in unshared.stderr:
                if "zookeeper_unreachable" in line:
                    first = _children(unshared.pid)[0]
                    os.kill(first, signal.SIGTERM)
                if '"event": "stopped"' in line:
                    break
            assert unshared.wait(timeout=30) == 0

    def test_orphans_are_waited_for(self, tmp_path: Path) -> None:
        config = tmp_path / "nodelaunch.yaml"
        config.write_text(EMBEDDED.format(folder=tmp_path, boot_time=0))
        with subprocess.Popen(self.command(config), stderr=subprocess.PIPE, text=True) as unshared:
            assert unshared.stderr is not None
            first = 0
            for line in unshared.stderr:
                if "pool_registered" in line:
                    first = _children(unshared.pid)[0]
                    break
            enter = ["nsenter", "-t", str(first), "-p", "-m"]
            for _ in range(3):
                subprocess.run([*enter, "sh", "-c", "sleep 0 & "], check=True)
            for _ in range(3_000):
                if not any(_state(child) == "Z" for child in _children(first)):
                    break
            else:
                unshared.kill()
                pytest.fail("a process that ended is not waited for")
            os.kill(first, signal.SIGTERM)
            unshared.stderr.read()
            assert unshared.wait(timeout=30) == 0


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_user_without_a_name_can_scan_hosts(tmp_path: Path) -> None:
    """A container that is given a number for its user has no name for it. The import used to fail, so the test only
    imports.
    """
    code = "import nodelaunch.network.sshclient; print('imported')"
    done = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    if "Permission denied" in done.stderr or os.geteuid() != 0:
        pytest.skip("only root can become somebody else, and that user has to be able to read this Python")
    assert done.stdout == "imported\n", done.stderr


def test_unreadable_tls_file_is_said_by_every_command(tmp_path: Path) -> None:
    config = tmp_path / "nodelaunch.yaml"
    tls = "zookeeper-tls: {cert: /nonexist/c.pem, key: /nonexist/k.pem, ca: /nonexist/a.pem, check-host-name: no}\n"
    config.write_text("zookeeper-servers: [{host: 127.0.0.1, port: 1}]\n" + tls)
    for command in (("list",), ("explain", "200-0000000000"), ("request", "small"), ("leaks",)):
        done = run(*command, "-c", str(config))
        assert done.returncode == 2
        assert f"{config}:2:23: cert: /nonexist/c.pem can't be read" in done.stderr
        assert "Traceback" not in done.stderr


def ask(serve: Serve, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of a request with a token."""
    reply = httpx.request(
        method, f"http://127.0.0.1:{serve.await_log('http_listening')['port']}/api/v1{path}", json=body,
        headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30,
    )  # fmt: skip
    return reply.status_code, reply.json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nodes_of_http_end_with_the_launcher(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    text = WITH_TOKEN.format(folder=tmp_path, boot_time=0)
    first = serve_on(tmp_path, text)
    first.await_log("pool_registered")
    status, made = ask(first, "POST", "/requests", {"labels": ["small"]})
    assert status == 201
    status, got = ask(first, "GET", f"/requests/{made['id']}?wait_s=30")
    assert (status, got["state"]) == (200, "fulfilled")
    assert first.stop(number) == (0 if number is signal.SIGTERM else -number)
    assert first.complaints == []
    assert TOKEN not in str(first.log)
    second = serve_on(tmp_path, text)
    try:
        second.await_log("node_deleted", node_id=got["nodes"][0]["id"])
        assert ask(second, "GET", f"/requests/{made['id']}")[0] == 404
    finally:
        assert second.stop() == 0


def test_requests_over_http_wait_for_the_store(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    text = AWAY.format(port=free_port()).replace("webapp: {", f"webapp: {{token-file: {tmp_path}/token, ")
    serve = serve_on(tmp_path, text)
    try:
        status, said = ask(serve, "POST", "/requests", {"labels": ["small"]})
        assert (status, said["type"]) == (503, "urn:nodelaunch:problem:not-ready")
    finally:
        serve.kill()
