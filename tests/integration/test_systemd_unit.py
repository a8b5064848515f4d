"""The systemd unit: systemd accepts it, it is hardened, and the launcher sends the notifications that
``Type=notify`` expects.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import parsed
from support.process import Serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text()
UNIT = ROOT / "deploy" / "nodelaunch.service"
MOST_EXPOSURE = 1.5
"""Exposure as `systemd-analyze security` counts it, from 0 to 10."""
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
"""
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian package systemd)"
)


def settings(name: str) -> list[str]:
    """The values of a setting of the unit."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit, with a program that exists on this machine."""
    program = shlex.split(settings("ExecStart")[0])[0]
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(program, sys.executable))
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@needs_systemd
def test_systemd_has_nothing_to_say_of_it(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_it_is_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE * 10:.0f}", str(unit))
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd before 250 looks at no unit that is not loaded")
    assert done.returncode == 0, done.stdout + done.stderr
    version, exposure = re.findall(r"systemd (\d+) reports an exposure of ([\d.]+)\.", " ".join(PAGE.split()))[0]
    if analyze("--version").stdout.startswith(f"systemd {version} "):
        assert f"Overall exposure level for {unit.name}: {exposure} " in done.stdout


@needs_systemd
def test_drop_in_of_the_page_is_understood(unit: Path) -> None:
    (drop_in,) = (block for block in re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL) if "LoadCredential" in block)
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    (folder / "credentials.conf").write_text(drop_in)
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    name = drop_in.partition("LoadCredential=")[2].partition(":")[0]
    assert f"`/run/credentials/{unit.name}/{name}`" in PAGE


def test_its_commands_are_ours() -> None:
    words = shlex.split(settings("ExecStart")[0])
    command, bound = parsed(words[1:])
    assert command.__name__ == "serve"
    drain_s = bound.arguments["drain_timeout"]
    assert drain_s + 30 < float(settings("TimeoutStopSec")[0]), "30 s for deletions come after it"
    assert (settings("Type"), settings("ExecReload")) == (["notify"], ["/bin/kill -HUP $MAINPID"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the socket of NOTIFY_SOCKET; in the abstract namespace, so that no path is too long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind("")  # a name of the kernel's choosing
        taken.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + taken.getsockname()[1:].decode())
        yield taken


def lines(told: socket.socket) -> list[str]:
    """Return the lines of the next message."""
    return told.recv(4096).decode().splitlines()


def test_start_reload_and_end_are_told(told: socket.socket, tmp_path: Path) -> None:
    config = tmp_path / "nodepool.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    serve = Serve(config)
    try:
        assert lines(told) == ["READY=1", "STATUS=waiting for the store"]
        assert lines(told) == ["STATUS=serves"]
        serve.process.send_signal(signal.SIGHUP)
        begun, since = lines(told)
        assert begun == "RELOADING=1"
        assert since.startswith("MONOTONIC_USEC=")
        assert lines(told) == ["READY=1"]
        serve.process.send_signal(signal.SIGTERM)
        assert lines(told) == ["STOPPING=1"]
        assert serve.wait() == 0
    finally:
        serve.kill()
