"""Restrictions of pools, labels and machines to some tenants."""

from __future__ import annotations

from typing import NamedTuple

from nodelaunch.protocol.paths import MIN_READY_REQUESTOR
from nodelaunch.protocol.records import NodeRequest

Allowed = frozenset[str] | None
"""Names of the tenants that may use something; None: every tenant."""
NOBODY: Allowed = frozenset()


class Asker(NamedTuple):
    """The tenant that a request is for. A request without a tenant may use only pools, labels and machines that every
    tenant may use."""

    tenant: str | None
    is_launcher: bool = False
    """True if a launcher asks, for min-ready nodes: the request gives the nodes to no tenant."""

    def may_use(self, allowed: Allowed) -> bool:
        return allowed is None or self.is_launcher or self.tenant in allowed


LAUNCHER = Asker(None, is_launcher=True)


def asker_of(request: NodeRequest) -> Asker:
    """Return the asker of *request*. A launcher's own request has no tenant."""
    is_own = request.requestor == MIN_READY_REQUESTOR and request.tenant_name is None
    return LAUNCHER if is_own else Asker(request.tenant_name)
