"""`nodelaunch driver new` makes a package that is built, installed elsewhere, and reaches bronze as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import nodelaunch
from nodelaunch.driverhost.install.pip import Environment, Sources
from support.process import run

NAME = "my-cloud"
TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / f"nodelaunch-driver-{NAME}"
    done = run("driver", "new", NAME, "--output", str(folder))
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.split("\n\n")[0].splitlines()]
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert f"nodelaunch driver check {NAME}" in done.stdout
    assert not [path for path in files if re.search("@[A-Z]+@", path.read_text() + str(path))]
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment with the package, in which nodelaunch is importable."""
    made = Environment(tmp_path_factory.mktemp("venv") / "venv")
    made.create()
    ours = [str(Path(nodelaunch.__file__).parents[1]), *(each for each in sys.path if each.endswith("-packages"))]
    (made.packages / "ours.pth").write_text("\n".join(ours))
    made.pip("install", "--no-deps", "--no-index", str(wheel), sources=Sources(is_offline=True))
    return made


def inside(environment: Environment, folder: Path, arguments: Sequence[str]) -> str:
    """Return the output of the environment's ``python`` with *arguments*."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {
        "PATH": f"{environment.folder / 'bin'}:{variables['PATH']}", "XDG_STATE_HOME": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # fmt: skip
    done = subprocess.run(
        [str(environment.python), *arguments], cwd=folder, env=variables, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(environment: Environment, folder: Path, *arguments: str) -> str:
    return inside(environment, folder, ["-m", "nodelaunch", *arguments])


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_it_reaches_bronze_and_more(environment: Environment, tmp_path: Path, isolation: str) -> None:
    out = command(environment, tmp_path, "driver", "check", NAME, "--isolation", isolation, "--report", "-")
    report = json.loads(out)
    assert not [check for check in report["checks"] if check["verdict"] == "failed"]
    assert report["level"] == "silver"


def test_its_tests_pass(environment: Environment, source: Path, tmp_path: Path) -> None:
    out = inside(environment, tmp_path, ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(source)])
    assert " passed" in out


def test_its_configuration_is_good(environment: Environment, source: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (source / "README.md").read_text(), re.DOTALL)
    (tmp_path / "nodelaunch.yaml").write_text(block)
    assert "good; 1 label," in command(environment, tmp_path, "config", "check", "nodelaunch.yaml")


@pytest.mark.parametrize("where", ["package", "executable"])
def test_what_its_package_says_is_shown(environment: Environment, tmp_path: Path, where: str) -> None:
    name = NAME if where == "package" else str(environment.folder / "bin" / f"nodelaunch-driver-{NAME}")
    told = json.loads(command(environment, tmp_path, "driver", "info", name, "--json"))
    assert (told["version"], told["maintainer"], told["licence"]) == ("0.1", "You", "Apache-2.0")
    assert told["capabilities"] == ["faults"]


@pytest.mark.parametrize("name", ["My", "a--b", "1a", "a/b", "-a", "a-", "fake"])
def test_names_that_can_not_be_used(name: str, tmp_path: Path) -> None:
    done = run("driver", "new", "--output", str(tmp_path / "new"), "--", name)
    assert done.returncode == 1, done
    assert repr(name) in done.stderr
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = run("driver", "new", NAME, "--output", str(tmp_path))
    assert done.returncode == 1
    assert "already exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
