"""A launcher's history of requests."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from nodelaunch.clock import WallClock
from nodelaunch.decisions import machine as m
from nodelaunch.engine.asking import MOST
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.serve.history import EVENTS_KEPT, REMEMBERED, History, status_of
from nodelaunch.protocol.events import RequestNoted
from nodelaunch.protocol.paths import MIN_READY_REQUESTOR, RequestId
from nodelaunch.protocol.quota import Usage
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.verdicts import Accept, Decline, Defer, NobodyLeft, NoRoom, ProviderDown
from support.builders import a_request

REQUEST = RequestId("200-0000000001")
KEY = ("cloud", "main")


def remembered(history: History) -> list[str]:
    return [": ".join([event.what, *map(str, event.reasons)]) for event in history.events(REQUEST, KEY)]


def test_what_a_failing_cloud_says_is_news_each_time_it_says_something_else() -> None:
    history = History(WallClock(), EventHub())
    for why in ("it has not answered yet", "it has not answered yet", "HTTP 503", "HTTP 503"):
        history.decided(REQUEST, KEY, Defer((ProviderDown(why),)))
    assert remembered(history) == [
        "deferred: the provider is unavailable: it has not answered yet",
        "deferred: the provider is unavailable: HTTP 503",
    ]


def test_other_figures_in_the_same_reason_are_no_news() -> None:
    history = History(WallClock(), EventHub())
    for in_use in (1, 2, 3):
        history.decided(REQUEST, KEY, Defer((NoRoom("instances", wanted=1, left=3 - in_use),)))
    assert len(remembered(history)) == 1


def test_the_same_trouble_again_is_no_news_and_the_memory_is_bounded() -> None:
    history = History(WallClock(), EventHub())
    history.noted(RequestNoted(0.0, REQUEST, *KEY, "nobody decided on it here"))
    assert remembered(history) == []
    history.decided(REQUEST, KEY, Defer((ProviderDown("gone"),)))
    for number in range(2 * EVENTS_KEPT):
        history.noted(RequestNoted(0.0, REQUEST, *KEY, f"trouble {number}"))
        history.noted(RequestNoted(0.0, REQUEST, *KEY, f"trouble {number}"))
    assert remembered(history) == [f"trouble {number}" for number in range(EVENTS_KEPT, 2 * EVENTS_KEPT)]


def test_each_pool_has_a_history_of_its_own() -> None:
    history = History(WallClock(), EventHub())
    history.decided(REQUEST, KEY, Accept((None,), Usage(instances=1)))
    history.decided(REQUEST, ("cloud", "other"), Decline((NobodyLeft(),)))
    history.removed(a_request(), is_taken=True)
    assert remembered(history) == ["accepted", "withdrawn while it waited: its requestor deleted it, or ended"]
    assert history.events(REQUEST, ("cloud", "other"))[0].what == "declined"


@pytest.mark.parametrize(
    ("options", "is_taken", "here", "there"),
    [
        ({}, True, "served: its requestor took the nodes", "served by another pool"),
        ({}, False, "deleted by its requestor, which did not take the nodes", None),
        ({"requestor": MIN_READY_REQUESTOR}, False, "served: the nodes are kept ready", None),
    ],
)
def test_request_that_was_fulfilled_ends_as_what_became_of_its_nodes(
    options: dict[str, Any], is_taken: bool, here: str, there: str | None
) -> None:
    history, other = History(WallClock(), EventHub()), ("cloud", "other")
    history.decided(REQUEST, KEY, Accept((None,), Usage(instances=1)))
    history.decided(REQUEST, other, Defer((NobodyLeft(),)))
    history.ended(REQUEST, KEY, m.Outcome.FULFILLED, None)
    request = a_request(state=RequestState.FULFILLED).changed(**options)
    history.removed(request, is_taken=is_taken)
    assert remembered(history)[-1] == here
    assert history.events(REQUEST, other)[-1].what == (there or here)


def test_who_asked_is_remembered_of_a_request_that_has_gone() -> None:
    history = History(WallClock(), EventHub())
    data = {"job_name": "unit", "pipeline_name": "check", "build_set_uuid": "abc" * 999}
    request = a_request(state=RequestState.FAILED, requestor_data=data, tenant_name="acme")
    history.removed(request, is_taken=True)
    assert history.asked(REQUEST) is None  # no pool has had to do with it
    history.decided(REQUEST, KEY, Decline((NobodyLeft(),)))
    assert history.asked(REQUEST) is None
    history.removed(request, is_taken=True)
    assert remembered(history)[-1] == "deleted by its requestor after it failed"
    asked = history.asked(REQUEST)
    assert asked is not None
    assert (asked["tenant"], asked["job"], asked["pipeline"]) == ("acme", "unit", "check")
    assert len(asked["build_set"]) <= MOST


def test_request_without_news_for_longest_is_forgotten_first() -> None:
    history = History(WallClock(), EventHub())
    for number in range(REMEMBERED):
        history.decided(RequestId(f"200-{number:010d}"), KEY, Decline((NobodyLeft(),)))
    history.decided(RequestId("200-0000000000"), KEY, Decline((NobodyLeft(),)))
    history.decided(RequestId("200-9999999999"), KEY, Decline((NobodyLeft(),)))
    assert remembered(history) == []
    assert history.events(RequestId("200-0000000000"), KEY)


def test_end_of_work_is_news_unless_it_was_refused_or_only_declined() -> None:
    history = History(WallClock(), EventHub())
    state, _ = m.start(a_request(), Decline((NobodyLeft(),)))
    history.ended(REQUEST, KEY, m.Outcome.DECLINED, state)
    history.ended(REQUEST, KEY, m.Outcome.LOCK_REFUSED, None)
    assert remembered(history) == []
    history.ended(REQUEST, KEY, m.Outcome.FULFILLED, None)
    assert remembered(history) == ["fulfilled"]


def test_status_is_that_of_the_work_then_of_the_verdict_then_of_the_past() -> None:
    declining, _ = m.start(a_request(), Decline((NobodyLeft(),)))
    working, _ = m.start(a_request(), Accept((None,), Usage(instances=1)))
    waits = Defer((ProviderDown("gone"),))
    assert status_of(waits, declining, ())[0] == "declining"
    assert status_of(None, working, ())[0] == "being worked on"
    assert status_of(waits, None, ()) == ("deferred", waits.reasons)
    assert status_of(Decline((NobodyLeft(),)), None, ()) == ("declined", (NobodyLeft(),))
    assert status_of(Accept((None,), Usage()), None, ()) == ("accepted", ())
    assert status_of(None, None, ()) == ("not known", ())
    history = History(WallClock(), EventHub())
    history.decided(REQUEST, KEY, waits)
    assert status_of(None, None, history.events(REQUEST, KEY)) == ("deferred", waits.reasons)


def test_pool_that_is_declining_says_why() -> None:
    verdict = Decline((NobodyLeft(),))
    state, _ = m.start(a_request(), verdict)
    assert status_of(None, state, ()) == ("declining", verdict.reasons)


def test_what_is_remembered_of_a_long_request_is_short() -> None:
    history = History(WallClock(), EventHub())
    data = {"job_name": "unit", "note": "x" * 100_000}
    request = a_request(tenant_name="acme", requestor_data=data).changed(extra={"future": "y" * 100_000})
    history.decided(REQUEST, KEY, Decline((NobodyLeft(),)))
    history.removed(request, is_taken=True)
    asked = history.asked(REQUEST)
    assert asked is not None
    assert (asked["tenant"], asked["job"]) == ("acme", "unit")
    assert request not in gc.get_referents(history._requests[REQUEST])
