"""Reservations between a decision and the records that follow from it."""

from __future__ import annotations

from nodelaunch.decisions.triage import PoolKey
from nodelaunch.engine.limits.reservations import Reservations
from nodelaunch.protocol.quota import NOTHING, Usage

KEY = ("cloud", "main")
ONE = Usage(instances=1)


def test_what_is_reserved_counts_until_its_slot_is_settled() -> None:
    told: list[tuple[PoolKey, str | None]] = []
    book = Reservations(lambda key, tenant: told.append((key, tenant)))
    reservation = book.open(KEY, "t", {0: ONE}, {0: ONE, 1: ONE})
    assert (book.of_pool(KEY), book.of_provider("cloud"), book.of_tenant("t")) == (ONE, ONE, ONE + ONE)
    assert book.launches_of("cloud") == 1
    assert reservation.has_capacity_for(0)
    assert not reservation.has_capacity_for(1)
    reservation.settle(0)
    reservation.settle(0)
    assert (book.of_pool(KEY), book.launches_of("cloud"), book.of_tenant("t")) == (NOTHING, 0, ONE)
    reservation.close()
    assert book.of_tenant("t") == NOTHING
    assert told == [(KEY, "t"), (KEY, "t")]


def test_request_without_a_limited_tenant_keeps_no_share() -> None:
    book = Reservations(lambda *_: None)
    first, second = book.open(KEY, None, {0: ONE}, {0: ONE}), book.open(("cloud", "other"), None, {0: ONE}, {})
    assert (book.of_provider("cloud"), book.of_pool(KEY)) == (ONE + ONE, ONE)
    first.close()
    assert (book.of_provider("cloud"), book.of_pool(KEY)) == (ONE, NOTHING)
    second.close()
    assert book.of_provider("cloud") == NOTHING


def test_share_that_is_kept_twice_counts_once() -> None:
    book = Reservations(lambda *_: None)
    reservation = book.open(KEY, "t", {}, {0: ONE})
    reservation.keep_share(0, ONE)
    reservation.add(0, ONE)
    assert (book.of_tenant("t"), book.of_pool(KEY)) == (ONE, ONE)
