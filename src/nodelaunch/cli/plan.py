"""``nodelaunch config plan``: shows the effects of a reload with another configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, CliSession, Given
from nodelaunch.config.file import Loaded, load_with_places
from nodelaunch.config.values import Difference, Value
from nodelaunch.connecting import check_files
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import ConfigError, StoreError
from nodelaunch.operations.plan import Plan, node_changes, plan

SAME, DIFFERENT = 0, 3


async def command(
    new: Annotated[Path, Parameter(help="The new configuration.", metavar="NEW")],
    /,
    *,
    new_secure: Annotated[
        Path | None,
        Parameter(help="The new configuration's file for secrets; default: the file of --secure.", metavar="FILE"),
    ] = None,
    offline: Annotated[
        bool, Parameter(help="Read neither the nodes in the store nor the files that NEW names.")
    ] = False,
    detailed_exitcode: Annotated[
        bool, Parameter(help=f"Exit with {SAME} if nothing changes, with {DIFFERENT} if something does.")
    ] = False,
    as_json: AsJson = False,
    session: Given,
) -> int:
    """Show the effects of a reload with another configuration.

    NEW is compared with the configuration of --config; nothing is changed. Exit code: 0, with or without differences;
    2 one of the two configurations has an error.
    """
    old = load_with_places(session.config, secure=session.secure, drivers=DriverRegistry())
    secure = new_secure or session.secure
    coming = load_with_places(new, secure=secure, drivers=DriverRegistry())
    if not offline and (problems := check_files(coming.config, new, secure=secure)):
        raise ConfigError(problems)
    made = plan(old, coming)
    made = replace(made, nodes_unknown="--offline") if offline else await _with_nodes(made, old, coming, session)
    if as_json:
        say_json(made.to_json())
    else:
        for warning in coming.warnings:
            say(f"{warning} (warning)")
        say("\n".join(_lines(made)))
    return DIFFERENT if detailed_exitcode and made.changes else SAME


async def _with_nodes(made: Plan, old: Loaded, new: Loaded, session: CliSession) -> Plan:
    """Return *made* with the effects on nodes, or with the reason why they are not known."""
    try:
        async with client_store(session) as store, synced_view(store) as view:
            return replace(made, nodes=node_changes(made, old.config, new.config, view, time.time()))
    except (StoreError, ConfigError) as error:  # for example, the certificate is on another machine
        return replace(made, nodes_unknown=str(error))


def _lines(made: Plan) -> Iterator[str]:
    changes = made.changes
    if not changes:
        yield "nothing changes"
    for name in changes.added:
        yield f"+ provider {name} starts, with driver {made.drivers[name]}"
    for name in changes.changed:
        values = made.of("providers", name)
        yield f"~ provider {name} continues, its driver restarts{'' if values else ' because diskimages changed'}"
        yield from _value_lines(values)
    for name in changes.replaced:
        yield f"! provider {name} stops, releases its requests, and starts again with driver {made.drivers[name]}"
        yield from _value_lines(made.of("providers", name))
    for name in changes.removed:
        yield f"- provider {name} drains, and stops when it has no nodes left"
    yield from (f"+ pool {name} starts" for name in changes.pools_added)
    yield from (f"- pool {name} drains" for name in changes.pools_removed)
    for key in changes.settings:
        yield f"~ {key}: takes effect at once"
        yield from _value_lines(made.of(key))
    for key in changes.needs_restart:
        yield f"! {key}: NEEDS A RESTART; a reload does not change it"
        yield from _value_lines(made.of(key))
    if made.nodes is None:
        yield f"nodes: not known ({made.nodes_unknown})"
    for each in made.nodes or ():
        node = each.node
        what = f"{node.provider}/{node.pool}, {', '.join(node.type)}, {node.state.value}"
        yield f"node {node.id} ({what}) {_BECOMES[each.becomes]}: {each.reason}"


_BECOMES = {"deleted": "is deleted", "outdated": "becomes outdated"}


def _value_lines(values: Iterable[Difference]) -> Iterator[str]:
    for each in values:
        where = f"    {each.position.file}:{each.position.line}:{each.position.column}" if each.position else ""
        yield f"    {each.path}: {_in_words(each)}{where}"


def _in_words(each: Difference) -> str:
    if each.is_hidden:
        return f"{each.kind} (not shown: the value is secret or from the environment)"
    if each.kind == "changed":
        return f"{_shown(each.old)} -> {_shown(each.new)}"
    side = each.new if each.kind == "added" else each.old
    return each.kind if side.value is None else f"{each.kind}: {_shown(side)}"


def _shown(value: Value) -> str:
    text = "nothing" if value.value is None else json.dumps(value.value, ensure_ascii=False)
    return f"{text} (default)" if value.is_default else text
