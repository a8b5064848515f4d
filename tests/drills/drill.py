"""Three launchers on three servers, and the faults that can hit them."""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from drills.schedule import LAUNCHERS, SESSION_S, Fault
from drills.wires import Wire, Wires
from nodelaunch.drivers.fake.cloud import FakeCloud
from support.certificates import Certificates
from support.ensemble import Ensemble
from support.process import Serve

MAX_SERVERS = 8
LOST_REPLY_SHARE = 0.05
PATIENCE_S = 300.0
"""Time limit for waits on a busy machine, while launchers start or end."""
_CHANGES = {1, 2, 5, 14, 15}
"""Opcodes of writes."""


class Drill:
    """Use as a context manager; `run` tracks of faults in threads."""

    def __init__(self, folder: Path, certificates: Certificates, seed: int) -> None:
        self.chroot = "/drill"
        self.cloud_file = folder / "cloud.sqlite"
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._folder = folder
        self._stack = ExitStack()
        self._rng = random.Random(f"replies {seed}")
        self._has_backup: set[int] = set()
        self.ensemble = Ensemble(folder, certificates)
        self.wires = Wires(LAUNCHERS, [server.port for server in self.ensemble.servers])
        self.serves: list[Serve] = []
        """The newest of each launcher."""
        self._killed: set[int] = set()
        """Launchers that a fault has just ended."""
        self.all_serves: list[Serve] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.ensemble)
            stack.enter_context(self.wires)
            stack.callback(self._kill_all)
            with closing(FakeCloud(self.cloud_file)) as cloud:
                cloud.servers()
            self.serves = [self._serve(number) for number in range(LAUNCHERS)]
            for serve in self.serves:
                serve.await_log("pool_registered")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _kill_all(self) -> None:
        for number, serve in enumerate(self.all_serves):
            serve.kill()
            (self._folder / f"launcher-{number}.log").write_text("".join(f"{json.dumps(e)}\n" for e in serve.log))

    def _serve(self, number: int) -> Serve:
        config = {
            "zookeeper-servers": [
                {"host": "127.0.0.1", "port": wire.port, "chroot": self.chroot} for wire in self.wires.of[number]
            ],
            "zookeeper-timeout": SESSION_S,
            "webapp": {"port": 0, "listen_address": "127.0.0.1"},
            "labels": [{"name": "small"}, {"name": "big"}],
            "providers": [{
                "name": "cloud", "driver": "fake", "cloud-file": str(self.cloud_file),
                "boot-time": 0.3, "delete-time": 0.2,
                "limits": {"max-servers": 100, "max-cores": 10_000, "max-ram": 10_000_000},
                "cloud-images": [{"name": "image", "username": "zuul", "python-path": "auto"}],
                "pools": [{
                    "name": "main", "max-servers": MAX_SERVERS,
                    "labels": [{"name": name, "cloud-image": "image", "min-ram": 8192} for name in ("small", "big")],
                }],
            }],
        }  # fmt: skip
        path = self._folder / f"nodepool-{number}.yaml"
        path.write_text(json.dumps(config))
        serve = Serve(path)
        serve.patience_s = PATIENCE_S
        self.all_serves.append(serve)
        return serve

    def cloud(self) -> closing[FakeCloud]:
        return closing(FakeCloud(self.cloud_file, patience_s=10.0))

    # -- faults -----------------------------------------------------------------------------------------------------

    def run(self, tracks: Sequence[Sequence[Fault]]) -> None:
        """All faults of all tracks, each at its time or as soon after it as the one before is over."""
        began = time.monotonic()
        threads = [threading.Thread(target=self._follow, args=(track, began), daemon=True) for track in tracks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _follow(self, track: Sequence[Fault], began: float) -> None:
        try:
            for fault in track:
                time.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                sys.stdout.write(f"{time.monotonic() - began:6.1f} {fault}\n")
                self._befall(fault)
                self.done[fault.kind] += 1
        except Exception as error:
            self.wrong.append(f"the drill itself failed at {fault}: {error!r}")

    def _befall(self, fault: Fault) -> None:
        if fault.kind in _OF_LAUNCHERS:
            self.start_again(fault.target)
            _OF_LAUNCHERS[fault.kind](self, fault)
        else:
            _OF_SERVERS[fault.kind](self, fault)
            self.ensemble.await_whole()

    # of servers

    def freeze(self, fault: Fault, *chosen: int) -> None:
        servers = [self.ensemble.servers[number] for number in chosen or (fault.target,)]
        for server in servers:
            server.freeze()
        time.sleep(fault.length_s)
        for server in servers:
            server.thaw()

    def freeze_leader(self, fault: Fault) -> None:
        self.freeze(fault, self.ensemble.servers.index(self.ensemble.leader))

    def freeze_two(self, fault: Fault) -> None:
        self.freeze(fault, *({0, 1, 2} - {fault.target}))

    def kill_server(self, fault: Fault) -> None:
        self._kill_and_start(self.ensemble.servers[fault.target], fault)

    def kill_leader(self, fault: Fault) -> None:
        self._kill_and_start(self.ensemble.leader, fault)

    def _kill_and_start(self, server: Any, fault: Fault) -> None:
        server.kill()
        time.sleep(fault.length_s)
        server.begin()

    def back_up(self, _fault: Fault) -> None:
        self.ensemble.back_up(self.ensemble.servers[1])
        self._has_backup.add(1)

    def restore(self, fault: Fault) -> None:
        """Restore the data of the last back-up, or, without one, the present data."""
        if 1 not in self._has_backup:
            self.back_up(fault)
        self.ensemble.restore(self.ensemble.servers[1])

    def full_disk(self, fault: Fault) -> None:
        if self.ensemble.why_no_disk is not None:
            self.skipped[f"full-disk: {self.ensemble.why_no_disk}"] += 1
            return
        self.ensemble.fill_disk()
        time.sleep(fault.length_s)
        self.ensemble.free_disk()

    # of launchers

    def stop(self, fault: Fault) -> None:
        process = self.serves[fault.target].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(fault.length_s)
        process.send_signal(signal.SIGCONT)

    def kill(self, fault: Fault) -> None:
        self.check_alive()
        self._killed.add(fault.target)
        self.serves[fault.target].kill()
        time.sleep(fault.length_s)
        self.serves[fault.target] = self._serve(fault.target)
        self._killed.discard(fault.target)

    def partition(self, fault: Fault) -> None:
        def begin(wire: Wire) -> None:
            wire.is_open = False
            wire.cut()

        self._for_a_time(fault, begin, lambda wire: setattr(wire, "is_open", True))

    def cut(self, fault: Fault) -> None:
        self.wires.do(fault.target, lambda wire: wire.cut())

    def delay(self, fault: Fault) -> None:
        delay_s = self._rng.uniform(0.05, 1.0)
        self._for_a_time(
            fault, lambda wire: setattr(wire, "delay_s", delay_s), lambda wire: setattr(wire, "delay_s", 0.0)
        )

    def swallow(self, fault: Fault) -> None:
        def end(wire: Wire) -> None:
            wire.cut()
            wire.is_swallowing = False

        self._for_a_time(fault, lambda wire: setattr(wire, "is_swallowing", True), end)

    def hold(self, fault: Fault) -> None:
        self._for_a_time(fault, lambda wire: wire.passing.clear(), lambda wire: wire.passing.set())

    def lose_replies(self, fault: Fault) -> None:
        def is_lost(_xid: int, opcode: int) -> bool:
            return opcode in _CHANGES and self._rng.random() < LOST_REPLY_SHARE

        self._for_a_time(
            fault,
            lambda wire: setattr(wire, "on_request", is_lost),
            lambda wire: setattr(wire, "on_request", lambda _xid, _opcode: False),
        )

    def expire(self, fault: Fault) -> None:
        seen = [each for each in self.wires.do(fault.target, lambda wire: wire.session) if each]
        if seen:
            _, session, password = max(seen)
            end_session(self.ensemble.leader.port, session, password)

    def _for_a_time(self, fault: Fault, begin: Callable[[Wire], None], end: Callable[[Wire], None]) -> None:
        self.wires.do(fault.target, begin)
        time.sleep(fault.length_s)
        self.wires.do(fault.target, end)

    def start_again(self, number: int) -> None:
        """Restart launcher *number*, as a supervisor does, if it ended because it found no servers when it started."""
        if self.serves[number].process.poll() is not None and _found_no_servers(self.serves[number]):
            self.serves[number] = self._serve(number)

    def check_alive(self) -> None:
        for number, serve in enumerate(self.serves):
            code = serve.process.poll()
            if code is not None and number not in self._killed and not _found_no_servers(serve):
                raise RuntimeError(f"a launcher ended by itself with {code}: {serve.log[-5:]}")


def _found_no_servers(serve: Serve) -> bool:
    return any("no session within" in entry.get("line", "") for entry in serve.log)


_OF_SERVERS = {
    "freeze-server": Drill.freeze, "freeze-leader": Drill.freeze_leader, "freeze-two": Drill.freeze_two,
    "kill-leader": Drill.kill_leader, "kill-server": Drill.kill_server, "back-up": Drill.back_up,
    "restore": Drill.restore, "full-disk": Drill.full_disk,
}  # fmt: skip
_OF_LAUNCHERS = {
    "stop": Drill.stop, "kill": Drill.kill, "partition": Drill.partition, "cut": Drill.cut, "delay": Drill.delay,
    "swallow": Drill.swallow, "hold": Drill.hold, "lose-replies": Drill.lose_replies, "expire": Drill.expire,
}  # fmt: skip


def end_session(port: int, session: int, password: bytes) -> None:
    """Close another client's session, which notices this at the next use of the session."""
    greeting = struct.pack("!iqiqi", 0, 0, 10_000, session, len(password)) + password + b"\0"
    farewell = struct.pack("!ii", 1, -11)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(struct.pack("!i", len(greeting)) + greeting)
        if connection.recv(4096):
            connection.sendall(struct.pack("!i", len(farewell)) + farewell)
            while connection.recv(4096):
                pass
