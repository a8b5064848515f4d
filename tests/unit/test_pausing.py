"""Targets that operators name, and the resulting records in the store."""

from __future__ import annotations

import getpass
import socket
from typing import Any

import pytest

from nodelaunch.engine.view import open_view
from nodelaunch.operations.pauses import (
    Pauser,
    TargetAmbiguousError,
    TargetUnknownError,
    find_target,
    operator_name,
    others_of,
    remaining,
)
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.records import PoolRegistration, Presence
from nodelaunch.protocol.store import Entry
from nodelaunch.store.embedded.store import EmbeddedStore

NODE = b'{"state": "%s", "provider": "cloud", "pool": "main", "launcher": "%s", "type": ["small"]}'


async def register(
    store: EmbeddedStore, provider: str, pool: str = "main", hostname: str = "host", pool_id: str = "p"
) -> None:
    record = PoolRegistration(hostname=hostname, id=pool_id, name=pool, provider_name=provider)
    await store.create(f"{paths.POOLS}/{hostname}", record.to_bytes(), ephemeral=True, sequence=True)


async def be_present(store: EmbeddedStore, hostname: str, process: str) -> None:
    presence = Presence(id=process, hostname=hostname)
    await store.create(f"{paths.PRESENCES}/{hostname}", presence.to_bytes(), ephemeral=True, sequence=True)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cloud", Target.provider("cloud")),
        ("cloud/main", Target.pool("cloud", "main")),
        ("host", Target.launcher("host")),
        ("1234", Target.launcher("1234")),
        ("gone", Target.provider("gone")),
        ("provider:new", Target.provider("new")),
        ("pool:new/pool", Target.pool("new", "pool")),
        ("launcher:new", Target.launcher("new")),
        ("pool:cloud", Target.provider("pool:cloud")),
        ("odd", Target.provider("odd")),
        ("provider:both", Target.provider("both")),
    ],
)
async def test_targets_are_found_by_name(text: str, target: Target) -> None:
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        for provider in ("cloud", "both", "pool:cloud"):
            await register(store, provider)
        await be_present(store, "host", "1234")
        await be_present(store, "both", "5678")
        await store.create(paths.NEW_NODE, b'{"state": "ready", "provider": "gone"}', sequence=True)
        await Pauser(store).pause(Target.provider("odd"), by="ann")
        async with open_view(store) as view:
            await view.synced()
            assert find_target(text, view) == target
            with pytest.raises(TargetAmbiguousError, match="provider:both or launcher:both"):
                find_target("both", view)
            for unknown in ("clowd", "cloud/", "pool:x", "provider:a/b", "launcher:"):
                with pytest.raises(TargetUnknownError, match="known are: 1234, 5678, both, "):
                    find_target(unknown, view)


async def test_launcher_is_named_by_the_beginning_of_its_id() -> None:
    async with EmbeddedStore(None) as store, store.connect() as other, open_view(store) as view:
        await store.ensure(*paths.ALWAYS_THERE)
        await view.synced()
        await be_present(store, "host", "abcdef0123")
        await be_present(other, "host", "abcdff4567")
        for text in ("launcher:abcdef", "abcdef", "launcher:abcdef0123"):
            assert find_target(text, view) == Target.launcher("abcdef0123")
        for text in ("launcher:abcd", "abcd"):
            with pytest.raises(TargetAmbiguousError, match="begin with 'abcd': abcdef0123, abcdff4567"):
                find_target(text, view)


@pytest.mark.parametrize("text", ["launcher:e87ee4b4", "launcher:" + "0" * 32])
async def test_id_that_no_launcher_has_is_an_error_that_names_those_that_run(text: str) -> None:
    """A process that is yet to come has no id; a host name may be of one."""
    async with EmbeddedStore(None) as store, open_view(store) as view:
        await store.ensure(*paths.ALWAYS_THERE)
        await view.synced()
        await be_present(store, "host", "abcdef0123")
        with pytest.raises(TargetUnknownError, match=r"running are: host \(abcdef0123\)"):
            find_target(text, view)
        await Pauser(store).pause(Target.launcher(text.removeprefix("launcher:")), by="ann")
        assert find_target(text, view).explicit == text  # so that it can be resumed


async def test_what_is_paused_is_from_then_on_what_was_asked_last() -> None:
    async with EmbeddedStore(None) as store, open_view(store) as view:
        pauser, cloud = Pauser(store), Target.provider("cloud")
        await view.synced()
        await pauser.pause(cloud, by="ann", reason="disks", drains=True)
        await pauser.pause(cloud, by="bob", reason="")
        assert [(p.record.by, p.record.reason, p.record.drains) for p in view.pauses.values()] == [("bob", None, False)]
        assert await pauser.resume(cloud)
        assert not await pauser.resume(cloud)
        assert view.pauses == {}


async def test_drained_launcher_waits_for_its_launches_and_for_what_nobody_else_serves() -> None:
    async with EmbeddedStore(None) as store, store.connect() as other, open_view(store) as view:
        await store.ensure(*paths.ALWAYS_THERE)
        await view.synced()
        await register(store, "cloud", "main", "one", "p-one")
        await be_present(store, "one", "1")
        await register(other, "cloud", "main", "two", "p-two")
        await be_present(other, "two", "2")
        for state, launcher in ((b"building", b"p-one"), (b"building", b"p-two"), (b"ready", b"p-one")):
            await store.create(paths.NEW_NODE, NODE % (state, launcher), sequence=True)
        for target in (Target.launcher("one"), Target.launcher("1")):
            await Pauser(store).pause(target, by="ann", drains=True)
            assert str(remaining(view, target)) == "1 node left: 1 building"
        await Pauser(store).pause(Target.launcher("two"), by="ann", drains=True)
        assert str(remaining(view, Target.launcher("one"))) == "3 nodes left: 2 building, 1 ready"
        assert str(remaining(view, Target.pool("cloud", "main"))) == "3 nodes left: 2 building, 1 ready"
        assert remaining(view, Target.pool("cloud", "other")).nodes == ()


async def test_pools_of_other_programs_are_not_drained() -> None:
    """Nodepool's launcher keeps nodes ready even then: they would be deleted and made again for ever."""
    async with EmbeddedStore(None) as store, store.connect() as other, open_view(store) as view:
        await store.ensure(*paths.ALWAYS_THERE)
        await view.synced()
        await register(store, "cloud", "main", "one", "p-one")
        await be_present(store, "one", "1")
        await Pauser(store).pause(Target.provider("cloud"), by="ann", drains=True)
        assert view.is_draining("cloud", "main")
        assert view.is_draining("cloud", "not registered")
        await register(other, "cloud", "main", "nodepool", "p-nodepool")
        assert not view.is_draining("cloud", "main")
        for target in (Target.provider("cloud"), Target.pool("cloud", "main")):
            assert [peer.pool_id for peer in others_of(view, target)] == ["p-nodepool"]
        for target in (Target.pool("cloud", "x"), Target.provider("x"), Target.launcher("nodepool")):
            assert others_of(view, target) == []
        assert {peer.pool_id: peer.is_stopped for peer in view.peers} == {"p-one": True, "p-nodepool": False}


async def test_what_is_no_pause_does_no_harm() -> None:
    names = ("provider:cloud", "label:small", "nonsense")
    async with EmbeddedStore(None) as store, open_view(store) as view:
        await view.synced()
        for name in names:
            await store.create(f"{paths.PAUSES}/{name}", b"[]", parents=True)
        assert view.pauses == {}
        assert list(view.unreadable) == [f"{paths.PAUSES}/provider:cloud"]
        for name in names:
            await store.delete(f"{paths.PAUSES}/{name}")
        assert view.unreadable == {}


def test_operator_is_named_even_without_a_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(socket, "gethostname", lambda: "desk")
    monkeypatch.setenv("SUDO_USER", "ann")
    assert operator_name() == "ann@desk"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert operator_name().startswith("uid ")


async def test_reason_stays_until_another_is_given() -> None:
    """An operator who drains a paused target, or drains it again, need not repeat the reason."""
    async with EmbeddedStore(None) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        pauser, target = Pauser(store), Target.provider("cloud")
        assert (await pauser.pause(target, by="ann", reason="disks")).reason == "disks"
        again = await pauser.pause(target, by="bob", drains=True)
        assert (again.by, again.drains, again.reason) == ("bob", True, "disks")
        assert (await pauser.pause(target, by="bob", drains=True, reason="fans")).reason == "fans"
        assert (await pauser.pause(target, by="ann", reason="")).reason is None
        await pauser.resume(target)
        assert (await pauser.pause(target, by="ann")).reason is None


async def test_reason_of_an_unreadable_pause_is_none() -> None:
    async with EmbeddedStore(None) as store:
        await store.create(paths.pause("provider", "cloud"), b"[]", parents=True)
        assert (await Pauser(store).pause(Target.provider("cloud"), by="ann")).reason is None


async def test_reason_that_somebody_gives_at_the_same_time_is_kept() -> None:
    """Two operators pause at once: a pause without a reason keeps the other's reason."""
    target = Target.provider("cloud")

    class Late(EmbeddedStore):
        has_raced = False

        async def put(self, path: str, data: bytes, *, version: int = -1, **rest: Any) -> Entry:
            if not self.has_raced:
                self.has_raced = True
                await Pauser(self).pause(target, by="bob", reason="fans")
            return await super().put(path, data, version=version, **rest)

    async with Late(None) as store:
        await store.create(paths.pause("provider", "cloud"), b"{}", parents=True)
        assert (await Pauser(store).pause(target, by="ann")).reason == "fans"
