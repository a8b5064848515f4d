"""Zuul releases from the package index, each in a virtual environment of its own, and a process that runs one.

The environments are made when first asked for and kept in `HOME`; what is in one is Zuul as released, and of the
libraries it needs those that its ZooKeeper side imports. What does *not* belong here: what the process does
(peers/zuul_peer.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.zookeeper import ZooKeeperServer

TESTS = Path(__file__).parents[1]
HOME = Path(os.environ.get("NODELAUNCH_UPSTREAM_HOME", TESTS.parent / ".nox" / "upstream-peers"))
"""Folder of environments that are kept from run to run."""
REQUIREMENTS = TESTS / "peers" / "requirements.txt"
PEER = TESTS / "peers" / "zuul_peer.py"
KAZOO = {"11.3.0": "2.9.0", "12.1.0": "2.9.0", "13.1.1": "2.9.0", "14.3.0": "2.11.0"}
"""kazoo release that each Zuul release requires; the newest where Zuul requires none."""
ZUUL_VERSIONS = tuple(KAZOO)
INSTALL_TIMEOUT_S = 600.0
REPLY_TIMEOUT_S = 60.0
"""Longer than the peer itself waits for anything."""


def zuul_python(version: str) -> Path:
    """The Python of an environment that has Zuul *version*."""
    packages = [f"zuul=={version}", f"kazoo=={KAZOO[version]}", *_pins(REQUIREMENTS)]
    return environment(f"zuul-{version}", packages)


def _pins(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def environment(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of environment *name*, which has exactly *packages*; it is created again if the packages
    differ.
    """
    folder = HOME / name
    made_of = json.dumps([sys.version, *packages])
    stamp = folder / "made-of.json"
    with _locked(HOME / f"{name}.lock"):
        if not stamp.exists() or stamp.read_text() != made_of:
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, packages)
            stamp.write_text(made_of)
    return folder / "bin" / "python"


def _make(folder: Path, packages: Sequence[str]) -> None:
    venv.create(folder, with_pip=False)
    command = [
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-compile",
        "--disable-pip-version-check", "--quiet", *packages,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"can't install {packages[0]}: {done.stderr[-2000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class PeerError(Exception):
    """Failure of a command in the peer; the text is its traceback."""


class ZuulPeer:
    """A process with Zuul's classes. `open` it on a tree, `close` it there, and so on with the next; `stop` it."""

    def __init__(self, version: str, log: Path, *, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.version = version
        self._reply_timeout_s = reply_timeout_s
        self.sessions: set[int] = set()
        self._log = log
        with log.open("ab") as err:
            self.process = subprocess.Popen(
                [zuul_python(version), "-u", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True
            )
        self._replies: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def open(self, server: ZooKeeperServer, chroot: str, *, timeout_s: float = 20.0) -> None:
        """Connect a scheduler and an executor to *chroot*, over TLS, with sessions of *timeout_s*."""
        tls = server.certificates.client
        opened = self(
            "open", hosts=f"{server.host}:{server.tls_port}{chroot}", cert=tls.cert, key=tls.key, ca=tls.ca,
            timeout_s=timeout_s,
        )  # fmt: skip
        self.sessions = set(opened["sessions"])

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Return the peer's answer to *command*. Raises: PeerError."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self._replies.get(timeout=self._reply_timeout_s)
        if not line:
            raise PeerError(f"Zuul {self.version} ended: {self._log.read_text()[-2000:]}")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerError(f"Zuul {self.version}, {command} {arguments}: {reply['error']}")
        return reply["ok"]

    def ask(self, *labels: str, **more: Any) -> str:
        """Submit a request for *labels*; its id."""
        return str(self("submit", labels=list(labels), **more)["id"])

    def answer(self, request_id: str) -> dict[str, Any]:
        """The answer to a request, once Zuul's event for it has come: state, nodes, zone, provider, body."""
        answer: dict[str, Any] = self("await_provisioned", request_id=request_id)
        return answer

    def take(self, request_id: str) -> list[dict[str, Any]]:
        """The nodes of a request, once it is fulfilled: accepted and in use."""
        assert self.answer(request_id)["state"] == "fulfilled"
        self("accept", request_id=request_id)
        nodes: list[dict[str, Any]] = self("use", request_id=request_id)
        return nodes

    def spare(self, *labels: str) -> list[str]:
        """The ids of nodes given to a request that then did not use them, once they are free."""
        request_id = self.ask(*labels)
        node_ids: list[str] = self.answer(request_id)["nodes"]
        self("accept", request_id=request_id)
        self("give_back", request_id=request_id)
        for node_id in node_ids:
            self("await_free", node_id=node_id)
        return node_ids

    def kill(self) -> None:
        """Kill the process, as in a crash: its sessions end after their timeout."""
        self.process.kill()
        self.stop()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=REPLY_TIMEOUT_S)
        self._reader.join(timeout=REPLY_TIMEOUT_S)
        self.process.stdout.close()
