"""The commands that keep providers, pools and launchers from taking requests, and let them again.

What does *not* belong here: what is written, and what is waited for (pausing.py).
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from nodelaunch.cli.common import client_store, say, say_json, warm_view
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
        help="A provider, PROVIDER/POOL, or a launcher by host name, id or the beginning of its id.", metavar="TARGET"
    ),
]
Reason = Annotated[
    str | None,
    Parameter(
        help="Why; shown wherever it is seen that it is paused. Default: as before, where it is paused already.",
        metavar="TEXT",
    ),
]


async def pause(target: TargetName, /, *, reason: Reason = None, as_json: AsJson = False, session: Given) -> None:
    """Have a provider, a pool or a launcher take no more requests, until it is resumed.

    What is under way is finished, and nodes are deleted as usual. It lasts across restarts. What is being drained is
    merely paused from then on. A name that is of a provider and of a launcher is told apart by provider:NAME and
    launcher:NAME.
    """
    async with client_store(session) as store, warm_view(store) as view:
        where = find_target(target, view)
        is_known = where in known_targets(view)
        made = await Pauser(store).pause(where, by=operator_name(), reason=reason)
        _show(made, view, is_known=is_known, as_json=as_json)


async def drain(
    target: TargetName,
    /,
    *,
    reason: Reason = None,
    wait: Annotated[bool, Parameter(help="Wait until none of its nodes is left.")] = False,
    timeout: Annotated[
        float | None,
        Parameter(help="With --wait: for so long at most.", metavar="SECONDS", validator=Number(gt=0)),
    ] = None,
    as_json: AsJson = False,
    session: Given,
) -> None:
    """Pause, and delete ready nodes that nobody has.

    Nodes in use are deleted as they come back; those that are held stay. Exit code: 1 with --wait, it takes longer
    than --timeout.
    """
    async with client_store(session) as store, warm_view(store) as view:
        where = find_target(target, view)
        is_known = where in known_targets(view)
        made = await Pauser(store).pause(where, by=operator_name(), reason=reason, drains=True)
        _show(made, view, is_known=is_known, as_json=as_json)
        if not wait:
            return
        try:
            async with asyncio.timeout(timeout):
                await drained(store, view, where, tell=lambda left: None if as_json else say(str(left)))
        except TimeoutError:
            raise NodelaunchError(f"{where} is not empty after {timeout:g} s: {remaining(view, where)}") from None
        if not as_json:
            say(f"{where} is empty")


async def resume(target: TargetName, /, *, session: Given) -> None:
    """Let a provider, a pool or a launcher take requests again.

    Each pause is ended by itself: a pool stays paused as long as its provider is, whatever became of its own pause.
    """
    async with client_store(session) as store, warm_view(store) as view:
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
        who = f"no launcher has this name now; {running(view)}"
        others = "nothing of this name is known now"
        say(f"note: {who if made.target.kind is TargetKind.LAUNCHER else others}")
    for peer in others_of(view, made.target):
        say(f"note: {peer.pool_id} serves {peer.provider}/{peer.pool}, too; its program knows nothing of pauses")
