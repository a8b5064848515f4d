"""``nodelaunch status``: shows launchers, pools, waiting requests, pauses and the last failures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.cli.tables import aligned
from nodelaunch.config.standing import remarks
from nodelaunch.operations.listing import age_text
from nodelaunch.status import LauncherStatus, PoolStatus, ReadyShortfall, Status, ask_status


async def status(*, as_json: AsJson = False, session: Given) -> None:
    """Show launchers with their configuration, pools with limits and use, pauses, waiting requests with reasons.

    The command asks the launchers, and leaves out the data of a launcher that does not answer within five seconds.
    """
    async with client_store(session) as store, synced_view(store) as view:
        found = await ask_status(store, view, time.time())
    if as_json:
        say_json(found.to_json())
    else:
        say("\n".join(in_words(found)))


def in_words(found: Status) -> list[str]:
    """Return *found* as lines of text."""
    lines = _table(LAUNCHERS, [_launcher(each, found.at) for each in found.launchers]) or ["no launcher runs"]
    lines += [f"{each.hostname} ({each.id}): {text}" for each in found.launchers for text in _remarks(each)]
    lines += ["", *(_table(POOLS, [_pool(each) for each in found.pools]) or ["no pool is known"])]
    if found.pauses:
        lines += ["", *(pause.text for pause in found.pauses)]
    faults = [f"{pool.provider}: {pool.down}" for pool in found.pools if pool.down is not None]
    faults += [str(breaker) for pool in found.pools for breaker in pool.breakers]
    if faults:
        lines += ["", *dict.fromkeys(faults)]
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found.requests.items()))
    lines += ["", f"requests: {counts or 'none'}"]
    for request in found.waiting:
        lines.append(f"  {request.id}  {age_text(found.at - request.since)}  {','.join(request.labels)}")
        lines += [f"    {reason}" for reason in request.why]
    for short in found.min_ready:
        lines += [f"min-ready of {short.label}: {shortfall(short, found.at)}", *(f"    {why}" for why in short.why)]
    if found.troubles:
        lines += ["", "last failures:"]
        lines += [
            f"  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(trouble.at))} {trouble.provider}/{trouble.pool} "
            f"{trouble.request}: {trouble.what}"
            for trouble in found.troubles
        ]
    return lines


def shortfall(short: ReadyShortfall, now: float) -> str:
    """Return how many nodes of a label are ready, and when missing nodes are requested again."""
    asked = f", {short.asked} requested" if short.asked else ""
    text = f"{short.ready} of {short.wanted} ready{asked}"
    if short.retry_at is None:
        return text
    again = f"{text}; requested again in {max(0, round(short.retry_at - now))} s"
    return f"{again}, or as soon as there is capacity" if short.lacks_room else again


LAUNCHERS = ("Launcher", "Process", "PID", "Version", "State", "Up", "Pools", "Configuration", "Loaded")
POOLS = ("Pool", "State", "Launchers", "Used", "Limit", "Free", "Nodes", "Working")


def _launcher(each: LauncherStatus, now: float) -> list[str]:
    config = each.config
    state = each.state if each.answers or not each.id else f"{each.state}, no answer"
    return [
        each.hostname,
        each.id or "another program",
        str(each.pid or ""),
        each.version or "",
        state,
        age_text(now - each.since) if each.since is not None else "",
        ",".join(each.pools),
        f"{config.path or 'not from a file'} ({config.digest})" if config is not None else "",
        age_text(now - config.loaded_at) if config is not None else "",
    ]


def _remarks(each: LauncherStatus) -> list[str]:
    config = each.config
    return remarks(config.restart_needed, config.problems, config.refused_at) if config is not None else []


def _pool(each: PoolStatus) -> list[str]:
    return [
        f"{each.provider}/{each.pool}",
        each.state,
        ",".join(each.launchers),
        _amounts(each.used, each.limits or each.used),
        _amounts(each.limits, each.limits),
        _amounts(each.free, each.limits),
        ",".join(f"{count} {state}" for state, count in each.nodes.items()),
        str(each.working),
    ]


def _amounts(amounts: Mapping[str, float], names: Iterable[str]) -> str:
    """Return amounts as text, such as ``instances 3, cores 12``."""
    return ", ".join(f"{name} {amounts.get(name, 0):.15g}" for name in names)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned([head, *rows]).splitlines() if rows else []
