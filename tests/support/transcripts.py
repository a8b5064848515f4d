"""Golden transcripts of the driver contract on the wire: what a launcher says, and what a driver answers.

A line is ``> `` and a message of the launcher's, or ``< `` and one of the driver's. Nonces, token and version of the
launcher are fixed ones. In ``cluster`` it is the driver that asks. ``python -m support.transcripts`` (with tests on the
path) records them anew.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import CONTRACT, proof
from nodelaunch.driverhost.wire.peer import Peer
from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.test import PLUGIN
from nodelaunch.drivers.test.config import TestProvider
from nodelaunch.drivers.test.driver import TestDriver
from nodelaunch.errors import ErrorKind, QuotaExceededError, Scope
from nodelaunch.protocol.driver import DriverContext, ExternalId, InstanceSpec
from nodelaunch.sdk.server import DriverServer
from support import clusters

FOLDER = Path(__file__).parents[1] / "data" / "driver-transcripts"
TOKEN, LAUNCHER_NONCE, DRIVER_NONCE = "0123456789abcdef" * 4, "nonce-of-launcher", "nonce-of-driver"
PROVIDER = {"name": "cloud", "driver": "test", "pools": [{"name": "main", "labels": ["small"]}]}
SPEC = InstanceSpec("0000000001", "np0000000001", "main", "small", {"nodepool_node_id": "0000000001"})

Json = dict[str, Any]


WAITING = asyncio.Event()
"""Set once a create waits that never returns."""


class Moody(TestDriver):
    """Refuses one label, and never answers for another."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        if spec.label == "refused":
            raise QuotaExceededError(
                "no cores left", kind=ErrorKind.QUOTA, scope=Scope.POOL, retry_after_s=30.0, external_id="i-7"
            )
        if spec.label == "endless":
            WAITING.set()
            await asyncio.Event().wait()
        return await super().create_instance(spec)


def _open(config: TestProvider, context: DriverContext) -> Moody:
    return Moody(config, context)


MOODY = DriverPlugin("moody", TestProvider, _open, version="1.2", maintainer="somebody", licence="Apache-2.0")


def _call(method: m.Method[Any, Any], **params: Any) -> tuple[str, Json]:
    asked = method.params.model_validate({"deadline_s": 60.0, **params})
    return method.name, asked.model_dump(mode="json")


def _handshake() -> list[tuple[str, Json]]:
    launcher = {"name": "nodelaunch", "version": "1.0"}
    answer = proof(TOKEN, "launcher", LAUNCHER_NONCE, DRIVER_NONCE)
    return [
        _call(m.HELLO, protocol=CONTRACT, launcher=launcher, nonce=LAUNCHER_NONCE),
        _call(m.AUTHENTICATE, protocol=1, proof=answer),
    ]


def _spec(label: str) -> Json:
    return {**m.Spec.model_validate(SPEC).model_dump(), "label": label}


SCRIPTS: dict[str, tuple[DriverPlugin, Sequence[tuple[str, Json]]]] = {
    "life": (
        PLUGIN,
        [
            *_handshake(),
            _call(m.OPEN, provider=PROVIDER),
            _call(m.LIMITS),
            _call(m.LABEL_USAGE, pool="main", label="small"),
            _call(m.LABEL_READY, pool="main", label="small"),
            _call(m.CREATE, spec=_spec("small"), deadline_s=3600.0),
            _call(m.WAIT, external_id="np0000000001-1", deadline_s=3600.0),
            _call(m.LIST),
            _call(m.DELETE, external_id="np0000000001-1", deadline_s=600.0),
            _call(m.WAIT, external_id="np0000000001-1", deadline_s=3600.0),
        ],
    ),
    "refusals": (
        MOODY,
        [
            _call(m.LIMITS),
            *_handshake(),
            _call(m.LIMITS),
            _call(m.OPEN, provider={"name": "cloud", "driver": "moody", "colour": "red"}),
            _call(m.OPEN, provider={**PROVIDER, "driver": "moody"}),
            _call(m.CREATE, spec=_spec("refused")),
            _call(m.CREATE, spec=_spec("endless")),
            (m.CANCEL, {"id": 8}),
            _call(m.CREATE, spec=_spec("endless"), deadline_s=0.001),
            _call(m.ZONES),
            ("cloud.weather", {}),
            (m.WAIT.name, {"deadline_s": 1.0}),
            _call(m.LIST, cursor="yesterday"),
            _call(m.PING),
            _call(m.CLOSE),
        ],
    ),
    "stranger": (PLUGIN, [_handshake()[0], _call(m.AUTHENTICATE, protocol=1, proof="0" * 64), _call(m.LIMITS)]),
}
"""Driver and messages of the launcher, by name."""


async def record(name: str) -> list[str]:
    """The transcript as it is with this tree."""
    plugin, script = SCRIPTS[name]
    ours, theirs = socket.socketpair()
    server = DriverServer(plugin, TOKEN, CONTRACT)
    peer = Peer(*await asyncio.open_unix_connection(sock=ours, limit=m.MAX_LINE), answer=server.answer)
    server.note = peer.note
    running = asyncio.ensure_future(peer.run())
    reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=m.MAX_LINE)
    lines = []
    with mock.patch("nodelaunch.sdk.server.new_nonce", return_value=DRIVER_NONCE):
        for number, (method, params) in enumerate(script, 1):
            is_note = method == m.CANCEL
            message = {"jsonrpc": "2.0", **({} if is_note else {"id": number}), "method": method, "params": params}
            lines.append("> " + json.dumps(message))
            writer.write(json.dumps(message).encode() + b"\n")
            is_left_open = number < len(script) and script[number][0] == m.CANCEL
            if is_left_open:
                await WAITING.wait()
            else:
                lines.append("< " + json.dumps(json.loads(await reader.readline())))
    writer.close()
    await running
    await server.aclose()
    await writer.wait_closed()
    return lines


def recorded(name: str) -> list[str]:
    return (FOLDER / f"{name}.txt").read_text().splitlines()


if __name__ == "__main__":
    made = {**{each: asyncio.run(record(each)) for each in SCRIPTS}, "cluster": asyncio.run(clusters.record())}
    for each, lines in made.items():
        (FOLDER / f"{each}.txt").write_text("\n".join(lines) + "\n")
