"""``nodelaunch explain``: says why a node request waits, what a node is used for, which pools offer a label."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.cli.status import shortfall
from nodelaunch.cli.whatnext import pauses_of, what_next
from nodelaunch.engine.asking import zuul_facts
from nodelaunch.engine.reporting.explainrpc import Answers, ask, ask_reports, shared_pools
from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.serve.history import FULFILLED
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.paths import RequestId, is_request_id
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration
from nodelaunch.protocol.registrations import process_names
from nodelaunch.status import PoolStatus, collect

FACTS = ("provider", "tenant", "requestor", "pipeline", "job", "build_set")
"""Further facts of a request that are shown if known."""


async def explain(
    target: Annotated[
        str, Parameter(help="Id of a request (200-0000001234) or node (0000001234), or a label.", metavar="TARGET")
    ],
    /,
    *,
    as_json: AsJson = False,
    session: Given,
) -> int:
    """Say why a request waits, what a node is used for, or which pools offer a label.

    For a request: its status in each pool, the reasons, and what would change it. Exit code: 1 the target is unknown.
    """
    async with client_store(session) as store, synced_view(store) as view:
        request_id, had = RequestId(target), None
        if not is_request_id(target):
            node = view.node(target)
            processes = [seen.record.id for seen in view.presences.values()]
            is_known = node is not None or _is_label(view, target)
            reports = await ask_reports(store, processes) if processes and is_known else []
            about, lines = _about_node(view, node, reports) if node is not None else _about_label(view, target, reports)
            if node is None or not node.allocated_to:
                _print(about, lines, as_json=as_json)
                return 0 if about else 1
            if not as_json:
                say("\n".join(lines))
            request_id, had = node.allocated_to, about
        names = {seen.record.id: seen.record.hostname for seen in view.presences.values()}
        answers = await ask(store, request_id, list(names))
        found = explanation(request_id, view, answers)
        found["launchers"] = process_names(seen.record for seen in view.presences.values())
        if had is not None:
            found["node"] = had
    silent = [f"{names[process]} ({process})" for process in answers.silent]
    _print({**found, "silent": silent}, _lines(found, silent)[1 if had is not None else 0 :], as_json=as_json)
    return 0 if _is_known(found) else 1


def _is_known(found: dict[str, Any]) -> bool:
    """Return True if the request, the node or the label is known."""
    return (
        found["request"] is not None
        or found.get("node") is not None
        or any(pool["status"] != "not known" for pool in found["pools"])
    )


def _print(about: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    if as_json:
        say_json(about)
    else:
        say("\n".join(lines))


def _about_node(view: ClusterView, node: Node, reports: Collection[LauncherReport]) -> tuple[dict[str, Any], list[str]]:
    """Return a node's state and use, as data and as lines."""
    age_s = max(0, round(time.time() - node.state_time))
    about = {
        "id": node.id, "state": node.state.value, "state_age_s": age_s, "provider": node.provider, "pool": node.pool,
        "labels": list(node.type), "server_id": node.external_id, "allocated_to": node.allocated_to,
        "locked": view.is_node_locked(node.id), "comment": node.comment, "hold_job": node.hold_job,
        "requestor": node.requestor, "tenant": node.tenant_name, "project": _project(node),
        "next": what_next(view, node, reports),
    }  # fmt: skip
    lines = [
        f"node {node.id}",
        f"  {node.state.value} for {age_s} s{', locked' if about['locked'] else ''}; labels: {', '.join(node.type)}",
        f"  provider: {node.provider}, pool: {node.pool}, instance: {node.external_id or 'none'}",
    ]
    lines += [f"  {name}: {about[name]}" for name in _OF_A_NODE if about[name]]
    lines += [f"  {line}" for line in about["next"]]
    if node.allocated_to:
        lines.append(f"  for request {node.allocated_to}:")
    return about, lines


_OF_A_NODE = ("comment", "hold_job", "requestor", "tenant", "project")
"""Further facts of a node that are shown if known."""


def _project(node: Node) -> str | None:
    """Return the project whose job uses the node, if Zuul recorded it."""
    name = node.user_data.get("project_name") if isinstance(node.user_data, dict) else None
    return name if isinstance(name, str) else None


def _about_label(
    view: ClusterView, label: str, reports: Collection[LauncherReport]
) -> tuple[dict[str, Any], list[str]]:
    """Return the pools that offer a label, and counts of its nodes and requests; no data for an unknown label."""
    found = collect(view, reports, time.time())
    pools = [pool for pool in found.pools if label in pool.labels]
    short = next((each for each in found.min_ready if each.label == label), None)
    states = Counter(seen.record.state.value for seen in view.nodes.values() if label in seen.record.type)
    asking = [seen.record for seen in view.requests.values() if label in seen.record.node_types]
    if not pools and not states and not asking:
        return {}, [f"{label}: no request, node or registered pool has this id or label"]
    offered = [f"{_name(pool)}{'' if pool.state == 'running' else f' ({pool.state})'}" for pool in pools]
    requests = Counter(request.state.value for request in asking)
    about = {
        "label": label, "pools": offered, "nodes": dict(states), "requests": dict(requests),
        "min_ready": msgspec.to_builtins(short) if short is not None else None,
    }  # fmt: skip
    lines = [
        f"label {label}",
        f"  offered by: {', '.join(offered) or 'no registered pool'}",
        *(f"    {_name(pool)}: {reason}" for pool in pools for reason in _why_not(view, pool)),
        f"  nodes: {_counted(states)}",
        f"  requests: {_counted(requests)}",
    ]
    if short is not None:
        lines += [f"  min-ready: {shortfall(short, found.at)}", *(f"    {why}" for why in short.why)]
    return about, lines


def _name(pool: PoolStatus) -> str:
    return f"{pool.provider}/{pool.pool}"


def _why_not(view: ClusterView, pool: PoolStatus) -> list[str]:
    """Return why a pool takes no requests now."""
    if pool.state in ("paused", "draining"):
        return pauses_of(view, pool.provider, pool.pool)
    if pool.down is not None:
        return [pool.down]
    return {"full": ["requests wait there for capacity"], "off": ["max-concurrency of its provider is 0"]}.get(
        pool.state, []
    )


def _is_label(view: ClusterView, label: str) -> bool:
    """Return True if a pool, node or request has *label*."""
    return (
        any(label in seen.record.supported_labels for seen in view.pools.values())
        or any(label in seen.record.type for seen in view.nodes.values())
        or any(label in seen.record.node_types for seen in view.requests.values())
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def explanation(request_id: RequestId, view: ClusterView, answers: Answers) -> dict[str, Any]:
    """Return the request's record (None: there is none), and its status in each pool."""
    request = view.request(request_id)
    answered = {pool["pool_id"] for pool in answers.pools}
    others = [seen.record for seen in view.pools.values() if seen.record.id not in answered]
    return {
        "id": request_id,
        "request": _request(request) if request else None,
        "asked": next((pool["asked"] for pool in answers.pools if pool.get("asked")), None),
        "nodes": _nodes_of(request_id, view),
        "pools": [*answers.pools, *(_from_records(pool, request) for pool in others)],
    }


def _nodes_of(request_id: RequestId, view: ClusterView) -> dict[str, str]:
    """Return the state of each existing node of a request."""
    nodes = [seen.record for seen in view.nodes.values() if seen.record.allocated_to == request_id]
    return {node.id: node.state.value for node in nodes}


def _request(request: NodeRequest) -> dict[str, Any]:
    return {
        "state": request.state.value,
        "state_age_s": max(0, round(time.time() - request.state_time)),
        "labels": list(request.node_types),
        "nodes": list(request.nodes),
        "declined_by": list(request.declined_by),
        "requestor": request.requestor,
        "provider": request.provider,
        "tenant": request.tenant_name,
        "relative_priority": request.relative_priority,
        **zuul_facts(request.requestor_data),
    }


def _from_records(pool: PoolRegistration, request: NodeRequest | None) -> dict[str, Any]:
    """Return what the records say of a pool that does not answer, such as a pool of Nodepool's launcher."""
    status = "does not answer questions"
    if request is not None and pool.id in request.declined_by:
        status = "declined"
    elif request is not None and (lacking := sorted(set(request.node_types) - set(pool.supported_labels))):
        status += f"; does not offer {', '.join(lacking)}"
    elif pool.paused:
        status += "; paused: requests wait there for capacity"
    return {
        "pool_id": pool.id or "",
        "provider": pool.provider_name or "",
        "pool": pool.name or "",
        "status": status,
        "reasons": [],
        "nodes": [],
        "breakers": [],
        "history": [],
    }


def _lines(found: dict[str, Any], silent: list[str]) -> list[str]:
    lines = [f"request {found['id']}"]
    request = found["request"]
    if request is None:
        lines.append(f"  {_end_of(found)}")
        asked = found["asked"] or {}
        lines += [f"  {name}: {asked[name]}" for name in FACTS if asked.get(name)]
    else:
        lines.append(f"  {request['state']} for {request['state_age_s']} s; labels: {', '.join(request['labels'])}")
        if request["nodes"]:
            lines.append(f"  nodes: {', '.join(request['nodes'])}")
        lines += [f"  {name}: {request[name]}" for name in FACTS if request[name]]
    if not found["pools"] and request is not None:
        lines.append("no pool is registered: the request waits until a pool registers")
    shared, called = shared_pools(found["pools"]), found.get("launchers", {})
    for pool in found["pools"]:
        if request is None and pool["status"] == "not known":
            continue
        of = called.get(pool.get("launcher")) or _host_of(pool)
        is_shared = (pool["provider"], pool["pool"]) in shared
        lines += ["", *_pool_lines(pool, of=f" of {of}" if is_shared else "")]
    if silent:
        lines += ["", f"no answer from: {', '.join(silent)}"]
    return lines


def _end_of(found: dict[str, Any]) -> str:
    """Return the outcome of a request that no longer exists."""
    pools = [pool for pool in found["pools"] if pool["history"]]
    nodes = ", ".join(f"{node_id} ({state})" for node_id, state in found["nodes"].items())
    if not pools:
        if nodes:
            return f"the request was fulfilled; its nodes: {nodes}"
        return "there is no such request, and no launcher remembers it: it never existed, or it ended long ago"
    if not any(event["what"] == FULFILLED for pool in pools for event in pool["history"]):
        return f"the request has ended: {pools[-1]['history'][-1]['what']}" + (f"; its nodes: {nodes}" if nodes else "")
    return "the request was fulfilled; " + (f"its nodes: {nodes}" if nodes else "its nodes have been returned")


def _host_of(pool: dict[str, Any]) -> str:
    """Return the launcher's host name: the beginning of a pool's id. Source: Nodepool 11."""
    return str(pool["pool_id"]).partition("-PoolWorker")[0]


def _pool_lines(pool: dict[str, Any], *, of: str = "") -> list[str]:
    lines = [f"{pool['provider']}/{pool['pool']}{of}: {pool['status']}"]
    for reason in pool["reasons"]:
        lines += [f"  because {reason['text']}", f"    to change that: {reason['remedy']}"]
    lines += [f"  breaker of {breaker['text']}" for breaker in pool.get("breakers", ())]
    lines += [f"  node {number}: {node}" for number, node in enumerate(pool["nodes"], 1)]
    for event in pool["history"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
        why = "; ".join(reason["text"] for reason in event["reasons"])
        lines.append(f"  {at} {event['what']}" + (f": {why}" if why else ""))
    return lines
