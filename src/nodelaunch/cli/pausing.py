"""The commands that pause, drain and resume providers, pools and launchers; operations/pauses.py does the work."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import NodelaunchError
from nodelaunch.operations.pauses import (
    Pauser,
    drained,
    find_target,
    known_targets,
    operator_name,
    others_of,
    remaining,
    running,
)
from nodelaunch.protocol.pauses import Pause, TargetKind

TargetName = Annotated[
    str,
    Parameter(
        help="A provider, PROVIDER/POOL, or a launcher: its host name, its id or the beginning of its id.",
        metavar="TARGET",
    ),
]
Reason = Annotated[
    str | None,
    Parameter(
        help="Reason, shown with the pause. Default: the reason of the present pause, if there is one.",
        metavar="TEXT",
    ),
]


async def pause(target: TargetName, /, *, reason: Reason = None, as_json: AsJson = False, session: Given) -> None:
    """Stop a provider, a pool or a launcher from taking requests, until it is resumed.

    Requests that are already accepted are finished, and nodes are deleted as usual. A pause survives restarts. Pausing
    a drained target ends the drain and keeps the pause. If a provider and a launcher have the same name, write
    provider:NAME or launcher:NAME.
    """
    async with client_store(session) as store, synced_view(store) as view:
        where = find_target(target, view)
        is_known = where in known_targets(view)
        made = await Pauser(store).pause(where, by=operator_name(), reason=reason)
        _show(made, view, is_known=is_known, as_json=as_json)


async def drain(
    target: TargetName,
    /,
    *,
    reason: Reason = None,
    wait: Annotated[bool, Parameter(help="Wait until the target has no nodes.")] = False,
    timeout: Annotated[
        float | None,
        Parameter(help="Longest time for --wait.", metavar="SECONDS", validator=Number(gt=0)),
    ] = None,
    as_json: AsJson = False,
    session: Given,
) -> None:
    """Pause, and delete ready nodes that are not in use.

    Nodes in use are deleted when they are returned; held nodes stay. Exit code: 1 with --wait, the drain takes longer
    than --timeout.
    """
    async with client_store(session) as store, synced_view(store) as view:
        where = find_target(target, view)
        is_known = where in known_targets(view)
        made = await Pauser(store).pause(where, by=operator_name(), reason=reason, drains=True)
        _show(made, view, is_known=is_known, as_json=as_json)
        if not wait:
            return
        try:
            async with asyncio.timeout(timeout):
                await drained(store, view, where, report=lambda left: None if as_json else say(str(left)))
        except TimeoutError:
            raise NodelaunchError(f"{where} is not empty after {timeout:g} s: {remaining(view, where)}") from None
        if not as_json:
            say(f"{where} is empty")


async def resume(target: TargetName, /, *, session: Given) -> None:
    """Let a provider, a pool or a launcher take requests again.

    Each pause ends separately: a pool stays paused while its provider is paused, even after its own pause ends.
    """
    async with client_store(session) as store, synced_view(store) as view:
        where = find_target(target, view)
        was_paused = await Pauser(store).resume(where)
        say(f"{where} is resumed" if was_paused else f"{where} was not paused")
        for other in view.pauses:
            if other != where and other.concerns(where):
                say(f"but {view.pauses[other].record}")


def _show(made: Pause, view: ClusterView, *, is_known: bool, as_json: bool) -> None:
    if as_json:
        say_json(made.to_json())
        return
    say(str(made))
    if not is_known:
        who = f"no running launcher has this name; {running(view)}"
        others = "no provider or pool has this name now"
        say(f"note: {who if made.target.kind is TargetKind.LAUNCHER else others}")
    for peer in others_of(view, made.target):
        say(f"note: {peer.pool_id} also serves {peer.provider}/{peer.pool}; that program does not support pauses")
