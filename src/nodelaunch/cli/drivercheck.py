"""``nodelaunch driver check TARGET``: reports a driver's conformance level, and what the next level needs.

The checks themselves are in nodelaunch.conformance.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from nodelaunch.cli.common import say
from nodelaunch.cli.driverinstall import Home
from nodelaunch.cli.session import Given
from nodelaunch.conformance import LEVELS, DriverUnderTest, Level, Report, Result, Verdict, checks_for, run
from nodelaunch.conformance.allchecks import BY_NAME
from nodelaunch.conformance.formats import as_json, as_junit
from nodelaunch.conformance.remembered import remember
from nodelaunch.conformance.targets import CheckRequest, TargetError, driver_under_test
from nodelaunch.conformance.waivers import read_waivers, waived
from nodelaunch.driverhost.catalogue import DriverCatalog, digest_of
from nodelaunch.driverhost.install.layout import using
from nodelaunch.drivers.plugin import DriverNotFoundError
from nodelaunch.network.sshscan import SshScanner

WIDTH = max(map(len, BY_NAME))
SHOWN = {
    Verdict.PASSED: "ok", Verdict.FAILED: "FAILED", Verdict.SKIPPED: "skipped", Verdict.INAPPLICABLE: "-",
    Verdict.WAIVED: "waived",
}  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Options that say what is checked, and how."""

    provider: Annotated[str | None, Parameter(help="The provider in FILE, if there are several.", metavar="NAME")] = (
        None
    )
    pool: Annotated[str | None, Parameter(help="Default: the first pool.", metavar="NAME")] = None
    label: Annotated[str | None, Parameter(help="Default: the first label.", metavar="NAME")] = None
    isolation: Annotated[
        Literal["inline", "process"] | None, Parameter(help="How a driver written in Python is run.")
    ] = None
    concurrency: Annotated[
        int, Parameter(help="Number of instances at once.", metavar="N", validator=Number(gte=1))
    ] = 3
    timeout: Annotated[float, Parameter(help="Deadline of a call.", metavar="SECONDS", validator=Number(gt=0))] = 600.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Options for the reports."""

    waivers: Annotated[
        Path | None, Parameter(help="YAML of failures that are accepted for a time.", metavar="FILE")
    ] = None
    report: Annotated[
        str | None,
        Parameter(
            help="Write a report as JSON; - prints it, and nothing else.", metavar="FILE", allow_leading_hyphen=True
        ),
    ] = None
    junit: Annotated[Path | None, Parameter(help="Write a report as JUnit's XML.", metavar="FILE")] = None


def check(
    target: Annotated[
        str,
        Parameter(
            help="Name of a driver, path of its executable, or unix:PATH for the socket it listens on.",
            metavar="TARGET",
        ),
    ],
    /,
    *,
    level: Annotated[
        Literal["bronze", "silver", "gold"], Parameter(help="The level that the driver has to reach.")
    ] = "bronze",
    options: CheckOptions = CheckOptions(),
    outcome: ReportOptions = ReportOptions(),
    home: Home = None,
    session: Given,
) -> int:
    """Check how well a driver conforms to the contract.

    Creates and deletes instances with the driver, injects faults into its cloud where the driver supports that, and
    reports the level: bronze, silver or gold. --config names a YAML file with a 'provider', or a whole configuration.
    Exit code: 0 the level is reached, 1 it is not reached, 2 the driver could not be checked.
    """
    wanted = CheckRequest(
        target=target, config=str(session.config) if session.is_config_given else None, provider=options.provider,
        pool=options.pool, label=options.label, isolation=options.isolation, concurrency=options.concurrency,
        deadline_s=options.timeout,
    )  # fmt: skip
    with using(home):
        return _checked(wanted, Level(level), outcome)


def _checked(wanted: CheckRequest, level: Level, outcome: ReportOptions) -> int:
    try:
        waivers = read_waivers(str(outcome.waivers)) if outcome.waivers else ()
        with tempfile.TemporaryDirectory(prefix="nodelaunch-check-") as folder:
            under_test = driver_under_test(wanted, Path(folder), SshScanner())
            show = (lambda _: None) if outcome.report == "-" else _show
            report = asyncio.run(run(under_test, on_result=show))
    except (TargetError, DriverNotFoundError) as error:
        print(f"nodelaunch: {error}", file=sys.stderr)  # noqa: T201
        return 2
    report = waived(report, waivers, dt.datetime.now(tz=dt.UTC).date())
    _keep(wanted.target, outcome, under_test, report)
    if outcome.report != "-":
        say(summary(report, level, is_process=under_test.program is not None))
    return 0 if report.level >= level else 1


# -- for people --------------------------------------------------------------------------------------------------------


def _show(result: Result) -> None:
    """Print a line for each check, and below it the failures; nothing for checks without a result."""
    if result.is_pointless:
        return
    note = "" if result.verdict in (Verdict.PASSED, Verdict.FAILED) else f"  {result.detail}"
    line = f"{result.rule:<5} {result.level.value:<7} {result.check:<{WIDTH}}  {SHOWN[result.verdict]:<8}"
    say(f"{line}{result.took_s:7.2f} s{note}" if result.took_s else f"{line}{note}".rstrip())
    if result.verdict is Verdict.FAILED:
        say(f"      rule {result.rule} promises: {result.promise}")
        say(f"      seen: {result.detail}")


def summary(report: Report, wanted: Level, *, is_process: bool) -> str:
    """Return text with the level that the driver reaches, and the failures that prevent the next level."""
    lines = ["", f"driver {report.driver}: {report.level_in_words}"]
    if report.leftovers:
        lines.append(f"  could not be deleted, please delete by hand: {', '.join(report.leftovers)}")
    lines += [f"  waived: {each.check}: {each.detail}" for each in report.waived]
    beyond = next((level for level in LEVELS if level > report.level), None)
    if beyond is not None:
        lines.append(f"  needed for {beyond.value}:")
        in_the_way = report.in_the_way_of(beyond)
        lines += [f"    {_what_it_takes(each)}" for each in in_the_way if not each.is_pointless]
        pointless = [each for each in in_the_way if each.is_pointless]
        lines += [f"    {len(pointless)} more checks, {each.detail}" for each in pointless[:1]]
    if not is_process:
        lines.append(f"  checked inline; --isolation process runs {_more_checks()} more checks")
    if report.latencies:
        lines.append(f"  {'call':<20}{'times':>6}{'median':>10}{'p99':>10}{'longest':>10}")
        lines += [
            f"  {call:<20}{each.count:>6}{each.median_s:>9.3f}s{each.p99_s:>9.3f}s{each.longest_s:>9.3f}s"
            for call, each in report.latencies.items()
        ]
    if report.level < wanted:
        lines.append(f"required level: {wanted.value}; level reached: {report.level.value}")
    return "\n".join(lines)


def _what_it_takes(result: Result) -> str:
    if result.verdict is Verdict.SKIPPED:
        return f"{result.check}: {result.detail}"
    return f"{result.check}: rule {result.rule}, {result.detail}"


def _more_checks() -> int:
    return len(checks_for(is_process=True)) - len(checks_for(is_process=False))


# -- for programs ------------------------------------------------------------------------------------------------------


def _keep(target: str, outcome: ReportOptions, under_test: DriverUnderTest, report: Report) -> None:
    """Write the requested reports, and store the level for ``nodelaunch driver list``."""
    isolation = _isolation(under_test)
    digest = ""
    try:
        found = DriverCatalog().find(target)
        digest = digest_of(found)
        if digest:  # without a digest, a later change of the driver can't be detected
            remember(found.name, digest, isolation, report.level, waived=len(report.waived))
    except (OSError, DriverNotFoundError) as error:
        print(f"nodelaunch: the outcome could not be stored: {error}", file=sys.stderr)  # noqa: T201
    content = json.dumps(as_json(report, isolation=isolation, digest=digest), indent=2)
    if outcome.report == "-":
        say(content)
    elif outcome.report:
        Path(outcome.report).write_text(content + "\n", encoding="utf-8")
    if outcome.junit:
        outcome.junit.write_text(as_junit(report), encoding="utf-8")


def _isolation(under_test: DriverUnderTest) -> str:
    if under_test.program is None:
        return "inline"
    return "socket" if under_test.program.is_remote else "process"
