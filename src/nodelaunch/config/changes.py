"""The differences between two configurations, grouped by their effect on a running launcher."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from nodelaunch.config.models import Config, ProviderConfig

NEEDS_RESTART = (
    "chroot", "zookeeper_tls", "zookeeper_auth", "zookeeper_acl", "zookeeper_timeout", "embedded_store", "webapp",
)  # fmt: skip
"""Keys that a running process can't change."""
LIVE = ("zookeeper_servers", "labels", "diskimages", "tenant_resource_limits", "max_hold_age")


@dataclass(frozen=True, slots=True)
class Changes:
    """Sorted names of what changed; a pool is named ``provider/pool``."""

    added: tuple[str, ...] = ()
    """New providers."""
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    """Providers that have another driver now."""
    changed: tuple[str, ...] = ()
    pools_added: tuple[str, ...] = ()
    pools_removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """Top-level keys that take effect at once."""
    needs_restart: tuple[str, ...] = ()
    """Top-level keys that need a restart."""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def summary(self) -> dict[str, list[str]]:
        """Return the non-empty groups, for a log line."""
        return {f.name: list(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name)}


def differences(old: Config, new: Config, touched: Collection[Path] = ()) -> Changes:
    """Return the changes from *old* to *new*. *touched*: changed files that providers may include."""
    before, after = _by_name(old.providers), _by_name(new.providers)
    both = sorted(before.keys() & after.keys())
    replaced = [name for name in both if before[name].driver != after[name].driver]
    concerned = {
        p.name for p in new.providers if old.diskimages != new.diskimages or not set(touched).isdisjoint(p.files)
    }
    has_other_store = bool(old.zookeeper_servers) != bool(new.zookeeper_servers)
    old_pools, new_pools = _pools(before.values()), _pools(after.values())
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        replaced=tuple(replaced),
        changed=tuple(n for n in both if n not in replaced and (before[n] != after[n] or n in concerned)),
        pools_added=tuple(sorted(new_pools - old_pools)),
        pools_removed=tuple(sorted(old_pools - new_pools)),
        settings=_differing(old, new, LIVE[1:] if has_other_store else LIVE),
        needs_restart=_differing(old, new, (*NEEDS_RESTART, *(LIVE[:1] if has_other_store else ()))),
    )


def _by_name(providers: Iterable[ProviderConfig]) -> dict[str, ProviderConfig]:
    return {provider.name: provider for provider in providers}


def _pools(providers: Iterable[ProviderConfig]) -> set[str]:
    return {f"{provider.name}/{pool.name}" for provider in providers for pool in provider.pools}


def _differing(old: Config, new: Config, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.replace("_", "-") for name in names if getattr(old, name) != getattr(new, name))
