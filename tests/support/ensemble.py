"""Three ZooKeeper servers that are one, and what can befall one of them.

What does *not* belong here: when something befalls whom (drills/schedule.py).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from support.certificates import Certificates
from support.zookeeper import JAVA_OPTIONS, ZooKeeperServer, free_port

COUNT = 3
TIMEOUT_S = 180.0
SYNC_LIMIT = 60
"""Ticks. A server that is frozen for less stays in the quorum, and a leader stays the leader. Servers of ZooKeeper
3.8.0 can come to hold different trees if a leader resumes after another one took over; `contradictions` finds such
trees.
"""
DISK_MIB = 48
"""Disk size of the server whose disk can be full."""
SILENT = logging.getLogger("ensemble.kazoo")
SILENT.setLevel(logging.CRITICAL)
OPTIONS = (*JAVA_OPTIONS, "-Dzookeeper.preAllocSize=1024")
"""Logs in steps of a MiB, so that they fit on that disk."""


class Ensemble:
    """Use as a context manager; inside, all three serve."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self._folder = folder
        peers = [(free_port(), free_port()) for _ in range(COUNT)]
        quorum = "\n".join(
            ["initLimit=60", f"syncLimit={SYNC_LIMIT}"]
            + [f"server.{n + 1}=127.0.0.1:{data}:{vote}" for n, (data, vote) in enumerate(peers)]
        )
        self.servers = [
            ZooKeeperServer(folder / f"server-{n}", certificates, OPTIONS, number=n + 1, quorum=quorum)
            for n in range(COUNT)
        ]
        self._disk: Path | None = None
        self.why_no_disk: str | None = None
        """Reason why no server has a small disk of its own, or None if the last one has."""

    def __enter__(self) -> Self:
        try:
            self._mount(self.servers[-1].data_folder)
            for server in self.servers:
                server.begin()
            self.await_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        if self._disk is not None:
            with suppress(OSError):  # kept for the analysis of a failure
                shutil.copytree(self._disk / "version-2", self._folder / "kept-disk")
            subprocess.run(["umount", "-l", self._disk], check=False, timeout=30)
            self._disk = None

    @property
    def hosts(self) -> str:
        """Return the servers for a client in plaintext."""
        return ",".join(f"{server.host}:{server.port}" for server in self.servers)

    @property
    def tls_hosts(self) -> str:
        return ",".join(f"{server.host}:{server.tls_port}" for server in self.servers)

    @property
    def leader(self) -> ZooKeeperServer:
        return next((server for server in self.servers if server.mode == "leader"), self.servers[0])

    def await_whole(self) -> None:
        """Wait until all serve and know of a write that is made now: a server that was frozen takes itself for a
        follower for a while. Raises: TimeoutError."""
        deadline = time.monotonic() + TIMEOUT_S
        written: int | None = None
        while written is None or min(server.zxid for server in self.servers) < written:
            self._revive()
            modes = [server.mode for server in self.servers]
            if written is None and None not in modes and "leader" in modes:
                written = self._write()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the ensemble stays {modes}")
            time.sleep(0.1)

    def _write(self) -> int | None:
        """The number of a write; None: it failed."""
        client = KazooClient(f"{self.leader.host}:{self.leader.port}", logger=SILENT)
        try:
            client.start(timeout=5)
            client.ensure_path("/whole")
            return int(client.set("/whole", b"").mzxid)
        except (KazooException, KazooTimeoutError):
            return None
        finally:
            client.stop()
            client.close()

    @property
    def contradictions(self) -> list[str]:
        """Return the servers' own reports of trees that differ: every transaction comes with a digest."""
        return [
            f"server {number}: {line.partition('ERROR ')[2]}"
            for number, server in enumerate(self.servers)
            for line in server.output.splitlines()
            if "First digest mismatch" in line
        ]

    # -- data of one server -----------------------------------------------------------------------------------------

    def back_up(self, server: ZooKeeperServer) -> None:
        """Keep what it has now; it is restarted for that."""
        server.kill()
        kept = self._kept(server)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(server.data_folder / "version-2", kept)
        server.begin()
        self.await_whole()

    def restore(self, server: ZooKeeperServer) -> None:
        """Give it back what was kept."""
        server.kill()
        lost = self._lost(server)
        place = self._folder / f"lost-{self.servers.index(server)}-{len(lost)}"
        place.mkdir()
        shutil.move(server.data_folder / "version-2", place)
        shutil.copytree(self._kept(server), server.data_folder / "version-2")
        server.begin()

    def _lost(self, server: ZooKeeperServer) -> list[Path]:
        """Data folders with what it lost when it was restored."""
        return sorted(self._folder.glob(f"lost-{self.servers.index(server)}-*"))

    @property
    def data_folders(self) -> list[list[Path]]:
        """Return all data that each server has ever written, for `txnlog.merged`."""
        return [[server.data_folder, *self._lost(server)] for server in self.servers]

    def _kept(self, server: ZooKeeperServer) -> Path:
        return self._folder / f"kept-{self.servers.index(server)}"

    def _mount(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "drill", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except OSError as error:
            self.why_no_disk = str(error)
            return
        if done.returncode:
            self.why_no_disk = done.stderr.strip()
        else:
            self._disk = folder

    def fill_disk(self) -> None:
        """Fill the last server's disk, which ends that server at its next write."""
        assert self._disk is not None
        with suppress(OSError), (self._disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free_disk(self) -> None:
        """Free disk space, and restart the server if it has ended or ends because of the full disk."""
        assert self._disk is not None
        (self._disk / "filler").unlink(missing_ok=True)
        self._revive()

    def _revive(self) -> None:
        server = self.servers[-1]
        if self._disk is not None and server.has_ended:
            server.kill()
            server.begin()
