"""The plan of a reload: the differences between two configurations, and the nodes they affect.

`Launcher.reload` reports the same `Changes`, from the same function `differences`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from nodelaunch.config.changes import Changes, differences
from nodelaunch.config.file import Loaded
from nodelaunch.config.models import Config
from nodelaunch.config.values import Difference, value_differences
from nodelaunch.engine.cleanup.ages import AgeLimits
from nodelaunch.engine.fleet.offers import is_offered, offers_of
from nodelaunch.engine.view import ClusterView
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState

NODES_KEPT: Final = frozenset({
    "name", "labels", "nodes", "priority", "allowed-tenants", "ignore-provider-quota",
    "max-servers", "max-cores", "max-ram", "max-volumes", "max-volume-gb",
})  # fmt: skip
"""Keys of a pool that do not affect how its nodes are created."""
IMAGES: Final = ("cloud-image", "diskimage")
"""Keys of a pool's label that name an image of the provider. The provider lists these images under the plural of the
key."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """The effect of a reload on one unused node."""

    node: Node
    becomes: Literal["deleted", "outdated"]
    """Outdated: the node is still assigned as it is, but new nodes are created differently."""
    reason: str

    def to_json(self) -> dict[str, Any]:
        node = self.node
        return {
            "id": node.id, "provider": node.provider, "pool": node.pool, "labels": list(node.type),
            "state": node.state.value, "becomes": self.becomes, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """The effects of a reload."""

    changes: Changes
    values: tuple[Difference, ...]
    """Values that launchers use."""
    drivers: dict[str, str]
    """Drivers of the configured providers, by provider."""
    nodes: tuple[NodeChange, ...] | None = None
    """None: not known."""
    nodes_unknown: str = ""
    """Reason if ``nodes`` is None."""

    def of(self, *steps: str) -> list[Difference]:
        """Return the changed values at *steps* and below."""
        return [each for each in self.values if each.steps[: len(steps)] == steps]

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes.summary(),
            "values": [_value_json(each, self.changes) for each in self.values],
            "nodes": None if self.nodes is None else [each.to_json() for each in self.nodes],
            "nodes_unknown": self.nodes_unknown or None,
        }


def _value_json(difference: Difference, changes: Changes) -> dict[str, Any]:
    position = difference.position
    return {
        "path": difference.path,
        "change": difference.kind,
        "old": difference.old.value,
        "old_is_default": difference.old.is_default,
        "new": difference.new.value,
        "new_is_default": difference.new.is_default,
        "is_hidden": difference.is_hidden,
        "needs_restart": difference.steps[0] in changes.needs_restart,
        "file": position and position.file,
        "line": position and position.line,
        "column": position and position.column,
    }


def plan(old: Loaded, new: Loaded) -> Plan:
    """Return the effects if a launcher that runs with *old* loads *new*."""
    changes = differences(old.config, new.config)
    noticed = {"providers", *changes.settings, *changes.needs_restart}
    values = tuple(each for each in value_differences(old, new) if each.steps[0] in noticed)
    return Plan(changes, values, {each.name: each.driver for each in new.config.providers})


# -- nodes ----------------------------------------------------------------------------------------------------------


def node_changes(plan: Plan, old: Config, new: Config, view: ClusterView, now: float) -> tuple[NodeChange, ...]:
    """Return the effects on the unused nodes in *view*; *now* in seconds since 1970.

    Assumes that the registered pools that *old* has belong to launchers with the same files.
    """
    fate = _Fate(plan, old, new, view, now)
    nodes = (view.node(node_id) for node_id in sorted(view.nodes))
    found = (fate.of(node) for node in nodes if node is not None and not view.is_node_locked(node.id))
    return tuple(each for each in found if each is not None)


class _Fate:
    """Decides the effect on single nodes."""

    def __init__(self, plan: Plan, old: Config, new: Config, view: ClusterView, now: float) -> None:
        self._plan = plan
        self._old = old
        self._new = new
        self._now = now
        ours = {(provider.name, pool.name) for provider in old.providers for pool in provider.pools}
        registered = [(peer.provider, peer.pool, peer.labels) for peer in view.peers]
        others = [each for each in registered if each[:2] not in ours]
        self._offered = offers_of(old.providers, others), offers_of(new.providers, others)
        self._ages = AgeLimits.configured(old), AgeLimits.configured(new)

    def of(self, node: Node) -> NodeChange | None:
        provider = node.provider or ""
        if self._old.provider(provider) is None or not (node.is_idle or node.state is NodeState.HOLD):
            return None
        if reason := self._why_deleted(node):
            return NodeChange(node, "deleted", reason)
        if node.is_idle and (paths := list(self._made_otherwise(node))):
            return NodeChange(
                node, "outdated", f"made before {', '.join(paths)} changed; it is still assigned as it is"
            )
        return None

    def _why_deleted(self, node: Node) -> str | None:
        before, after = (is_offered(offers, node) for offers in self._offered)
        if node.is_idle and before and not after:
            return self._why_not_offered(node)
        if node.is_idle and node.hostname in self._machines_gone(node):
            return "its machine is not configured any more"
        before, after = (self._is_too_old(ages, node) for ages in self._ages)
        key = "max-ready-age" if node.is_idle else "max-hold-age"
        return f"it is older than {key} allows" if after and not before else None

    def _why_not_offered(self, node: Node) -> str:
        provider = self._new.provider(node.provider or "")
        if provider is None:
            return "its provider is not configured any more"
        if node.pool not in {pool.name for pool in provider.pools}:
            return "its pool is not configured any more"
        return "its pool does not offer its label any more"

    def _is_too_old(self, ages: AgeLimits, node: Node) -> bool:
        limit = ages.of(node)
        return bool(limit) and node.state_time + limit <= self._now

    def _machines_gone(self, node: Node) -> set[str]:
        """Return the names of machines that *old* has for the node's pool and *new* has not."""
        before, after = (_machines(config, node) for config in (self._old, self._new))
        return before - after

    def _made_otherwise(self, node: Node) -> Iterator[str]:
        """Return the paths of the changed values that would make a new node of this kind different."""
        provider, pool = ("providers", node.provider or ""), node.pool or ""
        if (*provider, "driver") in (each.steps for each in self._plan.values):
            yield f"providers[{node.provider}].driver"
            return
        for each in self._plan.of(*provider, "pools", pool):
            key = each.steps[4] if len(each.steps) > 4 else ""
            of_label = key == "labels" and each.steps[5:6] and each.steps[5] in node.type
            if (of_label and each.steps[-1] != "allowed-tenants") or key not in NODES_KEPT:
                yield each.path
        for key, name in self._images(node):
            yield from (each.path for each in self._plan.of(*provider, f"{key}s", name))
            yield from (each.path for each in self._plan.of("diskimages", name) if key == "diskimage")

    def _images(self, node: Node) -> Iterable[tuple[str, str]]:
        """Return key and name of each image that the node's labels have in the new configuration."""
        provider = self._new.provider(node.provider or "")
        pools = [pool for pool in (provider.pools if provider else ()) if pool.name == node.pool]
        labels: Sequence[Any] = [label for pool in pools for label in getattr(pool, "labels", ())]
        for label in labels:
            if getattr(label, "name", None) in node.type:
                said = label.model_dump(by_alias=True)
                yield from ((key, name) for key in IMAGES if isinstance(name := said.get(key), str))


def _machines(config: Config, node: Node) -> set[str]:
    provider = config.provider(node.provider or "")
    pools = [pool for pool in (provider.pools if provider else ()) if pool.name == node.pool]
    return {machine.name for pool in pools for machine in getattr(pool, "nodes", ())}
