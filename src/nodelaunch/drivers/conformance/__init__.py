"""Checks every driver must pass: the rules D1 to D9 of ``nodelaunch.protocol.driver``, each with its checks.

    report = await run(Subject("mycloud", open=make_driver, pool="main", label="small", hooks=Hooks(...)))
    assert report.ok, report

Plain coroutines that need no test framework, so that drivers kept elsewhere can use them. On a real cloud they make and
delete a few dozen instances, at most `Subject.concurrency` at a time; nobody else should use it meanwhile. The more
hooks a subject gives, the more is checked; what could not be is reported as skipped, with the hook it would take.
What does *not* belong here: knowledge of any driver.
"""

from nodelaunch.drivers.conformance.bench import Bench, Hooks, Resources, Skipped, Subject, Violation
from nodelaunch.drivers.conformance.checks import CHECKS, Check
from nodelaunch.drivers.conformance.report import Report, Result, Verdict
from nodelaunch.drivers.conformance.running import run

__all__ = [
    "CHECKS", "Bench", "Check", "Hooks", "Report", "Resources", "Result", "Skipped", "Subject", "Verdict", "Violation",
    "run",
]  # fmt: skip
