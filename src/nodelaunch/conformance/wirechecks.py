"""Checks of drivers in separate processes, rules P1 to P21: their messages, and the processes and files they leave.

Each check exchanges raw messages with a separate process (probe.py) and reports only violations of its own rule.
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

from nodelaunch.conformance.harness import Harness, Skipped, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.probe import Json, Probe, ProbeError, RefusedCall, descendants, environment_of
from nodelaunch.conformance.registry import Check, check
from nodelaunch.conformance.schemacheck import faults_of_schema
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.peer import METHOD_NOT_FOUND
from nodelaunch.errors import ErrorKind

END_S: Final = 2.0
"""Time in which a driver has to exit after the end of its connection."""
DEADLINE_S: Final = 0.3
LATE_S: Final = 5.0
"""Time in which a driver has to give up such a call; it allows for a busy machine."""
LOOK_S: Final = 0.02
"""Interval of looks for remaining processes."""
FLOOD: Final = 1000
"""Most lines and notifications during the life of one instance."""
HAND_S: Final = 30.0
ALLOWED_HOME: Final = (".cache", ".config", ".local")
"""Folders of a user's home in which a driver may keep files."""

CHECKS: list[Check] = []
_check = partial(check, CHECKS, of_processes=True)


@asynccontextmanager
async def _speaking(harness: Harness, what: str = "the handshake", **how: Any) -> AsyncIterator[Probe]:
    """Start a process; in the block, its failures to answer become violations."""
    probe = await harness.probe(**how)
    try:
        yield probe
    except ProbeError as error:
        raise Violation(str(error)) from None
    except RefusedCall as refusal:
        raise Violation(f"{what} was refused: {refusal}") from None
    except ValidationError as error:
        raise Violation(f"{what}: the answer is invalid at {_places(error)}") from None


# -- the handshake -----------------------------------------------------------------------------------------------------


@_check("P1", Level.BRONZE, is_basic=True)
async def it_connects_once(harness: Harness) -> None:
    """The driver connects exactly once to the given socket and reads its token from descriptor 3."""
    harness.require_process()
    async with _speaking(harness) as probe:
        await probe.connected()
        await probe.hello()
        connections = probe.received.connections
        require(connections == 1, f"the driver connected {connections} times")


@_check("P2", Level.BRONZE, is_basic=True)
async def it_proves_to_have_the_token(harness: Harness) -> None:
    """The driver's proof is computed from the token, its role and both nonces, at each handshake."""
    async with _speaking(harness) as probe:
        await probe.connected()
        for _ in range(2):
            answer = m.HelloResult.model_validate(await probe.hello())
            require(bool(answer.nonce), "the driver's nonce is empty")
            require(answer.proof == probe.proof("driver"), "the driver's proof of the token is wrong")


@_check("P2", Level.BRONZE)
async def strangers_are_refused(harness: Harness) -> None:
    """The driver refuses a launcher with a wrong proof, and all its calls."""
    async with _speaking(harness) as probe:
        await probe.connected()
        await probe.hello()
        try:
            await probe.ask(m.AUTHENTICATE.name, protocol=CONTRACT.max, proof="0" * 64)
        except (RefusedCall, ProbeError):
            pass  # an error and the end of the connection are both a refusal
        else:
            raise Violation("the driver accepted a wrong proof")
        try:
            await probe.ask(m.OPEN.name, provider=dict(probe.program.provider))
        except (RefusedCall, ProbeError):
            return
        raise Violation(f"the driver answered {m.OPEN.name} after a wrong proof")


@_check("P18", Level.BRONZE, is_basic=True)
async def its_versions_are_its_own(harness: Harness) -> None:
    """The driver reports the same range of versions for every range of the launcher, with a version of this kit."""
    seen = []
    ranges = [(CONTRACT.min, CONTRACT.max), (0, 0), (CONTRACT.min, CONTRACT.max + 8), (90, 99), (10**9, 10**9)]
    async with _speaking(harness) as probe:
        await probe.connected()
        for low, high in ranges:
            answer = m.HelloResult.model_validate(await probe.hello(protocol={"min": low, "max": high}))
            seen.append((answer.protocol.min, answer.protocol.max))
            different = f"for versions {low} to {high} the driver reports {seen[-1]}, before {seen[0]}"
            require(seen[0] == seen[-1], different)
    low, high = seen[0]
    require(0 <= low <= high, f"the driver's versions {low} to {high} are not a range")
    require(
        low <= CONTRACT.max and high >= CONTRACT.min,
        f"the driver speaks versions {low} to {high}, this kit {CONTRACT.min} to {CONTRACT.max}",
    )


# -- messages ----------------------------------------------------------------------------------------------------------


async def _live(harness: Harness, probe: Probe, **more: Any) -> None:
    """Make the calls for the life of one instance, each with the parameters *more*."""
    await probe.open(**more)
    pool, label = harness.under_test.pool, harness.under_test.label
    await probe.ask(m.LIMITS.name, **more)
    await probe.ask(m.LABEL_USAGE.name, pool=pool, label=label, **more)
    await probe.ask(m.LABEL_READY.name, pool=pool, label=label, **more)
    if harness.makes_instances:
        external_id = await _create(harness, probe, **more)
        await probe.ask(m.WAIT.name, external_id=external_id, **more)
        await probe.ask(m.LIST.name, **more)
        await probe.ask(m.DELETE.name, external_id=external_id, **more)
    await probe.ask(m.PING.name, **more)


async def _create(harness: Harness, probe: Probe, **more: Any) -> str:
    spec = m.Spec.model_validate(harness.spec()).model_dump(mode="json")
    made = await probe.ask(m.CREATE.name, spec={**spec, **more}, **more)
    return str(made.get("external_id"))


_RULE_OF: Final = {m.CREATE.name: "D1", m.WAIT.name: "D4.1", m.LIST.name: "D6.1", m.DELETE.name: "D5.1"}
"""Rule that a driver breaks if it refuses a valid call of this method."""


@_check("P4", Level.BRONZE, is_basic=True)
async def its_lines_are_messages(harness: Harness) -> None:
    """Each line is one JSON-RPC 2.0 object of at most 1 MiB, during the whole life of an instance."""
    probe = await harness.probe()
    trouble, rule = "", ""
    try:
        await _live(harness, probe)
    except ProbeError as error:
        trouble, rule = str(error), "P8"
    except RefusedCall as refusal:
        trouble = f"{probe.asked} was refused as {refusal.kind or refusal.code}: {refusal}"
        rule = _RULE_OF.get(probe.asked, "P19")
    wrong = probe.received.against("P4")
    require(not wrong, "; ".join(dict.fromkeys(wrong)))
    require(not trouble, f"the calls for one instance failed: {trouble}", rule=rule)


@_check("P19", Level.BRONZE, is_basic=True)
async def its_answers_have_their_form(harness: Harness) -> None:
    """Answers have the form of the OpenRPC document, and driver data has at most 16 KiB."""
    async with _speaking(harness, "the life of an instance") as probe:
        said: list[tuple[m.Method[Any, Any], Json]] = []
        await probe.open()
        pool, label = harness.under_test.pool, harness.under_test.label
        for method, params in (
            (m.LIMITS, {}),
            (m.LABEL_USAGE, {"pool": pool, "label": label}),
            (m.LABEL_READY, {"pool": pool, "label": label}),
        ):
            said.append((method, await probe.ask(method.name, **params)))
        if harness.makes_instances:
            spec = m.Spec.model_validate(harness.spec()).model_dump(mode="json")
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
        raise Violation(f"the answer to {method.name} is invalid at {_places(error)}") from None
    instances = [answer, answer.get("instance"), *answer.get("instances", ())]
    sizes = [
        len(json.dumps(each["driver_data"])) for each in instances if isinstance(each, dict) and "driver_data" in each
    ]
    require(
        max(sizes, default=0) <= m.MAX_DRIVER_DATA, f"the driver returned {max(sizes, default=0)} bytes of driver data"
    )


@_check("P8", Level.BRONZE)
async def each_request_is_answered_once(harness: Harness) -> None:
    """Each of several concurrent requests gets exactly one answer."""
    async with _speaking(harness, "one of several concurrent calls") as probe:
        await _live(harness, probe)
        asked = [probe.request(m.PING.name, {"deadline_s": 10.0})[1] for _ in range(8)]
        asked += [probe.request(m.LIMITS.name, {"deadline_s": 10.0})[1] for _ in range(8)]
        for each in asked:
            await probe.answer(each, "one of 16 concurrent requests")
        await probe.ask(m.PING.name)  # its answer comes after all earlier messages
        wrong = probe.received.against("P8")
        require(not wrong, "; ".join(dict.fromkeys(wrong)))


@_check("P6", Level.BRONZE)
async def what_it_does_not_know_is_passed_over(harness: Harness) -> None:
    """Unknown fields and notifications, as later versions may add them, have no effect."""
    async with _speaking(harness, "a call with an unknown field") as probe:
        await probe.connected()
        probe.note("$/invented-later", {"a": [1, {"b": None}]})
        await _live(harness, probe, **{"invented-later": {"x": [1, 2]}})
        probe.note("invented.later", {})
        probe.note(m.CANCEL, {"id": 10**6})
        await probe.ask(m.PING.name)


@_check("P7", Level.BRONZE)
async def unknown_methods_are_refused(harness: Harness) -> None:
    """An unknown method is answered with code -32601, or with kind unsupported, and has no effect."""
    async with _speaking(harness) as probe:
        await probe.open()
        for method in ("cloud.weather", "instance.create.all", ""):
            try:
                await probe.ask(method)
            except RefusedCall as refusal:
                is_so = refusal.code == METHOD_NOT_FOUND or refusal.kind == ErrorKind.UNSUPPORTED
                require(is_so, f"the driver refused {method!r} with code {refusal.code} and kind {refusal.kind}")
            else:
                raise Violation(f"the driver answered the unknown method {method!r}")
        await probe.ask(m.PING.name)


@_check("P15", Level.BRONZE)
async def its_schemas_are_schemas(harness: Harness) -> None:
    """The schemas of the driver's options are JSON Schemas (2020-12)."""
    async with _speaking(harness) as probe:
        await probe.shake_hands()
        for name, schema in m.plain(probe.identity.schemas).items():
            wrong = faults_of_schema(schema)
            require(not wrong, f"the driver's schema for {name}: {'; '.join(wrong[:3])}")


# -- giving up ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _held_back(harness: Harness) -> AsyncIterator[None]:
    """Hold the boot of instances in the block, so that waits take long."""
    harness.spec()  # raises Inapplicable if the driver makes no instances
    if harness.faults.boot_held is None:
        raise Skipped("needs the fault 'boot-held'")
    async with harness.faults.boot_held():
        yield


@_check("P9", Level.SILVER)
async def a_cancelled_request_is_answered(harness: Harness) -> None:
    """A cancelled request is answered soon: with its result, or as cancelled with ``may_exist``."""
    async with _speaking(harness) as probe, _held_back(harness):
        await probe.open()
        external_id = await _create(harness, probe)
        spec = m.Spec.model_validate(harness.spec()).model_dump(mode="json")
        for method, params in ((m.WAIT, {"external_id": external_id}), (m.CREATE, {"spec": spec})):
            number, future = probe.request(method.name, {"deadline_s": 600.0, **params})
            probe.note(m.CANCEL, {"id": number})
            try:
                await probe.answer(future, f"a cancelled {method.name}", min(10.0, harness.under_test.deadline_s))
                require(method is m.CREATE, "a cancelled wait was answered with a result")
            except RefusedCall as refusal:
                kind = refusal.kind
                require(kind == ErrorKind.CANCELLED, f"a cancelled {method.name} was answered with kind {kind}")
                told = refusal.data.get("may_exist")
                require(
                    method is m.WAIT or isinstance(told, bool),
                    "the answer to a cancelled create does not have may_exist",
                )


@_check("P10", Level.GOLD)
async def a_deadline_is_kept(harness: Harness) -> None:
    """The driver gives up a call at its deadline."""
    async with _speaking(harness) as probe, _held_back(harness):
        await probe.open()
        external_id = await _create(harness, probe)
        _, future = probe.request(m.WAIT.name, {"deadline_s": DEADLINE_S, "external_id": external_id})
        try:
            await probe.answer(future, f"a wait with a deadline of {DEADLINE_S:g} s", LATE_S)
        except RefusedCall:
            return
    raise Violation("a wait for an instance that does not boot was answered with an instance")


# -- the end -----------------------------------------------------------------------------------------------------------


@_check("P5", Level.BRONZE)
async def it_ends_with_the_connection(harness: Harness) -> None:
    """The process exits within two seconds after the end of its connection, even during a call."""
    async with _speaking(harness) as probe:
        await probe.open()
        await probe.ask(m.LIMITS.name)
        if m.UPKEEP.capability in probe.identity.capabilities:
            probe.request(m.UPKEEP.name, {"deadline_s": HAND_S})
        probe.hang_up()
        require(await probe.ended(END_S), f"the driver still ran {END_S:g} s after the end of its connection")


@_check("P13", Level.SILVER)
async def it_leaves_no_process_behind(harness: Harness) -> None:
    """After the driver's exit no process that it started remains, except instances in their own sessions."""
    harness.require_process()
    async with _speaking(harness, "the life of an instance") as probe:
        await _live(harness, probe)
        probe.hang_up()
        await probe.ended(END_S)
        left = await _still_there(probe)
        require(not left, f"{len(left)} processes of the driver remain: {', '.join(map(_command, left))}")


async def _still_there(probe: Probe) -> list[int]:
    """Return remaining processes of the driver after at most END_S, including those of the deleted instance."""
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
async def it_leaves_no_files_behind(harness: Harness) -> None:
    """The driver leaves no files in TMPDIR, nor in HOME outside of .cache, .config and .local."""
    harness.require_process()
    with tempfile.TemporaryDirectory(prefix="nodelaunch-kit-") as home:
        with tempfile.TemporaryDirectory(prefix="nodelaunch-kit-") as scratch:
            async with _speaking(harness, environment={"HOME": home, "TMPDIR": scratch}) as probe:
                await probe.open()
                with suppress(RefusedCall):  # the driver may need files of the real home
                    await _live_on(harness, probe)
                probe.hang_up()
                await probe.ended(END_S)
            left = _names_in(scratch)
        left += [f"~/{name}" for name in _names_in(home) if name not in ALLOWED_HOME]
    require(not left, f"the driver left files: {', '.join(sorted(left))}")


def _names_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


async def _live_on(harness: Harness, probe: Probe) -> None:
    await probe.ask(m.LIST.name)
    if harness.makes_instances:
        await probe.ask(m.DELETE.name, external_id=await _create(harness, probe))


@_check("P21", Level.SILVER)
async def it_does_not_flood(harness: Harness) -> None:
    """During the life of an instance the driver prints and sends at most 1,000 lines and notifications."""
    async with _speaking(harness, "the life of an instance") as probe:
        await _live(harness, probe)
        await probe.ask(m.PING.name)
        said = probe.received.output.count(b"\n") + len(probe.received.notes)
        require(said <= FLOOD, f"for one instance the driver sent {said} lines and notifications")


@_check("P14", Level.BRONZE)
async def by_hand_it_says_what_it_is(harness: Harness) -> None:
    """Started without a launcher, the driver prints its name and exits with code 0."""
    harness.require_process()
    command = harness.program.command
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
        raise Violation(f"the driver still ran after {HAND_S:g} s") from None
    text = output.decode(errors="replace")
    require(process.returncode == 0, f"the driver exited with code {process.returncode}: {text.strip()[-200:]}")
    is_told = command.name in text or "nodelaunch" in text  # an executable may have been renamed
    require(is_told, f"the output does not name the driver {command.name}: {text.strip()[:200]!r}")


def _places(error: ValidationError) -> str:
    return ", ".join(".".join(map(str, each["loc"])) or "the top level" for each in error.errors(include_url=False))
