"""Runs checks, each on a bench of its own that is cleaned up after it.

What does *not* belong here: the checks themselves (checks.py).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable

from nodelaunch.drivers.conformance.bench import Bench, Skipped, Subject, Violation
from nodelaunch.drivers.conformance.checks import CHECKS, Check
from nodelaunch.drivers.conformance.report import Report, Result, Verdict
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import ExternalId


async def run(subject: Subject, checks: Iterable[Check] = CHECKS) -> Report:
    """Make *checks* one after the other. Nothing a driver does makes it raise, if its factory and hooks don't."""
    run_id = f"conformance-{uuid.uuid4().hex[:12]}"
    numbers = itertools.count(1)
    results = [await _perform(check, Bench(subject, run_id, numbers)) for check in checks]
    return Report(subject.name, tuple(results), await _leftovers(Bench(subject, run_id, numbers)))


async def _perform(check: Check, bench: Bench) -> Result:
    try:
        await check.run(bench)
    except Skipped as skipped:
        return Result(check.rule, check.name, Verdict.SKIPPED, str(skipped))
    except Violation as violation:
        return Result(violation.rule or check.rule, check.name, Verdict.FAILED, str(violation))
    except DriverError as error:
        return Result(check.rule, check.name, Verdict.FAILED, f"{type(error).__name__}: {error}")
    finally:
        await bench.clean_up()
    return Result(check.rule, check.name, Verdict.PASSED)


async def _leftovers(bench: Bench) -> tuple[ExternalId, ...]:
    try:
        return tuple(await bench.ours(bench.driver))
    except (DriverError, Violation):
        return ()
    finally:
        await bench.clean_up()
