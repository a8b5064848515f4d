"""The program of a driver process: reads the token, connects and serves until the launcher hangs up, or listens."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import structlog

from nodelaunch.driverhost.packaged import completed
from nodelaunch.driverhost.wire.handshake import CONTRACT, SOCKET_VARIABLE, TOKEN_FD, spoken_with
from nodelaunch.driverhost.wire.messages import LOG, MAX_LINE, VersionRange
from nodelaunch.driverhost.wire.peer import GarbageError, Peer
from nodelaunch.driverhost.wire.versions import VersionMismatchError
from nodelaunch.drivers.plugin import DriverPlugin
from nodelaunch.sdk.cluster import RemoteCluster
from nodelaunch.sdk.listening import ListenError, listen
from nodelaunch.sdk.server import DriverServer

USAGE = """\
nodelaunch-driver-{name} {version}
{summary}

This is a driver of nodelaunch. Don't start it by hand: a launcher starts it for each provider of its configuration
with

    driver: {name}

if nodelaunch-driver-{name} is on the launcher's PATH. Or write its absolute path in place of the name.
It supports versions {contract.min} to {contract.max} of the driver contract.

If nodelaunch can't start it, as in a container or under a debugger, start it with

    --listen PATH

It then listens at the unix socket PATH for sessions until SIGTERM. nodelaunch driver check unix:PATH checks it there.
"""

_session_peer: ContextVar[Peer | None] = ContextVar("session_peer", default=None)
"""The other end of the current session, if there are several sessions."""


def serve(plugin: DriverPlugin, *, versions: VersionRange = CONTRACT, arguments: Sequence[str] | None = None) -> int:
    """Run the program of *plugin* and return its exit code. Started by hand, it prints a description of the driver.

    This is the main function of a program: it runs an event loop and sets up logging. The metadata of the package
    supplies version, maintainer and licence if the plugin omits them. The program speaks the *versions* of the contract
    that the plugin also supports. *arguments*: the command line; the only known argument is ``--listen PATH``.
    """
    plugin = completed(plugin)
    first, last = plugin.contract
    try:
        versions = spoken_with(versions, VersionRange(min=first, max=last), driver=plugin.name)
    except VersionMismatchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if (place := _place_to_listen(arguments)) is not None:
        return _listen(plugin, place, versions)
    path = os.environ.get(SOCKET_VARIABLE)
    if path is None:
        sys.stdout.write(
            USAGE.format(name=plugin.name, version=plugin.version, summary=plugin.summary, contract=versions)
        )
        return 0
    with os.fdopen(TOKEN_FD) as handed_over:
        token = handed_over.read().strip()
    return asyncio.run(_dial_in(plugin, path, token, versions))


def _place_to_listen(arguments: Sequence[str] | None) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--listen", metavar="PATH")
    place: str | None = parser.parse_known_args(arguments)[0].listen
    return place


def _listen(plugin: DriverPlugin, path: str, versions: VersionRange) -> int:
    _log_to(_session_peer.get)
    try:
        asyncio.run(listen(path, partial(_session, plugin, versions)))
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def _dial_in(plugin: DriverPlugin, path: str, token: str, versions: VersionRange) -> int:
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
    return 0 if await _session(plugin, versions, token, reader, writer, is_only=True) else 1


async def _session(
    plugin: DriverPlugin, versions: VersionRange, token: str, reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter, *, is_only: bool = False,
) -> bool:  # fmt: skip
    """Serve one launcher until it hangs up. Return True if it proved to have the token and kept the protocol."""
    server = DriverServer(plugin, token, versions)
    server.cluster = cluster = RemoteCluster()
    cluster.peer = peer = Peer(reader, writer, answer=server.answer, notice=cluster.on_note)
    server.note = peer.note
    _session_peer.set(peer)
    if is_only:
        _log_to(lambda: peer)  # from threads, too, which have no session
    try:
        await peer.run()
    except GarbageError as error:
        sys.stderr.write(f"the launcher broke the protocol: {error}\n")
        return False
    finally:
        await server.aclose()
    return server.is_proved


def _log_to(listener: Callable[[], Peer | None]) -> None:
    """Send the driver's log entries to the launcher as facts; entries without a session go to standard error."""

    def send(_logger: Any, method: str, entry: MutableMapping[str, Any]) -> Mapping[str, Any]:
        fields = {key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in entry.items()}
        event = str(fields.pop("event", ""))
        level = {"exception": "error", "critical": "error", "warn": "warning"}.get(method, method)
        peer = listener()
        if peer is not None:
            peer.note(LOG, {"level": level, "event": event, "fields": fields})
        else:
            sys.stderr.write(f"{level}: {event} {fields}\n")
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, send],
        cache_logger_on_first_use=False,
    )
