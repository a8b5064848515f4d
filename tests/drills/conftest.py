"""A summary of each drill, in a line at the end of the run, for passed and failed drills."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, said in report.user_properties:
                    if name == "drill":
                        terminalreporter.write_line(f"drill: {said}")
