"""Waivers, which accept failures until a date: a YAML list of ``check``, ``reason`` and ``expires``, a date.

From that date on a waiver has no effect, so that a failure is not forgotten. docs/checking-a-driver.md has the rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from nodelaunch.config.positions import Source, read_source
from nodelaunch.conformance.allchecks import BY_NAME
from nodelaunch.conformance.report import Report, Result, Verdict
from nodelaunch.errors import ConfigError

KEYS = ("check", "reason", "expires")


@dataclass(frozen=True, slots=True)
class Waiver:
    check: str
    reason: str
    expires: dt.date
    """The first day on which the waiver has no effect."""


def read_waivers(path: str) -> tuple[Waiver, ...]:
    """Return the waivers in the file at *path*. Raises: ConfigError with every problem and its place."""
    source = read_source(path, {})
    if source.problems:
        raise ConfigError(source.problems)
    content = (source.data or {}).get("waivers")
    if not isinstance(content, list) or set(source.data or {}) != {"waivers"}:
        source.complain((), "the only key has to be 'waivers', with a list of check, reason and expires")
        raise ConfigError(source.problems)
    found = [_waiver(source, index, each) for index, each in enumerate(content)]
    if source.problems:
        raise ConfigError(source.problems)
    return tuple(each for each in found if each is not None)


def _waiver(source: Source, index: int, item: Any) -> Waiver | None:
    place = ("waivers", index)
    if not isinstance(item, dict):
        source.complain(place, "a waiver is a mapping of check, reason and expires")
        return None
    for key in item:
        if key not in KEYS:
            source.complain((*place, key), f"unknown key {key!r}; allowed: {', '.join(KEYS)}", of_key=True)
    for key in KEYS:
        if key not in item:
            source.complain(place, f"the key {key!r} is missing")
    check, reason, expires = (item.get(key) for key in KEYS)
    if "check" in item and (not isinstance(check, str) or check not in BY_NAME):
        source.complain((*place, "check"), f"there is no check {check!r}")
    if "reason" in item and not (isinstance(reason, str) and reason.strip()):
        source.complain((*place, "reason"), "a text with the reason is expected")
    date = _date(expires)
    if "expires" in item and date is None:
        source.complain((*place, "expires"), "a date is expected, as in 2027-03-31")
    if date is None or not isinstance(check, str) or not isinstance(reason, str):
        return None
    return Waiver(check, reason.strip(), date)


def _date(value: Any) -> dt.date | None:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    try:
        return dt.date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


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
