"""What a pool remembers of a request."""

from __future__ import annotations

from nodelaunch.engine.fates import EVENTS_KEPT, Fates

from nodelaunch.clock import WallClock
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.verdicts import Defer, NoRoom, ProviderDown

REQUEST = RequestId("200-0000000001")


def remembered(fates: Fates) -> list[str]:
    return [": ".join([event.what, *map(str, event.reasons)]) for event in fates._fates[REQUEST].events]


def test_what_a_failing_cloud_says_is_news_each_time_it_says_something_else() -> None:
    fates = Fates(WallClock())
    for why in ("it has not answered yet", "it has not answered yet", "HTTP 503", "HTTP 503"):
        fates.decided(REQUEST, Defer((ProviderDown(why),)))
    assert remembered(fates) == [
        "deferred: the provider can't be asked: it has not answered yet",
        "deferred: the provider can't be asked: HTTP 503",
    ]


def test_other_figures_in_the_same_reason_are_no_news() -> None:
    fates = Fates(WallClock())
    for in_use in (1, 2, 3):
        fates.decided(REQUEST, Defer((NoRoom("instances", wanted=1, left=3 - in_use),)))
    assert len(remembered(fates)) == 1


def test_the_same_trouble_again_is_no_news_and_the_memory_is_bounded() -> None:
    fates = Fates(WallClock())
    fates.happened(REQUEST, "nobody decided on it here")
    assert fates._fates == {}
    fates.decided(REQUEST, Defer((ProviderDown("gone"),)))
    for number in range(2 * EVENTS_KEPT):
        fates.happened(REQUEST, f"trouble {number}")
        fates.happened(REQUEST, f"trouble {number}")
    assert remembered(fates) == [f"trouble {number}" for number in range(EVENTS_KEPT, 2 * EVENTS_KEPT)]
