"""The tenants that may use each node of machines that exist already, by the machine that a record stands for.

The configuration decides, not the record: a record may be from before the last change, or from another program.
Restrictions of pools and labels are checked elsewhere, before any node is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nodelaunch.engine.provider.hostwatch import machine_of
from nodelaunch.engine.provider.runtime import Generation
from nodelaunch.protocol.access import NOBODY, Allowed
from nodelaunch.protocol.records import Node

Identity = tuple[str, str | None, int, int]


@dataclass(frozen=True, slots=True)
class HostRule:
    """The rule of one pool: the tenants that may use each slot of its machines."""

    machines: Mapping[Identity, Allowed]

    def allowed_on(self, node: Node) -> Allowed:
        """Return the tenants that may use *node*: none if its machine is not in the pool, because its record will soon
        be changed or deleted."""
        return self.machines.get(machine_of(node).identity, NOBODY)


def host_rule(generation: Generation, pool: str) -> HostRule | None:
    """Return the rule of *pool*; None if nothing at the provider is restricted: every tenant may use all nodes."""
    pools, inventory = generation.config.pools, generation.inventory
    if inventory is None or not any(each.tenants is not None or each.machine_tenants for each in pools):
        return None
    hosts = next((each.machine_tenants for each in pools if each.name == pool), {})
    machines = [machine.identity for machine in inventory.machines() if machine.pool == pool]
    return HostRule({identity: hosts.get(identity[:3]) for identity in machines})
