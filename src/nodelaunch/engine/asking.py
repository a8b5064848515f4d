"""Short texts about a request: its requestor and the wanted labels. serve/history.py has the reasons why it waits."""

from __future__ import annotations

from typing import Any, Final

from nodelaunch.errors import legible
from nodelaunch.protocol.records import NodeRequest

MOST: Final = 200
"""Most characters of each text, and most labels: the memory for a deleted request stays small."""


def zuul_facts(requestor_data: Any) -> dict[str, Any]:
    """Return the job, pipeline and build set that Zuul names in a request; each None if the requestor is not Zuul."""
    data = requestor_data if isinstance(requestor_data, dict) else {}
    return {"job": data.get("job_name"), "pipeline": data.get("pipeline_name"), "build_set": data.get("build_set_uuid")}


def asked(request: NodeRequest) -> dict[str, Any]:
    """Return the report of *request* for the time after its deletion, as JSON."""
    facts = {
        "requestor": request.requestor,
        "provider": request.provider,
        "tenant": request.tenant_name,
        **zuul_facts(request.requestor_data),
    }
    texts = {name: legible(value, MOST) if isinstance(value, str) else None for name, value in facts.items()}
    return {"labels": list(request.node_types[:MOST]), **texts}
