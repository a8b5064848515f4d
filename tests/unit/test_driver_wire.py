"""A connection: calls, answers, cancellation, deadlines, and causes of its end; versions; the proof of the token."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest

from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire import peer as peers
from nodelaunch.driverhost.wire.handshake import (
    is_proof,
    new_nonce,
    new_token,
    proof,
)
from nodelaunch.driverhost.wire.peer import ConnectionEndedError, GarbageError, Json, Outcome, Peer, RpcError
from nodelaunch.driverhost.wire.versions import VersionMismatchError, choose_version
from nodelaunch.errors import ErrorKind, Scope
from nodelaunch.protocol.driver import Driver, ExternalId, Instance, InstanceSpec, LabelTraits, Login, Machine, Resource
from nodelaunch.protocol.quota import Limits, Usage

DEADLINE_S = 20.0


class Line:
    """A peer, and the raw other end of its connection."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.running = asyncio.ensure_future(peer.run())

    async def next(self) -> Json:
        message: Json = json.loads(await self.reader.readline())
        return message

    def say(self, **message: Any) -> None:
        self.say_raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def say_raw(self, data: bytes) -> None:
        self.writer.write(data)

    def hang_up(self) -> None:
        self.writer.close()


@asynccontextmanager
async def line(**options: Any) -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    async with asyncio.timeout(DEADLINE_S):
        peer = Peer(*await asyncio.open_unix_connection(sock=ours, limit=m.MAX_LINE), **options)
        made = Line(peer, *await asyncio.open_unix_connection(sock=theirs, limit=m.MAX_LINE))
        try:
            yield made
        finally:
            made.hang_up()
            await asyncio.gather(made.running, return_exceptions=True)
            await made.writer.wait_closed()


def calling(made: Line, timeout_s: float = DEADLINE_S, **options: Any) -> asyncio.Task[Json]:
    return asyncio.ensure_future(made.peer.call("do", {"a": 1}, timeout_s=timeout_s, **options))


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_call_is_answered() -> None:
    async with line() as made:
        call = calling(made)
        asked = await made.next()
        assert asked == {"jsonrpc": "2.0", "id": 1, "method": "do", "params": {"a": 1}}
        made.say(id=1, result={"b": 2})
        assert await call == {"b": 2}
        assert made.peer.is_idle


async def test_answers_may_come_in_any_order() -> None:
    async with line() as made:
        first, second = calling(made), calling(made)
        await made.next(), await made.next()
        made.say(id=2, result={"n": 2})
        made.say(id=1, result={"n": 1})
        assert (await first, await second) == ({"n": 1}, {"n": 2})


async def test_error_is_raised_with_its_data() -> None:
    async with line() as made:
        call = calling(made)
        made.say(id=1, error={"code": -32000, "message": "full", "data": {"kind": "quota"}})
        with pytest.raises(RpcError, match="full") as caught:
            await call
        assert (caught.value.code, caught.value.data) == (-32000, {"kind": "quota"})


async def test_end_of_file_fails_every_call() -> None:
    async with line() as made:
        calls = [calling(made), calling(made)]
        await made.next()
        made.hang_up()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in outcomes] == [ConnectionEndedError] * 2
        with pytest.raises(ConnectionEndedError):
            await calling(made)


@pytest.mark.parametrize("how", ["end of file", "cancelled"])
async def test_end_ends_answers_that_wait_for_calls_of_their_own(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """No answer can arrive for these calls any more."""
    monkeypatch.setattr(peers, "CANCEL_GRACE_S", 2 * DEADLINE_S)
    outcomes: list[Outcome] = []

    async def answer(_method: str, _params: Json, _number: int) -> Json:
        return await made.peer.call("do", {"a": 1}, timeout_s=2 * DEADLINE_S, on_given_up=outcomes.append)

    async with line(answer=answer) as made:
        made.say(id=7, method="work", params={})
        assert (await made.next())["method"] == "do"
        if how == "cancelled":
            made.running.cancel()
        else:
            made.hang_up()
        await asyncio.wait([made.running])
    assert outcomes == [None]  # it can't be known
    assert made.peer.ended == "the connection ended"


async def test_cancelled_call_is_told_to_the_other_end() -> None:
    async with line() as made:
        call = calling(made)
        await made.next()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert await made.next() == {"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": 1}}
        made.say(id=1, result={})  # too late: passed over
        again = calling(made)
        await made.next()
        made.say(id=2, result={"ok": True})
        assert await again == {"ok": True}


async def test_what_became_of_a_cancelled_call_is_waited_for_where_it_matters() -> None:
    outcomes: list[Outcome] = []
    async with line() as made:
        call = calling(made, on_given_up=outcomes.append)
        await made.next()
        call.cancel()
        await made.next()
        call.cancel()  # again, while the last word is waited for
        made.say(id=1, error={"code": -32000, "message": "cancelled", "data": {"kind": "cancelled", "may_exist": True}})
        await asyncio.wait([call])
        assert call.cancelled()
    (outcome,) = outcomes
    assert isinstance(outcome, RpcError)
    assert outcome.data["may_exist"]


async def test_call_out_of_time_is_cancelled() -> None:
    async with line() as made:
        with pytest.raises(TimeoutError):
            await calling(made, timeout_s=0.0)
        assert (await made.next())["method"] == "do"
        assert (await made.next())["method"] == "$/cancel"


# -- what comes in ----------------------------------------------------------------------------------------------------


async def test_calls_from_the_other_end_are_answered_side_by_side() -> None:
    go = asyncio.Event()

    async def answer(method: str, params: Json, number: int) -> Json:
        if method == "slow":
            await go.wait()
        return {"method": method, **params}

    async with line(answer=answer) as made:
        made.say(id=7, method="slow", params={"a": 1})
        made.say(id=8, method="fast")
        assert await made.next() == {"jsonrpc": "2.0", "id": 8, "result": {"method": "fast"}}
        go.set()
        assert (await made.next())["id"] == 7


async def test_cancelled_answer_is_given_all_the_same() -> None:
    async def answer(method: str, params: Json, number: int) -> Json:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RpcError(peers.DRIVER_ERROR, "cancelled", {"kind": "cancelled"}) from None
        return {}

    async with line(answer=answer) as made:
        made.say(id=7, method="x")
        made.say(method="$/cancel", params={"id": 7})  # before it began
        made.say(method="$/cancel", params={"id": 8})
        assert (await made.next())["error"]["data"]["kind"] == "cancelled"
        made.say(id=8, method="x")
        made.say(id=9, method="y", params={})
        while 8 not in made.peer._answering:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        made.say(method="$/cancel", params={"id": 8})
        assert (await made.next())["error"]["data"] == {"kind": "cancelled"}


async def test_notifications_are_taken() -> None:
    seen: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
    async with line(notice=lambda method, params: seen.put_nowait((method, params))) as made:
        made.say(method="log", params={"event": "x"})
        assert await seen.get() == ("log", {"event": "x"})


async def test_method_that_is_not_there_is_refused() -> None:
    async with line() as made:
        made.say(id=1, method="x")
        assert (await made.next())["error"]["code"] == peers.METHOD_NOT_FOUND


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"hello\n", "invalid JSON: 'hello"),
        (b"[1]\n", "message that is not JSON-RPC 2.0"),
        (b'{"id": 1, "result": {}}\n', "message that is not JSON-RPC 2.0"),
        (b'{"jsonrpc": "2.0", "id": 1, "result": 5}\n', "without a result object or an error"),
        (b'{"jsonrpc": "2.0", "id": "a", "method": "x"}\n', "not a number, or is in use"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": [1]}\n', "without named parameters"),
        (b'{"jsonrpc"', "in the middle of a line"),
        (b"x" * (m.MAX_LINE + 1) + b"\n", f"longer than {m.MAX_LINE} bytes"),
        (b"[" * 100_000 + b"\n", "invalid JSON"),
    ],
    ids=["text", "list", "no version", "result", "id", "params", "cut off", "too long", "deep"],
)
async def test_garbage_ends_the_connection(data: bytes, fault: str) -> None:
    async with line() as made:
        call = calling(made)
        await made.next()
        made.say_raw(data)
        if not data.endswith(b"\n"):
            made.hang_up()
        with pytest.raises(GarbageError, match=fault):
            await made.running
        with pytest.raises(ConnectionEndedError, match=fault):
            await call


async def test_end_that_asks_without_end_is_cut_off() -> None:
    async def never(method: str, _params: Json, _number: int) -> Json:
        await asyncio.Event().wait()
        raise AssertionError(method)

    async with line(answer=never, most_asked=3) as made:
        for number in range(4):
            made.say(id=number, method="x")
        with pytest.raises(GarbageError, match="more than 3 unanswered requests"):
            await made.running


async def test_flood_of_messages_lets_others_have_their_turn() -> None:
    seen: list[Json] = []
    async with line(notice=lambda _method, params: seen.append(params)) as made:
        turns = 0
        made.say_raw(b"".join(b'{"jsonrpc": "2.0", "method": "log", "params": {}}\n' for _ in range(10_000)))
        while len(seen) < 10_000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10_000 / peers.AT_A_TIME / 2


async def test_too_long_a_message_is_not_sent() -> None:
    async with line() as made:
        with pytest.raises(ConnectionEndedError, match="bytes"):
            await made.peer.call("do", {"a": "x" * m.MAX_LINE}, timeout_s=DEADLINE_S)
        call = calling(made)
        assert (await made.next())["id"] == 2
        made.say(id=2, result={})
        await call


# -- the handshake ----------------------------------------------------------------------------------------------------


def test_proof_is_of_role_token_and_nonces() -> None:
    token, nonces = new_token(), (new_nonce(), new_nonce())
    given = proof(token, "driver", *nonces)
    assert is_proof(given, token, "driver", nonces)
    assert not is_proof(given, token, "launcher", nonces)
    assert not is_proof(given, new_token(), "driver", nonces)
    assert not is_proof(given, token, "driver", (nonces[0], new_nonce()))
    assert not is_proof("\u00e4", token, "driver", nonces)


def test_proof_is_as_documented() -> None:
    """Authors of drivers in other languages compare their proofs with these."""
    assert proof("0" * 64, "driver", "aa", "bb") == "df7dbb5f3d536f9e1ff2b96e25b547c0b1d0d1169a06aa64c3ab50ae75690720"


def versions(low: int, high: int) -> m.VersionRange:
    return m.VersionRange(min=low, max=high)


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [((1, 1), (1, 1), 1), ((1, 2), (1, 1), 1), ((1, 2), (2, 2), 2), ((1, 2), (1, 9), 2), ((2, 3), (1, 2), 2)],
)
def test_highest_common_version_is_spoken(ours: tuple[int, int], theirs: tuple[int, int], chosen: int) -> None:
    assert choose_version(versions(*ours), versions(*theirs), driver="lab") == chosen


def test_mismatch_says_which_side_to_upgrade() -> None:
    with pytest.raises(
        VersionMismatchError, match=r"lab speaks version 1 .* nodelaunch versions 2 to 3: upgrade the d"
    ):
        choose_version(versions(2, 3), versions(1, 1), driver="lab")
    with pytest.raises(VersionMismatchError, match=r"upgrade nodelaunch$"):
        choose_version(versions(2, 3), versions(4, 5), driver="lab")


# -- the models -------------------------------------------------------------------------------------------------------


def test_instance_survives() -> None:
    instance = Instance(
        ExternalId("i-1"),
        {"a": "b"},
        is_active=True,
        interface_ip="192.0.2.1",
        resources=Usage(cores=4, instances=1),
        login=Login("zuul", "ssh", 22, None, "auto"),
        host_keys=("ssh-rsa A",),
        expected_host_keys=("ssh-ed25519 B",),
        connection_port={"name": "x"},
        slot=1,
        driver_data=[1, 2],
    )
    wire = m.InstanceInfo.model_validate_json(m.InstanceInfo.model_validate(instance).model_dump_json())
    assert m.instance_from(wire) == instance


def test_limits_that_are_not_named_are_none() -> None:
    wire = m.AmountsResult.model_validate({"amounts": Limits(cores=4)}).model_dump(mode="json")
    assert wire == {"amounts": {"cores": 4.0}}


def test_fault_of_tomorrow_is_understood_as_far_as_possible() -> None:
    fault = m.fault_from("no", m.FaultInfo.model_validate({"kind": "eclipse", "scope": "galaxy", "color": "red"}))
    assert (fault.kind, fault.scope) == (ErrorKind.INTERNAL, Scope.REQUEST)


def test_unknown_fields_are_passed_over() -> None:
    assert m.CreateResult.model_validate({"external_id": "i-1", "mood": "good"}).external_id == "i-1"


# -- the port's values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (LabelTraits, m.Traits),
        (Instance, m.InstanceInfo),
        (InstanceSpec, m.Spec),
        (Login, m.LoginInfo),
        (Machine, m.MachineInfo),
        (Resource, m.ResourceInfo),
    ],
)
def test_nothing_that_a_driver_can_say_is_lost_on_the_wire(value: type[Any], message: type[m.Message]) -> None:
    assert {field.name for field in fields(value)} == message.model_fields.keys()


def test_traits_come_out_as_they_went_in() -> None:
    traits = LabelTraits(username="zuul", settle_s=3.5, probe_key="/etc/key", host_key_checking=False)
    sent = m.Traits.model_validate(traits).model_dump_json()
    assert LabelTraits(**m.plain(m.Traits.model_validate_json(sent))) == traits


BY_HAND = {"delete_fenced", "machines"}
"""Methods of capabilities that both ends have code for: a deletion with a fence, and the result of `driver.open`."""


@pytest.mark.parametrize("capability", [None, *m.CAPABILITIES])
def test_table_has_the_methods_of_the_port(capability: str | None) -> None:
    """Both ends make calls from the table: a row has the port's parameters, and a capability has all its methods."""
    kind = m.CAPABILITIES[capability] if capability is not None else Driver
    rows = {row.calls: row for row in m.METHODS.values() if row.calls and row.capability == capability}
    for name, row in rows.items():
        taken = list(inspect.signature(getattr(kind, name)).parameters)[1:]
        assert taken == [each for each in row.params.model_fields if each not in ("deadline_s", "driver_data")]
        assert (row.returns is None) == (row.result in (m.Empty, m.InspectResult))
    if capability is not None:
        methods = {name for name, each in vars(kind).items() if inspect.isfunction(each) and not name.startswith("_")}
        assert methods - BY_HAND == rows.keys()
