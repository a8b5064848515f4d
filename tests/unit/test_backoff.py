"""Pauses after failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.backoff import Backoff


def test_a_pause_doubles_up_to_the_longest_and_begins_anew_after_a_success() -> None:
    backoff: Backoff[str] = Backoff(5.0, 30.0)
    assert [backoff.failed("a", 0.0) for _ in range(5)] == [5.0, 10.0, 20.0, 30.0, 30.0]
    backoff.succeeded("a")
    assert backoff.failed("a", 0.0) == 5.0


def test_keys_do_not_wait_for_each_other() -> None:
    backoff: Backoff[str] = Backoff(5.0, 30.0)
    backoff.failed("a", 100.0)
    assert not backoff.may_try("a", 104.9)
    assert backoff.may_try("a", 105.0)
    assert backoff.may_try("b", 0.0)


def test_ten_thousand_failures_are_survived() -> None:
    backoff: Backoff[None] = Backoff(1.0, 60.0)
    assert {backoff.failed(None, 0.0) for _ in range(10_000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_nothing_is_kept_of_what_succeeded(events: list[tuple[str, bool]]) -> None:
    backoff: Backoff[str] = Backoff(1.0, 60.0)
    failing = set()
    for key, is_failure in events:
        if is_failure:
            backoff.failed(key, 0.0)
            failing.add(key)
        else:
            backoff.succeeded(key)
            failing.discard(key)
    assert len(backoff) == len(failing)
    assert {key for key in "abc" if not backoff.may_try(key, 0.5)} == failing


def test_cleared_back_off_knows_of_no_failure() -> None:
    backoff: Backoff[str] = Backoff(1.0, 60.0)
    backoff.failed("a", 0.0)
    backoff.clear()
    assert (len(backoff), "a" in backoff, backoff.may_try("a", 0.5), backoff.failed("a", 1.0)) == (0, False, True, 1.0)
