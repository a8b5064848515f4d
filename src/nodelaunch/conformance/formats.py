"""Reports for programs: JSON in the form of docs/checking-a-driver.md, and JUnit XML for CI systems."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final
from xml.etree import ElementTree as ET

from nodelaunch import __version__
from nodelaunch.conformance.report import Report, Result, Verdict
from nodelaunch.driverhost.wire.handshake import CONTRACT

FORMAT: Final = 1
"""Grows when a key is removed or changes its meaning, not when a key is added."""


def as_json(report: Report, *, isolation: str, digest: str = "") -> dict[str, Any]:
    """Return *report* as JSON. *isolation*: ``inline``, ``process`` or ``socket``; *digest*: the driver's, if known."""
    return {
        "format": FORMAT,
        "driver": report.driver,
        "isolation": isolation,
        "digest": digest or None,
        "nodelaunch": __version__,
        "contract": CONTRACT.max,
        "level": report.level.value,
        "waived": len(report.waived),
        "leftovers": list(report.leftovers),
        "checks": [_check(result) for result in report.results],
        "latencies": {call: asdict(latency) for call, latency in report.latencies.items()},
    }


def _check(result: Result) -> dict[str, Any]:
    return {
        "name": result.check, "rule": result.rule, "level": result.level.value, "verdict": result.verdict.value,
        "detail": result.detail, "took_s": result.took_s,
    }  # fmt: skip


def as_junit(report: Report) -> str:
    """Return *report* as JUnit XML, with one test case per check; waived and inapplicable checks count as skipped."""
    counts = {verdict: sum(each.verdict is verdict for each in report.results) for verdict in Verdict}
    passed_over = len(report.results) - counts[Verdict.PASSED] - counts[Verdict.FAILED]
    suite = ET.Element(
        "testsuite", name=f"nodelaunch driver {report.driver}", tests=str(len(report.results)),
        failures=str(counts[Verdict.FAILED]), skipped=str(passed_over), errors="0",
        time=f"{sum(each.took_s for each in report.results):.3f}",
    )  # fmt: skip
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="level", value=report.level.value)
    for result in report.results:
        case = ET.SubElement(
            suite,
            "testcase",
            name=result.check,
            classname=f"{report.driver}.{result.rule}",
            time=f"{result.took_s:.3f}",
        )
        if result.verdict is Verdict.FAILED:
            failure = ET.SubElement(case, "failure", message=_printable(result.detail))
            failure.text = f"rule {result.rule}: {_printable(result.promise)}"
        elif result.verdict is not Verdict.PASSED:
            ET.SubElement(case, "skipped", message=_printable(f"{result.verdict.value}: {result.detail}"))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _printable(text: str) -> str:
    """Return *text* with ``?`` in place of characters that are not printable: XML can't contain some of them."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
