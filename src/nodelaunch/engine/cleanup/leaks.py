"""Finds what carries a provider's name in its cloud, but belongs to no node: instances, and what they left behind.

What does *not* belong here: deleting it, and how often it has to be seen first (sweeper.py).
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
    """One thing nobody owns. ``resource`` None: an instance."""

    kind: str
    external_id: str
    node_id: str
    """Of the node it was made for; empty where that is not known."""
    detail: str = ""
    resource: Resource | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Tells it from every other of the provider's."""
        return (self.kind, self.external_id)


async def find_leaks(driver: Driver, provider: str, node_of: Callable[[str], Node | None]) -> list[Leak]:
    """All of *provider* without a node, and instances whose node has got another one: a create may have its effect
    after its launcher was cut off. *node_of* is asked when the cloud has answered: a record is older than what is made
    for it. Raises: DriverError."""
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
    """For people, too: anybody may have written it."""
    return legible(str(metadata.get(METADATA_NODE_ID, "")))


def _is_owned(leak: Leak, node: Node | None) -> bool:
    if node is None:
        return False
    has_another = isinstance(node.external_id, str) and node.external_id != leak.external_id
    is_settled = bool(node.external_id) and node.state not in (NodeState.INIT, NodeState.BUILDING)
    return not (leak.resource is None and has_another and is_settled)


async def delete_leak(driver: Driver, leak: Leak) -> None:
    """Raises: DriverError."""
    if leak.resource is None:
        await driver.delete_instance(ExternalId(leak.external_id))
    elif isinstance(driver, SupportsLeftovers):
        await driver.delete_resource(leak.resource)
