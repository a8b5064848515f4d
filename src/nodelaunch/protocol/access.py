"""Who may use what: pools, labels and machines that are for some tenants only.

What does *not* belong here: where that is configured, and what a pool says because of it (triage.py).
"""

from __future__ import annotations

from typing import NamedTuple

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR
from nodelaunch.protocol.records import NodeRequest

Allowed = frozenset[str] | None
"""Names of the tenants that may use something; None: everybody."""
NOBODY: Allowed = frozenset()


class Asker(NamedTuple):
    """Whom a request is for. One without a tenant may use only what everybody may."""

    tenant: str | None
    is_launcher: bool = False
    """Whether a launcher asks, for nodes to be kept ready: they are given to nobody by that."""

    def may_use(self, allowed: Allowed) -> bool:
        return allowed is None or self.is_launcher or self.tenant in allowed


LAUNCHER = Asker(None, is_launcher=True)


def asker_of(request: NodeRequest) -> Asker:
    """Whom *request* is for. A launcher's own request has no tenant."""
    is_own = request.requestor == MIN_READY_REQUESTOR and request.tenant_name is None
    return LAUNCHER if is_own else Asker(request.tenant_name)
