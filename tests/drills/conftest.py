"""What a drill did, in a line at the end of the run, whether it passed or not."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, said in report.user_properties:
                    if name == "drill":
                        terminalreporter.write_line(f"drill: {said}")
