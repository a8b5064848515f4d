"""Fences: a driver that supports them refuses a launcher's late call after another launcher took the node over.

A check of the lock can't ensure that: a call may be under way for any time.
"""

from __future__ import annotations

from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.protocol.driver import Fence
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import Lock


def fence_of(node: Node, lock: Lock) -> Fence:
    """Return the fence of all calls for *node* by the holder of *lock*, the node's lock."""
    made_at = f"@{node.created_time:.6f}" if isinstance(node.created_time, (float, int)) else ""
    return Fence(f"{node.id}{made_at}", lock.fence)


async def raise_fence(provider: ProviderRuntime, fence: Fence) -> None:
    """Make older calls for the node stale from now on, if the driver can. Raises: DriverError."""
    generation = provider.current
    if generation.fencing is not None:
        async with provider.using(generation):
            await generation.fencing.raise_fence(fence)
