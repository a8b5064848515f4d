"""Who asks for nodes, and for what, in a few short texts.

What does *not* belong here: why a request waits (history.py).
"""

from __future__ import annotations

from typing import Any, Final

from nodelaunch.errors import legible
from nodelaunch.protocol.records import NodeRequest

MOST: Final = 200
"""Characters of each text, and labels: what is kept of a request that has gone is small, whatever its author wrote."""


def zuul_facts(requestor_data: Any) -> dict[str, Any]:
    """Job, pipeline and build set that Zuul names in a request; None each where it is not Zuul's."""
    data = requestor_data if isinstance(requestor_data, dict) else {}
    return {"job": data.get("job_name"), "pipeline": data.get("pipeline_name"), "build_set": data.get("build_set_uuid")}


def asked(request: NodeRequest) -> dict[str, Any]:
    """What is told of *request* when it has gone, as JSON."""
    facts = {
        "requestor": request.requestor,
        "provider": request.provider,
        "tenant": request.tenant_name,
        **zuul_facts(request.requestor_data),
    }
    texts = {name: legible(value, MOST) if isinstance(value, str) else None for name, value in facts.items()}
    return {"labels": list(request.node_types[:MOST]), **texts}
