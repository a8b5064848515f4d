"""Locks and sessions on a real ZooKeeper when things break, with kazoo on the other side."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, LockTimeout

from conformance.store_suite import until
from nodelaunch.clock import uptime
from nodelaunch.errors import LockBusyError, SessionLostError, StoreError, StoreUnavailableError
from nodelaunch.protocol.store import Create, Entry, Lock, Put, SessionState, TakeLock
from nodelaunch.store.zookeeper.store import TlsFiles, ZooKeeperStore
from support.certificates import Certificates, make_certificates
from support.zookeeper import Proxy, ZooKeeperServer

pytestmark = pytest.mark.zookeeper
TIMEOUT_S = 2.0
DEADLINE_S = 30.0


@pytest.fixture
def kazoo(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[KazooClient]:
    client = zookeeper_server.kazoo(zk_chroot)
    yield client
    client.stop()
    client.close()


@pytest.fixture
async def proxy(zookeeper_server: ZooKeeperServer) -> AsyncIterator[Proxy]:
    async with Proxy(zookeeper_server.port) as made:
        yield made


@pytest.fixture
async def store(proxy: Proxy, kazoo: KazooClient, zk_chroot: str) -> AsyncIterator[ZooKeeperStore]:
    """A store behind the proxy, on the same chroot as `kazoo`."""
    async with ZooKeeperStore([("127.0.0.1", proxy.port)], chroot=zk_chroot, session_timeout_s=TIMEOUT_S) as opened:
        await opened.ensure("/l")
        yield opened


async def state(store: ZooKeeperStore, wanted: SessionState) -> None:
    """Wait until the session is, or has been, in state *wanted*."""
    seen = asyncio.Event()
    stop = store.session.subscribe(lambda now: seen.set() if now is wanted else None)
    try:
        if store.session.state is not wanted:
            async with asyncio.timeout(DEADLINE_S):
                await seen.wait()
    finally:
        stop()


# -- exclusion ------------------------------------------------------------------------------------------------------


async def test_kazoo_is_kept_out_by_our_lock_and_we_by_its(store: ZooKeeperStore, kazoo: KazooClient) -> None:
    ours = await store.lock("/l/lock")
    theirs = kazoo.Lock("/l/lock")
    assert not await asyncio.to_thread(theirs.acquire, blocking=False)
    with pytest.raises(LockTimeout):
        await asyncio.to_thread(theirs.acquire, timeout=0.2)
    waiting = asyncio.create_task(asyncio.to_thread(theirs.acquire, timeout=DEADLINE_S))
    async with store.tree("/l") as tree:
        await tree.synced()
        await until(tree, lambda: len(tree.children("/l/lock")) == 2)
    await ours.release()
    assert await waiting
    with pytest.raises(LockBusyError):
        await store.lock("/l/lock")
    with pytest.raises(LockBusyError):
        await store.commit([TakeLock("/l/lock")])
    waiter = asyncio.create_task(store.lock("/l/lock", timeout_s=DEADLINE_S))
    await asyncio.to_thread(theirs.release)
    assert (await waiter).is_held


async def test_lock_in_a_transaction_keeps_kazoo_out(store: ZooKeeperStore, kazoo: KazooClient) -> None:
    await store.create("/l/n", b"0")
    lock, _ = await store.commit([TakeLock("/l/n/lock"), Put("/l/n", b"1", 0)])
    assert lock is not None
    assert not isinstance(lock, Entry)
    assert not await asyncio.to_thread(kazoo.Lock("/l/n/lock").acquire, blocking=False)
    await lock.release()
    assert await asyncio.to_thread(kazoo.Lock("/l/n/lock").acquire, timeout=DEADLINE_S)


async def test_locks_outlive_a_restart_of_the_server(
    certificates: Certificates, tmp_path: Path, zookeeper_server: ZooKeeperServer
) -> None:
    server = ZooKeeperServer(tmp_path, certificates)  # its own: the shared one serves other tests
    await asyncio.to_thread(server.start)
    kazoo = await asyncio.to_thread(server.kazoo)
    try:
        tls = certificates.client
        async with ZooKeeperStore([("127.0.0.1", server.tls_port)], tls=tls, session_timeout_s=20) as store:
            ours = await store.lock("/ours/lock", parents=True)
            await asyncio.to_thread(kazoo.Lock("/theirs/lock").acquire)
            await asyncio.to_thread(server.restart)
            async with asyncio.timeout(DEADLINE_S):
                await store.session.connected()
            assert ours.is_held
            assert store.session.epoch == 1
            with pytest.raises(LockBusyError):
                await store.lock("/theirs/lock")
            assert not await asyncio.to_thread(_patient, lambda: kazoo.Lock("/ours/lock").acquire(blocking=False))
            await store.put("/ours", b"still ours", under=(ours,))
    finally:
        kazoo.stop()
        kazoo.close()
        server.kill()


def _patient(call: object) -> object:
    """kazoo's calls fail while it is reconnecting."""
    for _ in range(100):
        try:
            return call()  # type: ignore[operator]
        except KazooException:
            signal.sigtimedwait([], 0.1)
    raise TimeoutError


# -- the connection is cut between request and reply ----------------------------------------------------------------


@pytest.mark.parametrize("is_new", [True, False], ids=["new directory", "old directory"])
async def test_lost_reply_to_a_lock_leaves_one_contender(store: ZooKeeperStore, proxy: Proxy, *, is_new: bool) -> None:
    await store.create("/l/n", b"0")
    if not is_new:
        await store.ensure("/l/n/lock")
    writes = iter([True])
    proxy.on_request = lambda _xid, opcode: opcode in (14, 15) and next(writes, False)
    async with asyncio.timeout(DEADLINE_S):
        lock, entry = await store.commit([TakeLock("/l/n/lock"), Put("/l/n", b"1", 0)])
    assert next(writes, None) is None
    assert lock is not None
    assert not isinstance(lock, Entry)
    assert await store.contenders("/l/n/lock") == [lock.contender]
    assert isinstance(entry, Entry)
    assert (entry.data, entry.stat.version) == (b"1", 1)
    assert entry == await store.get("/l/n")


async def test_lost_reply_to_a_plain_lock_leaves_one_contender(store: ZooKeeperStore, proxy: Proxy) -> None:
    await store.ensure("/l/lock")
    writes = iter([True])
    proxy.on_request = lambda _xid, opcode: opcode == 15 and next(writes, False)
    async with asyncio.timeout(DEADLINE_S):
        lock = await store.lock("/l/lock")
    assert await store.contenders("/l/lock") == [lock.contender]


@pytest.mark.parametrize("opcode", [15, 5, 2, 14])
async def test_lost_reply_to_a_write_is_made_up_for_once(store: ZooKeeperStore, proxy: Proxy, opcode: int) -> None:
    await store.create("/l/a", b"0")
    await store.create("/l/gone")
    writes = iter([True])
    proxy.on_request = lambda _xid, sent: sent == opcode and next(writes, False)
    async with asyncio.timeout(DEADLINE_S):
        match opcode:
            case 15:
                made = await store.create("/l/n", b"unique", sequence=True)
                assert await store.children("/l") == ["a", "gone", made.path.rpartition("/")[2]]
            case 5:
                assert (await store.put("/l/a", b"1", version=0)).stat.version == 1
            case 2:
                await store.delete("/l/gone")
            case 14:
                done = await store.commit([Put("/l/a", b"1", 0), Create("/l/b")])
                assert [entry.path for entry in done if isinstance(entry, Entry)] == ["/l/a", "/l/b"]
                assert (await store.get("/l/a")).stat.version == 1
    assert store.session.epoch == 1


async def test_equal_creates_without_a_reply_each_get_their_own_znode(store: ZooKeeperStore, proxy: Proxy) -> None:
    seen = iter([False, True])
    proxy.on_request = lambda _xid, sent: sent == 15 and next(seen, False)
    async with asyncio.timeout(DEADLINE_S):
        made = await asyncio.gather(*(store.create("/l/n", b"the same", sequence=True) for _ in range(4)))
    assert next(seen, None) is None
    assert len({entry.path for entry in made}) == 4
    assert sorted(entry.path for entry in made) == [f"/l/{name}" for name in await store.children("/l")]


async def test_too_large_data_is_refused_and_the_connection_stays(store: ZooKeeperStore) -> None:
    with pytest.raises(StoreError, match="too many for a znode"):
        async with asyncio.timeout(DEADLINE_S):
            await store.create("/l/big", bytes(2 << 20))
    assert store.session.state is SessionState.CONNECTED


# -- lost sessions --------------------------------------------------------------------------------------------------


async def test_lost_lock_is_told_before_anybody_else_gets_it_and_nothing_is_written(
    store: ZooKeeperStore, proxy: Proxy, kazoo: KazooClient
) -> None:
    lock: Lock = await store.lock("/l/lock")
    await store.create("/l/n", b"before")
    states: list[SessionState] = []
    store.session.subscribe(states.append)
    lost = asyncio.Event()
    lock.on_lost(lost.set)
    proxy.passing.clear()
    write = asyncio.create_task(store.put("/l/n", b"after", under=(lock,)))
    assert await asyncio.to_thread(kazoo.Lock("/l/lock").acquire, timeout=DEADLINE_S)
    assert lost.is_set()  # the server gives up on a session no earlier than its timeout
    assert not lock.is_held
    with pytest.raises(SessionLostError):
        await write
    with pytest.raises(SessionLostError):
        await store.put("/l/n", b"after", under=(lock,))
    proxy.cut()
    proxy.passing.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await store.session.connected() == 2
    assert states[-1] is SessionState.CONNECTED
    assert SessionState.LOST in states
    assert states.index(SessionState.DOUBTFUL) < states.index(SessionState.LOST)
    with pytest.raises(SessionLostError):
        await store.put("/l/n", b"after", under=(lock,))
    assert kazoo.get("/l/n")[0] == b"before"


async def test_short_break_keeps_session_lock_and_tree(store: ZooKeeperStore, proxy: Proxy, kazoo: KazooClient) -> None:
    lock = await store.lock("/l/lock")
    async with store.tree("/l") as tree:
        await tree.synced()
        proxy.is_open = False
        proxy.cut()
        await state(store, SessionState.SUSPENDED)
        assert not tree.is_synced
        kazoo.create("/l/meanwhile", b"x")
        kazoo.delete("/l/lock/" + lock.contender.rpartition("/")[2])
        proxy.is_open = True
        async with asyncio.timeout(DEADLINE_S):
            await store.session.connected()
            await tree.synced()
        assert (tree.get("/l/meanwhile") or Entry).data == b"x"  # type: ignore[union-attr]
        assert not tree.children("/l/lock")
    assert store.session.epoch == 1


FROZEN = """
import asyncio, structlog, sys
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
from nodelaunch.clock import uptime
from nodelaunch.errors import SessionLostError
from nodelaunch.store.zookeeper.store import ZooKeeperStore

async def main():
    async with ZooKeeperStore([("127.0.0.1", int(sys.argv[1]))], chroot=sys.argv[2], session_timeout_s=2) as store:
        lock = await store.lock("/l/lock")
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("held" if lock.is_held else "lost", flush=True)
        try:
            await store.put("/l", b"written", under=(lock,))
            print("written", flush=True)
        except SessionLostError:
            print("refused", flush=True)

asyncio.run(main())
"""


async def test_frozen_process_knows_on_waking_that_its_lock_is_lost(
    store: ZooKeeperStore, kazoo: KazooClient, zookeeper_server: ZooKeeperServer, zk_chroot: str
) -> None:
    command = [sys.executable, "-c", FROZEN, str(zookeeper_server.port), zk_chroot]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert await asyncio.to_thread(process.stdout.readline) == "held\n"
        os.kill(process.pid, signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            lock = await store.lock("/l/lock", timeout_s=DEADLINE_S)
        process.stdin.write("\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        output, _ = await asyncio.to_thread(process.communicate)
    assert output.split() == ["lost", "refused"]
    assert lock.is_held
    assert kazoo.get("/l")[0] == b""


# -- trees under churn ----------------------------------------------------------------------------------------------


async def test_tree_equals_the_server_after_churn_and_cuts(
    store: ZooKeeperStore, proxy: Proxy, kazoo: KazooClient
) -> None:
    rng = random.Random(7)
    paths = [f"/l/{n}" for n in range(8)] + [f"/l/{n}/{m}" for n in range(8) for m in range(2)]

    def churn() -> None:
        for number in range(600):
            path = rng.choice(paths)
            try:
                match rng.randrange(3):
                    case 0:
                        kazoo.create(path, b"%d" % number)
                    case 1:
                        kazoo.set(path, b"%d" % number)
                    case _:
                        kazoo.delete(path, recursive=rng.random() < 0.2)
            except KazooException:
                pass

    async with store.tree("/l") as tree:
        await tree.synced()
        churning = asyncio.create_task(asyncio.to_thread(churn))
        cuts = 0
        while not churning.done():
            await asyncio.wait([churning], timeout=0.3)
            proxy.cut()
            cuts += 1
        async with asyncio.timeout(DEADLINE_S):
            await store.session.connected()
            marker = await store.create("/l/marker", b"end")
            await tree.synced()
            await until(tree, lambda: tree.get(marker.path) is not None)
        there = {path: kazoo.get(path)[0] for path in [*paths, "/l/marker"] if kazoo.exists(path)}
        assert {entry.path: entry.data for entry in tree.entries()} == there
        assert cuts > 1


# -- connecting -----------------------------------------------------------------------------------------------------


async def test_dead_servers_in_the_list_are_passed_over(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> None:
    servers = [("127.0.0.1", 1), ("no-such-host.invalid", 2181), ("127.0.0.1", zookeeper_server.port)]
    async with asyncio.timeout(DEADLINE_S):
        async with ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=TIMEOUT_S) as store:
            assert (await store.create("/a")).path == "/a"


async def test_other_servers_are_used_from_the_next_connection_on(
    store: ZooKeeperStore, proxy: Proxy, zookeeper_server: ZooKeeperServer
) -> None:
    lock = await store.lock("/l/lock")
    store.session.use_servers([("127.0.0.1", zookeeper_server.port)])
    proxy.is_open = False
    proxy.cut()
    await state(store, SessionState.SUSPENDED)
    async with asyncio.timeout(DEADLINE_S):
        await store.session.connected()
        await store.put("/l", b"by another way", under=(lock,))
    assert store.session.epoch == 1


async def test_close_while_disconnected_is_quick_and_quiet(proxy: Proxy, zk_chroot: str) -> None:
    async with ZooKeeperStore([("127.0.0.1", proxy.port)], chroot=zk_chroot, session_timeout_s=60) as store:
        proxy.is_open = False
        proxy.cut()
        await state(store, SessionState.SUSPENDED)
        call = asyncio.create_task(store.get("/"))
        await asyncio.sleep(0)
    with pytest.raises((SessionLostError, StoreUnavailableError)):
        await call
    with pytest.raises((SessionLostError, StoreUnavailableError)):
        await store.get("/")


async def test_nobody_there_ends_with_the_callers_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ZooKeeperStore([("127.0.0.1", 1)]).__aenter__()


def test_wrong_tls_files_are_named(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.client
    other = make_certificates(tmp_path / "other").client
    (tmp_path / "nonsense").write_text("nonsense")
    nonsense = str(tmp_path / "nonsense")
    cases = [
        (TlsFiles(str(tmp_path / "missing"), good.key, good.ca), "cert: .*missing can't be read: No such file"),
        (TlsFiles(good.cert, nonsense, good.ca), "not a PEM certificate and its key"),
        (TlsFiles(good.cert, good.key, nonsense), "ca: .* has no PEM certificate"),
        (TlsFiles(good.cert, other.key, good.ca), "key: .* does not belong to certificate"),
    ]
    for files, message in cases:
        with pytest.raises(ValueError, match=message):
            files.context()


async def test_server_of_a_foreign_ca_is_refused(zookeeper_server: ZooKeeperServer, tmp_path: Path) -> None:
    stranger = make_certificates(tmp_path).client
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await ZooKeeperStore([(zookeeper_server.host, zookeeper_server.tls_port)], tls=stranger).__aenter__()


async def test_lock_is_lost_while_the_machine_sleeps(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timers stop then, and so does the clock that most programs use; the server's clock continues."""
    servers = [("127.0.0.1", zookeeper_server.port)]
    async with asyncio.timeout(60.0), ZooKeeperStore(servers, chroot=zk_chroot, session_timeout_s=6.0) as store:
        await store.ensure("/n")
        lock = await store.lock("/n/lock")
        slept_s = 0.0

        def later() -> float:
            return uptime() + slept_s

        monkeypatch.setattr("nodelaunch.store.zookeeper.session.uptime", later)
        assert lock.is_held
        slept_s = 7.0
        assert not lock.is_held
        with pytest.raises(StoreError):
            await store.commit([Put("/n", b"written")], under=(lock,))
        renewed = asyncio.Event()
        store.session.subscribe(lambda state: renewed.set() if state is SessionState.CONNECTED else None)
        await renewed.wait()
        assert store.session.epoch == 2
        assert (await store.get("/n")).data == b""
