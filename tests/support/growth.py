"""Resources that a process holds: tasks, descriptors, blocks of memory, and every container with its owner.

Two counts at rest, before and after much work of one kind, show what the work left behind.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTAINERS = (dict, list, set, collections.deque, collections.OrderedDict, collections.Counter, collections.defaultdict)
_OPAQUE = (type, types.ModuleType, types.FrameType, types.CodeType)


def blocks() -> int:
    """Return the number of memory blocks that Python objects have."""
    gc.collect()
    return sys.getallocatedblocks()


@dataclass
class Count:
    """Count at one moment. *sizes*: of each container by its id, which stays unique as long as the container is kept
    alive here.
    """

    tasks: int
    descriptors: int
    sizes: dict[int, int] = field(repr=False)
    kept: list[Any] = field(repr=False)

    @classmethod
    def now(cls) -> Count:
        """Return the count; call this only at rest."""
        gc.collect()
        kept = list(_containers())
        sizes = {id(each): len(each) for each in kept}
        return cls(len(asyncio.all_tasks()), sum(1 for _ in Path("/proc/self/fd").iterdir()), sizes, kept)


def _containers() -> Iterator[Any]:
    """Every container that there is, also those of plain values, which the garbage collector does not list."""
    seen: set[int] = set()
    for each in gc.get_objects():
        for found in (each, *gc.get_referents(each)):
            if type(found) in CONTAINERS and id(found) not in seen:
                seen.add(id(found))
                yield found


def grown(before: Count, after: Count, *, by: int) -> list[str]:
    """Return the containers that existed *before* and have more than *by* additional entries, each with its owner."""
    lists = (before.kept, after.kept)
    return [
        f"{len(each)} entries, {before.sizes[id(each)]} before: {_owner(each)}"
        for each in before.kept
        if after.sizes.get(id(each), 0) - before.sizes[id(each)] > by and not _is_dead(each, lists)
    ]


def _is_dead(container: Any, lists: tuple[list[Any], ...]) -> bool:
    """Return whether only the counting code refers to *container*: asyncio, for one, replaces its heap of timers."""
    return all(
        isinstance(each, types.FrameType) or any(each is kept for kept in lists) for each in gc.get_referrers(container)
    )


def _owner(container: Any) -> str:
    """Return the owner of *container* and its name there; without an owner, the start of its text."""
    for each in gc.get_referrers(container):
        if isinstance(each, _OPAQUE) or each is container:
            continue
        for name in _names(each):
            if _value(each, name) is container:
                return f"{type(each).__module__}.{type(each).__qualname__}.{name}"
        if isinstance(each, dict):
            for name, value in each.items():
                if value is container:
                    return f"{_owner_of_dict(each)}[{name!r}]"
    return repr(container)[:200]


def _names(owner: Any) -> Iterator[str]:
    yield from getattr(owner, "__dict__", ())
    for kind in type(owner).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _value(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of a foreign object may raise any exception
        return None


def _owner_of_dict(values: dict[Any, Any]) -> str:
    """Whose attributes or globals *values* are, as far as that shows."""
    for each in gc.get_referrers(values):
        if getattr(each, "__dict__", None) is values:
            return getattr(each, "__name__", type(each).__qualname__)
    return "a dict"
