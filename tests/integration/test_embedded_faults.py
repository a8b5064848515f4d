"""The embedded store when its disk is full, slow or broken, and when its file is not what it should be."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodelaunch.errors import LockBusyError, RecordExistsError, RecordGoneError, StoreUnavailableError
from nodelaunch.protocol.store import Create, Put, ReleaseLock, SessionState, TakeLock
from nodelaunch.store.embedded import journal
from nodelaunch.store.embedded.sqlite import SqliteFile
from nodelaunch.store.embedded.store import EmbeddedStore
from nodelaunch.store.embedded.znodes import Change

DEADLINE_S = 20.0
LARGE = b"y" * 300_000


class Disk:
    """Stands between the store and its file: writes wait while it is shut, and fail while it is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.is_broken = False
        self.groups: list[int] = []
        """Numbers of changes of the groups that were written."""
        write, probe = SqliteFile.write, SqliteFile.probe

        def slow_write(file: SqliteFile, changes: Sequence[Change], zxid: int) -> None:
            self._pass()
            if changes:
                self.groups.append(len(changes))
            write(file, changes, zxid)

        def slow_probe(file: SqliteFile) -> None:
            self._pass()
            probe(file)

        monkeypatch.setattr(SqliteFile, "write", slow_write)
        monkeypatch.setattr(SqliteFile, "probe", slow_probe)

    def _pass(self) -> None:
        assert self.open.wait(DEADLINE_S)
        if self.is_broken:
            raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Yield the disk of a store that writes in its thread."""
    monkeypatch.setattr(journal, "LOOP_CAP_S", 0.0)
    monkeypatch.setattr(journal, "RETRY_EVERY", 1 << 30)
    made = Disk(monkeypatch)
    yield made
    made.open.set()


@pytest.fixture
async def store(tmp_path: Path, disk: Disk) -> AsyncIterator[EmbeddedStore]:
    assert disk.open.is_set()
    async with asyncio.timeout(DEADLINE_S * 2), EmbeddedStore(tmp_path / "store.sqlite") as opened:
        await opened.create("/n", b"before")
        yield opened


async def turns() -> None:
    """Let everything happen that is ready to."""
    for _ in range(20):
        await asyncio.sleep(0)


async def recovered(store: EmbeddedStore) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await store.session.connected()
    assert store.trouble is None


# -- a slow disk ----------------------------------------------------------------------------------------------------


async def test_nothing_is_seen_before_it_is_on_disk(store: EmbeddedStore, disk: Disk) -> None:
    told: list[object] = []
    async with store.connect() as other, other.tree("/n") as tree:
        tree.subscribe(told.append)
        disk.open.clear()
        calls = [
            asyncio.create_task(call)
            for call in (store.put("/n", b"after"), store.create("/n/a"), other.ensure("/n/a"), other.create("/n/a"))
        ]
        await turns()
        assert (await other.get("/n")).data == b"before"
        assert await other.children("/n") == []
        with pytest.raises(RecordGoneError):
            await other.get("/n/a")
        assert told == []
        # a reply to the last call would report changes that are not stored yet
        assert not any(call.done() for call in calls)
        disk.open.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[-1], RecordExistsError)
        assert (await other.get("/n")).data == b"after"
        assert len(told) == 1


async def test_what_comes_while_a_group_is_written_goes_out_as_one(store: EmbeddedStore, disk: Disk) -> None:
    disk.groups.clear()
    disk.open.clear()
    first = asyncio.create_task(store.create("/n/first"))
    await turns()
    rest = [asyncio.create_task(store.create("/n/x", sequence=True)) for _ in range(50)]
    rest += [asyncio.create_task(store.create("/n/first/below"))]
    await turns()
    disk.open.set()
    await asyncio.gather(first, *rest)
    assert disk.groups == [2, 102]


async def test_cancelled_taker_leaves_no_lock(store: EmbeddedStore, disk: Disk) -> None:
    disk.open.clear()
    takers = [
        asyncio.create_task(store.commit([TakeLock("/n/lock"), Put("/n", b"1")])),
        asyncio.create_task(store.lock("/n/other")),
    ]
    await turns()
    for taker in takers:
        taker.cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    disk.open.set()
    await store.put("/n", b"2")
    await store.ensure("/barrier")
    assert [await store.contenders(path) for path in ("/n/lock", "/n/other")] == [[], []]


# -- a broken disk --------------------------------------------------------------------------------------------------


async def test_failed_write_fails_all_that_was_built_on_it(store: EmbeddedStore, disk: Disk, tmp_path: Path) -> None:
    lock = await store.lock("/n/lock")
    disk.open.clear()
    first = asyncio.create_task(store.commit([Put("/n", b"lost"), Create("/n/a")]))
    await turns()
    disk.is_broken = True
    calls = [store.create("/n/a/b"), store.put("/n", b"newer", version=1), store.create("/n/a")]
    calls += [store.commit([ReleaseLock(lock)])]  # type: ignore[list-item]
    rest = [asyncio.create_task(call) for call in calls]
    await turns()
    disk.open.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 5
    assert "store.sqlite: can't be written: disk I/O error" in str(results[0])
    assert "nothing was changed" in str(results[0])
    assert (await store.get("/n")).stat.version == 0
    assert lock.is_held
    assert store.session.state is SessionState.SUSPENDED
    assert store.trouble is not None
    disk.is_broken = False
    await recovered(store)
    assert (await store.put("/n", b"after", version=0, under=[lock])).stat.version == 1
    assert [name for name in await store.children("/n") if name != "lock"] == []


async def test_states_are_told_to_every_session_and_pass(store: EmbeddedStore, disk: Disk) -> None:
    async with store.connect() as other:
        states: list[SessionState] = []
        other.session.subscribe(states.append)
        disk.is_broken = True
        with pytest.raises(StoreUnavailableError):
            await store.put("/n", b"1")
        async with store.connect() as late:
            assert late.session.state is SessionState.SUSPENDED
        disk.is_broken = False
        await recovered(store)
        assert states == [SessionState.SUSPENDED, SessionState.CONNECTED]


async def test_lock_given_back_while_the_disk_is_broken_is_free_when_it_is_well(
    store: EmbeddedStore, disk: Disk
) -> None:
    lock = await store.lock("/n/lock")
    async with store.connect() as other:
        await other.create("/n/ephemeral", ephemeral=True)
        await other.lock("/n/others")
        disk.is_broken = True
        await lock.release()
    disk.is_broken = False
    await recovered(store)
    await store.ensure("/barrier")
    assert [await store.contenders(path) for path in ("/n/lock", "/n/others")] == [[], []]
    assert await store.get_many(["/n/ephemeral"]) == [None]


async def test_store_closes_while_its_disk_is_broken(tmp_path: Path, disk: Disk) -> None:
    async with asyncio.timeout(DEADLINE_S), EmbeddedStore(tmp_path / "other.sqlite") as store:
        await store.create("/n", b"1")
        await store.lock("/n/lock")
        disk.is_broken = True
    disk.is_broken = False
    async with asyncio.timeout(DEADLINE_S), EmbeddedStore(tmp_path / "other.sqlite") as again:
        assert (await again.get("/n")).data == b"1"
        assert await again.contenders("/n/lock") == []


@contextmanager
def limited_files() -> Iterator[Callable[[], None]]:
    """A function after which no file of this process grows, until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_file_that_may_not_grow_refuses_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    async with asyncio.timeout(DEADLINE_S), EmbeddedStore(path) as store:
        await store.create("/n", b"before")
        with limited_files() as limit:
            limit()
            with pytest.raises(StoreUnavailableError, match="can't be written"):
                await store.put("/n", LARGE)
            assert (await store.get("/n")).data == b"before"
        await recovered(store)
        assert (await store.put("/n", LARGE)).stat.version == 1
    async with EmbeddedStore(path) as again:
        assert (await again.get("/n")).data == LARGE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_full_disk_is_told_and_healed(small_disk: Path) -> None:
    path = small_disk / "store.sqlite"
    async with asyncio.timeout(DEADLINE_S):
        async with EmbeddedStore(path) as store:
            await store.create("/n", b"before")
            lock = await store.lock("/n/lock")
            with suppressed_full_disk(small_disk):
                for call in (store.put("/n", LARGE, under=[lock]), store.create("/n/a", LARGE)):
                    with pytest.raises(StoreUnavailableError, match="full; free space on its disk"):
                        await call
                assert (await store.get("/n")).data == b"before"
                assert store.session.state is SessionState.SUSPENDED
                assert "disk is full" in (store.trouble or "")
            await recovered(store)
            assert (await store.put("/n", b"after", under=[lock])).stat.version == 1
        async with EmbeddedStore(path) as again:
            assert (await again.get("/n")).data == b"after"
            assert await again.children("/n") == ["lock"]


@contextmanager
def suppressed_full_disk(folder: Path) -> Iterator[None]:
    """No byte is free on the disk of *folder* inside the block."""
    filler = folder / "filler"
    try:
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:  # noqa: PT012
            while True:
                file.write(b"x" * 4096)
        yield
    finally:
        filler.unlink()


# -- the file -------------------------------------------------------------------------------------------------------


async def test_symbolic_link_is_no_second_owner(tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.sqlite"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "store.sqlite")
    async with EmbeddedStore(tmp_path / "store.sqlite"):
        with pytest.raises(StoreUnavailableError, match="is in use by process"):
            async with EmbeddedStore(link):
                pass


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.touch(0o644)
    async with EmbeddedStore(path) as store:
        await store.create("/n", b"secret")
        modes = {each.name: oct(each.stat().st_mode & 0o777) for each in tmp_path.iterdir()}
    assert modes == dict.fromkeys(
        ["store.sqlite", "store.sqlite-shm", "store.sqlite-wal", "store.sqlite.lock"], oct(0o600)
    )


async def filled(path: Path) -> bytes:
    async with EmbeddedStore(path) as store:
        await store.ensure("/n")
        await asyncio.gather(*(store.create("/n/x", b"d" * 1500, sequence=True) for _ in range(200)))
    return path.read_bytes()


async def refusal(path: Path) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        async with EmbeddedStore(path):
            pass
    return str(caught.value)


async def test_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    content = bytearray(await filled(path))
    for at in range(3 * 4096, len(content) - 4096, 3 * 4096):
        content[at : at + 64] = b"\xff" * 64
    path.write_bytes(content)
    message = await refusal(path)
    assert message.startswith(f"{path}: can't be used as a store: ")
    assert message.endswith("restore a copy, or move it away for a new file")
    path.write_bytes(b"this is no database\n" * 300)
    assert "file is not a database" in await refusal(path)


async def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE znodes DROP COLUMN cversion")
    db.close()
    message = await refusal(path)
    assert "another version" in message
    assert "name another file in embedded-store" in message


async def test_lock_that_lost_its_contender_is_not_waited_for(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), EmbeddedStore(tmp_path / "store.sqlite") as store:
        await store.ensure("/n")
        first = await store.lock("/n/lock")
        with pytest.raises(LockBusyError):
            await store.lock("/n/lock")
        waiter = asyncio.create_task(store.lock("/n/lock", timeout_s=DEADLINE_S))
        while len(order := await store.contenders("/n/lock")) < 2:
            await asyncio.sleep(0)
        await store.delete(order[1])
        with pytest.raises(Exception, match=order[1]):
            await waiter
        assert await store.contenders("/n/lock") == [first.contender]
