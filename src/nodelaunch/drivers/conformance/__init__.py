"""Former name of `nodelaunch.conformance`."""

import warnings
from typing import TypeAlias

from nodelaunch.conformance import (
    CHECKS,
    LEVELS,
    Check,
    CloudFaults,
    DriverProgram,
    DriverUnderTest,
    Harness,
    Inapplicable,
    Latency,
    Level,
    Program,
    Report,
    Resources,
    Result,
    Skipped,
    Verdict,
    Violation,
    checks_for,
    faults_of,
    run,
)

__all__ = [
    "CHECKS", "LEVELS", "Check", "CloudFaults", "DriverProgram", "DriverUnderTest", "Harness", "Inapplicable",
    "Latency", "Level", "Program", "Report", "Resources", "Result", "Skipped", "Verdict", "Violation", "checks_for",
    "faults_of", "run",
]  # fmt: skip

Bench: TypeAlias = Harness
Subject: TypeAlias = DriverUnderTest
"""These two are the former names."""

warnings.warn("nodelaunch.drivers.conformance is now nodelaunch.conformance", DeprecationWarning, stacklevel=2)
