"""Runs checks, each on its own harness, and cleans up after each check."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from nodelaunch.conformance.allchecks import checks_for, promise_of
from nodelaunch.conformance.faults import CloudFaults, faults_of
from nodelaunch.conformance.harness import DriverUnderTest, Harness, Inapplicable, RunState, Skipped, Violation
from nodelaunch.conformance.probe import ProbeError, RefusedCall
from nodelaunch.conformance.registry import Check
from nodelaunch.conformance.report import Latency, Report, Result, Verdict
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import ExternalId, SupportsFaults


async def run(
    under_test: DriverUnderTest,
    checks: Iterable[Check] | None = None,
    *,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run *checks* in order, by default all checks for such a driver; calls *on_result* after each check.

    If *under_test* has no faults, the checks use the driver's own. The function raises only exceptions of
    ``under_test.open`` and of the faults, none because of a driver's behaviour.
    """
    chosen = checks_for(is_process=under_test.program is not None) if checks is None else tuple(checks)
    async with _faults(under_test) as faults:
        state = RunState(f"conformance-{uuid.uuid4().hex[:12]}", faults)
        results: list[Result] = []
        broken: Check | None = None
        for check in chosen:
            result = await _perform(check, under_test, state) if broken is None else _pointless(check, broken)
            if check.is_basic and result.verdict is Verdict.FAILED and broken is None:
                broken = check
            results.append(result)
            on_result(result)
        leftovers = await _leftovers(Harness(under_test, state)) if broken is None else ()
    latencies = {call: Latency.of(took_s) for call, took_s in sorted(state.took_s.items())}
    return Report(under_test.name, tuple(results), leftovers, latencies)


@asynccontextmanager
async def _faults(under_test: DriverUnderTest) -> AsyncIterator[CloudFaults]:
    """The faults of *under_test* or of the driver itself; none if the driver fails to list them."""
    driver = under_test.open()
    try:
        faults = under_test.faults
        if faults == CloudFaults() and isinstance(driver, SupportsFaults):
            with suppress(DriverError):  # the checks report the fault
                faults = await faults_of(driver)
        yield faults
    finally:
        with suppress(DriverError):  # as above
            await driver.aclose()


async def _perform(check: Check, under_test: DriverUnderTest, state: RunState) -> Result:
    began = asyncio.get_running_loop().time()
    harness = Harness(under_test, state)
    outcome = Result(check.rule, check.name, Verdict.PASSED, level=check.level, promise=check.promise)
    try:
        await check.run(harness)
    except Skipped as skipped:
        outcome = replace(outcome, verdict=Verdict.SKIPPED, detail=str(skipped))
    except Inapplicable as reason:
        outcome = replace(outcome, verdict=Verdict.INAPPLICABLE, detail=str(reason))
    except Violation as violation:
        rule = violation.rule or check.rule
        promise = check.promise if rule == check.rule else promise_of(rule)
        outcome = replace(outcome, verdict=Verdict.FAILED, rule=rule, detail=str(violation), promise=promise)
    except DriverError as error:
        outcome = replace(outcome, verdict=Verdict.FAILED, detail=f"{type(error).__name__}: {error}")
    except (ProbeError, RefusedCall) as error:
        outcome = replace(outcome, verdict=Verdict.FAILED, detail=str(error))
    finally:
        await harness.clean_up(is_last=outcome.verdict is Verdict.FAILED)
    return replace(outcome, took_s=round(asyncio.get_running_loop().time() - began, 3))


def _pointless(check: Check, broken: Check) -> Result:
    detail = f"not made, because {broken.name} failed"
    return Result(check.rule, check.name, Verdict.SKIPPED, detail, check.level, check.promise, is_pointless=True)


async def _leftovers(harness: Harness) -> tuple[ExternalId, ...]:
    try:
        return tuple(await harness.ours(harness.driver))
    except (DriverError, Violation):
        return ()
    finally:
        await harness.clean_up()
