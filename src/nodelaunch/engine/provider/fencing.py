"""Fences: by them a driver that can refuses a call of ours that arrives after another launcher took the node over.

Our own looks at a lock can't see to that: a call may be under way for any time. What does *not* belong here: which
calls are made.
"""

from __future__ import annotations

from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.protocol.driver import Fence
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.store import Lock


def fence_of(node: Node, lock: Lock) -> Fence:
    """That of all calls for *node* by whoever holds *lock*, its lock."""
    made_at = f"@{node.created_time:.6f}" if isinstance(node.created_time, float | int) else ""
    return Fence(f"{node.id}{made_at}", lock.fence)


async def raise_fence(provider: ProviderRuntime, fence: Fence) -> None:
    """Have older calls for the node be refused from now on, by a driver that can. Raises: DriverError."""
    generation = provider.current
    if generation.fencing is not None:
        async with provider.using(generation):
            await generation.fencing.raise_fence(fence)
