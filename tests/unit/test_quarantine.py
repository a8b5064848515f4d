"""Quarantine and guard, as dialogue: their inputs and outputs."""

from __future__ import annotations

import pytest

from nodelaunch.decisions.quarantine import (
    FIRST_PAUSE_S,
    JITTER,
    LAST_PAUSE_S,
    RETRY_S,
    WINDOW_S,
    Cause,
    Change,
    Doubted,
    Guard,
    GuardChanged,
    Host,
    Quarantine,
    Quarantined,
    Returned,
)
from nodelaunch.protocol.verdicts import MachineAway, MachinesFailTogether, MoreMachinesAway

AWAY, KEY = Cause.UNREACHABLE, Cause.WRONG_KEY


def host(name: str) -> Host:
    return (name, "zuul", 22)


A, B, C, D, E, F = map(host, "abcdef")


def of(*hosts: Host, guard: Guard | None = None, group: str = "lab") -> Quarantine:
    quarantine = Quarantine(group, [guard] if guard is not None else ())
    assert quarantine.expect(hosts, 0) == []
    return quarantine


def away(quarantine: Quarantine, host: Host, now: float, *, detail: str = "no answer") -> list[Change]:
    return quarantine.failed(host, AWAY, detail, now, 0)


# -- one host -------------------------------------------------------------------------------------------------------


def test_host_is_in_quarantine_after_two_failures_in_a_row() -> None:
    quarantine = of(A, B)
    assert away(quarantine, A, 10) == [Doubted(A)]
    assert (quarantine.is_out(A), quarantine.next_look) == (False, 10 + RETRY_S)
    assert away(quarantine, A, 12) == [Quarantined(A)]
    assert (quarantine.is_out(A), quarantine.is_out(B)) == (True, False)
    assert quarantine.next_look == 12 + FIRST_PAUSE_S


def test_pauses_double_up_to_the_longest() -> None:
    quarantine, pauses, now = of(A), [], 0.0
    for _ in range(10):
        away(quarantine, A, now)
        pauses.append((quarantine.next_look or 0.0) - now)
        now = quarantine.next_look or 0.0
    assert pauses == [2, 5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_chance_makes_a_pause_shorter_never_longer() -> None:
    quarantine = of(A)
    quarantine.failed(A, AWAY, "no answer", 0, 1)
    assert quarantine.next_look == RETRY_S * (1 - JITTER)


def test_more_failures_are_no_news_and_the_last_detail_counts() -> None:
    quarantine = of(A, B)
    away(quarantine, A, 0)
    away(quarantine, A, 2)
    assert away(quarantine, A, 7, detail="name not resolved") == []
    assert quarantine.failing[A].detail == "name not resolved"
    assert quarantine.failing[A].since == 0


def test_host_returns_at_the_first_good_look() -> None:
    quarantine = of(A)
    away(quarantine, A, 0)
    away(quarantine, A, 2)
    assert quarantine.well(A, 7) == [Returned(A, was_out=True, after_s=7)]
    assert (quarantine.failing, quarantine.next_look) == ({}, None)
    assert quarantine.well(A, 8) == []
    assert away(quarantine, A, 9) == [Doubted(A)], "it begins anew"


def test_wrong_key_is_quarantined_at_once() -> None:
    quarantine = of(A)
    assert quarantine.failed(A, KEY, "other key", 0, 0) == [Doubted(A), Quarantined(A)]
    assert quarantine.next_look == FIRST_PAUSE_S


def test_other_cause_in_quarantine_is_news_once() -> None:
    quarantine = of(A, B)
    away(quarantine, A, 0)
    away(quarantine, A, 2)
    assert quarantine.failed(A, KEY, "other key", 7, 0) == [Quarantined(A, is_other_cause=True)]
    assert quarantine.failed(A, KEY, "other key", 17, 0) == []


def test_only_due_hosts_are_looked_at_each_once() -> None:
    quarantine = of(A, B, C)
    away(quarantine, B, 0)
    away(quarantine, A, 1)
    away(quarantine, C, 1)
    quarantine.well(C, 1.5)
    assert quarantine.take_due(1.9) == []
    assert quarantine.take_due(3) == [B, A]
    assert quarantine.take_due(3) == []
    assert quarantine.next_look is None, "until the looks end"


def test_new_configuration_has_failing_hosts_looked_at_at_once_and_forgets_those_that_are_gone() -> None:
    quarantine = of(A, B)
    for each in (A, B):
        quarantine.failed(each, KEY, "other key", 0, 0)
    quarantine.expect([B, C], 1)
    assert quarantine.failing.keys() == {B}
    assert quarantine.take_due(1) == [B]
    assert away(quarantine, A, 2) == [], "a look that was under way"


# -- handing out ----------------------------------------------------------------------------------------------------


def test_host_that_did_not_answer_at_hand_out_counts_once_until_the_next_look() -> None:
    quarantine = of(A, B)
    assert quarantine.not_handed_out(A, "no answer", 0, 0) == [Doubted(A)]
    assert quarantine.not_handed_out(A, "no answer", 0, 0) == []
    assert quarantine.next_look == RETRY_S
    assert away(quarantine, A, 2) == [Quarantined(A)]
    assert quarantine.not_handed_out(host("unknown"), "no answer", 0, 0) == []


def test_host_that_only_looks_well_is_away_for_longer_each_time() -> None:
    quarantine, pauses = of(A, B), []
    for now in range(0, 5000, 1000):
        changes = quarantine.not_handed_out(A, "no answer", now, 0)
        assert changes == [Doubted(A)] if now == 0 else [Doubted(A), Quarantined(A)]
        pauses.append((quarantine.next_look or 0.0) - now)
        assert quarantine.well(A, now + 500)
    assert pauses == [2, 5, 10, 20, 40]
    quarantine.handed_out(A)
    assert quarantine.not_handed_out(A, "no answer", 9000, 0) == [Doubted(A)]


def test_strikes_stay_finite() -> None:
    quarantine = of(A, B)
    for now in range(3000):
        quarantine.not_handed_out(A, "no answer", now, 0)
        quarantine.well(A, now)
    quarantine.not_handed_out(A, "no answer", 9000, 0)
    assert quarantine.next_look == 9000 + LAST_PAUSE_S


# -- the guard ------------------------------------------------------------------------------------------------------


def test_most_hosts_failing_at_once_are_guarded() -> None:
    quarantine = of(A, B, C, D, E)
    assert away(quarantine, A, 0) == [Doubted(A)]
    assert away(quarantine, B, 0) == [Doubted(B)]
    assert away(quarantine, C, 1) == [GuardChanged(True, 3, 5), Doubted(C)]
    assert quarantine.guarded == GuardChanged(True, 3, 5)
    for now in (2, 7, 200, 900):
        assert away(quarantine, A, now) == []
        assert quarantine.next_look is not None
        assert quarantine.failing[A].next_look == now + FIRST_PAUSE_S
    assert not quarantine.is_out(A)


def test_guard_ends_when_half_of_them_answer_and_the_others_need_one_more_failure() -> None:
    quarantine = of(A, B, C, D)
    for each in (A, B, C):
        away(quarantine, each, 0)
    assert quarantine.guarded
    assert quarantine.well(C, 50) == [GuardChanged(False, 2, 4), Returned(C, was_out=False, after_s=50)]
    assert not quarantine.is_out(A)
    assert away(quarantine, A, 51) == [Quarantined(A)]


def test_two_hosts_are_never_guarded() -> None:
    quarantine = of(A, B)
    for each in (A, B):
        away(quarantine, each, 0)
    assert away(quarantine, A, 2) == [Quarantined(A)]


def test_half_of_the_hosts_are_not_enough() -> None:
    quarantine = of(A, B, C, D, E, F)
    for each in (A, B, C):
        away(quarantine, each, 0)
    assert quarantine.guarded is None


def test_hosts_that_fail_one_after_the_other_are_not_guarded() -> None:
    quarantine = of(A, B, C, D)
    changes = [away(quarantine, each, number * WINDOW_S * 0.6) for number, each in enumerate([A, B, C])]
    assert changes == [[Doubted(A)], [Doubted(B)], [Doubted(C)]]


def test_hosts_that_were_away_before_do_not_count() -> None:
    """Three of five are dead for long; the other two are too few to tell."""
    quarantine = of(A, B, C, D, E, F)
    for number, each in enumerate([A, B, C]):
        away(quarantine, each, number * 1000)
    for each in (D, E):
        assert away(quarantine, each, 9000) == [Doubted(each)]
    assert away(quarantine, F, 9000) == [GuardChanged(True, 3, 3), Doubted(F)]


def test_wrong_keys_are_never_guarded() -> None:
    quarantine = of(A, B, C)
    for each in (A, B, C):
        assert quarantine.failed(each, KEY, "other key", 0, 0) == [Doubted(each), Quarantined(each)]
    assert quarantine.guarded is None


def test_wrong_key_is_taken_out_while_others_are_guarded() -> None:
    quarantine = of(A, B, C, D)
    for each in (A, B, C, D):
        away(quarantine, each, 0)
    assert quarantine.failed(A, KEY, "other key", 5, 0) == [Quarantined(A)]
    assert quarantine.guarded == GuardChanged(True, 3, 4)


def test_users_of_one_host_count_as_one() -> None:
    users = [("a", name, 22) for name in ("one", "two", "three", "four")]
    quarantine = of(*users, B)
    for each in users:
        away(quarantine, each, 0)
    assert quarantine.guarded is None


def test_hosts_of_several_providers_are_guarded_together() -> None:
    shared = Guard()
    one, two = of(A, B, guard=shared, group="one"), of(C, D, guard=shared, group="two")
    away(one, A, 0)
    away(one, B, 0)
    assert away(two, C, 0) == [GuardChanged(True, 3, 4), Doubted(C)]
    assert away(one, A, 2) == []
    assert one.guarded == two.guarded == GuardChanged(True, 3, 4)


def test_guard_ends_with_the_hosts_that_are_taken_out_of_the_configuration() -> None:
    shared = Guard()
    one, two = of(A, B, guard=shared, group="one"), of(C, D, guard=shared, group="two")
    for each in (A, B):
        away(one, each, 0)
    away(two, C, 0)
    assert one.expect([], 1) == [GuardChanged(False, 1, 2)]
    assert two.guarded is None


@pytest.mark.parametrize("answer", ["well", "wrong key"])
def test_host_that_was_away_for_long_counts_again_once_it_was_reached(answer: str) -> None:
    quarantine = of(A, B, C)
    away(quarantine, A, 0)
    away(quarantine, B, 1000)
    if answer == "well":
        quarantine.well(A, 1001)
    else:
        quarantine.failed(A, KEY, "other key", 1001, 0)
    away(quarantine, C, 1002)
    assert away(quarantine, A, 1003)[:1] == [GuardChanged(True, 3, 3)]


# -- what is said of it ---------------------------------------------------------------------------------------------


def machine_away(*, is_quarantined: bool, cause: Cause) -> MachineAway:
    return MachineAway(
        label="bare",
        hostname="bm1",
        username="ci",
        port=2222,
        is_quarantined=is_quarantined,
        cause=cause.value,
        detail="no answer",
        for_s=34,
        next_look_s=12,
    )


def test_reasons_say_what_is_away_and_what_would_help() -> None:
    doubted = machine_away(is_quarantined=False, cause=AWAY)
    where = "machine bm1 (user ci, port 2222)"
    assert str(doubted) == f"{where} is not used for 34 s: no answer; the next check is in 12 s"
    assert doubted.remedy == "make it reachable; the machine is used again after the next successful check"
    quarantined = machine_away(is_quarantined=True, cause=KEY)
    assert str(quarantined) == f"{where} is in quarantine for 34 s: no answer; the next check is in 12 s"
    assert quarantined.remedy.startswith("compare the host keys and correct the wrong one;")
    assert str(MoreMachinesAway("bare", 3)) == "3 more machines of label bare are in quarantine or not used"
    together = "3 of 5 machines became unreachable at the same time: the fault is probably at this launcher"
    assert str(MachinesFailTogether(3, 5)) == together
