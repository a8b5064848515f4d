"""Checks of drivers in processes of their own, rules P1 to P20: what they say on the wire, and what they leave behind.

Each speaks with a process of its own, word by word (probe.py), and blames it for its own rule only.
What does *not* belong here: what a driver's calls do (checks.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from nodelaunch.conformance.bench import Bench, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.probe import Json, Probe, ProbeError, RefusedCall, descendants, environment_of
from nodelaunch.conformance.registry import Check, check
from nodelaunch.conformance.schemacheck import faults_of_schema
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.peer import METHOD_NOT_FOUND
from nodelaunch.errors import ErrorKind

END_S: Final = 2.0
"""A driver whose connection ended has to be gone after that."""
DEADLINE_S: Final = 0.3
LATE_S: Final = 5.0
"""How late a driver may notice its deadline; a busy machine is no fault of its."""
LOOK_S: Final = 0.02
"""Between looks at what is still there."""
FLOOD: Final = 1000
"""Lines and notifications for one instance's life; no driver has that much to say."""
HAND_S: Final = 30.0
ALLOWED_HOME: Final = (".cache", ".config", ".local")
"""Where in a user's home a driver may keep files."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS, of_processes=True)


@asynccontextmanager
async def _speaking(bench: Bench, what: str = "the handshake", **how: Any) -> AsyncIterator[Probe]:
    """A process, and its failures to answer as violations."""
    probe = await bench.probe(**how)
    try:
        yield probe
    except ProbeError as error:
        raise Violation(str(error)) from None
    except RefusedCall as refusal:
        raise Violation(f"{what} was refused: {refusal}") from None
    except ValidationError as error:
        raise Violation(f"{what}: what it said is wrong at {_places(error)}") from None


# -- the handshake -----------------------------------------------------------------------------------------------------


@_check("P1", Level.BRONZE, is_basic=True)
async def it_connects_once(bench: Bench) -> None:
    """It connects to the socket it is told, takes its token from descriptor 3, and comes but once."""
    bench.require_process()
    async with _speaking(bench) as probe:
        await probe.connected()
        await probe.hello()
        connections = probe.heard.connections
        require(connections == 1, f"it connected {connections} times")


@_check("P2", Level.BRONZE, is_basic=True)
async def it_proves_to_have_the_token(bench: Bench) -> None:
    """Its proof is made of the token, its role and both nonces, the same each time it is asked."""
    async with _speaking(bench) as probe:
        await probe.connected()
        for _ in range(2):
            answer = m.HelloResult.model_validate(await probe.hello())
            require(bool(answer.nonce), "its nonce is empty")
            require(answer.proof == probe.proof("driver"), "its proof of the token is wrong")


@_check("P2", Level.BRONZE)
async def strangers_are_refused(bench: Bench) -> None:
    """Whoever does not prove to have the token is refused, and gets nothing else done."""
    async with _speaking(bench) as probe:
        await probe.connected()
        await probe.hello()
        try:
            await probe.ask(m.AUTHENTICATE.name, protocol=CONTRACT.max, proof="0" * 64)
        except (RefusedCall, ProbeError):
            pass  # an error, or hanging up, is as good
        else:
            raise Violation("it took a wrong proof")
        try:
            await probe.ask(m.OPEN.name, provider=dict(probe.program.provider))
        except (RefusedCall, ProbeError):
            return
        raise Violation(f"it worked for a stranger: after a wrong proof it answered {m.OPEN.name}")


@_check("P18", Level.BRONZE, is_basic=True)
async def its_versions_are_its_own(bench: Bench) -> None:
    """It says the same range of versions whatever range the launcher says, with one in it that this kit speaks."""
    seen = []
    ranges = [(CONTRACT.min, CONTRACT.max), (0, 0), (CONTRACT.min, CONTRACT.max + 8), (90, 99), (10**9, 10**9)]
    async with _speaking(bench) as probe:
        await probe.connected()
        for low, high in ranges:
            answer = m.HelloResult.model_validate(await probe.hello(protocol={"min": low, "max": high}))
            seen.append((answer.protocol.min, answer.protocol.max))
            require(seen[0] == seen[-1], f"asked for versions {low} to {high} it speaks {seen[-1]}, before {seen[0]}")
    low, high = seen[0]
    require(0 <= low <= high, f"its versions are {low} to {high}, which is no range")
    require(
        low <= CONTRACT.max and high >= CONTRACT.min,
        f"it speaks versions {low} to {high}, this kit {CONTRACT.min} to {CONTRACT.max}",
    )


# -- messages ----------------------------------------------------------------------------------------------------------


async def _live(bench: Bench, probe: Probe, **more: Any) -> None:
    """The life of an instance, in all that is said with each message."""
    await probe.open(**more)
    pool, label = bench.subject.pool, bench.subject.label
    await probe.ask(m.LIMITS.name, **more)
    await probe.ask(m.LABEL_USAGE.name, pool=pool, label=label, **more)
    await probe.ask(m.LABEL_READY.name, pool=pool, label=label, **more)
    if bench.makes_instances:
        external_id = await _create(bench, probe, **more)
        await probe.ask(m.WAIT.name, external_id=external_id, **more)
        await probe.ask(m.LIST.name, **more)
        await probe.ask(m.DELETE.name, external_id=external_id, **more)
    await probe.ask(m.PING.name, **more)


async def _create(bench: Bench, probe: Probe, **more: Any) -> str:
    spec = m.Spec.model_validate(bench.spec()).model_dump(mode="json")
    made = await probe.ask(m.CREATE.name, spec={**spec, **more}, **more)
    return str(made.get("external_id"))


_RULE_OF: Final = {m.CREATE.name: "D1", m.WAIT.name: "D4.1", m.LIST.name: "D6.1", m.DELETE.name: "D5.1"}
"""What a driver does not keep that refuses such a call, although nothing is wrong with it."""


@_check("P4", Level.BRONZE, is_basic=True)
async def its_lines_are_messages(bench: Bench) -> None:
    """Each line is one JSON-RPC 2.0 object of at most 1 MiB, in all of an instance's life."""
    probe = await bench.probe()
    trouble, rule = "", ""
    try:
        await _live(bench, probe)
    except ProbeError as error:
        trouble, rule = str(error), "P8"
    except RefusedCall as refusal:
        trouble = f"{probe.asked} was refused as {refusal.kind or refusal.code}: {refusal}"
        rule = _RULE_OF.get(probe.asked, "P19")
    wrong = probe.heard.against("P4")
    require(not wrong, "; ".join(dict.fromkeys(wrong)))
    require(not trouble, f"an instance's life could not be gone through: {trouble}", rule=rule)


@_check("P19", Level.BRONZE, is_basic=True)
async def its_answers_have_their_form(bench: Bench) -> None:
    """What it answers is as the OpenRPC document has it, driver data of at most 16 KiB."""
    async with _speaking(bench, "an instance's life") as probe:
        said: list[tuple[m.Method[Any, Any], Json]] = []
        await probe.open()
        pool, label = bench.subject.pool, bench.subject.label
        for method, params in (
            (m.LIMITS, {}),
            (m.LABEL_USAGE, {"pool": pool, "label": label}),
            (m.LABEL_READY, {"pool": pool, "label": label}),
        ):
            said.append((method, await probe.ask(method.name, **params)))
        if bench.makes_instances:
            spec = m.Spec.model_validate(bench.spec()).model_dump(mode="json")
            made = await probe.ask(m.CREATE.name, spec=spec)
            external_id = m.CREATE.result.model_validate(made).external_id
            require(bool(external_id), "the id of an instance is empty")
            said += [
                (m.CREATE, made),
                (m.WAIT, await probe.ask(m.WAIT.name, external_id=external_id)),
                (m.LIST, await probe.ask(m.LIST.name)),
                (m.DELETE, await probe.ask(m.DELETE.name, external_id=external_id)),
            ]
    for method, answer in said:
        _require_form(method, answer)


def _require_form(method: m.Method[Any, Any], answer: Json) -> None:
    try:
        method.result.model_validate(answer)
    except ValidationError as error:
        raise Violation(f"its answer to {method.name} is wrong at {_places(error)}") from None
    instances = [answer, answer.get("instance"), *answer.get("instances", ())]
    sizes = [
        len(json.dumps(each["driver_data"])) for each in instances if isinstance(each, dict) and "driver_data" in each
    ]
    require(max(sizes, default=0) <= m.MAX_DRIVER_DATA, f"it gave {max(sizes, default=0)} bytes of driver data")


@_check("P8", Level.BRONZE)
async def each_request_is_answered_once(bench: Bench) -> None:
    """Of several requests at once each gets an answer, and none two."""
    async with _speaking(bench, "one of several calls at once") as probe:
        await _live(bench, probe)
        asked = [probe.request(m.PING.name, {"deadline_s": 10.0})[1] for _ in range(8)]
        asked += [probe.request(m.LIMITS.name, {"deadline_s": 10.0})[1] for _ in range(8)]
        for each in asked:
            await probe.answer(each, "one of 16 requests at once")
        await probe.ask(m.PING.name)  # whatever it had to say before has been said
        wrong = probe.heard.against("P8")
        require(not wrong, "; ".join(dict.fromkeys(wrong)))


@_check("P6", Level.BRONZE)
async def what_it_does_not_know_is_passed_over(bench: Bench) -> None:
    """Fields and notifications that later versions may bring change nothing."""
    async with _speaking(bench, "a call with a field that is not known") as probe:
        await probe.connected()
        probe.note("$/invented-later", {"a": [1, {"b": None}]})
        await _live(bench, probe, **{"invented-later": {"x": [1, 2]}})
        probe.note("invented.later", {})
        probe.note(m.CANCEL, {"id": 10**6})
        await probe.ask(m.PING.name)


@_check("P7", Level.BRONZE)
async def unknown_methods_are_refused(bench: Bench) -> None:
    """A method it does not have is answered with code -32601, or as unsupported, and does no harm."""
    async with _speaking(bench) as probe:
        await probe.open()
        for method in ("cloud.weather", "instance.create.all", ""):
            try:
                await probe.ask(method)
            except RefusedCall as refusal:
                is_so = refusal.code == METHOD_NOT_FOUND or refusal.kind == ErrorKind.UNSUPPORTED
                require(is_so, f"it refused {method!r} with code {refusal.code} and kind {refusal.kind}")
            else:
                raise Violation(f"it answered {method!r}, which there is not")
        await probe.ask(m.PING.name)


@_check("P15", Level.BRONZE)
async def its_schemas_are_schemas(bench: Bench) -> None:
    """The schemas of its options are JSON Schemas, 2020-12."""
    async with _speaking(bench) as probe:
        await probe.shake_hands()
        for name, schema in m.plain(probe.identity.schemas).items():
            wrong = faults_of_schema(schema)
            require(not wrong, f"its schema for {name}: {'; '.join(wrong[:3])}")


# -- giving up ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _held_back(bench: Bench) -> AsyncIterator[None]:
    """Instances don't boot meanwhile, so that a wait for one is a long one."""
    bench.spec()  # tells of a driver that makes none
    if bench.faults.boot_held is None:
        raise Skipped("needs the fault 'boot-held'")
    async with bench.faults.boot_held():
        yield


@_check("P9", Level.SILVER)
async def a_cancelled_request_is_answered(bench: Bench) -> None:
    """With its result, or as cancelled, telling whether something may have been made; and soon."""
    async with _speaking(bench) as probe, _held_back(bench):
        await probe.open()
        external_id = await _create(bench, probe)
        spec = m.Spec.model_validate(bench.spec()).model_dump(mode="json")
        for method, params in ((m.WAIT, {"external_id": external_id}), (m.CREATE, {"spec": spec})):
            number, future = probe.request(method.name, {"deadline_s": 600.0, **params})
            probe.note(m.CANCEL, {"id": number})
            try:
                await probe.answer(future, f"a cancelled {method.name}", min(10.0, bench.subject.deadline_s))
                require(method is m.CREATE, "a wait that was cancelled came to an end all the same")
            except RefusedCall as refusal:
                kind = refusal.kind
                require(kind == ErrorKind.CANCELLED, f"a cancelled {method.name} was answered with kind {kind}")
                told = refusal.data.get("may_exist")
                require(
                    method is m.WAIT or isinstance(told, bool),
                    "its answer to a cancelled create does not say whether something may exist",
                )


@_check("P10", Level.GOLD)
async def a_deadline_is_kept(bench: Bench) -> None:
    """A call that can't be done in its time is given up by the driver itself."""
    async with _speaking(bench) as probe, _held_back(bench):
        await probe.open()
        external_id = await _create(bench, probe)
        _, future = probe.request(m.WAIT.name, {"deadline_s": DEADLINE_S, "external_id": external_id})
        try:
            await probe.answer(future, f"a wait with a deadline of {DEADLINE_S:g} s", LATE_S)
        except RefusedCall:
            return
    raise Violation("a wait for what does not boot was answered with an instance")


# -- the end -----------------------------------------------------------------------------------------------------------


@_check("P5", Level.BRONZE)
async def it_ends_with_the_connection(bench: Bench) -> None:
    """Two seconds after the connection's end the process is gone, whatever it was at."""
    async with _speaking(bench) as probe:
        await probe.open()
        await probe.ask(m.LIMITS.name)
        if m.UPKEEP.capability in probe.identity.capabilities:
            probe.request(m.UPKEEP.name, {"deadline_s": HAND_S})
        probe.hang_up()
        require(await probe.ended(END_S), f"{END_S:g} s after the connection had ended it still ran")


@_check("P13", Level.SILVER)
async def it_leaves_no_process_behind(bench: Bench) -> None:
    """When it is gone so is all that it started, but for instances, in sessions of their own."""
    bench.require_process()
    async with _speaking(bench, "an instance's life") as probe:
        await _live(bench, probe)
        probe.hang_up()
        await probe.ended(END_S)
        left = await _still_there(probe)
        require(not left, f"{len(left)} processes that it started are still there: {', '.join(map(_command, left))}")


async def _still_there(probe: Probe) -> list[int]:
    """What a process started and left, the instance of the life it had included, when all had END_S to end."""
    until = asyncio.get_running_loop().time() + END_S
    while True:
        left = [pid for pid, _ in descendants(probe.path) if pid != probe.pid]
        if not left or asyncio.get_running_loop().time() > until:
            return left
        await asyncio.sleep(LOOK_S)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    except OSError:
        return f"process {pid}"


@_check("P20", Level.SILVER)
async def it_leaves_no_files_behind(bench: Bench) -> None:
    """Nothing is left in TMPDIR when it is gone, nor in HOME but in .cache, .config and .local."""
    bench.require_process()
    with tempfile.TemporaryDirectory(prefix="nodelaunch-kit-") as home:
        with tempfile.TemporaryDirectory(prefix="nodelaunch-kit-") as scratch:
            async with _speaking(bench, environment={"HOME": home, "TMPDIR": scratch}) as probe:
                await probe.open()
                with suppress(RefusedCall):  # it may need what is in the real home
                    await _live_on(bench, probe)
                probe.hang_up()
                await probe.ended(END_S)
            left = _names_in(scratch)
        left += [f"~/{name}" for name in _names_in(home) if name not in ALLOWED_HOME]
    require(not left, f"it left {', '.join(sorted(left))}")


def _names_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


async def _live_on(bench: Bench, probe: Probe) -> None:
    await probe.ask(m.LIST.name)
    if bench.makes_instances:
        await probe.ask(m.DELETE.name, external_id=await _create(bench, probe))


@_check("P21", Level.SILVER)
async def it_does_not_flood(bench: Bench) -> None:
    """It doesn't say more, in output and notifications, than anybody would read."""
    async with _speaking(bench, "an instance's life") as probe:
        await _live(bench, probe)
        await probe.ask(m.PING.name)
        said = probe.heard.output.count(b"\n") + len(probe.heard.notes)
        require(said <= FLOOD, f"for one instance it said {said} lines and notifications")


@_check("P14", Level.BRONZE)
async def by_hand_it_says_what_it_is(bench: Bench) -> None:
    """Started without a launcher it prints its name, and ends without an error."""
    bench.require_process()
    command = bench.program.command
    process = await asyncio.create_subprocess_exec(
        *command.argv, env=environment_of(command), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(HAND_S):
            output, _ = await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, 9)
        await process.wait()
        raise Violation(f"it still ran after {HAND_S:g} s") from None
    text = output.decode(errors="replace")
    require(process.returncode == 0, f"it exited with code {process.returncode}: {text.strip()[-200:]}")
    is_told = command.name in text or "nodelaunch" in text  # an executable may have been renamed
    require(is_told, f"what it printed does not say that it is the driver {command.name}: {text.strip()[:200]!r}")


def _places(error: ValidationError) -> str:
    return ", ".join(".".join(map(str, each["loc"])) or "the whole" for each in error.errors(include_url=False))
