"""Faulty records and faulty drivers: the launcher recovers from them, and leaves nothing locked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from nodelaunch.errors import LaunchFailedError, ProviderUnavailableError, SessionLostError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Fence, InstanceSpec
from nodelaunch.protocol.quota import Limits
from nodelaunch.protocol.records import KnownPool
from nodelaunch.protocol.states import NodeState, RequestState
from support.launchers import Running, running

pytestmark = pytest.mark.looptime


async def pending(site: Running) -> str:
    """A request that a launch is under way for."""
    handle = await site.client.submit(["small"])
    await site.until(lambda: bool(site.nodes(NodeState.BUILDING)))
    return str(handle.id)


async def nothing_is_locked(site: Running) -> None:
    await site.until(lambda: not any(map(site.view.is_request_locked, site.view.requests)), within_s=5)
    await site.until(lambda: not any(map(site.view.is_node_locked, site.view.nodes)), within_s=5)


async def test_a_request_changed_under_our_lock_is_fulfilled_as_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        path = f"{paths.REQUESTS}/{await pending(site)}"
        entry = await site.client.store.get(path)
        changed = {**json.loads(entry.data), "relative_priority": 3, "nodes": ["9"], "declined_by": ["me"]}
        await site.client.store.put(path, json.dumps(changed).encode())
        (seen,) = site.view.requests.values()
        await site.until(lambda: next(iter(site.view.requests.values())).record.state is RequestState.FULFILLED)
        (seen,) = site.view.requests.values()
        assert (seen.record.relative_priority, seen.record.declined_by) == (3, ())
        assert list(seen.record.nodes) == [node.id for node in site.nodes()]
        await nothing_is_locked(site)


async def test_a_request_made_unreadable_under_our_lock_is_let_go_of(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        path = f"{paths.REQUESTS}/{await pending(site)}"
        await site.client.store.put(path, b"{")
        await site.until(lambda: not site.nodes(), within_s=10)
        await nothing_is_locked(site)
        assert (await site.client.store.get(path)).data == b"{"


async def test_what_can_not_be_closed_is_let_go_of(tmp_path: Path) -> None:
    """A request that changes before each of our writes: another, or we, begin with it anew."""
    async with running(tmp_path) as site:
        request_id = await pending(site)
        path, commit = f"{paths.REQUESTS}/{request_id}", site.launcher.store.commit
        troubles = iter(range(5))

        async def disturbed(ops: list[object], under: object = ()) -> object:
            if any(getattr(op, "path", "") == path for op in ops) and next(troubles, None) is not None:
                await site.client.store.put(path, (await site.client.store.get(path)).data)
            return await commit(ops, under=under)  # type: ignore[arg-type]

        site.launcher.store.commit = disturbed  # type: ignore[method-assign, assignment]
        await site.until(lambda: site.view.requests[request_id].record.state is RequestState.FULFILLED)  # type: ignore[index]
        assert next(troubles, None) is None
        await nothing_is_locked(site)


async def test_a_registration_that_is_deleted_is_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        (path,) = site.view.pools
        await site.client.store.delete(path)
        await site.until(lambda: bool(site.view.pools) and path not in site.view.pools, within_s=5)
        assert (await site.finished("small")).state is RequestState.FULFILLED


async def test_what_is_remembered_of_a_pool_and_can_not_be_read_is_written_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        path = paths.known_pool("cloud", "main")
        await site.until(lambda: ("cloud", "main") in site.view.known_pools)
        version = (await site.client.store.put(path, b"")).stat.version
        await site.until(lambda: ("cloud", "main") in site.view.known_pools, within_s=5)
        await asyncio.sleep(5.0)
        entry = await site.client.store.get(path)
        assert entry.stat.version == version + 1
        assert KnownPool.from_bytes(path, entry.data, names=("cloud", "main")).labels == ("big", "small")


async def test_a_fault_of_a_driver_in_a_refresh_ends_no_launch(tmp_path: Path) -> None:
    async with running(tmp_path, boot_time=4.0) as site:
        handles = [await site.client.submit(["small"]) for _ in range(3)]
        await site.until(lambda: len(site.nodes(NodeState.BUILDING)) == 3)
        runtime = site.launcher.providers["cloud"]
        ask, faults = runtime.driver.quota_limits, iter([ValueError("no such key")])

        async def broken() -> Limits:
            for fault in faults:
                raise fault
            return await ask()

        runtime.driver.quota_limits = broken  # type: ignore[method-assign]
        runtime.invalidate()
        await site.until(lambda: runtime.down is not None, within_s=2)
        assert runtime.down == "its driver has a fault: ValueError: no such key"
        registered = set(site.view.pools)
        for handle in handles:
            assert (await handle.finished()).state is RequestState.FULFILLED
        await site.until(lambda: runtime.down is None, within_s=5)
        assert set(site.view.pools) == registered


async def test_a_request_that_only_waits_for_room_holds_up_no_drain(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.cloud.fail("create", kind="quota", times=1000)
        handle = await site.client.submit(["small"])
        await site.until(lambda: site.view.requests[handle.id].record.state is RequestState.PENDING)
        await asyncio.sleep(1.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await site.launcher.drain(grace_s=30)
        assert loop.time() - began < 5.0
        assert site.view.requests[handle.id].record.state is RequestState.REQUESTED


async def test_lock_directory_with_something_odd_in_it_is_not_removed_again_and_again(tmp_path: Path) -> None:
    """The directory is removed with other leftovers, when it is old enough."""
    async with running(tmp_path) as site:
        store, deletions = site.client.store, 0
        delete = site.launcher.store.delete

        async def counted(path: str, **more: object) -> None:
            nonlocal deletions
            deletions += path == directory
            await delete(path, **more)  # type: ignore[arg-type]

        site.launcher.store.delete = counted  # type: ignore[method-assign]
        handle = await site.client.submit(["small"])
        directory = paths.request_lock(handle.id)
        await site.until(lambda: bool(site.nodes(NodeState.BUILDING)))
        await store.create(f"{directory}/odd")
        request = await handle.finished()
        async with site.client.hold(request):
            pass
        await asyncio.sleep(100)
        assert 0 < deletions < 100 / 5 + 2


async def test_nothing_is_created_for_a_node_whose_lock_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped for long learns of the loss only in its turn; tasks that were due run before that."""
    async with running(tmp_path) as site:
        driver, asked = site.launcher.providers["cloud"].driver, list[str]()

        async def create(spec: InstanceSpec) -> None:
            asked.append(spec.node_id)
            for lock in site.launcher.store.session.locks:
                if "/nodes/" in lock.path:
                    lock.is_held = False
            raise ProviderUnavailableError("away", provider="cloud")

        monkeypatch.setattr(driver, "create_instance", create)
        await pending(site)
        await asyncio.sleep(50)
        assert asked
        assert len(asked) == len(set(asked))


async def test_what_a_failed_launch_left_is_not_deleted_once_the_lock_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next owner of the lock may already resume the launch."""
    async with running(tmp_path) as site:
        driver, failed, deleted = site.launcher.providers["cloud"].driver, list[str](), list[str]()
        delete = driver.delete_instance

        async def wait(external_id: str) -> None:
            failed.append(external_id)
            for lock in site.launcher.store.session.locks:
                if "/nodes/" in lock.path:
                    lock.is_held = False
            raise LaunchFailedError("it broke", provider="cloud", external_id=external_id)

        async def counted(external_id: str, *_fence: Fence) -> None:
            deleted.append(external_id)
            await delete(external_id)  # type: ignore[arg-type]

        monkeypatch.setattr(driver, "wait_until_active", wait)
        monkeypatch.setattr(driver, "delete_instance", counted)
        monkeypatch.setattr(driver, "delete_fenced", counted)
        await pending(site)
        await asyncio.sleep(10)
        assert failed
        assert not deleted


async def test_session_that_is_over_before_it_says_so_lets_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a machine slept, its session counts as connected, and every write is refused at once."""
    async with running(tmp_path) as site:
        store, create, refused = site.launcher.store, site.launcher.store.create, 0

        async def refuses(path: str, *args: object, **more: object) -> object:
            nonlocal refused
            if path.startswith(paths.PRESENCES) and refused < 5:
                refused += 1
                raise SessionLostError
            return await create(path, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "create", refuses)
        (presence,) = await store.children(paths.PRESENCES)
        began = asyncio.get_running_loop().time()
        await site.client.store.delete(f"{paths.PRESENCES}/{presence}")
        await site.until(lambda: refused == 5 and bool(site.view.presences), within_s=60)
        assert asyncio.get_running_loop().time() > began, "it pauses between its tries"
        assert (await site.finished("small")).state is RequestState.FULFILLED
