"""Tests of drivers with pytest: the class `DriverConformance` with a test for each check, and `temporary_launcher`.

    from nodelaunch.testing import DriverConformance, CloudFaults, DriverUnderTest, Level

    class TestMyCloud(DriverConformance):
        level = Level.SILVER

        def under_test(self) -> DriverUnderTest:
            faults = CloudFaults(...)
            return DriverUnderTest(name="mycloud", open=make_driver, pool="main", label="small", faults=faults)

`under_test` may also be a fixture, which can then use other fixtures. Checks that only a higher level requires run,
too, and pytest shows their failures as expected failures. A check that could not be made fails if ``level`` requires
it, and otherwise counts as an expected failure. This module needs pytest; no other module of the package imports it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pytest

from nodelaunch.conformance import (
    CHECKS,
    Check,
    CloudFaults,
    DriverProgram,
    DriverUnderTest,
    Level,
    Program,
    Report,
    Resources,
    Result,
    Verdict,
    faults_of,
    run,
)
from nodelaunch.oldnames import renamed
from nodelaunch.temporary import TemporaryLauncher, temporary_launcher

__all__ = [
    "Check",
    "CloudFaults",
    "DriverConformance",
    "DriverProgram",
    "DriverUnderTest",
    "Level",
    "Program",
    "Report",
    "Resources",
    "Result",
    "TemporaryLauncher",
    "Verdict",
    "faults_of",
    "temporary_launcher",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return renamed(__name__, name, {"Subject": DriverUnderTest})


class DriverConformance:
    """The base of a class of tests. Subclass it in a test module, under a name that pytest collects."""

    level: ClassVar[Level] = Level.BRONZE
    """The level that the driver claims."""
    waived: ClassVar[Sequence[str]] = ()
    """Names of checks that may fail for now."""
    deadline_s: ClassVar[float] = 300.0
    """Deadline of each check."""

    @pytest.fixture
    def under_test(self) -> DriverUnderTest:
        """The driver to check; override it as a method or as a fixture."""
        raise NotImplementedError(f"{type(self).__name__} has to define its driver, under_test")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        given = cls.__dict__.get("under_test")
        if "subject" in cls.__dict__:
            given = cls.__dict__["subject"]
            warnings.warn(f"{cls.__name__}.subject is now under_test", DeprecationWarning, stacklevel=2)
        if given is not None:  # a plain method, or one that pytest has wrapped as a fixture
            cls.under_test = pytest.fixture(given) if hasattr(given, "__code__") else given  # type: ignore[method-assign]

    @pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
    def test_conformance(self, check: Check, under_test: DriverUnderTest) -> None:
        """The driver keeps the promise of the check."""
        if check.of_processes and under_test.program is None:
            pytest.skip("the check is for drivers in separate processes")
        (result,) = asyncio.run(self._made(under_test, check)).results
        self._judge(check, result)

    async def _made(self, under_test: DriverUnderTest, check: Check) -> Report:
        async with asyncio.timeout(self.deadline_s):
            return await run(under_test, [check])

    def _judge(self, check: Check, result: Result) -> None:
        if result.verdict in (Verdict.PASSED, Verdict.WAIVED):
            return
        if result.verdict is Verdict.INAPPLICABLE:
            pytest.skip(result.detail)
        if check.name in self.waived:
            pytest.xfail(f"waived: {result.detail}")
        if check.level > self.level:
            pytest.xfail(f"required by {check.level.value}, not by {self.level.value}: {result.detail}")
        pytest.fail(
            f"rule {result.rule} promises: {check.promise}\n{result.verdict.value}: {result.detail}", pytrace=False
        )
