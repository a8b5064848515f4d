"""Detection, from the tree's content, of whether a write without a reply was done."""

from __future__ import annotations

import pytest

from nodelaunch.protocol.store import CheckVersion, Create, Delete, Entry, Put, Stat
from nodelaunch.store.zookeeper.doubt import Doubt, FoundState, WriteOutcome, candidates, judge, numbered_in, paths_in
from nodelaunch.store.zookeeper.wire import PlainOp

SESSION = 7
SINCE = 100
"""The last zxid known when the connection broke."""


def entry(
    path: str, data: bytes = b"", *, version: int = 0, created: int = 50, changed: int = 0, owner: int = 0
) -> Entry:
    return Entry(path, data, Stat(version, created, changed or created, 1.0, 1.0, owner))


def outcome(
    ops: list[PlainOp], *there: Entry, numbered: dict[str, list[Entry]] | None = None
) -> list[Entry | None] | WriteOutcome:
    found = FoundState({each.path: each for each in there}, numbered or {}, SESSION)
    (result,) = judge([Doubt(ops, SINCE)], found)
    return result


@pytest.mark.parametrize(
    ("op", "there", "wanted"),
    [
        (Put("/a", b"new", 3), [entry("/a", b"old", version=3)], WriteOutcome.NOT_DONE),
        (Put("/a", b"new", 3), [entry("/a", b"new", version=4, changed=101)], 4),
        (Put("/a", b"new", 3), [entry("/a", b"peer", version=4, changed=101)], WriteOutcome.NOT_DONE),
        (Put("/a", b"new", 3), [entry("/a", b"peer", version=5, changed=102)], WriteOutcome.UNKNOWN),
        (Put("/a", b"new", 3), [], WriteOutcome.UNKNOWN),
        (Put("/a", b"new"), [entry("/a", b"new", version=9, changed=101)], 9),
        (Put("/a", b"new"), [entry("/a", b"peer", version=9, changed=101)], WriteOutcome.UNKNOWN),
        (Create("/a", b"x"), [], WriteOutcome.NOT_DONE),
        (Create("/a", b"x"), [entry("/a", b"x", created=101)], 0),
        (Create("/a", b"x"), [entry("/a", b"y", version=2, created=101, changed=103)], 0),
        (Create("/a", b"x"), [entry("/a", b"y", created=101)], WriteOutcome.NOT_DONE),
        (Create("/a", b"x"), [entry("/a", b"x", created=99)], WriteOutcome.NOT_DONE),
        (Create("/a", b"x", ephemeral=True), [entry("/a", b"x", created=101, owner=8)], WriteOutcome.NOT_DONE),
        (Create("/a", b"x", ephemeral=True), [entry("/a", b"x", created=101, owner=SESSION)], 0),
        (Delete("/a"), [], None),
        (Delete("/a"), [entry("/a")], WriteOutcome.NOT_DONE),
        (Delete("/a"), [entry("/a", created=101)], WriteOutcome.UNKNOWN),
        (CheckVersion("/a", 1), [entry("/a", version=1)], WriteOutcome.UNKNOWN),
    ],
)
def test_single_write_is_judged_by_what_is_there(
    op: PlainOp, there: list[Entry], wanted: WriteOutcome | int | None
) -> None:
    result = outcome([op], *there)
    if isinstance(wanted, WriteOutcome):
        assert result is wanted
    else:
        assert isinstance(result, list)
        (made,) = result
        assert (made.stat.version if made else None) == wanted


def test_result_never_is_a_later_version_of_a_peer() -> None:
    result = outcome([Create("/a", b"x")], entry("/a", b"peer's", version=3, created=101, changed=105))
    assert isinstance(result, list)
    assert result[0] is not None
    assert (result[0].data, result[0].stat.version) == (b"x", 0)


def test_result_carries_its_record_on() -> None:
    record = object()
    result = outcome([Put("/a", b"new", 0, record)], entry("/a", b"new", version=1, changed=101))
    assert isinstance(result, list)
    assert result[0] is not None
    assert result[0].record is record


def test_equal_creates_each_get_their_own_in_the_order_they_were_sent() -> None:
    op = Create("/n/", b"same", sequence=True)
    made = [entry(f"/n/{number:010d}", b"same", created=101 + number) for number in (3, 1, 2)]
    outcomes = judge([Doubt([op], SINCE)] * 4, FoundState({}, {"/n/": made}))
    paths = [each[0].path if isinstance(each, list) and each[0] else each for each in outcomes]
    assert paths == ["/n/0000000001", "/n/0000000002", "/n/0000000003", WriteOutcome.NOT_DONE]


def test_numbered_create_of_before_the_break_or_of_a_peer_is_not_ours() -> None:
    op = Create("/n/", b"ours", sequence=True)
    made = [entry("/n/0000000001", b"ours", created=100), entry("/n/0000000002", b"peer's", created=101)]
    assert outcome([op], numbered={"/n/": made}) is WriteOutcome.NOT_DONE


def test_contender_tells_more_than_a_directory_that_a_peer_may_have_made() -> None:
    """An empty lock directory says nothing of who made it."""
    prefix = "/n/lock/0123__lock__"
    ops: list[PlainOp] = [Create("/n/lock"), Create(prefix, b"", ephemeral=True, sequence=True), Put("/n", b"1", 0)]
    assert (
        outcome(ops, entry("/n/lock", created=101), entry("/n", b"0"), numbered={prefix: []}) is WriteOutcome.NOT_DONE
    )


def test_replaced_directory_is_not_taken_for_one_that_was_not_deleted() -> None:
    prefix = "/n/lock/0123__lock__"
    contender = entry(f"{prefix}0000000000", created=101, owner=SESSION)
    ops: list[PlainOp] = [
        Delete("/n/lock"), Create("/n/lock"), Create(prefix, b"", ephemeral=True, sequence=True), Put("/n", b"1", 0),
    ]  # fmt: skip
    there = [entry("/n/lock", created=101), entry("/n", b"1", version=1, changed=101)]
    result = outcome(ops, *there, numbered={prefix: [contender]})
    assert isinstance(result, list)
    assert [each and each.path for each in result] == [None, "/n/lock", contender.path, "/n"]


def test_deleted_contender_tells_that_the_lock_was_given_back() -> None:
    contender = "/n/lock/0123__lock__0000000000"
    ops: list[PlainOp] = [Put("/n", b"1", 0), Delete(contender)]
    assert isinstance(outcome(ops, entry("/n", b"peer's", version=2, changed=103)), list)
    assert outcome(ops, entry(contender), entry("/n", b"0")) is WriteOutcome.NOT_DONE


def test_what_has_to_be_read_is_told_once() -> None:
    doubts = [Doubt([Create("/n/", b"a", sequence=True), Put("/a", b"")], 9), Doubt([Create("/n/", sequence=True)], 5)]
    assert paths_in(doubts) == ["/a"]
    assert numbered_in(doubts) == {"/n/": 5}


def test_candidates_are_numbered_names_the_latest_first() -> None:
    names = ["0000000002", "0000000010", "x", "200-0000000011", "00000000030"]
    assert candidates("/n/", names) == ["/n/0000000010", "/n/0000000002"]
    assert candidates("/n/200-", names) == ["/n/200-0000000011"]
