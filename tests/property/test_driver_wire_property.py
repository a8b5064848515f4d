"""The connection to a driver accepts each message from the other end or reports it as garbage."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.peer import DRIVER_ERROR, ConnectionEndedError, GarbageError, Json, Peer, RpcError

DEADLINE_S = 20.0

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | values},
    optional={
        "id": st.integers(0, 3) | values,
        "method": st.sampled_from([*m.METHODS, *m.NOTES, "x"]) | values,
        "params": st.fixed_dictionaries({}, optional={"id": values}) | values,
        "result": st.dictionaries(st.text(max_size=4), values, max_size=2) | values,
        "error": st.fixed_dictionaries({"code": values, "message": values}, optional={"data": values}) | values,
    },
)
notes = st.builds(
    lambda method, params: {"jsonrpc": "2.0", "method": method, "params": params},
    st.sampled_from(list(m.NOTES)),
    st.fixed_dictionaries({"id": values}, optional={"call": values}),
)
answers = st.fixed_dictionaries({"jsonrpc": st.just("2.0"), "id": st.just(1) | values, "error": messages | values})
lines = st.lists(
    st.one_of(messages, notes, answers).map(lambda each: json.dumps(each).encode()) | st.binary(max_size=20), max_size=6
)


class Wire:
    """Accepts all writes, with no process at its other end."""

    def write(self, data: bytes) -> None:
        assert data.endswith(b"\n")

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        """Do nothing."""


async def _answer(method: str, _params: Json, _number: int) -> Json:
    if method == "x":
        raise RpcError(DRIVER_ERROR, "no")
    return {}


async def _hear(said: bytes) -> tuple[Any, Any]:
    """Return how the connection ended, and how a running call ended."""
    reader = asyncio.StreamReader(limit=m.MAX_LINE)
    peer = Peer(reader, Wire(), answer=_answer, notice=mock.Mock())  # type: ignore[arg-type]
    async with asyncio.timeout(DEADLINE_S):
        call = asyncio.ensure_future(peer.call("do", {}, timeout_s=DEADLINE_S))
        await asyncio.sleep(0)
        reader.feed_data(said)
        reader.feed_eof()
        return tuple(await asyncio.gather(peer.run(), call, return_exceptions=True))


@settings(max_examples=300, deadline=None)
@given(lines)
def test_nothing_that_is_said_breaks_this_end(said: list[bytes]) -> None:
    with asyncio.Runner() as runner:
        ended, call = runner.run(_hear(b"".join(line + b"\n" for line in said)))
    assert ended is None or isinstance(ended, GarbageError)
    assert isinstance(call, (dict, RpcError, ConnectionEndedError))
