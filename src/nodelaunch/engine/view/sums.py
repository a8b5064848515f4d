"""Running sums of nodes' usage, and idle nodes in order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from nodelaunch.engine.view.events import Versioned
from nodelaunch.protocol.access import Allowed
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import INSTANCES, NOTHING, Usage
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState

K = TypeVar("K")
Amounts = Mapping[str, float]

ON_THE_WAY_OUT: Final = frozenset(
    {NodeState.USED, NodeState.DELETING, NodeState.DELETED, NodeState.FAILED, NodeState.ABORTED}
)
"""A node in one of these states soon frees its usage."""
_DIGITS: Final = 6
"""Decimals of an amount that are kept, so that floating-point errors don't add up."""
_ONE: Final[Amounts] = {INSTANCES: 1}
_NONE: Final[Amounts] = {}


class Sums(Generic[K]):
    """Sums of amounts by key.

    Invariants: the sum of a key is that of all amounts added under it and not subtracted; no entry is left for a key
    without amounts.
    """

    def __init__(self) -> None:
        self._sums: dict[K, dict[str, float]] = {}
        self._counts: dict[K, int] = {}
        self._cached: dict[K, Usage] = {}
        """Sums that were read since they last changed."""

    def of(self, key: K) -> Usage:
        cached = self._cached.get(key)
        if cached is None:
            sums = self._sums.get(key)
            if sums is None:
                return NOTHING
            cached = self._cached[key] = Usage(sums)
        return cached

    def keys(self) -> set[K]:
        return set(self._counts)

    def add(self, key: K, amounts: Amounts) -> None:
        count = self._counts.get(key, 0)
        sums = self._sums[key] if count else self._sums.setdefault(key, {})
        self._counts[key] = count + 1
        for name, amount in amounts.items():
            total = sums.get(name, 0) + amount
            sums[name] = total if type(total) is int else round(total, _DIGITS)
        self._cached.pop(key, None)

    def take_off(self, key: K, amounts: Amounts) -> None:
        """Subtract amounts that were added under *key* before."""
        count = self._counts[key] - 1
        self._cached.pop(key, None)
        if not count:
            del self._sums[key], self._counts[key]
            return
        self._counts[key] = count
        sums = self._sums[key]
        for name, amount in amounts.items():
            total = sums[name] - amount
            sums[name] = total if type(total) is int else round(total, _DIGITS)


class NodeSums:
    """The usage of recorded nodes: by provider, by pool, by tenant (idle nodes count for none), and of nodes that are
    soon deleted. Touched only by changes that count."""

    def __init__(self) -> None:
        self.of_provider: Sums[str] = Sums()
        self.of_pool: Sums[tuple[str, str]] = Sums()
        self.of_tenant: Sums[str] = Sums()
        self.leaving: Sums[tuple[str, str]] = Sums()
        """Usage of nodes that are soon deleted, by pool; a record without its usage counts as nothing here."""

    def change(self, old: Node | None, new: Node | None) -> None:
        """Replace *old* by *new*; None: the node did not exist, or was removed."""
        if (
            old is not None
            and new is not None
            and old.resources == new.resources
            and old.provider == new.provider
            and old.pool == new.pool
            and (old.hostname is None) == (new.hostname is None)
        ):
            was_idle = old.state is NodeState.READY and not old.allocated_to
            is_idle = new.state is NodeState.READY and not new.allocated_to
            is_leaving = (old.state in ON_THE_WAY_OUT) != (new.state in ON_THE_WAY_OUT)
            if was_idle is not is_idle or is_leaving or old.tenant_name != new.tenant_name:
                self._change_state(old, new)
            return
        if old is not None:
            self._count(old, is_added=False)
        if new is not None:
            self._count(new, is_added=True)

    def _count(self, node: Node, *, is_added: bool) -> None:
        amounts = taken(node)
        if node.provider:
            key = (node.provider, node.pool or "")
            if is_added:
                self.of_provider.add(node.provider, amounts)
                self.of_pool.add(key, amounts)
            else:
                self.of_provider.take_off(node.provider, amounts)
                self.of_pool.take_off(key, amounts)
        if is_added:
            self._change_state(None, node)
        else:
            self._change_state(node, None)

    def _change_state(self, old: Node | None, new: Node | None) -> None:
        """Update the sums that depend on a node's state: its tenant's share, and the usage that is soon freed."""
        was, now = tenant_of(old), tenant_of(new)
        if was != now:
            if was is not None and old is not None:
                self.of_tenant.take_off(was, taken(old))
            if now is not None and new is not None:
                self.of_tenant.add(now, taken(new))
        was_leaving = old is not None and old.state in ON_THE_WAY_OUT
        is_leaving = new is not None and new.state in ON_THE_WAY_OUT
        if was_leaving and old is not None and not is_leaving:
            self.leaving.take_off((old.provider or "", old.pool or ""), old.resources or _NONE)
        if is_leaving and new is not None and not was_leaving:
            self.leaving.add((new.provider or "", new.pool or ""), new.resources or _NONE)


def taken(node: Node) -> Amounts:
    """Return a node's usage. A record without its usage counts as at least one instance; static nodes never
    have one."""
    resources = node.resources
    if resources is None:
        return _ONE if node.hostname is None else _NONE
    return resources


def tenant_of(node: Node | None) -> str | None:
    """Return the tenant for whose share the node counts."""
    if node is None or (node.state is NodeState.READY and not node.allocated_to):
        return None
    return node.tenant_name or None


class SortedIdleNodes:
    """Idle nodes in order of readiness, the longest ready first.

    Invariant: ``_keys[i]`` is (state time, id) of ``nodes[i]``, and the keys are sorted.
    """

    __slots__ = ("_keys", "nodes")

    def __init__(self) -> None:
        self._keys: list[tuple[float, NodeId]] = []
        self.nodes: list[Versioned[Node]] = []

    def add(self, seen: Versioned[Node]) -> None:
        key = (seen.record.state_time, seen.record.id)
        index = bisect_left(self._keys, key)
        self._keys.insert(index, key)
        self.nodes.insert(index, seen)

    def remove(self, node: Node) -> None:
        index = bisect_left(self._keys, (node.state_time, node.id))
        del self._keys[index], self.nodes[index]


Place = tuple[str | None, str | None, str | None]
"""A provider, a pool and a label; label None: all labels of the pool."""


AllowedOn = Callable[[Node], Allowed]
"""Returns the tenants that may use a node of a pool; for one record always the same."""


IsHidden = Callable[[Node], bool]
"""Returns True if an idle node can't be handed out for now."""


class IdleIndex:
    """Idle nodes by pool, and by pool and label; in a pool that is split, by who may use them as well; and the number
    of idle nodes of each label.

    Invariants: a node is in the list of its pool exactly while it is idle, and in that of each of its labels exactly
    while it is idle and not hidden; in a pool that is split, each of its labels has it in the list of each tenant that
    may use it, or in the list for every tenant; no list is empty, no count is 0.
    """

    def __init__(self) -> None:
        self.by_label: dict[str, int] = {}
        """Counts over all providers."""
        self._places: dict[Place, SortedIdleNodes] = {}
        self._splits: dict[Place, AllowedOn] = {}
        """Functions that split pools, by provider and pool, with label None."""
        self._shares: dict[tuple[Place, str | None], SortedIdleNodes] = {}
        """Nodes of split pools, by place and tenant; tenant None: nodes for every tenant."""
        self._hiding: dict[str | None, IsHidden] = {}
        """Rules by provider."""
        self._hidden: set[NodeId] = set()
        """Idle nodes that were hidden at the last look."""

    def hide(self, provider: str, is_hidden: IsHidden | None) -> None:
        """Hide idle nodes of the provider that become idle, or are looked at again, from now on; None: show them."""
        if is_hidden is None:
            self._hiding.pop(provider, None)
        else:
            self._hiding[provider] = is_hidden

    def look_again(self, seen: Versioned[Node]) -> bool:
        """Check again whether an idle node is hidden. Return True if it is shown again."""
        was_hidden = seen.record.id in self._hidden
        self.remove(seen.record)
        self.add(seen)
        return was_hidden and seen.record.id not in self._hidden

    def split(self, provider: str, pool: str, allowed_on: AllowedOn | None) -> None:
        """Split the pool's nodes by who may use them; None: every tenant may use all."""
        place: Place = (provider, pool, None)
        nodes = [seen for seen in self.of(*place) if seen.record.id not in self._hidden]
        for seen in nodes:
            self._unshare(seen.record)
        if allowed_on is None:
            self._splits.pop(place, None)
        else:
            self._splits[place] = allowed_on
        for seen in nodes:
            self._share(seen)

    def of_tenant(
        self, provider: str, pool: str, label: str, tenant: str | None
    ) -> tuple[Sequence[Versioned[Node]], Sequence[Versioned[Node]]]:
        """Return the nodes that every tenant may use, and the others that *tenant* may use; None: no tenant."""
        place: Place = (provider, pool, label)
        if (provider, pool, None) not in self._splits:
            return self.of(*place), ()
        own = self._shares.get((place, tenant)) if tenant is not None else None
        everybodys = self._shares.get((place, None))
        return (everybodys.nodes if everybodys is not None else (), own.nodes if own is not None else ())

    def _share(self, seen: Versioned[Node]) -> None:
        for share in self._shares_of(seen.record):
            nodes = self._shares.get(share)
            if nodes is None:
                nodes = self._shares[share] = SortedIdleNodes()
            nodes.add(seen)

    def _unshare(self, node: Node) -> None:
        for share in self._shares_of(node):
            nodes = self._shares[share]
            nodes.remove(node)
            if not nodes.nodes:
                del self._shares[share]

    def _shares_of(self, node: Node) -> list[tuple[Place, str | None]]:
        allowed_on = self._splits.get((node.provider, node.pool, None)) if self._splits else None
        if allowed_on is None:
            return []
        allowed = allowed_on(node)
        tenants = (None,) if allowed is None else allowed
        return [(place, tenant) for place in _places(node)[1:] for tenant in tenants]

    def of(self, provider: str | None, pool: str | None, label: str | None) -> Sequence[Versioned[Node]]:
        nodes = self._places.get((provider, pool, label))
        return nodes.nodes if nodes is not None else ()

    def add(self, seen: Versioned[Node]) -> None:
        places = _places(seen.record)
        is_hidden = self._hiding.get(seen.record.provider) if self._hiding else None
        if is_hidden is not None and is_hidden(seen.record):
            self._hidden.add(seen.record.id)
            del places[1:]
        else:
            self._share(seen)
        for place in places:
            nodes = self._places.get(place)
            if nodes is None:
                nodes = self._places[place] = SortedIdleNodes()
            nodes.add(seen)
        for label in set(seen.record.type):
            self.by_label[label] = self.by_label.get(label, 0) + 1

    def remove(self, node: Node) -> None:
        """Remove *node*, given as it was when it was added."""
        places = _places(node)
        if node.id in self._hidden:
            self._hidden.discard(node.id)
            del places[1:]
        else:
            self._unshare(node)
        for place in places:
            nodes = self._places[place]
            nodes.remove(node)
            if not nodes.nodes:
                del self._places[place]
        for label in set(node.type):
            count = self.by_label.pop(label) - 1
            if count:
                self.by_label[label] = count


def _places(node: Node) -> list[Place]:
    provider, pool = node.provider, node.pool
    places: list[Place] = [(provider, pool, None)]
    places += [(provider, pool, label) for label in dict.fromkeys(node.type)]
    return places
