"""A plan and the reload that follows it agree, for any two configurations."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodelaunch.config.file import Loaded, load_with_places
from nodelaunch.drivers import DriverRegistry
from nodelaunch.launcher import Launcher
from nodelaunch.operations.plan import Plan, plan
from nodelaunch.store.embedded.store import EmbeddedStore

DRIVERS = DriverRegistry()
POOLS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("xyz")}, optional={"max-servers": st.integers(0, 2)}),
    max_size=2, unique_by=lambda pool: pool["name"],
)  # fmt: skip
PROVIDERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc"), "driver": st.sampled_from(["fake", "test"]), "pools": POOLS},
        optional={"max-concurrency": st.integers(0, 1)},
    ),
    max_size=3, unique_by=lambda provider: provider["name"],
)  # fmt: skip
CONFIGS = st.fixed_dictionaries(
    {"providers": PROVIDERS},
    optional={
        "labels": st.sampled_from([[{"name": "l"}], [{"name": "l", "min-ready": 0}, {"name": "m"}]]),
        "max-hold-age": st.integers(0, 1),
        "webapp": st.sampled_from([{"port": 0}, {"port": 1}]),
        "diskimages": st.sampled_from([[{"name": "i"}], [{"name": "i", "username": "u"}]]),
        "build-log-retention": st.just(3),
    },
)


def loaded(folder: str, name: str, config: dict[str, Any]) -> Loaded:
    path = Path(folder, name)
    path.write_text(json.dumps(config))  # which is YAML, too
    return load_with_places(path, drivers=DRIVERS, environ={})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(CONFIGS, CONFIGS)
def test_plan_says_what_a_reload_does(before: dict[str, Any], after: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new = loaded(folder, "old.yaml", before), loaded(folder, "new.yaml", after)
    planned = plan(old, new)
    asyncio.run(carried_out(planned, old, new))
    explained(planned)


async def carried_out(planned: Plan, old: Loaded, new: Loaded) -> None:
    """A launcher that reloads reports the same, and then runs the pools that the plan leaves."""
    changes = planned.changes
    async with asyncio.timeout(30), Launcher(old.config, store=EmbeddedStore(None)) as launcher:
        task = asyncio.ensure_future(launcher.run())
        try:
            await registered(launcher, names(old))
            assert await launcher.reload(new.config, grace_s=0) == changes
            await registered(launcher, (names(old) - set(changes.pools_removed)) | set(changes.pools_added))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def names(one: Loaded) -> set[str]:
    return {f"{provider.name}/{pool.name}" for provider in one.config.providers for pool in provider.pools}


async def registered(launcher: Launcher, expected: set[str]) -> None:
    """Wait until these pools are registered, and no others."""
    changed = asyncio.Event()
    stop = launcher.view.subscribe(lambda _note: changed.set())
    try:
        while {f"{s.record.provider_name}/{s.record.name}" for s in launcher.view.pools.values()} != expected:
            changed.clear()
            await changed.wait()
    finally:
        stop()


def explained(planned: Plan) -> None:
    """Check that each change has a value that differs, and each value that differs a change."""
    changes = planned.changes
    assert bool(changes) == bool(planned.values)
    for name in (*changes.added, *changes.removed):
        assert planned.of("providers", name)
    for name in changes.changed:
        assert planned.of("providers", name) or planned.of("diskimages")
    for key in (*changes.settings, *changes.needs_restart):
        assert planned.of(key)
