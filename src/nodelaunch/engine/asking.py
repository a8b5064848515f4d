"""The requestor of nodes and the wanted labels, in a few short texts. history.py says why a request waits."""

from __future__ import annotations

from typing import Any, Final

from nodelaunch.errors import legible
from nodelaunch.protocol.records import NodeRequest

MOST: Final = 200
"""Characters of each text, and number of labels, at most: the memory of a request that has gone stays small."""


def zuul_facts(requestor_data: Any) -> dict[str, Any]:
    """Return the job, pipeline and build set that Zuul names in a request; each None if the requestor is not Zuul."""
    data = requestor_data if isinstance(requestor_data, dict) else {}
    return {"job": data.get("job_name"), "pipeline": data.get("pipeline_name"), "build_set": data.get("build_set_uuid")}


def asked(request: NodeRequest) -> dict[str, Any]:
    """Return the report of *request* for the time when it has gone, as JSON."""
    facts = {
        "requestor": request.requestor,
        "provider": request.provider,
        "tenant": request.tenant_name,
        **zuul_facts(request.requestor_data),
    }
    texts = {name: legible(value, MOST) if isinstance(value, str) else None for name, value in facts.items()}
    return {"labels": list(request.node_types[:MOST]), **texts}
