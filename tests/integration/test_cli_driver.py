"""``nodelaunch driver list`` and ``driver info`` show all drivers, and isolate the failure of any driver."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.remembered import remember
from nodelaunch.driverhost.install.layout import Installation, InstallationRecord
from support import mischief
from support.packages import entry_points, put_on_path
from support.process import run

DRIVER = """
from nodelaunch.config.models import ProviderConfig
from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.test.driver import TestDriver

class Options(ProviderConfig):
    colour: str = "green"
    \"\"\"Of the machines.\"\"\"

PLUGIN = DriverPlugin("painted", Options, TestDriver, summary="coloured machines")
"""
CONFIG = """
labels: [{name: small}]
providers:
  - {name: a, driver: test, pools: [{name: main, labels: [small]}]}
"""
POINTS = entry_points(nodelaunch__drivers={"painted": "painted.driver:PLUGIN"})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is searched for packages and for executables; results of checks are kept in another
    folder than usual.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def executable(folder: Path, name: str, fault: str = "") -> Path:
    path = folder / f"nodelaunch-driver-{name}"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {mischief.__file__} '{fault}' {folder}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def listed() -> dict[str, dict[str, Any]]:
    done = run("driver", "list", "--json", check=True)
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_drivers_of_all_origins_are_listed(site: Path) -> None:
    put_on_path(site, "cloud-painter", {"painted/__init__.py": "", "painted/driver.py": DRIVER}, points=POINTS)
    path = executable(site, "mine")
    rows = listed()
    assert (rows["fake"]["origin"], rows["fake"]["contract"]) == ("built in", {"min": 1, "max": 1})
    painted = rows["painted"]
    assert (painted["origin"], painted["place"], painted["version"]) == ("package", "cloud-painter 1.0", "1.0")
    mine = rows["mine"]
    assert (mine["origin"], mine["place"], mine["version"]) == ("executable", str(path), "1.0")
    assert all(len(row["digest"]) == 64 and row["problem"] is None for row in (rows["fake"], painted, mine))
    text = run("driver", "list", check=True).stdout.splitlines()
    assert text[0].split() == ["NAME", "ORIGIN", "VERSION", "CONTRACT", "LEVEL", "DIGEST"]
    (line,) = (line for line in text if line.startswith("painted"))
    assert line.split() == ["painted", "package", "cloud-painter", "1.0", "1.0", "1", "-", painted["digest"][:12]]
    assert len({line.index(word) for line, word in ((text[0], "ORIGIN"), (line, "package"))}) == 1


def test_missing_library_disables_only_its_driver(site: Path) -> None:
    files = {"painted/__init__.py": "", "painted/driver.py": "import no_such_library.colours\n"}
    put_on_path(site, "cloud-painter", files, points=POINTS)
    rows = listed()
    assert "pip install no_such_library" in rows["painted"]["problem"]
    assert rows["fake"]["problem"] is None
    done = run("driver", "list", check=True)
    assert "painted can't be used: driver 'painted' needs a library that is not installed" in done.stdout
    info = run("driver", "info", "painted")
    assert (info.returncode, "The driver can't be used: driver 'painted' needs" in info.stdout) == (1, True)


def test_missing_library_of_an_extra_is_got_by_the_extra(site: Path) -> None:
    points = entry_points(nodelaunch__drivers={"painted": "painted:PLUGIN [oil]"})
    put_on_path(site, "cloud-painter", {"painted/__init__.py": "import no_such_library\n"}, points=points)
    assert listed()["painted"]["problem"].endswith("try: pip install 'cloud-painter[oil]'")


def test_package_that_breaks_disables_only_its_driver(site: Path) -> None:
    put_on_path(site, "cloud-painter", {"painted/__init__.py": "1 / 0\n", "painted/driver.py": ""}, points=POINTS)
    rows = listed()
    assert "can't be imported: ZeroDivisionError: division by zero" in rows["painted"]["problem"]
    assert rows["test"]["problem"] is None


def test_executable_that_does_not_come_up_is_listed_with_the_reason(site: Path) -> None:
    executable(site, "mine", "exits at once")
    row = listed()["mine"]
    assert (row["version"], row["contract"]) == (None, None)
    assert "there is no cloud" in row["problem"]


def test_executables_that_say_what_can_not_be_shown_take_nothing_from_the_others(site: Path) -> None:
    names = {f"bad-{number}": fault for number, fault in enumerate(sorted(mischief.IDENTITIES))}
    for name, fault in names.items():
        executable(site, name, fault)
    executable(site, "good")
    executable(site, "two\nlines")
    executable(site, os.fsdecode(b"no-text-\xff"))
    rows = listed()
    assert rows.keys() >= {*names, "good", "fake"}
    assert not [name for name in rows if name.startswith(("two", "no-text"))], "they are passed over"
    unusable = {names[name] for name in names if rows[name]["problem"]}
    assert unusable == {"describes itself in surrogates", "describes itself too deeply"}
    problems = [rows[name]["problem"] for name in names if rows[name]["problem"]]
    assert all("it sent a message that is invalid at schemas.provider" in problem for problem in problems)
    assert rows["good"]["problem"] is None
    assert "\ngood " in run("driver", "list", check=True).stdout
    for name, fault in list(names.items())[1:3]:
        info = run("driver", "info", name)
        assert (info.returncode, info.stderr) == (int(fault in unusable), "")
        assert "\x1b" not in info.stdout
        assert len(info.stdout) < 10_000
    config = site / "nodepool.yaml"
    config.write_text(CONFIG)
    run("config", "check", str(config), check=True)
    assert json.loads(run("config", "schema", check=True).stdout)


def test_level_is_that_of_the_last_check_of_the_same_digest(site: Path) -> None:
    path = executable(site, "mine")
    remember(
        f"./{path.name}", listed()["mine"]["digest"], "process", Level.SILVER
    )  # any name that was used for the check
    assert listed()["mine"]["levels"] == {"process": "silver"}
    assert "silver process, at the last check" in run("driver", "info", "mine", check=True).stdout
    remember("mine", listed()["mine"]["digest"], "inline", Level.BRONZE)
    assert " bronze inline, silver process " in run("driver", "list", check=True).stdout
    path.write_text(path.read_text() + "# changed\n")
    assert listed()["mine"]["levels"] == {}
    assert "this version is not checked; run: nodelaunch driver check mine" in run("driver", "info", "mine").stdout


def test_home_of_installed_drivers_can_be_given_to_each_command(site: Path) -> None:
    made = Installation(site / "home" / ".v-1", InstallationRecord("driver-far", "2.0", ("far",), "driver-far", "3.11"))
    made.programs.mkdir(parents=True)
    made.save()
    made.lock.write_text("")
    (site / "home" / "driver-far").mkdir()
    (site / "home" / "driver-far" / "current").symlink_to(made.folder)
    executable(made.programs, "far")
    home = ("--home", str(site / "home"))
    listed_there = run("driver", "list", *home, check=True).stdout
    assert "installed driver-far 2.0" in listed_there
    assert "far" not in listed()
    assert "origin" in run("driver", "info", "far", *home, check=True).stdout
    assert run("driver", "info", "far").returncode == 1
    assert "driver far has no example configuration" in run("driver", "check", "far", *home).stderr
    assert "unknown driver 'far'" in run("driver", "check", "far").stderr


def test_digest_of_a_package_changes_with_any_of_its_sources(site: Path) -> None:
    put_on_path(site, "cloud-painter", {"painted/__init__.py": "", "painted/driver.py": DRIVER}, points=POINTS)
    before = listed()["painted"]["digest"]
    assert listed()["painted"]["digest"] == before
    (site / "painted" / "brush.py").write_text("")
    assert listed()["painted"]["digest"] != before


def test_info_has_all_that_is_known(site: Path) -> None:
    put_on_path(site, "cloud-painter", {"painted/__init__.py": "", "painted/driver.py": DRIVER}, points=POINTS)
    lines = {" ".join(line.split()) for line in run("driver", "info", "painted", check=True).stdout.splitlines()}
    assert {
        "name painted", "origin package cloud-painter 1.0", "summary coloured machines", "maintainer somebody",
        "licence Apache-2.0", "contract 1", "capabilities none", "Options of the driver in a provider:",
        "OPTION VALUE DEFAULT MEANING", "colour text green Of the machines.",
        "runs in the launcher, or with isolation: process in a separate process",
    } <= lines  # fmt: skip


def test_info_of_an_executable_by_its_path(site: Path) -> None:
    (site / "elsewhere").mkdir()
    path = executable(site / "elsewhere", "mine")
    asked = json.loads(run("driver", "info", str(path), "--json", check=True).stdout)
    assert (asked["place"], asked["licence"], asked["maintainer"]) == (str(path), "Apache-2.0", "somebody")
    assert asked["options"]["provider"]["properties"]["size"] == {"minimum": 1, "type": "integer"}
    assert asked["isolation"] == "in a separate process"


def test_info_of_a_driver_that_is_not_there(site: Path) -> None:
    done = run("driver", "info", "fak")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown driver 'fak'; did you mean 'fake'?" in done.stderr
