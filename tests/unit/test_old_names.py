"""Moved names can still be imported by the old name, with a warning that gives the new one."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import nodelaunch
from nodelaunch import conformance, sdk, testing
from nodelaunch.client.nodes import NodeClient
from nodelaunch.protocol import driver, store
from nodelaunch.sdk.faults import FileFaults
from nodelaunch.store.embedded.store import EmbeddedStore


def imported(name: str) -> ModuleType:
    """Import the module *name* as if for the first time."""
    for each in [each for each in sys.modules if f"{each}.".startswith(f"{name}.")]:
        del sys.modules[each]
    return import_module(name)


@pytest.mark.parametrize(("old", "new"), [("drivers.sdk", sdk), ("drivers.conformance", conformance)])
def test_old_name_warns_and_has_all_that_the_new_one_has(old: str, new: ModuleType) -> None:
    with pytest.warns(DeprecationWarning, match=f"^nodelaunch.{old} is now {new.__name__}$"):
        module = imported(f"nodelaunch.{old}")
    names = new.__all__
    assert module.__all__ == names
    assert all(getattr(module, name) is getattr(new, name) for name in names)


def test_faults_of_a_driver_have_their_old_name() -> None:
    with pytest.warns(DeprecationWarning, match=r"^nodelaunch.drivers.sdk is now nodelaunch.sdk$"):
        imported("nodelaunch.drivers.sdk")
    assert vars(import_module("nodelaunch.drivers.sdk.faults"))["FileFaults"] is FileFaults


def test_program_has_its_old_name() -> None:
    assert conformance.Program is conformance.DriverProgram is testing.Program


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (conformance, "Bench", "Harness"),
        (conformance, "Subject", "DriverUnderTest"),
        (testing, "Subject", "DriverUnderTest"),
        (driver, "ScansHostKeys", "SupportsHostKeyScan"),
        (driver, "ReportsZones", "SupportsZones"),
        (driver, "TriesLogin", "SupportsLoginTrial"),
        (store, "Warmed", "Synced"),
        (store, "Cooled", "Stale"),
    ],
)
def test_old_class_name_warns(module: ModuleType, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^{module.__name__}.{old} is now {new}$"):
        assert getattr(module, old) is getattr(module, new)


def test_other_names_are_missing() -> None:
    assert not hasattr(conformance, "Subjects")
    assert not hasattr(testing, "Bench")
    assert not hasattr(driver, "Unknown")
    assert not hasattr(store, "Unknown")


def test_report_has_its_driver_under_the_old_name() -> None:
    with pytest.warns(DeprecationWarning, match=r"^Report.subject is now Report.driver$"):
        assert conformance.Report("fake", ()).subject == "fake"


def test_old_command_runs_a_driver() -> None:
    command = [sys.executable, "-m", "nodelaunch.drivers.sdk", "fake", "one", "too", "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "usage: python -m nodelaunch.sdk NAME [--listen PATH]\n")


def test_what_became_a_package_is_imported_as_before() -> None:
    assert vars(import_module("nodelaunch.client"))["NodeClient"] is NodeClient is nodelaunch.NodeClient
    assert vars(import_module("nodelaunch.store.embedded"))["EmbeddedStore"] is EmbeddedStore
