"""Arguments that the command line refuses, and the form in which commands report why they cannot continue."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodelaunch.cli import leaks
from nodelaunch.cli.main import FAILED, USAGE, main
from nodelaunch.protocol import paths
from nodelaunch.protocol.store import Store
from nodelaunch.store.embedded.store import EmbeddedStore
from support.process import run

ROOT = Path(__file__).parents[2]
CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-file: {folder}/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nodelaunch.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["request", ""], "a label needs at least one character"),
        (["request", "small", " "], "a label needs at least one character"),
        (["request", "small", "--timeout", "-1"], "--timeout"),
        (["request", "small", "--hold", "-1"], "--hold"),
        (["request", "small", "--count", "0"], "--count"),
        (["serve", "--drain-timeout", "-5"], "--drain-timeout"),
        (["list", "--watch", "0"], "has to be more than 0 seconds"),
        (["request-list", "--watch", "-1"], "has to be more than 0 seconds"),
        (["list", "--state", "redy"], "nodes have no state 'redy'; did you mean 'ready'? states are: init, "),
        (["list", "--state", "ready", "--state", "requested"], "nodes have no state 'requested'"),
        (["request-list", "--state", "ready"], "requests have no state 'ready'; "),
        (["list", "--requests", "--state", "ready"], "requests have no state 'ready'; "),
    ],
)
def test_values_that_make_no_sense_are_refused(
    command: list[str], complaint: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-c", str(config)]) == USAGE
    out, errors = capsys.readouterr()
    assert out == ""
    assert complaint in errors


def test_leaks_of_a_cloud_that_is_away_are_no_good_news(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def store(_session: object) -> AsyncIterator[Store]:
        async with EmbeddedStore(None) as made:
            await made.ensure(*paths.ALWAYS_THERE)
            yield made

    monkeypatch.setattr(leaks, "client_store", store)
    cloud = str(config.parent / "cloud.sqlite")
    assert main(["leaks", "-c", str(config)]) == 0
    assert capsys.readouterr().out == "no leaks\n"
    assert main(["fake-cloud", "set", cloud, "unavailable=true"]) == 0
    capsys.readouterr()
    assert main(["leaks", "-c", str(config)]) == FAILED
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("nodelaunch: provider cloud: ")


def test_errors_of_the_command_are_json_where_the_log_is(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = config.with_name("token")
    token.write_text("a-token-that-is-long-enough\n")
    away = ["--url", "http://127.0.0.1:1", "--token-file", str(token), "--timeout", "0.2"]
    cases = [["list"], ["request", "small"], ["request", "small", *away], ["list", "-c", "absent.yaml"]]
    for command in cases:
        assert main(["-c", str(config), *command, "--log-json"] if "-c" not in command else [*command, "--log-json"])
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [(line["event"], line["level"]) for line in lines] == [("failed", "error")], command
        assert lines[0]["detail"]


def test_port_that_is_taken_is_told_as_json(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text() + f"webapp: {{port: {port}, listen_address: 127.0.0.1}}\n")
        done = run("serve", "-c", str(config), "--log-json")
    assert done.returncode == FAILED
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["event"], last["level"]) == ("failed", "error")
    assert str(port) in last["detail"]


def test_help_needs_no_folder_for_temporary_files() -> None:
    program = (
        "import sys, tempfile\n"
        "def none(*_): raise FileNotFoundError('no usable temporary directory')\n"
        "tempfile._get_default_tempdir = none\n"
        "from nodelaunch.cli.main import main\n"
        "code = main(['--help'])\n"
        "assert 'asyncssh' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_help_of_the_test_script_installs_nothing(tmp_path: Path) -> None:
    """The script runs with no other program than a shell, dirname and cat."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "cat"):
        (folder / name).symlink_to(next(each for each in (Path("/usr/bin", name), Path("/bin", name)) if each.exists()))
    script = tmp_path / "test.sh"
    script.write_bytes((ROOT / "test.sh").read_bytes())
    for option in ("--help", "-h"):
        done = subprocess.run(
            ["/bin/bash", str(script), option], env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: ./test.sh")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bin", "test.sh"]
