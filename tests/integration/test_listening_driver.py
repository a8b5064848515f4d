"""Drivers that listen, made with either SDK: checked, configured, refused what they should refuse, and ended."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodelaunch.cli.main import main
from nodelaunch.conformance.probe import DriverProgram, Probe, ProbeError
from nodelaunch.driverhost.catalogue import DriverCatalog
from nodelaunch.driverhost.executables import find_executable
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.errors import ConfigError
from nodelaunch.launcher import load_config
from support.listening import Listening, listening
from support.process import without_slow_notes
from support.processes import example

DEADLINE_S = 60.0
FAKE = (sys.executable, "-m", "nodelaunch.sdk", "fake")
COMMAND = (sys.executable, example("command"))
EITHER = pytest.mark.parametrize("command", [FAKE, COMMAND], ids=["sdk", "single file"])
OF_THE_PROCESS = {
    "it_connects_once", "it_leaves_no_process_behind", "it_leaves_no_files_behind", "by_hand_it_says_what_it_is",
}  # fmt: skip
KILLING = {"a_killed_create_leaves_nothing_hidden", "what_was_begun_is_gone_on_with"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Listening]:
    with listening(FAKE, tmp_path / "driver.sock") as driver:
        yield driver


def probe_of(driver: Listening, provider: dict[str, object] | None = None) -> Probe:
    command = find_executable(f"unix:{driver.path}")
    assert command is not None
    return Probe(DriverProgram(command, provider or {}, is_remote=True))


async def answers(driver: Listening) -> bool:
    """Return whether the driver shakes hands with a new client."""
    probe = probe_of(driver)
    try:
        await probe.start()
        await probe.shake_hands()
        return bool(probe.identity.name)
    finally:
        await probe.aclose()


# -- driver check ------------------------------------------------------------------------------------------------------


@EITHER
def test_driver_at_a_socket_reaches_silver(command: tuple[str, ...], tmp_path: Path, state: Path) -> None:
    report = tmp_path / "report.json"
    with listening(command, tmp_path / "driver.sock") as driver:
        target = f"unix:{driver.path}"
        code = main(["driver", "check", target, "--timeout", "60", "--level", "silver", "--report", str(report)])
        assert without_slow_notes(driver.lines) == [f"listening at {driver.path}\n"]
    content = json.loads(report.read_text())
    failed = [each for each in content["checks"] if each["verdict"] == "failed"]
    assert not failed
    assert (code, content["level"]) == (0, "silver")
    assert (content["driver"], content["isolation"], content["digest"]) == (target, "socket", None)
    detail = {each["name"]: (each["verdict"], each["detail"]) for each in content["checks"]}
    for name in OF_THE_PROCESS:
        assert detail[name][0] == "inapplicable"
        assert detail[name][1].startswith("needs a process that the kit started; ")
    for name in KILLING:
        assert detail[name][0] == "skipped"
        assert detail[name][1].startswith("needs a process to kill: ")
    assert not state.exists()  # what is at a socket may be another driver tomorrow


def test_gold_can_not_be_reached_at_a_socket(fake: Listening, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "check", f"unix:{fake.path}", "--timeout", "60", "--level", "gold"]) == 1
    assert f"driver unix:{fake.path}: silver\n  needed for gold:\n" in capsys.readouterr().out


def test_socket_without_listener_can_not_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "check", f"unix:{tmp_path}/nobody"]) == 2
    told = capsys.readouterr().err
    assert f"no driver listens at {tmp_path}/nobody: No such file or directory; start it there, with --listen" in told


def test_driver_at_a_socket_can_not_run_inline(fake: Listening, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "check", f"unix:{fake.path}", "--isolation", "inline"]) == 2
    assert "listens at a socket; it can't run inline" in capsys.readouterr().err


def test_listener_that_hangs_up_at_once_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "curt"))
        listener.listen()

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            code = main(["driver", "check", f"unix:{tmp_path}/curt", "--timeout", "20"])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_S)
    printed = capsys.readouterr().out
    assert code == 1
    assert "it_proves_to_have_the_token               FAILED" in printed
    assert f"the driver at {tmp_path}/curt closed the connection without sending anything" in printed
    assert "not made, because it_proves_to_have_the_token failed" in printed


# -- serve -------------------------------------------------------------------------------------------------------------


def test_provider_can_name_it(fake: Listening, tmp_path: Path) -> None:
    config = tmp_path / "nodepool.yaml"
    config.write_text(f"providers:\n  - name: cloud\n    driver: unix:{fake.path}\n    boot-time: 2\n")
    (provider,) = load_config(config).providers
    assert provider.driver == f"unix:{fake.path}"
    config.write_text(config.read_text().replace("boot-time", "boot-tine"))
    with pytest.raises(ConfigError, match=r"nodepool.yaml:4:5: .*did you mean 'boot-time'"):
        load_config(config)
    fake.end()
    with pytest.raises(ConfigError, match=f"no driver listens at {fake.path}: No such file"):
        load_config(config)


def test_it_can_be_asked_what_it_is(fake: Listening) -> None:
    facts = DriverCatalog().facts_of(DriverCatalog().find(f"unix:{fake.path}"))
    assert (facts.problem, facts.origin, facts.digest) == ("", f"socket {fake.path}", "")
    assert "zones" in facts.capabilities


# -- the driver's side -------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize(
    "first",
    [b"\n", b"GET / HTTP/1.1\r\n", b'{"token": 5}\n', b"[]\n", b'{"token": ""}\n', b'{"token": "x', b"[" * 9999],
)
async def test_connection_without_a_token_is_refused_and_the_listener_lives_on(
    command: tuple[str, ...], first: bytes, tmp_path: Path
) -> None:
    with listening(command, tmp_path / "driver.sock") as driver:
        assert await asyncio.to_thread(driver.say, first) == b""
        told = driver.await_line("a connection was refused")
        assert told.endswith('its first line is not {"token": "..."}\n')
        assert await answers(driver)


@EITHER
async def test_sessions_are_side_by_side_and_end_alone(command: tuple[str, ...], tmp_path: Path) -> None:
    with listening(command, tmp_path / "driver.sock") as driver:
        first, second = probe_of(driver), probe_of(driver)
        try:
            for probe in (first, second):
                await probe.start()
                await probe.shake_hands()
            first.kill()
            assert await first.ended(DEADLINE_S)
            await second.ask(m.PING.name)
            assert await answers(driver)
        finally:
            await first.aclose()
            await second.aclose()


@EITHER
async def test_garbage_ends_its_session_only(command: tuple[str, ...], tmp_path: Path) -> None:
    with listening(command, tmp_path / "driver.sock") as driver:
        assert await asyncio.to_thread(driver.say, b'{"token": "x"}\nno JSON\n') == b""
        assert await answers(driver)


@EITHER
async def test_token_has_to_be_that_of_the_session(command: tuple[str, ...], tmp_path: Path) -> None:
    with listening(command, tmp_path / "driver.sock") as driver:
        hello = {"protocol": {"min": 1, "max": 1}, "launcher": {"name": "x"}, "nonce": "aa"}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "handshake.hello", "params": hello}
        probe = probe_of(driver)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(driver.path))
            connection.sendall(b'{"token": "one", "later": 1}\n' + json.dumps(asked).encode() + b"\n")
            with connection.makefile() as stream:
                result = json.loads(stream.readline())["result"]
        probe.token, probe._nonces = "one", ("aa", result["nonce"])
        assert result["proof"] == probe.proof("driver")
        await probe.aclose()


@EITHER
def test_it_ends_by_sigterm_with_its_sessions_and_takes_its_socket_away(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    with listening(command, tmp_path / "driver.sock") as driver:
        assert stat.S_IMODE(driver.path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(driver.path))
            connection.sendall(b'{"token": "x"}\n')
            assert driver.end() == 0
            with suppress(ConnectionResetError):  # what it had not read yet is lost
                assert connection.recv(1) == b""
        assert not driver.path.exists()


@EITHER
def test_it_takes_the_place_of_a_dead_listener_only(command: tuple[str, ...], tmp_path: Path) -> None:
    path, file = tmp_path / "driver.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with listening(command, path):
        assert "another process already listens" in _refused(command, path)
        file.write_text("precious")
        assert "is not a socket" in _refused(command, file)
        assert file.read_text() == "precious"
    assert "No such file" in _refused(command, tmp_path / "nowhere" / "driver.sock")


def _refused(command: tuple[str, ...], path: Path) -> str:
    done = subprocess.run(
        [*command, "--listen", str(path)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@EITHER
def test_started_by_hand_it_tells_of_listening(command: tuple[str, ...]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODELAUNCH_DRIVER")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True, env=environment)
    assert "--listen PATH" in done.stdout
    assert "nodelaunch driver check unix:PATH" in done.stdout


CHATTY = """
import structlog
from dataclasses import replace
from nodelaunch.drivers import DriverRegistry
from nodelaunch.sdk import serve

fake = DriverRegistry().get("fake")

def open_(config, context):
    structlog.get_logger().info("opened", provider=config.name)
    return fake.open(config, context)


raise SystemExit(serve(replace(fake, open=open_)))
"""


async def test_what_is_logged_goes_to_its_session(tmp_path: Path) -> None:
    script = tmp_path / "chatty.py"
    script.write_text(CHATTY)
    with listening((sys.executable, str(script)), tmp_path / "driver.sock") as driver:
        probes = [probe_of(driver, {"name": name, "driver": "fake"}) for name in ("one", "two")]
        try:
            for probe in probes:
                await probe.start()
                await probe.open()
            for probe in probes:
                await probe.ask(m.PING.name)
                said = [params["fields"]["provider"] for method, params in probe.received.notes if method == m.LOG]
                assert said == [probe.program.provider["name"]]
        finally:
            for probe in probes:
                await probe.aclose()


async def test_relay_tells_of_a_driver_that_was_ended(fake: Listening) -> None:
    probe = probe_of(fake)
    try:
        await probe.start()
        await probe.shake_hands()
        fake.end()
        assert await probe.ended(DEADLINE_S)
        with pytest.raises(ProbeError, match=f"the driver at {fake.path} closed the connection"):
            await probe.ask(m.PING.name)
    finally:
        await probe.aclose()
