"""Deletes an instance, and a node whose record names the instance.

The instance is deleted first, the record last: after a crash at any point, a record names the remaining resources.
sweeper.py decides which nodes are deleted, and when to try again.
"""

from __future__ import annotations

import asyncio
from typing import cast

from nodelaunch.clock import Clock
from nodelaunch.engine.provider.fencing import fence_of, raise_fence
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.view import ClusterView, Versioned
from nodelaunch.errors import LaunchFailedError, LockBusyError, NotEmptyError, RecordGoneError, VersionConflictError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import ExternalId, Fence
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import ABANDONED_WHEN_UNLOCKED, NodeState
from nodelaunch.protocol.store import CheckVersion, Delete, Entry, Lock, Op, Put, ReleaseLock, Store, TakeLock

DELETE_TIMEOUT_S = 600.0
"""Seconds that one deletion may take before it is given up for now. Source: Nodepool 11."""


async def delete_instance(provider: ProviderRuntime, external_id: ExternalId, fence: Fence) -> None:
    """Delete one instance of the node that *fence* belongs to, and wait until it no longer exists.

    Raises: DriverError, also if the deletion takes longer than `DELETE_TIMEOUT_S`.
    """
    generation = provider.current
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S), provider.using(generation) as driver:
            with provider.events.calling(provider.name, "delete"):
                if generation.fencing is not None:
                    await generation.fencing.delete_fenced(external_id, fence)
                else:
                    await driver.delete_instance(external_id)
    except TimeoutError:
        message = f"instance {external_id} not deleted within {DELETE_TIMEOUT_S:g} s"
        raise LaunchFailedError(message, provider=provider.name, external_id=external_id) from None


async def delete_node(
    store: Store, view: ClusterView, clock: Clock, provider: ProviderRuntime, node_id: NodeId
) -> bool:
    """Delete an abandoned node: its instance, then its record. Return False if this launcher may not delete the node,
    or not any more.

    Raises: DriverError if the instance could not be deleted (the record stays ``deleting``); StoreError.
    """
    seen = view.nodes.get(node_id)
    if seen is None or seen.record.state not in ABANDONED_WHEN_UNLOCKED:
        return False
    taken = await _take(store, seen, clock)
    if taken is None:
        return False
    node, version, lock = taken
    try:
        had_any = await _delete_instances(provider, node, fence_of(node, lock))
        await _remove_record(store, clock, node, version, lock)
    except (VersionConflictError, RecordGoneError):
        return False  # the node changed meanwhile: look again
    finally:
        await lock.release()
    if had_any:  # without an instance nothing was freed: a refusal by the cloud is still valid
        provider.capacity_freed()
    return True


async def _take(store: Store, seen: Versioned[Node], clock: Clock) -> tuple[Node, int, Lock] | None:
    """Lock the node and write it ``deleting``, in one step. None if it was locked, changed or deleted since it was
    seen.

    On success its holder has released it, in the state in which it was seen.
    """
    node, op = seen.record, cast("Op", CheckVersion(seen.path, seen.version))
    if node.state is not NodeState.DELETING:
        node = node.into(NodeState.DELETING, clock.now())
        op = Put(seen.path, node.to_bytes(), seen.version, record=node)
    try:
        lock, written = await store.commit([TakeLock(paths.node_lock(node.id)), op])
    except (LockBusyError, RecordGoneError, VersionConflictError):
        return None
    version = written.stat.version if isinstance(written, Entry) else seen.version
    return node, version, cast("Lock", lock)


async def _delete_instances(provider: ProviderRuntime, node: Node, fence: Fence) -> bool:
    """Return True if the node had any instance."""
    if not provider.can_launch:
        return True
    if node.external_id:
        await delete_instance(provider, ExternalId(node.external_id), fence)
        return True
    async with asyncio.timeout(DELETE_TIMEOUT_S):  # a create may have got no answer
        await raise_fence(provider, fence)  # and may still be under way
        leftovers = (await provider.instances_by_node()).get(node.id, [])
    for leftover in leftovers:
        await delete_instance(provider, leftover, fence)
    return bool(leftovers)


async def _remove_record(store: Store, clock: Clock, node: Node, version: int, lock: Lock) -> None:
    path = paths.node(node.id)
    try:
        await store.commit([ReleaseLock(lock), Delete(lock.path), Delete(path, version)], under=(lock,))
    except NotEmptyError:
        # A contender may wait for the lock. When it gets the lock, the state shows that the node is deleted.
        gone = node.into(NodeState.DELETED, clock.now())
        await store.commit([Put(path, gone.to_bytes(), version, record=gone)], under=(lock,))
        await store.delete_tree(path)
