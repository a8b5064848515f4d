"""``nodelaunch explain REQUEST``: how a node request stands with each pool, why, and what would have to change."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import Parameter

from nodelaunch.cli.common import client_store, say, say_json, warm_view
from nodelaunch.cli.session import AsJson, Given
from nodelaunch.engine.questions import Answers, ask
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import NodeRequest, PoolRegistration


async def explain(
    request: Annotated[str, Parameter(help="Its id, such as 200-0000001234.", metavar="REQUEST")],
    /,
    *,
    as_json: AsJson = False,
    session: Given,
) -> int:
    """Say how a node request stands with each pool, why, and what would have to change."""
    request_id = RequestId(request)
    async with client_store(session) as store, warm_view(store) as view:
        processes = {seen.record.id: seen.record.hostname for seen in view.presences.values()}
        answers = await ask(store, request_id, list(processes))
        found = explanation(request_id, view, answers)
    silent = [f"{processes[process]} ({process})" for process in answers.silent]
    if as_json:
        say_json({**found, "silent": silent})
    else:
        for line in _lines(found, silent):
            say(line)
    is_known = found["request"] is not None or any(pool["status"] != "not known" for pool in found["pools"])
    return 0 if is_known else 1


def explanation(request_id: RequestId, view: ClusterView, answers: Answers) -> dict[str, Any]:
    """All there is to say: the request's record (None: there is none), and each pool's standing."""
    request = view.request(request_id)
    answered = {pool["pool_id"] for pool in answers.pools}
    others = [seen.record for seen in view.pools.values() if seen.record.id not in answered]
    return {
        "id": request_id,
        "request": _request(request) if request else None,
        "pools": [*answers.pools, *(_from_records(pool, request) for pool in others)],
    }


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
    }


def _from_records(pool: PoolRegistration, request: NodeRequest | None) -> dict[str, Any]:
    """What the records tell of a pool that doesn't answer: one of Nodepool's own launcher, say."""
    status = "does not answer questions"
    if request is not None and pool.id in request.declined_by:
        status = "declined"
    elif request is not None and (lacking := sorted(set(request.node_types) - set(pool.supported_labels))):
        status += f"; does not offer {', '.join(lacking)}"
    elif pool.paused:
        status += "; paused: requests wait there for room"
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
        lines.append("  there is no such request (any more)")
    else:
        lines.append(f"  {request['state']} for {request['state_age_s']} s; labels: {', '.join(request['labels'])}")
        if request["nodes"]:
            lines.append(f"  nodes: {', '.join(request['nodes'])}")
        lines += [f"  {name}: {request[name]}" for name in ("provider", "tenant", "requestor") if request[name]]
    if not found["pools"]:
        lines.append("no pool is registered: it waits until one is")
    for pool in found["pools"]:
        lines += ["", *_pool_lines(pool)]
    if silent:
        lines += ["", f"no answer from: {', '.join(silent)}"]
    return lines


def _pool_lines(pool: dict[str, Any]) -> list[str]:
    lines = [f"{pool['provider']}/{pool['pool']}: {pool['status']}"]
    for reason in pool["reasons"]:
        lines += [f"  because {reason['text']}", f"    to change that: {reason['remedy']}"]
    lines += [f"  breaker of {breaker['text']}" for breaker in pool.get("breakers", ())]
    lines += [f"  node {number}: {node}" for number, node in enumerate(pool["nodes"], 1)]
    for event in pool["history"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
        why = "; ".join(reason["text"] for reason in event["reasons"])
        lines.append(f"  {at} {event['what']}" + (f": {why}" if why else ""))
    return lines
