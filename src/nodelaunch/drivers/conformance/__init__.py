"""Former name of `nodelaunch.conformance`."""

import warnings

from nodelaunch.conformance import (
    CHECKS,
    LEVELS,
    Bench,
    Check,
    CloudFaults,
    DriverProgram,
    Inapplicable,
    Latency,
    Level,
    Program,
    Report,
    Resources,
    Result,
    Skipped,
    Subject,
    Verdict,
    Violation,
    checks_for,
    faults_of,
    run,
)

__all__ = [
    "CHECKS", "LEVELS", "Bench", "Check", "CloudFaults", "DriverProgram", "Inapplicable", "Latency", "Level", "Program",
    "Report", "Resources", "Result", "Skipped", "Subject", "Verdict", "Violation", "checks_for", "faults_of", "run",
]  # fmt: skip

warnings.warn("nodelaunch.drivers.conformance is now nodelaunch.conformance", DeprecationWarning, stacklevel=2)
