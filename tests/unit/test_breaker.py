"""A breaker opens after failures in a row, is probed once in each pause, and closes when a probe succeeds."""

from __future__ import annotations

import pytest

from nodelaunch.decisions.breaker import Breaker, BreakerChange, BreakerRule, FailureCause, OpenBreaker

RULE = BreakerRule(threshold=3, first_s=2.0, last_s=10.0)
AWAY, BROKEN = FailureCause("away", "HTTP 503"), FailureCause("broken", "it broke")


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(RULE)


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker(RULE)
    for _ in range(RULE.threshold):
        breaker.failed(at, AWAY)
    return breaker


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    assert [breaker.failed(float(n), AWAY) for n in range(3)] == [None, None, BreakerChange.OPENED]
    assert (breaker.is_open, breaker.since, breaker.failures, breaker.next_at) == (True, 2.0, 3, 4.0)


def test_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for n in range(20):
        breaker.failed(float(n), AWAY)
        breaker.failed(float(n), AWAY)
        assert breaker.succeeded(float(n)) is None
    assert (breaker.is_open, breaker.failures, breaker.cause) == (False, 0, None)


def test_closed_breaker_lets_everything_through(breaker: Breaker) -> None:
    breaker.failed(0.0, AWAY)
    breaker.probe(0.0)
    assert breaker.may_try(0.0)


def test_one_probe_is_let_through_in_each_pause() -> None:
    breaker = opened(100.0)
    assert [breaker.may_try(at) for at in (100.0, 101.9, 102.0)] == [False, False, True]
    breaker.probe(102.0)
    assert [breaker.may_try(at) for at in (102.0, 103.9, 104.0)] == [False, False, True]


def test_pause_doubles_with_each_probe_that_fails_up_to_a_limit() -> None:
    breaker, pauses = opened(), []
    for _ in range(2000):
        now = breaker.next_at
        breaker.probe(now)
        assert breaker.failed(now, AWAY) is None
        pauses.append(breaker.next_at - now)
    assert pauses[:3] == [4.0, 8.0, 10.0]
    assert pauses[-1] == 10.0


def test_failures_of_tries_that_began_before_make_no_pause_longer() -> None:
    breaker = opened(100.0)
    for _ in range(200):
        assert breaker.failed(100.5, BROKEN) is None
    assert (breaker.failures, breaker.next_at, breaker.cause) == (203, 102.0, AWAY)


def test_pause_that_was_asked_for_is_kept_up_to_the_limit() -> None:
    breaker = opened(100.0)
    breaker.probe(102.0)
    breaker.failed(102.0, AWAY, after_s=7.0, spread=1.25)
    assert breaker.next_at == 109.0
    breaker.probe(109.0)
    breaker.failed(109.0, AWAY, after_s=1e300)
    assert breaker.next_at == 119.0


def test_pauses_are_spread() -> None:
    breaker = opened(100.0)
    breaker.probe(102.0, spread=1.25)
    assert breaker.next_at == 104.5
    breaker.failed(103.0, AWAY, spread=1.5)
    assert breaker.next_at == 109.0


def test_success_of_a_probe_closes_it_and_its_pause_begins_anew() -> None:
    breaker = opened(100.0)
    for at in (102.0, 110.0, 120.0):
        breaker.probe(at)
        breaker.failed(at, AWAY)
    breaker.probe(130.0)
    assert breaker.succeeded(130.0) is BreakerChange.CLOSED
    assert (breaker.is_open, breaker.failures, breaker.cause) == (False, 0, None)
    for _ in range(3):
        breaker.failed(200.0, AWAY)
    assert breaker.next_at == 202.0


def test_success_of_a_try_from_before_it_opened_does_not_close_it() -> None:
    breaker = opened(100.0)
    assert breaker.succeeded(99.0) is None
    assert breaker.is_open


def test_another_reason_is_told_once() -> None:
    breaker, changes = opened(), []
    for cause in (AWAY, FailureCause("away", "HTTP 502"), BROKEN, BROKEN, AWAY):
        breaker.probe(breaker.next_at)
        changes.append((breaker.failed(breaker.next_at, cause), breaker.cause))
    other = BreakerChange.OTHER_REASON
    assert changes == [(None, AWAY), (None, AWAY), (other, BROKEN), (None, BROKEN), (other, AWAY)]


def test_cause_without_words_is_its_kind() -> None:
    assert (str(AWAY), str(FailureCause("TimeoutError", ""))) == ("HTTP 503", "TimeoutError")


def test_open_breaker_tells_since_when_why_and_when_it_is_tried_again() -> None:
    known = OpenBreaker("zone az1", "no host", 4, 75.2, 12.4)
    assert str(known) == "zone az1: 4 failed in a row, open for 75 s, next try in 12 s: no host"
    due = OpenBreaker("zone az1", "no host", 4, 75.2, 0.0)
    assert str(due) == "zone az1: 4 failed in a row, open for 75 s, tried again with the next launch: no host"
