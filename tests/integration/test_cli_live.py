"""``--watch`` and ``top`` on a real pseudo-terminal, and on a pipe, with a launcher as a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.process import Serve, run

DEADLINE_S = 60.0
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
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
        max-servers: 4
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7](?:;\d+)*m")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    serve = Serve(path)
    serve.await_log("pool_registered")
    yield path
    assert serve.stop() == 0
    assert serve.complaints == []


class Terminal:
    """A command on a pseudo-terminal of this size."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 30, **env: str) -> None:
        self.output = ""
        master, slave = pty.openpty()
        self._master = master
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        environ = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1", **env}
        environ.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nodelaunch", *arguments], stdin=slave, stdout=slave, stderr=slave, env=environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  so that Ctrl-C is a signal
        )  # fmt: skip

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, pattern: str) -> str:
        """Read until *pattern* is in what was written since the last call, without control sequences; all of that."""
        ends = time.monotonic() + DEADLINE_S
        while not re.search(pattern, CONTROL.sub("", self.output), re.DOTALL):
            assert time.monotonic() < ends, f"{pattern!r} is not in {CONTROL.sub('', self.output)[-2000:]!r}"
            self._read(1.0)
        found, self.output = self.output, ""
        return found

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            self.output += os.read(self._master, 65536).decode(errors="replace")

    def ended(self) -> int:
        """Its exit code; the terminal is as it was before."""
        ends = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < ends, "it did not end"
            self._read(0.1)
        assert termios.tcgetattr(self._slave) == self.before
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def terminal(*arguments: str, **how: object) -> Iterator[Terminal]:
    made = Terminal(*arguments, **how)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def test_top_shows_pools_what_waits_and_what_is_paused_and_ends_with_q(config: Path) -> None:
    with terminal("top", "-c", str(config), "--interval", "0.5") as top:
        top.until(r"POOLS.*cloud/main +running.*1/4")
        run("pause", "cloud", "--reason", "disks", "-c", str(config), check=True)
        asking = subprocess.Popen(
            [sys.executable, "-m", "nodelaunch", "request", "small", "-c", str(config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        shown = top.until(r"cloud/main +paused.*WAITING.*200-\d+.*cloud/main: provider cloud is paused.*disks")
        assert COLOUR.search(shown)
        run("resume", "cloud", "-c", str(config), check=True)
        assert asking.wait(DEADLINE_S) == 0
        top.until(r"cloud/main +running")
        top.press("q")
        assert top.ended() == 0


@pytest.mark.parametrize("how", ["Ctrl-C", "signal"])
def test_top_ends_with_ctrl_c_on_a_narrow_terminal_without_colours(config: Path, how: str) -> None:
    with terminal("top", "-c", str(config), columns=40, lines=10, NO_COLOR="1") as top:
        shown = top.until(r"cloud/main +running")
        assert not COLOUR.search(shown)
        top.resize(60, 12)
        os.kill(top.process.pid, signal.SIGWINCH)
        top.until(r"1/4")
        if how == "Ctrl-C":
            top.press("\x03")
        else:
            os.kill(top.process.pid, signal.SIGINT)
        assert top.ended() == 0


def test_top_refuses_a_pipe(config: Path) -> None:
    done = run("top", "-c", str(config))
    assert done.returncode == 1
    assert "top needs a terminal; use 'status'" in done.stderr


def test_list_is_drawn_anew_when_something_changes(config: Path) -> None:
    with terminal("list", "--watch", "0.5", "-c", str(config)) as shown:
        shown.until(r"nodes every 0.5 s.*ID .*0000000000 .*ready")
        run("hold", "0000000000", "--reason", "look", "-c", str(config), check=True)
        shown.until(r"0000000000 .*hold")
        shown.press("q")
        assert shown.ended() == 0


def test_list_is_printed_again_on_a_pipe_until_nobody_reads(config: Path) -> None:
    command = [sys.executable, "-m", "nodelaunch", "list", "--watch", "0.2", "--json", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        node: dict[str, str] = {}
        while node.get("state") != "ready":
            (node,) = json.loads(watching.stdout.readline()) or ({},)
        run("hold", node["id"], "-c", str(config), check=True)
        while not any(each["state"] == "hold" for each in json.loads(watching.stdout.readline())):
            pass
        watching.stdout.close()
        run("delete", node["id"], "-c", str(config), check=True)
        assert watching.wait(DEADLINE_S) == 0


def test_requests_are_printed_with_the_time_on_a_pipe(config: Path) -> None:
    command = [sys.executable, "-m", "nodelaunch", "request-list", "--watch", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", watching.stdout.readline())
        watching.send_signal(signal.SIGTERM)
        watching.wait(DEADLINE_S)
