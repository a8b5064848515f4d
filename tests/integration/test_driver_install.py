"""``nodelaunch driver install``: real wheels, real environments, no network but an index of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nodelaunch.driverhost.install.layout import installation_of
from support.commands import parsed
from support.packages import entry_points, wheel
from support.process import run
from support.processes import EXAMPLES

TIMEOUT_S = 300.0
IN_PYTHON = """
import brushes
from nodelaunch.config.models import ProviderConfig
from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.test.driver import TestDriver

PLUGIN = DriverPlugin("painted", ProviderConfig, TestDriver, summary=brushes.SUMMARY)
"""
POINTS = entry_points(nodelaunch__drivers={"painted": "painted:PLUGIN"})
CONFIG = "providers: [{name: cloud, driver: DRIVER, OPTIONS pools: [{name: main}]}]\n"


def painter(folder: Path, *, version: str = "1.0", source: str = IN_PYTHON, requires: str = "nodelaunch") -> Path:
    """A package with a driver in Python."""
    return wheel(
        folder, "cloud-painter", {"painted.py": source}, version=version, points=POINTS, requires=[requires, "brushes"]
    )


def plain(folder: Path) -> Path:
    """A package with an executable that needs nothing."""
    program = (EXAMPLES / "nodelaunch-driver-command").read_text().partition("\n")[2]
    library = (EXAMPLES / "nodelaunch_driver.py").read_text()
    return wheel(
        folder,
        "cloud-plain",
        {"nodelaunch_driver.py": library, "scripts/nodelaunch-driver-plain": f"#!python\n{program}"},
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages."""
    folder = tmp_path_factory.mktemp("index")
    painter(folder)
    wheel(folder, "brushes", {"brushes.py": "SUMMARY = 'coloured machines'\n"})
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "nodelaunch" / "drivers"


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("driver", "install", *map(str, arguments), "--offline", timeout_s=TIMEOUT_S)


def found(name: str) -> dict[str, object] | None:
    rows = json.loads(run("driver", "list", "--json", check=True).stdout)
    return next((row for row in rows if row["name"] == name), None)


def rubbish(home: Path) -> list[str]:
    """Return all files in the home that belong to no installation in use."""
    used = {path.resolve().name for path in home.glob("*/current")}
    return [
        path.name for path in home.iterdir() if path.name.startswith((".v-", ".removed-")) and path.name not in used
    ]


def check(folder: Path, driver: str, options: str = "") -> subprocess.CompletedProcess[str]:
    path = folder / "nodepool.yaml"
    path.write_text(CONFIG.replace("DRIVER", driver).replace("OPTIONS", options))
    return run("config", "check", str(path))


def test_driver_in_python_lives_in_an_environment_of_its_own(home: Path, index: Path, tmp_path: Path) -> None:
    """The steps: install, use by name, install again from the lock file, remove."""
    done = install("cloud-painter==1.0", "--index-dir", index)
    assert (done.returncode, done.stderr) == (0, "")
    assert "installed cloud-painter 1.0 with driver painted" in done.stdout
    row = found("painted")
    assert row is not None
    assert (row["origin"], row["place"], row["version"]) == ("installed", "cloud-painter 1.0", "1.0")
    assert check(tmp_path, "painted").returncode == 0
    assert "unknown key 'colour'" in check(tmp_path, "painted", "colour: red,").stderr
    made = installation_of("painted", home)
    assert made is not None
    lock = made.lock.read_text()
    assert [line.split("==")[0] for line in lock.splitlines() if not line.startswith("#")] == [
        "cloud-painter",
        "brushes",
    ]
    assert not list(made.programs.glob("pip*"))  # its environment has nothing but what it needs
    first = made.folder.resolve()

    again = install("painted", "--locked")
    assert (again.returncode, again.stderr) == (0, "")
    assert made.lock.read_text() == lock
    assert made.folder.resolve() != first
    assert found("painted") == row

    (path,) = made.wheels.glob("brushes*")
    path.write_bytes(path.read_bytes() + b"\n")
    second = made.folder.resolve()
    forged = install("cloud-painter", "--locked")
    assert (forged.returncode, forged.stdout) == (1, "")
    assert "brushes==1.0 differs from the lock file: it has SHA-256 " in forged.stderr
    assert made.folder.resolve() == second
    assert found("painted") == row

    removed = run("driver", "remove", "painted", check=True)
    assert removed.stdout == "removed cloud-painter 1.0 with driver painted\n"
    assert found("painted") is None
    assert [path.name for path in home.iterdir()] == [".lock"]


def test_executable_that_needs_nothing_of_ours(home: Path, tmp_path: Path) -> None:
    """The executable sees only its own environment; it is also installed from a lock file elsewhere."""
    path = plain(tmp_path / "wheels")
    assert install(path).returncode == 0
    made = installation_of("plain", home)
    assert made is not None
    asked = [str(made.programs / "python"), "-c", "import nodelaunch"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert subprocess.run(asked, check=False, capture_output=True, env=environment, timeout=60).returncode == 1
    assert check(tmp_path, "plain", f"state-dir: {tmp_path},").returncode == 0
    lock = tmp_path / "cloud-plain.lock"
    lock.write_text(made.lock.read_text())
    other = tmp_path / "elsewhere"
    assert install(lock, "--locked", "--index-dir", path.parent, "--home", other).returncode == 0
    copied = installation_of("cloud-plain", other)
    assert copied is not None
    assert copied.lock.read_text() == lock.read_text()


@pytest.mark.parametrize(
    ("source", "requires", "message"),
    [
        (
            "import no_such_library\n",
            "nodelaunch",
            "package cloud-painter was not installed: driver painted: it exited",
        ),
        (IN_PYTHON, "brushes", "does not say that it needs nodelaunch"),
    ],
)
def test_driver_that_does_not_come_up_leaves_what_was_there(
    home: Path, index: Path, tmp_path: Path, source: str, requires: str, message: str
) -> None:
    bad = painter(tmp_path / "bad", version="2.0", source=source, requires=requires)
    good = home / "cloud-painter" / "current"
    good.parent.mkdir(parents=True)
    (home / ".v-good").mkdir()
    record = {"package": "cloud-painter", "version": "1.0", "drivers": ["painted"], "requested": "", "python": "3.11"}
    (home / ".v-good" / "installed.json").write_text(json.dumps(record))
    good.symlink_to("../.v-good")
    failed = install(bad, "--index-dir", index)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert message in failed.stderr
    assert good.resolve() == home / ".v-good"
    assert rubbish(home) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cloud-nothing",), "no package cloud-nothing that this Python can use can be had offline; name a folder"),
        (("cloud-painter==7", "--index-dir", "{index}"), "no package cloud-painter==7 that this Python can use is in"),
        (("brushes", "--index-dir", "{index}"), "brushes 1.0 is no driver package: it has neither an executable"),
        (("/nowhere/x-1-py3-none-any.whl",), "/nowhere/x-1-py3-none-any.whl does not exist"),
        (("x; rm -rf", "--index-dir", "{index}"), "the name of a package, NAME==VERSION or a path is expected"),
        (("x", "--index-dir", "/nowhere"), "there is no folder /nowhere"),
        (("cloud-painter", "--locked"), "nothing called 'cloud-painter' is installed in"),
        (("/nowhere/x.lock", "--locked"), "the lock file /nowhere/x.lock can't be read"),
    ],
)
def test_what_can_not_be_installed_is_told(home: Path, index: Path, arguments: tuple[str, ...], message: str) -> None:
    done = install(*(each.format(index=index) for each in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nodelaunch: ")
    assert message in done.stderr
    assert not home.exists() or rubbish(home) == []


@pytest.fixture
def web_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve the packages of *index* as a package index of the Simple API (PEP 503), the only one in pip's
    configuration; yield the requests to it.
    """
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    for path in index.glob("*.whl"):
        project = tmp_path / "simple" / path.name.partition("-")[0].replace("_", "-")
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, project)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with (project / "index.html").open("a") as page:
            page.write(f'<!DOCTYPE html><a href="{path.name}#sha256={digest}">{path.name}</a>\n')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_driver_of_a_package_index(home: Path, web_index: list[str]) -> None:
    """The driver and its dependencies come from the index; later not even a rebuild sends requests to any index."""
    done = run("driver", "install", "cloud-painter", timeout_s=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert "installed cloud-painter 1.0 with driver painted" in done.stdout
    assert {"/simple/cloud-painter/", "/simple/brushes/"} <= set(web_index)
    assert not [path for path in web_index if "nodelaunch" in path], "it has to go with the nodelaunch that installs it"
    made = installation_of("painted", home)
    assert made is not None
    lock = made.lock.read_text()
    web_index.clear()
    again = run("driver", "install", "painted", "--locked", timeout_s=TIMEOUT_S)
    assert (again.returncode, again.stderr, made.lock.read_text()) == (0, "", lock)
    assert found("painted") is not None
    assert web_index == []
    missing = run("driver", "install", "cloud-sculptor", timeout_s=TIMEOUT_S)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "no package cloud-sculptor that this Python can use is in the package index" in missing.stderr
    assert set(web_index) == {"/simple/cloud-sculptor/"}


def test_index_that_is_not_reached_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    done = run("driver", "install", "cloud-nothing", timeout_s=TIMEOUT_S)
    assert done.returncode == 1
    assert "the package index can't be reached; with --offline --index-dir DIR" in done.stderr


def test_documented_commands_are_taken() -> None:
    page = Path(__file__).parents[2] / "docs" / "drivers" / "installing.md"
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) > 5
    for line in lines:
        assert parsed(shlex.split(line)[1:])


def test_what_somebody_who_was_killed_left_is_cleared(home: Path) -> None:
    (home / ".v-half" / "env").mkdir(parents=True)
    (home / ".removed-x").mkdir()
    assert run("driver", "remove", "x").returncode == 1
    assert rubbish(home) == []
