"""Checks every driver must pass, by the rules of docs/driver-contract.md, and the level they make.

    report = await run(Subject("mycloud", open=make_driver, pool="main", label="small", faults=CloudFaults(...)))
    assert report.level >= Level.SILVER, report

Plain coroutines that need no test framework, so that drivers kept elsewhere can use them; ``nodelaunch driver check``
and ``nodelaunch.testing`` are two doors to them. On a real cloud they make and delete a few dozen instances, at most
`Subject.concurrency` at a time; nobody else should use it meanwhile. The more faults a subject gives, or the driver
itself by its capability ``faults``, the more is checked; what could not be is reported as skipped, with the fault it
would take. What does *not* belong here: knowledge of any driver.
"""

from nodelaunch.conformance.allchecks import CHECKS, checks_for
from nodelaunch.conformance.bench import Bench, Inapplicable, Skipped, Subject, Violation
from nodelaunch.conformance.faults import CloudFaults, Resources, faults_of
from nodelaunch.conformance.levels import LEVELS, Level
from nodelaunch.conformance.probe import DriverProgram
from nodelaunch.conformance.registry import Check
from nodelaunch.conformance.report import Latency, Report, Result, Verdict
from nodelaunch.conformance.running import run

Program = DriverProgram
"""The old name."""

__all__ = [
    "CHECKS", "LEVELS", "Bench", "Check", "CloudFaults", "DriverProgram", "Inapplicable", "Latency", "Level", "Program",
    "Report", "Resources", "Result", "Skipped", "Subject", "Verdict", "Violation", "checks_for", "faults_of", "run",
]  # fmt: skip
