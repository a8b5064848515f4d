"""Waivers count until they expire, are never silent, and errors in their file have a position."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from nodelaunch.conformance import Level, Report, Result, Verdict
from nodelaunch.conformance.waivers import Waiver, read_waivers, waived
from nodelaunch.errors import ConfigError

TODAY = dt.date(2027, 3, 1)
CHECK = "ours_are_listed_once"
PAGE = Path(__file__).parents[2] / "docs" / "checking-a-driver.md"


def report(verdict: Verdict = Verdict.FAILED) -> Report:
    results = (
        Result("D2.1", "metadata_is_listed_unchanged", Verdict.PASSED),
        Result("D6.1", CHECK, verdict, "i-1 is listed 2 times"),
        Result("D8.1", "another_driver_takes_over", Verdict.SKIPPED, "needs the fault 'x'", Level.SILVER),
    )
    return Report("mine", results)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.SKIPPED])
def test_waived_check_is_not_in_the_way_and_is_told(verdict: Verdict) -> None:
    assert report(verdict).level is Level.NONE
    after = waived(
        report(verdict), [Waiver(check=CHECK, reason="the cloud does so", expires=dt.date(2027, 3, 2))], TODAY
    )
    assert after.level is Level.BRONZE
    assert after.level_in_words == "bronze (1 waived)"
    assert "waived until 2027-03-02: the cloud does so (i-1 is listed 2 times)" in str(after)


def test_expired_waiver_counts_for_nothing_and_says_so() -> None:
    after = waived(report(), [Waiver(check=CHECK, reason="the cloud does so", expires=TODAY)], TODAY)
    assert after.level is Level.NONE
    assert "waiver expired on 2027-03-01: the cloud does so" in str(after)


def test_check_that_passes_needs_no_waiver() -> None:
    before = report(Verdict.PASSED)
    assert waived(before, [Waiver(check=CHECK, reason="once", expires=dt.date(2030, 1, 1))], TODAY) == before


def test_leftovers_keep_from_silver() -> None:
    passed = Report("mine", (Result("D6.1", CHECK, Verdict.PASSED),))
    assert passed.level is Level.GOLD
    assert Report("mine", passed.results, leftovers=("i-1",)).level is Level.BRONZE  # type: ignore[arg-type]


def test_waivers_of_the_page_can_be_read(tmp_path: Path) -> None:
    content = PAGE.read_text().partition("```yaml\nwaivers:")[2].partition("```")[0]
    (tmp_path / "waivers.yaml").write_text("waivers:" + content)
    (waiver,) = read_waivers(str(tmp_path / "waivers.yaml"))
    assert (waiver.check, waiver.expires) == ("a_lagging_list_misleads_nobody", dt.date(2027, 6, 30))


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (
            "waivers:\n  - check: no_such\n    reason: x\n    expires: 2027-01-01\n",
            ["2:12: check: there is no check 'no_such'"],
        ),
        (f"waivers:\n  - check: {CHECK}\n    reason: x\n", ["2:5: the key 'expires' is missing"]),
        (
            f"waivers:\n  - check: {CHECK}\n    reason: ' '\n    expires: soon\n    who: me\n",
            [
                "3:13: reason: must not be empty",
                "4:14: expires: a date, as in 2027-03-31, is expected",
                "5:5: unknown key 'who'",
            ],
        ),
        ("- check: x\n", ["1:1: "]),
        ("waivers: none\n", ["1:10: waivers: a list is expected, found text 'none'"]),
        ("waivers:\n  - x\n", ["2:5: waivers: a mapping of keys and values is expected"]),
        ("waivers: [\n", ["2:1: "]),
    ],
)
def test_what_is_wrong_is_placed(content: str, problems: list[str], tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_waivers(str(path))
    found = sorted(str(each).removeprefix(f"{path}:") for each in caught.value.problems)
    assert len(found) == len(problems), found
    assert all(each.startswith(start) for each, start in zip(found, problems, strict=True)), found
