"""Measures the store in the life of one request: CPU time, Python calls and ZooKeeper operations of a launcher.

    PYTHONPATH=src:tests python bench/store_life.py [--before OTHER/src] [--lives 400] [--at-once 50] [--rounds 3]

Starts a ZooKeeper server (Debian package zookeeper). One process plays the launcher, with the launcher's seven trees
open and nothing but the store's calls of a request's life; another plays Zuul, on the same store. With ``--before`` the
launcher's part is played in turn by this source tree and by the other one. CPU time is the launcher process's own.
Calls are counted by cProfile in separate rounds (all calls, and all without calls into C).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from nodelaunch.protocol import paths
from nodelaunch.protocol.store import (
    Changed,
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
from nodelaunch.store.zookeeper.store import TlsFiles, ZooKeeperStore

REQUEST = b'{"state": "%s", "node_types": ["small"], "requestor": "zuul", "provider": null, "x": "' + b"r" * 300 + b'"}'
NODE = b'{"state": "%s", "provider": "cloud", "pool": "main", "type": ["small"], "host_keys": ["' + b"k" * 700 + b'"]}'
ROOTS = (
    paths.REQUESTS, paths.REQUEST_LOCKS, paths.NODES, paths.POOLS, paths.PRESENCES, paths.KNOWN_POOLS, paths.IMAGES,
)  # fmt: skip


def is_node(path: str) -> bool:
    return path.count("/") == 3


def wants_of(root: str) -> dict[str, object]:
    """Arguments with which the launcher's trees are opened."""
    if root == paths.REQUEST_LOCKS:
        return {"wants_data": lambda _path: False}
    if root == paths.NODES:
        return {"wants_data": is_node, "keeps_data": False}
    return {"keeps_data": False}


class Launcher:
    """Serves requests as fast as the store allows."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done = 0
        self.wanted = 0
        self.finished = asyncio.Event()
        self.failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._states: dict[str, tuple[bytes, int]] = {}
        self._foreign: set[str] = set()
        """Nodes that a peer has locked; their changes may arrive late."""
        self._ours: set[str] = set()
        self._nodes: Tree | None = None

    async def finish(self) -> None:
        """Wait until the wanted number of requests is done. Raises: the error of the first failed request."""
        await self.finished.wait()
        self.finished.clear()
        if self.failure is not None:
            raise self.failure

    def may_lag(self, path: str) -> bool:
        return path in self._foreign

    def watch(self, tree: Tree) -> None:
        if tree.root == paths.REQUESTS:
            tree.subscribe(self._on_request)
        elif tree.root == paths.NODES:
            self._nodes = tree
            tree.subscribe(self._on_node)
        else:
            tree.subscribe(lambda _event: None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
            self.finished.set()

    def _on_request(self, event: TreeEvent) -> None:
        if isinstance(event, Changed) and event.old is None and event.entry.data[11:20] == b"requested":
            self._start(self._serve(event.entry))

    def _on_node(self, event: TreeEvent) -> None:
        if isinstance(event, Changed):
            path = event.entry.path
            if is_node(path):
                self._states[path] = (event.entry.data[11:15], event.entry.stat.version)
                self._remove_if_left(path)
            elif "__lock__" in path and path not in self._ours:
                node = path[:-53].rpartition("/")[0]
                if node not in self._ours:
                    self._foreign.add(node)
        elif isinstance(event, Removed):
            path = event.entry.path
            if is_node(path):
                self._states.pop(path, None)
            elif "__lock__" in path:
                node = path[:-53].rpartition("/")[0]
                if node in self._foreign:
                    self._foreign.discard(node)
                    self._remove_if_left(node)

    def _remove_if_left(self, node: str) -> None:
        """Remove *node* if it is used and unlocked."""
        if node not in self._foreign and node not in self._ours and self._states.get(node, (b"",))[0] == b"used":
            self._ours.add(node)
            self._start(self._remove(node))

    async def _serve(self, request: Entry) -> None:
        commit = self.store.commit
        lock_path = f"{paths.REQUEST_LOCKS}/{request.path[20:]}"
        pending = Put(request.path, REQUEST % b"pending", request.stat.version)
        request_lock, request_now = await commit([TakeLock(lock_path, b"launcher"), pending])
        node = await self.store.create(paths.NEW_NODE, NODE % b"init", sequence=True)
        self._ours.add(node.path)
        building = Put(node.path, NODE % b"building", node.stat.version)
        node_lock, node_now = await commit([TakeLock(f"{node.path}/lock", b"launcher"), building])
        assert isinstance(node_now, Entry)
        assert isinstance(request_now, Entry)
        node_now = await self.store.put(node.path, NODE % b"building", version=node_now.stat.version)
        self._ours.discard(node.path)
        await commit([
            Put(node.path, NODE % b"ready", node_now.stat.version), ReleaseLock(_lock(node_lock)),
            Put(request.path, REQUEST % b"fulfilled" + node.path.encode(), request_now.stat.version),
            ReleaseLock(_lock(request_lock)), Delete(lock_path),
        ])  # fmt: skip

    async def _remove(self, node: str) -> None:
        version = self._states[node][1]
        lock_path = f"{node}/lock"
        lock, entry = await self.store.commit(
            [TakeLock(lock_path, b"launcher"), Put(node, NODE % b"deleting", version)]
        )
        assert isinstance(entry, Entry)
        await self.store.commit([ReleaseLock(_lock(lock)), Delete(lock_path), Delete(node, entry.stat.version)])
        self._ours.discard(node)
        self.done += 1
        if self.done == self.wanted:
            self.finished.set()


def _lock(result: object) -> Lock:
    assert result is not None
    assert not isinstance(result, Entry)
    return result  # type: ignore[return-value]


async def play_launcher(store: Store, lives: int, *, profiled: bool) -> dict[str, object]:
    """Serve *lives* requests of any requestor and return the cost of each."""
    from contextlib import AsyncExitStack

    launcher = Launcher(store)
    async with AsyncExitStack() as stack:
        for root in ROOTS:
            options = wants_of(root)
            if root == paths.NODES:
                options["may_lag"] = launcher.may_lag
            tree = await stack.enter_async_context(store.tree(root, **options))  # type: ignore[arg-type]
            launcher.watch(tree)
            await tree.synced()
        launcher.wanted = 20
        print("ready", flush=True)
        await launcher.finish()  # warm-up
        launcher.wanted += lives
        before, operations = time.process_time(), dict(store.operations)
        profile = cProfile.Profile()
        if profiled:
            profile.enable()
        print("go", flush=True)
        await launcher.finish()
        profile.disable()
        took = time.process_time() - before
        sent = {kind: count - operations.get(kind, 0) for kind, count in store.operations.items()}
    sent.pop("ping", None)
    result: dict[str, object] = {"cpu_us": took / lives * 1e6, "operations": sum(sent.values()) / lives, "kinds": sent}
    if profiled:
        stats = pstats.Stats(profile)
        result["calls"] = sum(row[1] for row in stats.stats.values()) / lives  # type: ignore[attr-defined]
        result["python_calls"] = (
            sum(row[1] for key, row in stats.stats.items() if key[0] != "~") / lives  # type: ignore[attr-defined]
        )
        if path := os.environ.get("STORE_LIFE_PROFILE"):
            stats.dump_stats(path)
    return result


async def play_zuul(store: Store, lives: int, at_once: int) -> None:
    """Request *lives* nodes, *at_once* at a time; use each node, and return it."""
    fulfilled: dict[str, asyncio.Future[str]] = {}

    def on_event(event: TreeEvent) -> None:
        if isinstance(event, Changed) and event.entry.data[11:20] == b"fulfilled":
            waiting = fulfilled.pop(event.entry.path, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(event.entry.data.rpartition(b"}")[2].decode())

    async with store.tree(paths.REQUESTS) as tree:
        await tree.synced()
        tree.subscribe(on_event)
        numbers = iter(range(lives))

        async def work() -> None:
            for _ in numbers:
                request = await store.create(paths.new_request("200"), REQUEST % b"requested", sequence=True)
                waiting = fulfilled[request.path] = asyncio.get_running_loop().create_future()
                known = tree.get(request.path)
                if known is not None and known.data[11:20] == b"fulfilled":
                    waiting.set_result(known.data.rpartition(b"}")[2].decode())
                node = await waiting
                lock = await store.lock(f"{node}/lock", timeout_s=30.0)
                await store.put(node, NODE % b"in-use", under=(lock,))
                await store.delete(request.path)
                await store.put(node, NODE % b"used", under=(lock,))
                await lock.release()

        await asyncio.gather(*(work() for _ in range(at_once)))


async def play(args: argparse.Namespace) -> None:
    tls = None if args.tcp else TlsFiles(args.cert, args.key, args.ca)
    async with ZooKeeperStore([("127.0.0.1", args.port)], tls=tls, session_timeout_s=30.0) as store:
        if args.role == "zuul":
            await play_zuul(store, 20, 10)
            sys.stdin.readline()
            await play_zuul(store, args.lives, args.at_once)
        else:
            print(json.dumps(await play_launcher(store, args.lives, profiled=args.role == "profiled")))


def run(source: str, own: str, role: str, args: argparse.Namespace, server: list[str]) -> dict[str, object]:
    """Run one round of the two processes and return the launcher's figures."""
    common = [sys.executable, __file__, *server, "--lives", str(args.lives), "--at-once", str(args.at_once)]
    tests = str(Path(__file__).resolve().parent.parent / "tests")

    def environment(path: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{path}:{tests}"}

    with subprocess.Popen(
        [*common, "--role", role], env=environment(source), stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        with subprocess.Popen(
            [*common, "--role", "zuul"], env=environment(own), stdin=subprocess.PIPE, text=True
        ) as zuul:
            assert zuul.stdin is not None
            try:
                if launcher.stdout.readline() != "go\n":
                    raise RuntimeError("the launcher ended before its warm-up did")
                zuul.stdin.write("\n")
                zuul.stdin.flush()
                result: dict[str, object] = json.loads(launcher.stdout.readline())
            except BaseException:
                zuul.kill()
                launcher.kill()
                raise
            return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="source tree to compare with")
    parser.add_argument("--lives", type=int, default=400)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tcp", action="store_true", help="plaintext instead of TLS")
    for name in ("--role", "--port", "--cert", "--key", "--ca"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if args.role:
        asyncio.run(play(args))
        return
    from support.certificates import make_certificates
    from support.zookeeper import ZooKeeperServer

    own = str(Path(__file__).resolve().parent.parent / "src")
    sources = {"now": own, **({"before": args.before} if args.before else {})}
    with tempfile.TemporaryDirectory() as folder:
        server = ZooKeeperServer(Path(folder) / "zookeeper", make_certificates(Path(folder) / "certificates"))
        server.start()
        try:
            files = server.certificates.client
            address = ["--port", str(server.port), "--tcp"] if args.tcp else [
                "--port", str(server.tls_port), "--cert", files.cert, "--key", files.key, "--ca", files.ca
            ]  # fmt: skip
            asyncio.run(_prepare(server.port))
            results: dict[str, list[dict[str, object]]] = {name: [] for name in sources}
            for _ in range(args.rounds):
                for name, source in sources.items():
                    results[name].append(run(source, own, "launcher", args, address))
            counted = {name: run(source, own, "profiled", args, address) for name, source in sources.items()}
        finally:
            server.kill()
    print(f"{'':<8}{'CPU us/life':>24}{'calls':>8}{'Python':>8}{'operations':>12}")
    for name in sources:
        cpu = " ".join(f"{each['cpu_us']:.0f}" for each in results[name])
        count = counted[name]
        print(
            f"{name:<8}{cpu:>24}{count['calls']:>8.0f}{count['python_calls']:>8.0f}"
            f"{results[name][-1]['operations']:>12.1f}  {results[name][-1]['kinds']}"
        )


async def _prepare(port: int) -> None:
    async with ZooKeeperStore([("127.0.0.1", port)]) as store:
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(f"{paths.REQUESTS}/x")
        await store.commit(
            [Create(f"{paths.REQUESTS}/y"), Delete(f"{paths.REQUESTS}/y"), Delete(f"{paths.REQUESTS}/x")]
        )


if __name__ == "__main__":
    main()
