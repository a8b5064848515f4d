"""Events as facts, and their delivery to subscribers."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from nodelaunch.engine.events import EventHub
from nodelaunch.errors import EventsMissedError
from nodelaunch.protocol.events import (
    KINDS,
    DriverCalled,
    LaunchEnded,
    LeakDeleted,
    LeaksSeen,
    RequestDecided,
    SessionChanged,
)
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.verdicts import PoolDisabled

LAUNCH = LaunchEnded(
    1.0, RequestId("200-1"), NodeId("7"), "cloud", "main", "small", None, "zuul", 1, "ready", None, None, 2.5,
    2.5, (("create", 0.5), ("active", 2.0)),
)  # fmt: skip


def test_events_as_json() -> None:
    facts = LAUNCH.to_json()
    assert (facts["event"], facts["at"], facts["label"]) == ("launch_ended", 1.0, "small")
    assert facts["stages"] == {"create": 0.5, "active": 2.0}
    declined = RequestDecided(1.0, RequestId("200-1"), "cloud", "main", "declined", (PoolDisabled(),))
    assert declined.to_json()["reasons"] == [str(PoolDisabled())]
    assert LeaksSeen(1.0, "cloud", (("instance", 2),)).to_json()["kinds"] == [("instance", 2)]


def test_every_kind_has_a_name_of_its_own() -> None:
    assert all(name == kind.NAME and kind.__doc__ for name, kind in KINDS.items())
    assert len(set(KINDS.values())) == len(KINDS) == 12


async def test_listeners_are_told_what_they_asked_for_until_they_stop() -> None:
    hub, told = EventHub(), []
    stop = hub.subscribe(told.append, LaunchEnded, LeakDeleted)
    other: list[LaunchEnded] = []
    stop_other = hub.subscribe(other.append, LaunchEnded)
    hub.emit(LAUNCH)
    hub.emit(SessionChanged(1.0, "lost"))
    stop()
    hub.emit(LAUNCH)
    assert (told, other) == ([LAUNCH], [LAUNCH, LAUNCH])
    stop_other()
    assert not hub.wants(LaunchEnded)


async def test_listener_that_fails_costs_nobody_anything() -> None:
    hub, told = EventHub(), []

    def fail(_event: LaunchEnded) -> None:
        raise ValueError

    hub.subscribe(fail, LaunchEnded)
    hub.subscribe(told.append, LaunchEnded)
    with capture_logs() as logs:
        hub.emit(LAUNCH)
    assert told == [LAUNCH]
    assert [(each["event"], each["kind"]) for each in logs] == [("listener_failed", "launch_ended")]


async def test_stream_ends_with_the_launcher() -> None:
    hub = EventHub()
    with hub.stream(LaunchEnded) as events:
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        hub.emit(LAUNCH)
        assert await reading is LAUNCH
        hub.emit(LAUNCH)
        hub.close()
        assert [event async for event in events] == [LAUNCH]
    assert not hub.wants(LaunchEnded)


async def test_slow_reader_is_told_what_it_missed() -> None:
    hub = EventHub()
    with hub.stream(SessionChanged, limit=2) as events:
        for state in ("one", "two", "three", "four"):
            hub.emit(SessionChanged(1.0, state))
        with pytest.raises(EventsMissedError, match="2 events missed") as caught:
            await anext(events)
        assert caught.value.count == 2
        assert [(await anext(events)).state, (await anext(events)).state] == ["three", "four"]


async def test_calls_are_told_with_their_error() -> None:
    hub, told = EventHub(), []
    with hub.calling("cloud", "create"):
        pass  # there is no listener
    hub.subscribe(told.append, DriverCalled)
    with hub.calling("cloud", "create"):
        pass
    with pytest.raises(KeyError), hub.calling("cloud", "delete"):
        raise KeyError
    assert [(event.call, event.error) for event in told] == [("create", None), ("delete", "KeyError")]
