"""For tests of drivers with pytest: the conformance checks as a class of tests, one for each check; and
`temporary_launcher`.

    from nodelaunch.testing import DriverConformance, CloudFaults, Level, Subject

    class TestMyCloud(DriverConformance):
        level = Level.SILVER

        def subject(self) -> Subject:
            return Subject(name="mycloud", open=make_driver, pool="main", label="small", faults=CloudFaults(...))

`subject` may be given instead by a fixture of that name, which can then ask for fixtures of its own. Checks that only a
higher level asks for are made, too, and their failures are expected ones; a check that could not be made is skipped,
and fails where ``level`` asks for it.
It needs pytest, and nothing else in this package imports it. What does *not* belong here: any check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest

from nodelaunch.conformance import (
    CHECKS,
    Check,
    CloudFaults,
    DriverProgram,
    Level,
    Program,
    Report,
    Resources,
    Result,
    Subject,
    Verdict,
    faults_of,
    run,
)
from nodelaunch.temporary import TemporaryLauncher, temporary_launcher

__all__ = [
    "Check",
    "CloudFaults",
    "DriverConformance",
    "DriverProgram",
    "Level",
    "Program",
    "Report",
    "Resources",
    "Result",
    "Subject",
    "TemporaryLauncher",
    "Verdict",
    "faults_of",
    "temporary_launcher",
]  # fmt: skip


class DriverConformance:
    """Subclass it in a test module, under a name that pytest collects."""

    level: ClassVar[Level] = Level.BRONZE
    """What the driver claims."""
    waived: ClassVar[Sequence[str]] = ()
    """Names of checks that may fail for now."""
    deadline_s: ClassVar[float] = 300.0
    """For each check."""

    @pytest.fixture
    def subject(self) -> Subject:
        """What is checked; override it, as a method or as a fixture."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its subject is")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        given = cls.__dict__.get("subject")
        if given is not None and hasattr(given, "__code__"):  # a plain method; pytest wraps its fixtures
            cls.subject = pytest.fixture(given)  # type: ignore[method-assign]

    @pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
    def test_conformance(self, check: Check, subject: Subject) -> None:
        """The driver keeps the promise of the check."""
        if check.of_processes and subject.program is None:
            pytest.skip("it is about drivers in processes of their own")
        (result,) = asyncio.run(self._made(subject, check)).results
        self._judge(check, result)

    async def _made(self, subject: Subject, check: Check) -> Report:
        async with asyncio.timeout(self.deadline_s):
            return await run(subject, [check])

    def _judge(self, check: Check, result: Result) -> None:
        if result.verdict in (Verdict.PASSED, Verdict.WAIVED):
            return
        if result.verdict is Verdict.INAPPLICABLE:
            pytest.skip(result.detail)
        if check.name in self.waived:
            pytest.xfail(f"waived: {result.detail}")
        if check.level > self.level:
            pytest.xfail(f"{check.level.value} asks for it, {self.level.value} does not: {result.detail}")
        pytest.fail(
            f"rule {result.rule} promises: {check.promise}\n{result.verdict.value}: {result.detail}", pytrace=False
        )
