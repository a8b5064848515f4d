"""Which tenants may have which nodes of machines that exist already: by the machine that a record stands for.

The configuration says it, not the record: a record may be from before the last change, or from another program.
What does *not* belong here: restrictions of pools and labels, which hold for a request before any node is looked at.
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
    """Of one pool: the tenants that may use each slot of its machines."""

    machines: Mapping[Identity, Allowed]

    def allowed_on(self, node: Node) -> Allowed:
        """Nobody may use a node whose machine is not in the pool: its record is about to change or to go."""
        return self.machines.get(machine_of(node).identity, NOBODY)


def host_rule(generation: Generation, pool: str) -> HostRule | None:
    """The rule of *pool*; None where nothing at the provider is restricted, so that everybody may use all."""
    pools, inventory = generation.config.pools, generation.inventory
    if inventory is None or not any(each.tenants is not None or each.machine_tenants for each in pools):
        return None
    hosts = next((each.machine_tenants for each in pools if each.name == pool), {})
    machines = [machine.identity for machine in inventory.machines() if machine.pool == pool]
    return HostRule({identity: hosts.get(identity[:3]) for identity in machines})
