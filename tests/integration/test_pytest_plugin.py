"""The fixtures for other people's tests, each used in a pytest run of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.process import Serve, run, without_slow_notes

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "pytest"
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
IS_INSTALLED = any(point.name == "nodelaunch" for point in entry_points(group="pytest11"))


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in *folder*, to its end; what it shows."""
    plugin = [] if IS_INSTALLED else ["-p", "nodelaunch.pytest_plugin"]
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--color=no",
        *plugin,
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    found = re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout.splitlines()[-1])
    return {what: int(count) for count, what in found}


def written(folder: Path, code: str, ini: str = "", conftest: str = "") -> Path:
    (folder / "pytest.ini").write_text(INI + ini)
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(code)
    return folder


def test_example_passes(tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = pytest_run(folder)
    assert outcomes(done) == {"passed": 4}, done.stdout + done.stderr


def test_package_says_that_it_has_a_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"nodelaunch": "nodelaunch.pytest_plugin"}


def test_plugin_imports_next_to_nothing_until_a_fixture_is_used(tmp_path: Path) -> None:
    written(
        tmp_path,
        "import sys\n"
        "def test_it():\n"
        "    heavy = {'structlog', 'pydantic', 'aiozk', 'ruamel', 'msgspec', 'nodelaunch.launcher'}\n"
        "    assert heavy.isdisjoint(sys.modules)\n",
    )
    assert outcomes(pytest_run(tmp_path)) == {"passed": 1}


def test_nodes_are_given_back_after_the_test_even_if_it_fails(tmp_path: Path) -> None:
    """Each test takes the whole capacity, so the second would wait for ever."""
    code = """
import pytest

async def test_fails(nodes):
    await nodes("small")
    await nodes("small")
    assert False, "on purpose"

def test_goes_on(nodes):
    assert len(nodes.wait("small", "small")) == 2

def test_one(node):
    assert node.provider == "cloud"
"""
    conftest = """
import pytest
from nodelaunch.temporary import fake_config

@pytest.fixture(scope="session")
def nodelaunch_config():
    return fake_config(["small", "node"], {"name": "cloud", "max_servers": 2})
"""
    done = pytest_run(written(tmp_path, code, "nodelaunch_timeout = 60\n", conftest))
    assert outcomes(done) == {"failed": 1, "passed": 2}, done.stdout
    assert "on purpose" in done.stdout


def test_reasons_are_in_the_report_of_a_test_that_gets_no_nodes(tmp_path: Path) -> None:
    code = """
async def test_unknown(nodes):
    await nodes("smal")

def test_full(nodes):
    nodes.wait("small", "small")
    nodes.wait("small", timeout_s=0.5)

def test_fixture(node):
    pass
"""
    conftest = """
import pytest
from nodelaunch.temporary import fake_config

@pytest.fixture(scope="session")
def nodelaunch_config():
    return fake_config(["small"], {"max_servers": 2})
"""
    done = pytest_run(written(tmp_path, code, conftest=conftest), "--nodelaunch-timeout=60")
    assert outcomes(done) == {"failed": 2, "error": 1}, done.stdout
    assert "fake/main: declined: the pool does not offer label smal" in done.stdout
    assert "(small) was not fulfilled within 0.5 s" in done.stdout
    assert "fake/main: deferred: needs 1 instance; 0 available" in done.stdout
    assert "fake/main: declined: the pool does not offer label node" in done.stdout
    shown = without_slow_notes(done.stdout.splitlines())
    assert "threaded.py" not in "\n".join(shown)  # the report ends at the line of the test


def test_log_of_the_launcher_is_among_the_logs_of_a_test(tmp_path: Path) -> None:
    done = pytest_run(written(tmp_path, "def test_it(node):\n    assert not node\n"), "--log-level=INFO")
    assert outcomes(done) == {"failed": 1}
    assert "Captured log setup" in done.stdout
    assert "event='node_ready'" in done.stdout


# -- of a launcher that runs ----------------------------------------------------------------------------------------

CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def serve(config: Path) -> Iterator[Serve]:
    """A launcher at work with that."""
    serve = Serve(config)
    serve.await_log("pool_registered")
    yield serve
    serve.kill()


def test_nodes_of_a_running_launcher(config: Path, serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    code = "def test_it(node):\n    assert (node.provider, node.type) == ('cloud', ('small',))\n"
    written(folder, code, "nodelaunch_labels = small\nnodelaunch_config = ../nodepool.yaml\n")
    assert outcomes(pytest_run(folder)) == {"passed": 1}
    written(folder, code, "nodelaunch_labels = small\n")
    assert outcomes(pytest_run(folder)) == {"failed": 1}  # of a fake cloud
    assert outcomes(pytest_run(folder, "--nodelaunch-config=../nodepool.yaml")) == {"passed": 1}
    assert "in-use" not in run("list", "-c", str(config)).stdout


def test_nodes_that_are_lost_meanwhile_are_told_of(config: Path, serve: Serve, tmp_path: Path) -> None:
    code = f"""
import os, time
from nodelaunch.protocol.store import SessionState

def test_it(nodes):
    nodes.wait("small")
    os.kill({serve.process.pid}, 9)
    while nodes._loan._thread.client.store.session.state is SessionState.CONNECTED:
        time.sleep(0.01)
"""
    done = pytest_run(written(tmp_path, code, "nodelaunch_labels = small\n"), f"--nodelaunch-config={config}")
    assert outcomes(done) == {"passed": 1, "error": 1}, done.stdout
    assert "nodes lost while in use" in done.stdout


def test_launcher_that_does_not_run_is_told_of_once_for_each_test(config: Path, tmp_path: Path) -> None:
    done = pytest_run(written(tmp_path, "def test_it(node):\n    pass\n"), "--nodelaunch-config=nodepool.yaml")
    assert outcomes(done) == {"error": 1}
    assert "is 'nodelaunch serve' running with this configuration?" in done.stdout
