"""`nodelaunch.testing` makes a test of each check; here of the test driver's, on a cloud that outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nodelaunch
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.drivers.test.driver import TestCloud, TestDriver
from nodelaunch.protocol.driver import DriverContext
from nodelaunch.testing import CloudFaults, DriverConformance, DriverUnderTest, Level, Resources
from support.fakeclouds import NoScanner

CONFIG = PLUGIN.config_model.model_validate(
    {"name": "cloud", "driver": "test", "pools": [{"name": "main", "max-servers": 3, "labels": ["small"]}]}
)
BROKEN = """
from dataclasses import replace
from nodelaunch.testing import DriverConformance, DriverUnderTest, Level
from support.fakeclouds import fake_subject
from nodelaunch.drivers.fake.cloud import FakeCloud
from conformance.mutants.inline import ListsTwice

class TestBroken(DriverConformance):
    level = Level.{level}
    waived = {waived}

    def {method}(self) -> DriverUnderTest:
        return fake_subject(FakeCloud(), lambda config, context, cloud: ListsTwice(config, context, cloud=cloud))
"""


class TestTestDriver(DriverConformance):
    level = Level.BRONZE

    def under_test(self) -> DriverUnderTest:
        cloud = TestCloud()

        async def resources() -> Resources:
            return {external_id: external_id for external_id in cloud.instances}

        return DriverUnderTest(
            name="test", open=lambda: TestDriver(CONFIG, DriverContext(NoScanner()), cloud=cloud), pool="main",
            label="small", faults=CloudFaults(resources=resources), deadline_s=30.0,
        )  # fmt: skip


def outcome(
    folder: Path, *, level: str = "BRONZE", waived: str = "()", method: str = "under_test"
) -> subprocess.CompletedProcess[str]:
    module = folder / "test_broken.py"
    module.write_text(BROKEN.format(level=level, waived=waived, method=method))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "listed",
        "-c",
        "/dev/null",
        module,
    ]
    folders = (Path(__file__).parents[1], Path(nodelaunch.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment, check=False
    )


def test_broken_rule_fails_its_test_with_the_promise(tmp_path: Path) -> None:
    done = outcome(tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "rule D6.1 promises: Each instance is listed once from the return of create" in done.stdout
    assert "is listed 2 times" in done.stdout


def test_waived_check_may_fail(tmp_path: Path) -> None:
    done = outcome(tmp_path, waived="('ours_are_listed_once',)")
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout


def test_old_name_of_the_method_works_and_warns(tmp_path: Path) -> None:
    done = outcome(tmp_path, method="subject")
    assert "is listed 2 times" in done.stdout
    assert "DeprecationWarning: TestBroken.subject is now under_test" in done.stdout


def test_nothing_else_imports_pytest() -> None:
    code = "import sys, nodelaunch.conformance, nodelaunch.cli.main; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
