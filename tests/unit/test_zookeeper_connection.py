"""A connection's reactions to the bytes that a server sends."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from nodelaunch.store.zookeeper.connection import MAX_FRAME, WireConnection
from nodelaunch.store.zookeeper.wire import EVENT_DELETED

BEFORE_3_9 = -1
"""Number in place of the zxid of an event."""


def an_event(path: str, zxid: int) -> bytes:
    raw = path.encode()
    frame = struct.pack("!iqi", -1, zxid, 0) + struct.pack("!iii", EVENT_DELETED, 3, len(raw)) + raw
    return struct.pack("!i", len(frame)) + frame


class Told:
    """A connection after its handshake, with a record of its notifications."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self.heard: list[tuple[float, int]] = []
        self.connection: Any = WireConnection(
            on_event=lambda kind, path: self.events.append((kind, path)),
            on_heard=lambda at, zxid: self.heard.append((at, zxid)),
            on_broken=lambda: None,
        )
        self.connection.data_received(struct.pack("!iiiqi", 36, 0, 4000, 7, 16) + bytes(16))


async def test_zxid_of_an_event_counts_as_seen() -> None:
    """A server that knows less than the event then refuses the session; ZooKeeper sends the zxid from 3.9 on."""
    told = Told()
    told.connection.data_received(an_event("/a", 12) + an_event("/b", 13))
    assert told.events == [(EVENT_DELETED, "/a"), (EVENT_DELETED, "/b")]
    assert told.heard == [(0, 13)]


async def test_event_without_a_zxid_tells_nothing_of_what_was_seen() -> None:
    told = Told()
    told.connection.data_received(an_event("/a", BEFORE_3_9))
    assert told.events == [(EVENT_DELETED, "/a")]
    assert told.heard == []


@pytest.mark.parametrize("size", [1, 3, 4, 5, 19, 20, 33])
async def test_events_may_come_in_pieces(size: int) -> None:
    told = Told()
    stream = b"".join(an_event(f"/path/{number}", number) for number in range(1, 10))
    for at in range(0, len(stream), size):
        piece = stream[at : at + size]
        told.connection.get_buffer(-1)[: len(piece)] = piece
        told.connection.buffer_updated(len(piece))
    assert [path for _, path in told.events] == [f"/path/{number}" for number in range(1, 10)]


@pytest.mark.parametrize("length", [-1, 0, 15, MAX_FRAME])
async def test_what_is_no_frame_ends_the_connection(length: int) -> None:
    told, ends = Told(), []

    class Transport(asyncio.Transport):
        def abort(self) -> None:
            ends.append(length)

    told.connection.connection_made(Transport())
    told.connection.data_received(struct.pack("!i", length))
    assert ends == [length]
