"""The outside driver of `examples/` is a package: built, installed elsewhere, found, checked by the kit, both ways."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import nodelaunch
from nodelaunch.driverhost.install.pip import Environment, Sources
from support.launchers import running
from support.process import run
from support.processes import slow_starts

SOURCE = Path(__file__).parents[2] / "examples" / "outside-driver"
TIMEOUT_S = 300.0

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(
        not Path("/usr/sbin/sshd").exists(), reason="sshd not installed (Debian package openssh-server)"
    ),
]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Hold a lock against parallel tests: two sites of loopback machines would have the same addresses."""
    with (Path(tempfile.gettempdir()) / f"nodelaunch-tests-loopback-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from a copy."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run(
        [*build, str(folder / "source")], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment with the package, in which nodelaunch is importable."""
    made = Environment(tmp_path_factory.mktemp("venv") / "venv")
    made.create()
    home = Path(nodelaunch.__file__).parents[1]
    ours = [str(home), *(each for each in sys.path if each.endswith("-packages"))]
    (made.packages / "ours.pth").write_text("\n".join(ours))
    offline = Sources(is_offline=True)
    made.pip("install", "--no-deps", "--no-index", str(wheel), sources=offline)
    return made


def inside(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python`` of the environment with *arguments*, to its end; only its own packages on the path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # it is to do without our own tests' plugins
    variables["PATH"] = f"{environment.folder / 'bin'}:{variables['PATH']}"
    return subprocess.run(
        [str(environment.python), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("is_slow", [False, True], ids=["", "slow"])
def test_its_own_tests_pass_where_it_is_installed(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    if is_slow:
        (tmp_path / "slow").mkdir()
        monkeypatch.setenv("PATH", slow_starts(tmp_path / "slow"))
    shutil.copytree(SOURCE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "pyproject.toml", tmp_path)
    done = inside(
        environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_it_reaches_its_level_both_ways(environment: Environment, tmp_path: Path, isolation: str) -> None:
    report = tmp_path / "report.json"
    arguments = ("--isolation", isolation, "--level", "silver", "--report", str(report))
    done = inside(environment, "-m", "nodelaunch", "driver", "check", "loopback", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["level"] == "silver"


def test_it_is_listed_with_its_package_and_options(environment: Environment) -> None:
    done = inside(environment, "-m", "nodelaunch", "driver", "info", "loopback", "--json")
    told = json.loads(done.stdout)
    assert (told["origin"], told["place"]) == ("package", "nodelaunch-driver-loopback 1.0")
    assert told["licence"] == "Apache-2.0"
    assert told["options"]["provider"]["properties"]["network"]["description"] == "Addresses for machines."
    by_hand = subprocess.run(
        [environment.folder / "bin" / "nodelaunch-driver-loopback"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "This is a driver of nodelaunch." in by_hand.stdout


async def test_launcher_elsewhere_gets_nodes_of_it_once_it_is_installed(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's configuration works with a launcher that has it from ``driver install``, as a process."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = run("driver", "install", str(wheel), "--offline", timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    (block,) = re.findall(r"```yaml\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)
    config = block.replace("/tmp/nodes", str(tmp_path / "nodes")).replace("name: here", "name: cloud")
    async with running(tmp_path, "", more="webapp: {port: 0, listen_address: 127.0.0.1}\n" + config) as made:
        (node,) = await made.job("local")
        assert (node.interface_ip or "").startswith("127.64.0.")
        assert node.host_keys[0].startswith("ssh-ed25519 ")
        await made.until_empty()
