"""Finds resources in a cloud that carry a provider's name but belong to no node: instances, and their leftovers.

leaksearch.py decides how often a leak has to be seen before it is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodelaunch.engine.provider.cloudfacts import listed
from nodelaunch.errors import legible
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_PROVIDER,
    Driver,
    ExternalId,
    Resource,
    SupportsInventory,
    SupportsLeftovers,
)
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.soundness import sound_resource
from nodelaunch.protocol.states import NodeState

INSTANCE = "instance"


@dataclass(frozen=True, slots=True)
class Leak:
    """A resource without a node. ``resource`` None: an instance."""

    kind: str
    external_id: str
    node_id: str
    """The id of the node it was created for; empty if unknown."""
    detail: str = ""
    resource: Resource | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The key that distinguishes it from every other leak of the provider."""
        return (self.kind, self.external_id)


async def find_leaks(driver: Driver, provider: str, node_of: Callable[[str], Node | None]) -> list[Leak]:
    """Return all resources of *provider* without a node, and instances whose node has got another one: a create may
    take effect after its launcher was cut off. *node_of* is called after the cloud has answered: a record is older than
    the instance created for it. Raises: DriverError."""
    if isinstance(driver, SupportsInventory):
        return []
    found = [
        Leak(INSTANCE, instance.external_id, _node_id_in(instance.metadata))
        async for instance in listed(driver)
        if instance.metadata.get(METADATA_PROVIDER) == provider
    ]
    if isinstance(driver, SupportsLeftovers):
        found += [
            Leak(each.kind, each.external_id, _node_id_in(each.metadata), legible(each.detail), each)
            for each in map(sound_resource, await driver.resources())
            if each.metadata.get(METADATA_PROVIDER) == provider
        ]
    return [leak for leak in found if not _is_owned(leak, node_of(leak.node_id))]


def _node_id_in(metadata: Mapping[str, str]) -> str:
    """Return the node id, made legible for logs: any client of the cloud may have written it."""
    return legible(str(metadata.get(METADATA_NODE_ID, "")))


def _is_owned(leak: Leak, node: Node | None) -> bool:
    if node is None:
        return False
    has_another = isinstance(node.external_id, str) and node.external_id != leak.external_id
    is_settled = bool(node.external_id) and node.state not in (NodeState.INIT, NodeState.BUILDING)
    return not (leak.resource is None and has_another and is_settled)


async def delete_leak(driver: Driver, leak: Leak) -> None:
    """Delete *leak*. Raises: DriverError."""
    if leak.resource is None:
        await driver.delete_instance(ExternalId(leak.external_id))
    elif isinstance(driver, SupportsLeftovers):
        await driver.delete_resource(leak.resource)
