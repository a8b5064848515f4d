"""The program a process driver is: reads the token, dials in, serves until the launcher hangs up.

What does *not* belong here: what is answered (server.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.sdk.cluster import RemoteCluster
from nodelaunch.drivers.sdk.server import Server
from nodelaunch.drivers.wire.handshake import CONTRACT, SOCKET_VARIABLE, TOKEN_FD, VersionMismatchError, spoken_with
from nodelaunch.drivers.wire.messages import LOG, MAX_LINE, VersionRange
from nodelaunch.drivers.wire.peer import GarbageError, Peer

USAGE = """\
nodelaunch-driver-{name} {version}
{summary}

This is a driver of nodelaunch. It is not started by hand: a launcher does so for each provider of its configuration
with

    driver: {name}

provided that nodelaunch-driver-{name} is on its PATH, or its absolute path stands there in place of the name.
It speaks versions {contract.min} to {contract.max} of the driver contract.
"""


def serve(plugin: DriverPlugin, *, versions: VersionRange = CONTRACT) -> int:
    """Be the executable of *plugin*, to its end; the exit code. Started by hand it says what it is.

    The main function of a program: it runs an event loop and sets up logging. *versions* of the contract are spoken as
    far as the plugin keeps them.
    """
    first, last = plugin.contract
    try:
        versions = spoken_with(versions, VersionRange(min=first, max=last), driver=plugin.name)
    except VersionMismatchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    path = os.environ.get(SOCKET_VARIABLE)
    if path is None:
        sys.stdout.write(
            USAGE.format(name=plugin.name, version=plugin.version, summary=plugin.summary, contract=versions)
        )
        return 0
    with os.fdopen(TOKEN_FD) as handed_over:
        token = handed_over.read().strip()
    return asyncio.run(_serve(plugin, path, token, versions))


async def _serve(plugin: DriverPlugin, path: str, token: str, versions: VersionRange) -> int:
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
    server = Server(plugin, token, versions)
    server.cluster = cluster = RemoteCluster()
    cluster.peer = peer = Peer(reader, writer, answer=server.answer, notice=cluster.on_note)
    server.note = peer.note
    _log_to(peer)
    try:
        await peer.run()
    except GarbageError as error:
        sys.stderr.write(f"the launcher broke the protocol: {error}\n")
        return 1
    finally:
        await server.aclose()
    return 0 if server.is_proved else 1


def _log_to(peer: Peer) -> None:
    """Have what the driver logs go to the launcher, as facts."""

    def send(_logger: Any, method: str, entry: MutableMapping[str, Any]) -> Mapping[str, Any]:
        fields = {key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in entry.items()}
        event = str(fields.pop("event", ""))
        level = {"exception": "error", "critical": "error", "warn": "warning"}.get(method, method)
        peer.note(LOG, {"level": level, "event": event, "fields": fields})
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, send],
        cache_logger_on_first_use=False,
    )
