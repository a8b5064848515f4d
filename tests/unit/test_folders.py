"""The folders for a user's data and state."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from nodelaunch.config.models import default_store_path
from nodelaunch.conformance.remembered import folder, remembered
from nodelaunch.driverhost.install.layout import default_home


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "NODELAUNCH_DRIVER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


def paths() -> list[str]:
    return [str(path) for path in (default_store_path(), folder(), default_home())]


def test_folders_are_below_the_home() -> None:
    state, data = "/home/me/.local/state/nodelaunch", "/home/me/.local/share/nodelaunch"
    assert paths() == [f"{state}/store.sqlite", f"{state}/driver-reports", f"{data}/drivers"]


def test_variables_name_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert paths() == ["/state/nodelaunch/store.sqlite", "/state/nodelaunch/driver-reports", "/data/nodelaunch/drivers"]


@pytest.mark.parametrize("named", ["there", "~/there"])
def test_only_the_store_accepts_what_is_no_absolute_path(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", named)
    monkeypatch.setenv("XDG_DATA_HOME", named)
    store = Path(named.replace("~", "/home/me"), "nodelaunch", "store.sqlite")
    state, data = "/home/me/.local/state/nodelaunch", "/home/me/.local/share/nodelaunch"
    assert paths() == [str(store), f"{state}/driver-reports", f"{data}/drivers"]


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(_user: int) -> pwd.struct_passwd:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    below = "/var/lib/nodelaunch"
    assert paths() == [f"{below}/store.sqlite", f"{below}/driver-reports", f"{below}/drivers"]
    assert remembered("aa") == {}
    assert "HOME" not in os.environ
