"""Drivers are found by name, imported late, and missed with a word on what to do."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nodelaunch.config.models import ProviderConfig
from nodelaunch.drivers import DriverNotFoundError, DriverPlugin, DriverRegistry
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import Driver, DriverContext


def _open(config: ProviderConfig, context: DriverContext) -> Driver:
    raise DriverError("never opened here")


OWN = DriverPlugin("own", ProviderConfig, _open)


def installed(**points: str) -> DriverRegistry:
    """A registry in which *points*, given as module and attribute, are all that is installed."""
    registry = DriverRegistry()
    registry._installed = {name: EntryPoint(name, value, "nodelaunch.drivers") for name, value in points.items()}
    return registry


def test_installed_drivers_are_found() -> None:
    registry = DriverRegistry()
    assert {"fake", "static", "test"} <= set(registry.names)
    assert registry.get("static").name == "static"
    assert registry.get("static") is registry.get("static")


def test_names_are_told_without_importing_a_driver() -> None:
    code = (
        "import sys; from nodelaunch.drivers import DriverRegistry; DriverRegistry().names;"
        "print([name for name in sys.modules if name.startswith('nodelaunch.drivers.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['nodelaunch.drivers.plugin', 'nodelaunch.drivers.registry']"


def test_drivers_handed_in_go_first() -> None:
    own_fake = DriverPlugin("fake", ProviderConfig, _open)
    registry = DriverRegistry([OWN, own_fake])
    assert registry.get("own") is OWN
    assert registry.get("fake") is own_fake
    assert "own" in registry.names


def test_unknown_driver_is_told_with_what_there_is() -> None:
    registry = installed(static="x:y", fake="x:y")
    with pytest.raises(
        DriverNotFoundError, match=r"^unknown driver 'sttic'; did you mean 'static'\? installed: fake, "
    ):
        registry.get("sttic")
    with pytest.raises(
        DriverNotFoundError,
        match=r"^unknown driver 'openstack'; installed: fake, static; no executable nodelaunch-driver-openstack is on",
    ):
        registry.get("openstack")


def test_missing_library_is_told_with_how_to_get_it() -> None:
    registry = installed(openstack="no_such_library.driver:PLUGIN", cloud="no_such_library:PLUGIN [extra]")
    with pytest.raises(DriverNotFoundError, match=r"\(no_such_library\); try: pip install 'nodelaunch\[openstack\]'$"):
        registry.get("openstack")
    with pytest.raises(DriverNotFoundError, match=r"pip install 'nodelaunch\[extra\]'$"):
        registry.get("cloud")


@pytest.mark.parametrize(
    ("value", "message"),
    [("nodelaunch.drivers:NOTHING", "there is no nodelaunch.drivers:NOTHING"), ("os:path", "is no DriverPlugin")],
)
def test_entry_point_that_leads_nowhere(value: str, message: str) -> None:
    with pytest.raises(DriverNotFoundError, match=message):
        installed(broken=value).get("broken")


def test_path_at_which_there_is_no_driver_says_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver").write_text("#!/bin/sh\n")
    cases = {
        "/nowhere/driver": "there is no such file; write the path of its executable",
        "./drivre": f"there is no such file in {tmp_path}; write the whole path of its executable",
        str(tmp_path): "it is a folder; write the path of its executable",
        "./driver": r"this user may not execute the file; correct that with chmod \+x",
    }
    for name, text in cases.items():
        expected = rf"^unknown driver '{name}': {text}; or name an installed driver: .*\bfake\b"
        with pytest.raises(DriverNotFoundError, match=expected):
            DriverRegistry().get(name)
