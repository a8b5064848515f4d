"""``nodelaunch list``: the nodes and requests there are."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from nodelaunch.cli.common import client_store, say_json, warm_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node, NodeRequest

UNLIMITED = 10_000
"""Columns of a terminal that is wide enough for anything."""


async def list_records(
    *,
    requests: Annotated[bool, Parameter(help="Node requests instead of nodes.")] = False,
    as_json: AsJson = False,
    session: Given,
) -> None:
    """Show nodes, or requests."""
    async with client_store(session) as store, warm_view(store) as view:
        rows = request_rows(view) if requests else node_rows(view)
    if as_json:
        say_json(rows)
    else:
        show(table_of(rows, "requests" if requests else "nodes"))


def show(table: Table | str) -> None:
    """Print *table* with each row on one line, however narrow the terminal: an id that is broken can't be searched."""
    console = Console()
    if isinstance(table, Table):
        natural = console.options.update(max_width=UNLIMITED)
        console.width = max(console.width, Measurement.get(console, natural, table).maximum)
    console.print(table)


def node_rows(view: ClusterView) -> list[dict[str, Any]]:
    """One row a node, in the order of ids."""
    return [_node_row(view, seen.record) for _, seen in sorted(view.nodes.items())]


def _node_row(view: ClusterView, node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "provider": node.provider,
        "pool": node.pool,
        "label": list(node.type),
        "server_id": node.external_id,
        "interface_ip": node.interface_ip,
        "state": node.state.value,
        "age_s": _age(node.state_time),
        "locked": view.is_node_locked(node.id),
        "allocated_to": node.allocated_to,
    }


def request_rows(view: ClusterView) -> list[dict[str, Any]]:
    """One row a request, in the order of ids."""
    return [_request_row(seen.record) for _, seen in sorted(view.requests.items())]


def _request_row(request: NodeRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "relative_priority": request.relative_priority,
        "state": request.state.value,
        "age_s": _age(request.state_time),
        "requestor": request.requestor,
        "labels": list(request.node_types),
        "nodes": list(request.nodes),
        "declined_by": list(request.declined_by),
    }


def _age(since: float) -> int:
    return max(0, round(time.time() - since))


def table_of(rows: list[dict[str, Any]], what: str) -> Table | str:
    """*rows* as a table; where there are none, a text that says so."""
    if not rows:
        return f"no {what}"
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)
