"""The lines that waiting requests stand in."""

from __future__ import annotations

from nodelaunch.decisions.backlog import MAX_EMPTY_LINES, Backlog, Offer, shape_of
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR
from support.builders import a_request


def test_equal_requests_stand_in_one_line_in_the_order_of_service() -> None:
    backlog = Backlog()
    third, first, second = a_request(number=3), a_request(number=4, priority="100"), a_request(number=2)
    assert [backlog.put(request)[1] for request in (third, first, second)] == [True, True, False]
    (line,) = backlog.lines.values()
    assert [request_id for _, request_id in line.waiting] == [first.id, second.id, third.id]
    assert (line.head, line.order) == (first, first.order)
    assert len(backlog) == len(line) == 3


def test_what_may_be_served_differently_stands_in_other_lines() -> None:
    requests = [
        a_request(),
        a_request("big"),
        a_request(provider="cloud"),
        a_request(tenant_name="t"),
        a_request(declined_by=("a",)),
        a_request(reuse=False),
        a_request().changed(requestor=MIN_READY_REQUESTOR),
    ]
    assert len({shape_of(request) for request in requests}) == len(requests)
    assert shape_of(a_request(declined_by=("a", "b"))) == shape_of(a_request(declined_by=("b", "a")))
    assert shape_of(a_request(), is_alone=True) != shape_of(a_request())


def test_what_is_taken_out_is_the_head_or_not() -> None:
    backlog = Backlog()
    first, second = a_request(number=1), a_request(number=2)
    line, _ = backlog.put(first)
    backlog.put(second)
    assert backlog.take(second.id) == (line, False)
    assert backlog.take(first.id) == (line, True)
    assert backlog.take(first.id) is None
    assert (len(backlog), backlog.line_of) == (0, {})


def test_only_so_many_empty_lines_are_kept_and_none_of_a_single_request() -> None:
    backlog = Backlog()
    for number in range(MAX_EMPTY_LINES + 1):
        request = a_request(f"label-{number}", number=number)
        backlog.put(request)
        backlog.take(request.id)
    assert len(backlog.lines) == MAX_EMPTY_LINES
    assert shape_of(a_request("label-0")) not in backlog.lines
    refilled, _ = backlog.put(a_request("label-1"))
    assert refilled is backlog.lines[shape_of(a_request("label-1"))]
    backlog.put(a_request("alone", number=9), is_alone=True)
    backlog.take(a_request("alone", number=9).id)
    assert shape_of(a_request("alone", number=9), is_alone=True) not in backlog.lines


def test_stale_offers_are_dropped() -> None:
    line, _ = Backlog().put(a_request())
    line.stamps = {("cloud", "a"): 2, ("cloud", "b"): 1}
    offers = [Offer(priority, False, 0, 0.0, 0.0, ("cloud", pool), stamp) for priority, pool, stamp in
              [(3, "a", 1), (2, "a", 2), (1, "b", 1), (0, "gone", 1)]]  # fmt: skip
    line.offers = list(offers)
    line.drop_stale_offers()
    assert line.offers == [offers[2], offers[1]]
