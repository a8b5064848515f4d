"""Waivers, which accept failures until a date: a YAML list of ``check``, ``reason`` and ``expires``, a date.

From that date on a waiver has no effect, so that a failure is not forgotten. docs/checking-a-driver.md has the rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from nodelaunch.config.models import Text
from nodelaunch.config.positions import read_source
from nodelaunch.conformance.allchecks import BY_NAME
from nodelaunch.conformance.complaints import refuse
from nodelaunch.conformance.report import Report, Result, Verdict
from nodelaunch.errors import ConfigError


def _known(check: str) -> str:
    if check not in BY_NAME:
        raise ValueError(f"there is no check {check!r}")
    return check


class Waiver(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    check: Annotated[Text, AfterValidator(_known)]
    reason: Annotated[Text, StringConstraints(strip_whitespace=True)]
    expires: dt.date
    """The first day on which the waiver has no effect."""


class _Waivers(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    waivers: tuple[Waiver, ...]


def read_waivers(path: str) -> tuple[Waiver, ...]:
    """Return the waivers in the file at *path*. Raises: ConfigError with every problem and its place."""
    source = read_source(path, {})
    if source.problems:
        raise ConfigError(source.problems)
    try:
        return _Waivers.model_validate(source.data or {}).waivers
    except ValidationError as error:
        refuse(source, (), error)


def waived(report: Report, waivers: Iterable[Waiver], today: dt.date) -> Report:
    """Return *report* with the waived results marked; a result with an expired waiver says so."""
    by_check = {waiver.check: waiver for waiver in waivers}
    return replace(report, results=tuple(_waived(each, by_check.get(each.check), today) for each in report.results))


def _waived(result: Result, waiver: Waiver | None, today: dt.date) -> Result:
    if waiver is None or not result.is_in_the_way:
        return result
    if waiver.expires <= today:
        text = f"{result.detail} (waiver expired on {waiver.expires}: {waiver.reason})"
        return replace(result, detail=text)
    text = f"waived until {waiver.expires}: {waiver.reason} ({result.detail})"
    return replace(result, verdict=Verdict.WAIVED, detail=text)
