"""Contract of every store, as tests: subclass `StoreContract` and give it two sessions on the same data."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from nodelaunch.errors import (
    LockBusyError,
    LockLostError,
    NotEmptyError,
    RecordExistsError,
    RecordGoneError,
    StoreError,
    VersionConflictError,
)
from nodelaunch.protocol.store import (
    Changed,
    CheckVersion,
    Create,
    Delete,
    Entry,
    Lock,
    Put,
    ReleaseLock,
    Removed,
    Store,
    TakeLock,
    Tree,
    TreeEvent,
)

DEADLINE_S = 20.0


async def until(tree: Tree, holds: Callable[[], bool]) -> None:
    """Wait for a change of *tree* after which *holds*."""
    changed = asyncio.Event()
    stop = tree.subscribe(lambda _event: changed.set())
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await changed.wait()
                changed.clear()
    finally:
        stop()


class StoreContract:
    """Fixtures to provide: ``store`` and ``other``, two open sessions on the same, empty data."""

    # -- single znodes ----------------------------------------------------------------------------------------------

    async def test_created_znode_is_read_back(self, store: Store, other: Store) -> None:
        made = await store.create("/a", "Grüße\0".encode())
        found = await other.get("/a")
        assert (found.path, found.data, found.stat.version) == ("/a", "Grüße\0".encode(), 0)
        assert found.stat == made.stat
        assert found.stat.owner == 0

    async def test_missing_znode_is_gone(self, store: Store) -> None:
        for call in (store.get("/x"), store.put("/x", b""), store.delete("/x"), store.children("/x")):
            with pytest.raises(RecordGoneError) as caught:
                await call
            assert caught.value.path == "/x"

    async def test_second_create_is_refused(self, store: Store) -> None:
        await store.create("/a")
        with pytest.raises(RecordExistsError):
            await store.create("/a")

    async def test_create_needs_its_parent(self, store: Store) -> None:
        with pytest.raises(RecordGoneError):
            await store.create("/a/b/c")
        assert (await store.create("/a/b/c", b"x", parents=True)).path == "/a/b/c"
        assert (await store.get("/a")).data == b""
        numbered = await store.create("/d/e/", b"x", sequence=True, parents=True)
        assert numbered.path == "/d/e/0000000000"

    async def test_put_counts_versions_and_checks_them(self, store: Store) -> None:
        await store.create("/a", b"0")
        first = await store.put("/a", b"1", version=0)
        assert first.stat.version == 1
        with pytest.raises(VersionConflictError):
            await store.put("/a", b"2", version=0)
        second = await store.put("/a", b"2")
        assert (second.stat.version, (await store.get("/a")).data) == (2, b"2")
        assert second.stat.modified_zxid > first.stat.modified_zxid > first.stat.created_zxid

    async def test_delete_checks_version_and_children(self, store: Store) -> None:
        await store.create("/a/b", parents=True)
        with pytest.raises(NotEmptyError):
            await store.delete("/a")
        with pytest.raises(VersionConflictError):
            await store.delete("/a/b", version=7)
        await store.delete("/a/b", version=0)
        await store.delete("/a")
        assert await store.get_many(["/a", "/a/b"]) == [None, None]

    async def test_children_are_sorted_names(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            await store.create(f"/d/{name}", parents=True)
        assert await store.children("/d") == ["a", "b", "c"]

    async def test_sequence_counts_all_children_ever(self, store: Store) -> None:
        await store.ensure("/s")
        await store.create("/s/lock")
        first = await store.create("/s/", sequence=True)
        await store.delete(first.path)
        second = await store.create("/s/200-", sequence=True)
        assert (first.path, second.path) == ("/s/0000000001", "/s/200-0000000002")

    async def test_many_sequences_at_once_are_distinct(self, store: Store, other: Store) -> None:
        await store.ensure("/s")
        calls = [each.create("/s/n", sequence=True) for _ in range(50) for each in (store, other)]
        assert len({entry.path for entry in await asyncio.gather(*calls)}) == 100

    async def test_get_many_keeps_order_and_gaps(self, store: Store) -> None:
        await store.create("/a", b"1")
        await store.create("/c", b"3")
        found = await store.get_many(["/c", "/b", "/a"])
        assert [entry.data if entry else None for entry in found] == [b"3", None, b"1"]

    async def test_delete_tree_takes_all_and_complains_of_nothing(self, store: Store) -> None:
        for path in ("/t/a/b/c", "/t/a/d"):
            await store.create(path, parents=True)
        await store.delete_tree("/t")
        await store.delete_tree("/t")
        assert await store.get_many(["/t"]) == [None]

    async def test_large_data_passes_and_too_large_is_refused(self, store: Store) -> None:
        data = bytes(range(256)) * 2000
        await store.create("/big", data)
        assert (await store.get("/big")).data == data

    async def test_ephemeral_znode_dies_with_its_session(self, store: Store, other: Store) -> None:
        made = await other.create("/e", b"x", ephemeral=True)
        assert made.stat.owner != 0
        await store.ensure("/alive")
        moved = await other.create("/alive/e", ephemeral=True)
        async with store.tree("/alive") as tree:
            await tree.synced()
            assert tree.get(moved.path) is not None
            await other.__aexit__(None, None, None)
            await until(tree, lambda: tree.get(moved.path) is None)

    async def test_ensure_is_repeatable(self, store: Store, other: Store) -> None:
        await asyncio.gather(store.ensure("/p/q/r", "/p/s"), other.ensure("/p/q/r"))
        assert await store.children("/p") == ["q", "s"]

    # -- transactions -----------------------------------------------------------------------------------------------

    async def test_transaction_gives_results_in_order(self, store: Store) -> None:
        await store.create("/a", b"0")
        await store.create("/b")
        results = await store.commit([
            CheckVersion("/a", 0), Put("/a", b"1", 0), Create("/c", b"c"), Create("/a/n", sequence=True), Delete("/b"),
        ])  # fmt: skip
        check, put, create, numbered, delete = results
        assert (check, delete) == (None, None)
        assert isinstance(put, Entry)
        assert isinstance(create, Entry)
        assert isinstance(numbered, Entry)
        assert (put.stat.version, create.data, numbered.path) == (1, b"c", "/a/n0000000000")
        assert put.stat.modified_zxid == create.stat.created_zxid

    @pytest.mark.parametrize(
        ("op", "error"),
        [
            (Put("/a", b"x", 9), VersionConflictError),
            (Put("/x", b"x"), RecordGoneError),
            (Create("/a"), RecordExistsError),
            (Create("/x/y"), RecordGoneError),
            (Delete("/d"), NotEmptyError),
            (Delete("/x"), RecordGoneError),
            (CheckVersion("/a", 5), VersionConflictError),
        ],
    )
    async def test_failed_transaction_changes_nothing(
        self, store: Store, op: Put | Create | Delete | CheckVersion, error: type[StoreError]
    ) -> None:
        await store.create("/a", b"0")
        await store.create("/d/child", parents=True)
        with pytest.raises(error):
            await store.commit([Create("/new"), Put("/a", b"1"), op, Create("/newer")])
        assert (await store.get("/a")).data == b"0"
        assert await store.get_many(["/new", "/newer"]) == [None, None]

    # -- locks ------------------------------------------------------------------------------------------------------

    async def test_lock_excludes_until_released(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        held = await store.lock("/l/lock", identifier=b"me")
        assert held.is_held
        assert re.fullmatch(r"/l/lock/[0-9a-f]{32}__lock__\d{10}", held.contender)
        assert (await store.get(held.contender)).data == b"me"
        with pytest.raises(LockBusyError):
            await other.lock("/l/lock")
        assert await other.contenders("/l/lock") == [held.contender]
        await held.release()
        await held.release()
        assert not held.is_held
        again = await other.lock("/l/lock")
        assert again.is_held
        await again.release()

    async def test_waiters_get_the_lock_in_order(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        held = await store.lock("/l/lock")
        order: list[int] = []

        async def take(number: int, by: Store) -> None:
            lock = await by.lock("/l/lock", timeout_s=DEADLINE_S)
            order.append(number)
            await lock.release()

        tasks = []
        async with store.tree("/l") as tree:
            await tree.synced()
            for number, by in enumerate((other, store, other), start=1):
                tasks.append(asyncio.create_task(take(number, by)))
                await until(tree, lambda: len(tree.children("/l/lock")) == len(tasks) + 1)
            await held.release()
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*tasks)
        assert order == [1, 2, 3]

    async def test_fence_grows_with_each_holder(self, store: Store, other: Store) -> None:
        """The fence grows with every way to take the lock, and after its directory was deleted and created again."""
        await store.create("/n", b"0")
        fences = []
        for by in (store, other, store):
            taken, _ = await by.commit([TakeLock("/n/lock"), Put("/n", b"1")])
            assert taken is not None
            assert not isinstance(taken, Entry)
            waiting = asyncio.create_task(store.lock("/n/lock", timeout_s=DEADLINE_S))
            async with store.tree("/n") as tree:
                await tree.synced()
                await until(tree, lambda: len(tree.children("/n/lock")) == 2)
            await taken.release()
            async with asyncio.timeout(DEADLINE_S):
                waited = await waiting
            fences += [taken.fence, waited.fence]
            await waited.release()
            at_once = await other.lock("/n/lock")
            fences.append(at_once.fence)
            await at_once.release()
            await store.delete_tree("/n/lock")
        assert fences[0] > 0
        assert fences == sorted(set(fences))

    async def test_fence_is_when_the_contender_was_made(self, store: Store) -> None:
        """Known from the answer to the call that made it, without another one."""
        await store.ensure("/n")
        async with store.tree("/n") as tree:
            await tree.synced()
            for n in range(3):
                made = await store.create_locked("/n/", b"%d" % n)
                if made is not None:
                    assert made[1].fence == (await store.get(made[1].contender)).stat.created_zxid
                    await made[1].release()
                await store.create(f"/n{n}")
                before = sum(store.operations.values())
                taken, _ = await store.commit([TakeLock(f"/n{n}/lock"), Put(f"/n{n}", b"")])
                assert sum(store.operations.values()) == before + 1
                assert taken is not None
                assert not isinstance(taken, Entry)
                assert taken.fence == (await store.get(taken.contender)).stat.created_zxid

    async def test_waiting_ends_in_time_and_leaves_nothing(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        held = await store.lock("/l/lock")
        with pytest.raises(LockBusyError):
            await other.lock("/l/lock", timeout_s=0.05)
        assert await store.contenders("/l/lock") == [held.contender]

    async def test_cancelled_waiter_leaves_nothing(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        held = await store.lock("/l/lock")
        async with store.tree("/l") as tree:
            await tree.synced()
            waiter = asyncio.create_task(other.lock("/l/lock", timeout_s=DEADLINE_S))
            await until(tree, lambda: len(tree.children("/l/lock")) == 2)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await until(tree, lambda: len(tree.children("/l/lock")) == 1)
        assert held.is_held

    async def test_lock_does_not_bring_a_parent_back(self, store: Store) -> None:
        for call in (store.lock("/gone/lock"), store.commit([TakeLock("/gone/lock")])):
            with pytest.raises(RecordGoneError):
                await call
        assert await store.get_many(["/gone"]) == [None]
        lock = await store.lock("/made/lock", parents=True)
        assert lock.is_held

    async def test_persistent_lock_outlives_its_session(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        lock = await other.lock("/l/lock", ephemeral=False)
        await other.__aexit__(None, None, None)
        with pytest.raises(LockBusyError):
            await store.lock("/l/lock")
        assert await store.contenders("/l/lock") == [lock.contender]

    async def test_lock_is_taken_with_a_transaction(self, store: Store, other: Store) -> None:
        await store.create("/n", b"0")
        lock, entry = await store.commit([TakeLock("/n/lock", b"id"), Put("/n", b"1", 0)])
        assert lock is not None
        assert not isinstance(lock, Entry)
        assert isinstance(entry, Entry)
        assert entry.data == b"1"
        assert lock.is_held
        with pytest.raises(LockBusyError):
            await other.commit([TakeLock("/n/lock"), Put("/n", b"2")])
        assert (await store.get("/n")).data == b"1"
        await lock.release()
        again, _ = await other.commit([TakeLock("/n/lock"), Put("/n", b"3", 1)])
        assert again is not None
        assert not isinstance(again, Entry)
        assert again.is_held

    async def test_what_is_created_locked_has_the_next_number_or_nothing_is_done(
        self, store: Store, other: Store
    ) -> None:
        await store.ensure("/n")
        async with store.tree("/n") as tree:
            await tree.synced()
            numbers = []
            for n in range(6):
                made = await store.create_locked("/n/", b"%d" % n)
                if made is None:
                    entry = await store.create("/n/", b"%d" % n, sequence=True)
                else:
                    entry, lock = made
                    assert lock.is_held
                    assert lock.path == f"{entry.path}/lock"
                    assert await other.contenders(lock.path) == [lock.contender]
                    with pytest.raises(LockBusyError):
                        await other.lock(lock.path)
                    await lock.release()
                numbers.append(int(entry.path[-10:]))
                assert (await other.get(entry.path)).data == b"%d" % n
        assert numbers == list(range(numbers[0], numbers[0] + 6))

    async def test_failed_transaction_takes_no_lock(self, store: Store) -> None:
        await store.create("/n", b"0")
        for _ in range(2):
            with pytest.raises(VersionConflictError):
                await store.commit([TakeLock("/n/lock"), Put("/n", b"1", 5)])
            assert await store.contenders("/n/lock") == []
            await store.ensure("/n/lock")

    async def test_lock_is_given_back_with_a_transaction(self, store: Store) -> None:
        await store.create("/n", b"0")
        lock = await store.lock("/n/lock")
        await store.commit([Put("/n", b"1", 0), ReleaseLock(lock)], under=(lock,))
        assert not lock.is_held
        assert await store.contenders("/n/lock") == []

    async def test_nothing_is_written_under_a_released_lock(self, store: Store) -> None:
        await store.create("/n", b"0")
        lock = await store.lock("/n/lock")
        await lock.release()
        for call in (
            store.put("/n", b"1", under=(lock,)),
            store.delete("/n", under=(lock,)),
            store.commit([Put("/n", b"1")], under=(lock,)),
            store.commit([Put("/n", b"1"), ReleaseLock(lock)]),
        ):
            with pytest.raises(LockLostError):
                await call
        assert (await store.get("/n")).data == b"0"

    async def test_removed_contender_fails_the_release(self, store: Store, other: Store) -> None:
        await store.create("/n", b"0")
        lock = await store.lock("/n/lock")
        await other.delete(lock.contender)
        with pytest.raises(LockLostError) as caught:
            await store.commit([Put("/n", b"1"), ReleaseLock(lock)])
        assert caught.value.path == lock.contender
        assert (await store.get("/n")).data == b"0"

    async def test_lost_is_told_when_the_session_ends_and_not_on_release(self, store: Store, other: Store) -> None:
        await store.ensure("/l")
        lost: list[str] = []
        kept: Lock = await other.lock("/l/a")
        released: Lock = await other.lock("/l/b")
        kept.on_lost(lambda: lost.append("a"))
        released.on_lost(lambda: lost.append("b"))
        await released.release()
        await other.__aexit__(None, None, None)
        assert lost == ["a"]
        assert not kept.is_held

    # -- trees ------------------------------------------------------------------------------------------------------

    async def test_tree_has_what_was_there(self, store: Store) -> None:
        for path in ("/t/a/b", "/t/c", "/u"):
            await store.create(path, path.encode(), parents=True)
        async with store.tree("/t") as tree:
            await tree.synced()
            assert {entry.path for entry in tree.entries()} == {"/t/a", "/t/a/b", "/t/c"}
            assert set(tree.children("/t")) == {"a", "c"}
            found = tree.get("/t/a/b")
            assert found is not None
            assert (found.data, found.stat) == (b"/t/a/b", (await store.get("/t/a/b")).stat)
            assert tree.get("/t") is None

    async def test_tree_may_be_opened_before_its_root_exists(self, store: Store, other: Store) -> None:
        async with store.tree("/later") as tree:
            await tree.synced()
            assert list(tree.entries()) == []
            await other.create("/later/x", b"1", parents=True)
            await until(tree, lambda: tree.get("/later/x") is not None)

    async def test_own_write_is_in_the_tree_when_the_call_returns(self, store: Store) -> None:
        await store.ensure("/t")
        async with store.tree("/t") as tree:
            await tree.synced()
            made = await store.create("/t/", b"0", sequence=True)
            assert tree.get(made.path) == made
            put = await store.put(made.path, b"1")
            assert tree.get(made.path) == put
            _, moved = await store.commit([Create("/t/x", b"x"), Put(made.path, b"2")])
            assert tree.get(made.path) == moved
            await store.delete(made.path)
            assert tree.get(made.path) is None

    async def test_foreign_changes_come_in_order(self, store: Store, other: Store) -> None:
        await store.create("/t/end", parents=True)
        seen: list[tuple[str, bytes | None]] = []

        def note(event: TreeEvent) -> None:
            match event:
                case Changed(entry, _):
                    seen.append((entry.path, entry.data))
                case Removed(entry):
                    seen.append((entry.path, None))

        async with store.tree("/t") as tree:
            await tree.synced()
            tree.subscribe(note)
            for number in range(20):
                await other.create(f"/t/{number}", b"new")
                await other.put(f"/t/{number}", b"old")
                await other.delete(f"/t/{number}")
            await other.put("/t/end", b"end")
            await until(tree, lambda: ("/t/end", b"end") in seen)
        for number in range(20):
            own = [data for path, data in seen if path == f"/t/{number}"]
            assert own in ([b"new", b"old", None], [b"new", None], [b"old", None], [])

    async def test_deleted_and_recreated_znode_is_the_new_one(self, store: Store, other: Store) -> None:
        await store.create("/t/a", b"1", parents=True)
        async with store.tree("/t") as tree:
            await tree.synced()
            await other.put("/t/a", b"2")
            await other.delete("/t/a")
            made = await other.create("/t/a", b"3")
            await until(tree, lambda: (found := tree.get("/t/a")) is not None and found.data == b"3")
            assert tree.get("/t/a") == made

    async def test_unwanted_data_is_not_read(self, store: Store, other: Store) -> None:
        await store.create("/t/lock", b"secret", parents=True)
        async with store.tree("/t", wants_data=lambda path: "lock" not in path) as tree:
            await tree.synced()
            before = store.operations.get("get", 0)
            await other.create("/t/lock/a", b"secret")
            await until(tree, lambda: "a" in tree.children("/t/lock"))
            assert [entry.data for entry in tree.entries()] == [b"", b""]
            assert store.operations.get("get", 0) == before
            await other.delete("/t/lock/a")
            await until(tree, lambda: not tree.children("/t/lock"))

    async def test_interleaved_writers_agree_in_the_end(self, store: Store, other: Store) -> None:
        await store.create("/t/a", b"", parents=True)
        async with store.tree("/t") as mine, other.tree("/t") as theirs:
            await mine.synced()
            await theirs.synced()
            calls = [each.put("/t/a", f"{number}".encode()) for number in range(50) for each in (store, other)]
            await asyncio.gather(*calls)
            final = await store.get("/t/a")
            for tree in (mine, theirs):
                await until(tree, lambda tree=tree: tree.get("/t/a") == final)

    async def test_unsubscribed_listener_is_left_alone(self, store: Store) -> None:
        await store.ensure("/t")
        told: list[TreeEvent] = []
        async with store.tree("/t") as tree:
            await tree.synced()
            stop = tree.subscribe(told.append)
            await store.create("/t/a")
            stop()
            await store.create("/t/b")
        assert [type(event) for event in told] == [Changed]

    async def test_closed_store_refuses_calls(self, store: Store, other: Store) -> None:
        await other.__aexit__(None, None, None)
        for call in (other.get("/"), other.put("/x", b""), other.lock("/x/lock")):
            with pytest.raises(StoreError):
                await call
        await store.ensure("/still/works")
