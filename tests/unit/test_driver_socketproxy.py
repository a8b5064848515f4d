"""The relay to a driver that listens: what it hands on, and what it says when it can't."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodelaunch.driverhost.executables import find_executable, socket_of
from nodelaunch.driverhost.process import socketproxy

DEADLINE_S = 30.0


@contextmanager
def a_listener(path: Path, session: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a listener that has a session at *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.settimeout(DEADLINE_S)
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(DEADLINE_S)
                session(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def relayed(to_driver: str, to_launcher: str) -> subprocess.CompletedProcess[str]:
    """The relay between the two, started as a launcher does, to its end."""
    given, filled = os.pipe()
    os.write(filled, b"secret\n")
    os.close(filled)
    handed_over = f"import os, sys; os.dup2({given}, 3); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    try:
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", handed_over, socketproxy.__file__, to_driver],
            env={"NODELAUNCH_DRIVER_SOCKET": to_launcher}, pass_fds=(given,), capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    finally:
        os.close(given)


def to_the_end(connection: socket.socket) -> bytes:
    heard = b""
    while chunk := connection.recv(1 << 16):
        heard += chunk
    return heard


def test_token_comes_first_and_both_are_heard_to_their_end(tmp_path: Path) -> None:
    heard = {}
    long = b"x" * (3 << 20) + b"\n"

    def drive(connection: socket.socket) -> None:
        heard["driver"] = to_the_end(connection)
        connection.sendall(long)  # what was under way is answered after the launcher's end, too

    def launch(connection: socket.socket) -> None:
        connection.sendall(long)
        connection.shutdown(socket.SHUT_WR)
        heard["launcher"] = to_the_end(connection)

    with a_listener(tmp_path / "driver", drive) as driver, a_listener(tmp_path / "launcher", launch) as launcher:
        done = relayed(driver, launcher)
    assert (done.returncode, done.stderr) == (0, "")
    assert heard == {"driver": b'{"token": "secret"}\n' + long, "launcher": long}


def test_nobody_who_listens_is_told(tmp_path: Path) -> None:
    done = relayed(str(tmp_path / "nobody"), str(tmp_path / "launcher"))
    assert done.returncode == 1
    assert done.stderr == f"no driver listens at {tmp_path}/nobody: No such file or directory\n"
    (tmp_path / "file").touch()
    assert "Connection refused" in relayed(str(tmp_path / "file"), str(tmp_path / "launcher")).stderr
    assert "path too long" in relayed("/" + "x" * 200, str(tmp_path / "launcher")).stderr


@pytest.mark.parametrize(
    ("said", "fault"), [(b"", "closed the connection without sending anything"), (b"{}\n", "closed the connection")]
)
def test_driver_that_hangs_up_first_is_told(said: bytes, fault: str, tmp_path: Path) -> None:
    heard = []

    def drive(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            stream.readline()
        connection.sendall(said)

    with (
        a_listener(tmp_path / "driver", drive) as driver,
        a_listener(tmp_path / "launcher", lambda connection: heard.append(to_the_end(connection))) as launcher,
    ):
        done = relayed(driver, launcher)
    assert (done.returncode, done.stderr) == (1, f"the driver at {driver} {fault}\n")
    assert heard == [said]


def test_who_hung_up_is_known_from_either_side() -> None:
    for ends_first in (True, False):
        source, launcher = socket.socketpair()
        sink, driver = socket.socketpair()
        with source, launcher, sink, driver:
            launcher.sendall(b"a line\n")
            (launcher if ends_first else driver).close()
            assert socketproxy.hand_on(source, sink) == (7 if ends_first else 0, ends_first)


def test_socket_that_is_closed_here_is_an_end_and_no_error() -> None:
    """At its end the program closes both sockets; a thread may still pass data on, and must print no traceback."""
    source, launcher = socket.socketpair()
    sink, driver = socket.socketpair()
    with launcher, driver, source:
        launcher.sendall(b"a line\n")
        sink.close()
        assert socketproxy.hand_on(source, sink) == (0, False)
        source.close()
        assert socketproxy.hand_on(source, driver) == (0, True)


def test_started_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run([sys.executable, socketproxy.__file__], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: socketproxy.py PATH")


def test_socket_is_a_driver_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = find_executable("unix:mine.sock")
    assert command is not None
    assert command.name == "unix:mine.sock"
    assert command.argv[-2:] == (socketproxy.__file__, str(tmp_path / "mine.sock"))
    assert [socket_of(name) for name in ("unix:", "mine.sock", "./unix:x")] == [None, None, None]
