"""The conformance kit: checks of drivers by the rules of docs/driver-contract.md, and the level that a driver reaches.

    driver = DriverUnderTest(name="mycloud", open=make_driver, pool="main", label="small", faults=CloudFaults(...))
    report = await run(driver)
    assert report.level >= Level.SILVER, report

The checks are coroutines and need no test framework; ``nodelaunch driver check`` and ``nodelaunch.testing`` run them.
On a real cloud they make and delete a few dozen instances, at most `DriverUnderTest.concurrency` at a time; no other
client should use the account during a run. Many checks need faults, either from `DriverUnderTest.faults` or from the
driver's capability ``faults``. A check without its fault is reported as skipped, with the name of the missing fault.
"""

from typing import TYPE_CHECKING

from nodelaunch.conformance.allchecks import CHECKS, checks_for
from nodelaunch.conformance.faults import CloudFaults, Resources, faults_of
from nodelaunch.conformance.harness import DriverUnderTest, Harness, Inapplicable, Skipped, Violation
from nodelaunch.conformance.levels import LEVELS, Level
from nodelaunch.conformance.probe import DriverProgram
from nodelaunch.conformance.registry import Check
from nodelaunch.conformance.report import Latency, Report, Result, Verdict
from nodelaunch.conformance.running import run
from nodelaunch.oldnames import renamed

Program = DriverProgram
"""The old name."""

__all__ = [
    "CHECKS", "LEVELS", "Check", "CloudFaults", "DriverProgram", "DriverUnderTest", "Harness", "Inapplicable",
    "Latency", "Level", "Program", "Report", "Resources", "Result", "Skipped", "Verdict", "Violation", "checks_for",
    "faults_of", "run",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return renamed(__name__, name, {"Bench": Harness, "Subject": DriverUnderTest})
