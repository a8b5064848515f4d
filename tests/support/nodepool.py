"""Nodepool 11.0.0 as the package index has it: its commands as processes, beside ours on one real ZooKeeper.

    python -m support.nodepool    makes its virtual environment, if it is not there yet

Nothing of the package is changed, nor imported here: it lives in a virtual environment of its own. What does *not*
belong here: what is asked of it (tests/peers).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from kazoo.client import KazooClient

from support.peer import Requestor
from support.process import Serve
from support.zookeeper import ZooKeeperServer

VERSION = "11.0.0"
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".nox" / "upstream-peers" / f"nodepool-{VERSION}"
REQUIREMENTS = (f"nodepool=={VERSION}", "setuptools<81", "cachetools", "requests")
"""With all that it requires: Nodepool imports all of its drivers at once, and so every cloud's SDK. Leaving out what is
never imported (diskimage-builder, rackspaceauth) saves neither time (some 25 s) nor space (350 MB) worth mentioning.
The last three are imported without being required; later versions of setuptools have no pkg_resources."""
PEER = ROOT / "tests" / "peers" / "nodepool_peer.py"
INSTALL_TIMEOUT_S = 600.0
COMMAND_TIMEOUT_S = 60.0
DAEMON_TIMEOUT_S = 120.0
"""Nodepool takes seconds to start, and polls."""

CLOUDS = """
clouds:
  fake:
    auth: {username: fake, password: fake, project_id: fake, auth_url: fake}
"""
"""Nodepool's fake driver asks for the cloud's entry and then never uses it."""


class PeerMissingError(RuntimeError):
    """The virtual environment can't be made; the message says why."""


def installed() -> Path:
    """The folder of Nodepool's commands, made where it is not there yet. Raises: PeerMissingError."""
    marker = FOLDER / "complete"
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with (FOLDER.parent / f"{FOLDER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text() != "\n".join(REQUIREMENTS):
            shutil.rmtree(FOLDER, ignore_errors=True)
            _run_or_complain(sys.executable, "-m", "venv", str(FOLDER))
            pip = (str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile")
            _run_or_complain(*pip, *REQUIREMENTS)
            marker.write_text("\n".join(REQUIREMENTS))
    return FOLDER / "bin"


def documentation() -> Path:
    """The folder of the pages of its documentation, which only its source has. Raises: PeerMissingError."""
    commands = installed()
    folder = FOLDER / "source"
    with (FOLDER.parent / f"{FOLDER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=FOLDER) as fresh:
                pip = (str(commands / "python"), "-m", "pip", "download", "--quiet", "--no-deps")
                _run_or_complain(*pip, "--no-binary", "nodepool", "--dest", fresh, f"nodepool=={VERSION}")
                (archive,) = Path(fresh).iterdir()
                with tarfile.open(archive) as opened:
                    # Before 3.11.4 there is no filter. The archive is of the package index, by its name and version.
                    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    opened.extractall(fresh, **safely)
                archive.unlink()
                Path(fresh, f"nodepool-{VERSION}").rename(folder)
    return folder / "doc" / "source"


def _run_or_complain(*command: str) -> None:
    try:
        made = _run(command, timeout=INSTALL_TIMEOUT_S, env=_environment())
    except subprocess.TimeoutExpired:
        raise PeerMissingError(f"{' '.join(command)}: not done within {INSTALL_TIMEOUT_S:g} s") from None
    if made.returncode:
        raise PeerMissingError(f"{' '.join(command)}: {made.stderr[-2000:]}")


def _run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


def _environment(**more: str) -> dict[str, str]:
    """Ours, without the paths by which this project is found."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


class Nodepool:
    """Its programs, with *folder* as their home. Make it where `installed` has made them available."""

    def __init__(self, commands: Path, folder: Path) -> None:
        self.folder = folder
        self._commands = commands
        clouds = folder / "clouds.yaml"
        clouds.write_text(CLOUDS)
        self.environment = _environment(HOME=str(folder), OS_CLIENT_CONFIG_FILE=str(clouds))

    @property
    def fixtures(self) -> Path:
        """The folder of the configurations that its own tests use."""
        (folder,) = self._commands.parent.glob("lib/python*/site-packages/nodepool/tests/fixtures")
        return folder

    def path(self, command: str) -> Path:
        return self._commands / command

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of Nodepool's commands until it ends."""
        options = {"timeout": COMMAND_TIMEOUT_S, "env": self.environment, "cwd": self.folder}
        return _run([self.path(command), *arguments], **options)

    def ask(self, question: str, *arguments: str | Path) -> dict[str, Any]:
        """Return the answer of Nodepool's own classes; see tests/peers/nodepool_peer.py."""
        done = self.run("python", PEER, question, *arguments)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


# -- its processes --------------------------------------------------------------------------------------------------


@dataclass
class LogEntry:
    level: str
    logger: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_noise(self) -> bool:
        return any(
            logger == self.logger and words in self.text and self.text.endswith(end)
            for logger, words, end in KNOWN_NOISE
        )

    def __str__(self) -> str:
        return f"{self.level} {self.logger}: {self.text}"


_LOG_LINE = re.compile(r"(?P<level>[A-Z]+)\|(?P<logger>[^|]*)\|(?P<message>.*)")
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s|%(name)s|%(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["out"]},
}


KNOWN_NOISE = {
    ("nodepool.CleanupWorker", "Exception in CleanupWorker (lost request cleanup)", "NoNodeError"): (
        "Its clean-up reads a pending request, locks it and reads it again, and does not expect that the requestor has "
        "taken the request away meanwhile, for which that needs no lock. The clean-up goes on at its next turn."
    ),
    (
        "nodepool.CleanupWorker",
        "if req.state != zk.PENDING:",
        "AttributeError: 'NoneType' object has no attribute 'state'",
    ): ("The same clean-up, where the request is gone when it reads it again."),
    ("nodepool.CleanupWorker", "Exception in CleanupWorker (empty node cleanup)", "NotEmptyError"): (
        "Another of its threads contends for the lock of a node that was deleted meanwhile. That makes the node's "
        "directories anew, without data, and the clean-up of nodes without data deletes them at the same time."
    ),
    ("nodepool.DeletedNodeWorker", "Error deleting already deleted znode:", "NotEmptyError"): (
        "It got the lock of a node that another launcher was deleting, and cleans up 'the mess', as its code calls it, "
        "while the other one still does. Two launchers of Nodepool's do this to each other."
    ),
    ("nodepool.zk.ZooKeeper", "Request not found for locking: ", ""): (
        "Its cache has a request that its requestor has taken away, and the lock directory of which another launcher "
        "removes just then, as its own clean-up would. It passes the request over."
    ),
}
"""Errors of Nodepool's own that it logs with any peer: logger, words in it, last words, and the reason."""


class Daemon:
    """``nodepool-launcher`` or ``nodepool-builder``; all it says is kept in ``log``.

    What goes past its logging, a traceback of a thread say, counts as an entry of level ``STDERR``.
    """

    def __init__(self, nodepool: Nodepool, *command: str | Path, config: Path) -> None:
        self.log: list[LogEntry] = []
        self._news = threading.Condition()
        path = nodepool.folder / "nodepool-logging.yaml"
        path.write_text(json.dumps(_LOGGING))
        self.process = subprocess.Popen(
            [*command, "-f", "-l", path, "-c", config],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=nodepool.environment, cwd=nodepool.folder,
        )  # fmt: skip
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._logged), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._unlogged), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, take: Callable[[str, list[LogEntry]], None]) -> None:
        entries: list[LogEntry] = []
        with stream:
            for line in stream:
                with self._news:
                    take(line.rstrip("\n"), entries)
                    self._news.notify_all()

    def _logged(self, line: str, entries: list[LogEntry]) -> None:
        if found := _LOG_LINE.fullmatch(line):
            entries.append(LogEntry(found["level"], found["logger"], [found["message"]]))
            self.log.append(entries[-1])
        elif entries:
            entries[-1].lines.append(line)
        else:
            self._unlogged(line, entries)

    def _unlogged(self, line: str, entries: list[LogEntry]) -> None:
        if not entries:
            entries.append(LogEntry("STDERR", "", []))
            self.log.append(entries[-1])
        entries[-1].lines.append(line)

    def await_log(self, part: str, count: int = 1) -> LogEntry:
        """Wait for the *count*-th entry whose text has *part* in it."""
        with self._news:
            found = self._news.wait_for(lambda: self._with(part, count), timeout=DAEMON_TIMEOUT_S)
            assert found, f"no {part!r} in {[str(entry) for entry in self.log[-20:]]}"
            return found[count - 1]

    def _with(self, part: str, count: int) -> list[LogEntry]:
        found = [entry for entry in self.log if part in entry.text]
        return found if len(found) >= count else []

    @property
    def complaints(self) -> list[LogEntry]:
        """Return all errors in the log, and all output outside the log, without `KNOWN_NOISE`."""
        return [entry for entry in self.log if entry.level in ("STDERR", "ERROR", "CRITICAL") and not entry.is_noise]

    def stop(self) -> int:
        """Stop the launcher in order, by Nodepool's signal for that; return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        """Kill the process, as in a crash: it does not clean up."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=DAEMON_TIMEOUT_S)
        for reader in self._readers:
            reader.join(timeout=DAEMON_TIMEOUT_S)
        return code


@dataclass(frozen=True)
class CommandResult:
    """Result of one call of Nodepool's command line."""

    command: str
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return the rows of the printed table, by heading."""
        lines = [line[1:-1].split("|") for line in self.out.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line] for line in lines]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]

    @property
    def is_good(self) -> bool:
        """Return whether no exception was shown or logged; the exit code does not count."""
        return self.code == 0 and "Traceback" not in self.err and " ERROR " not in self.err


# -- a place for tests ----------------------------------------------------------------------------------------------

STORE = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}
zookeeper-timeout: 4.0
webapp: {{port: 0, listen_address: 127.0.0.1}}
"""
QUICK_SWEEPS = (
    "import nodelaunch.engine.cleanup.sweeper as s; s.SWEEP_S = 1.0; from nodelaunch.cli.main import main; main()"
)
"""A ``nodelaunch`` whose periodic clean-up comes each second rather than each minute."""


class Site:
    """A part of the shared ZooKeeper with a requestor, and the processes of both programs that work on it."""

    def __init__(self, server: ZooKeeperServer, chroot: str, nodepool: Nodepool) -> None:
        self.folder = nodepool.folder
        self.programs = nodepool
        self.client: KazooClient = server.kazoo(chroot)
        self.client.ensure_path("/")
        self.requestor = Requestor(self.client, deadline_s=DAEMON_TIMEOUT_S)
        self._store = STORE.format(
            host=server.host, port=server.tls_port, tls=server.certificates.client, chroot=chroot
        )
        self._processes: list[Serve | Daemon] = []

    def config(self, name: str, text: str) -> Path:
        """A configuration file for either program, on this part of the store."""
        path = self.folder / f"{name}.yaml"
        path.write_text(self._store + text)
        return path

    def serve(self, config: Path, *, is_quick: bool = False) -> Serve:
        """nodelaunch, at work."""
        serve = Serve(config, python=("-c", QUICK_SWEEPS) if is_quick else ("-m", "nodelaunch"))
        self._processes.append(serve)
        serve.await_log("http_listening")
        return serve

    def launcher(self, config: Path, *, is_quick: bool = False) -> Daemon:
        """nodepool-launcher; *is_quick*: it cleans up each second rather than each minute."""
        if is_quick:
            return self._daemon(self.programs.path("python"), PEER, "launcher", config=config)
        return self._daemon(self.programs.path("nodepool-launcher"), config=config)

    def builder(self, config: Path) -> Daemon:
        """nodepool-builder."""
        return self._daemon(self.programs.path("nodepool-builder"), config=config)

    def _daemon(self, *command: str | Path, config: Path) -> Daemon:
        daemon = Daemon(self.programs, *command, config=config)
        self._processes.append(daemon)
        return daemon

    def nodepool(self, config: Path, *arguments: str) -> CommandResult:
        """Nodepool's command line, to its end."""
        done = self.programs.run("nodepool", "-c", config, *arguments)
        return CommandResult(" ".join(arguments), done.returncode, done.stdout, done.stderr)

    def pools(self) -> list[dict[str, Any]]:
        """The pools registered just now, whosever they are."""
        path = "/nodepool/components/pool"
        return [json.loads(self.client.get(f"{path}/{name}")[0]) for name in self.requestor.children(path)]

    def await_pools(self, count: int) -> list[dict[str, Any]]:
        self.requestor.await_children("/nodepool/components/pool", lambda names: len(names) == count)
        return self.pools()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self.client.stop()
        self.client.close()


class Load:
    """Jobs done by several workers at the same time: each asks for nodes, uses them, gives them back, asks again.

    Leaving the block ends it, after the jobs that are under way; a job that went wrong is raised there.
    """

    def __init__(self, requestor: Requestor, jobs: Iterable[Sequence[str]], *, workers: int) -> None:
        self.nodes: list[dict[str, Any]] = []
        """All nodes that were in use, with their records at that time."""
        self._requestor = requestor
        self._jobs = iter(jobs)
        self._taking = threading.Lock()
        self._is_over = False
        self._pool = ThreadPoolExecutor(workers)
        self._workers = [self._pool.submit(self._work) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over = True
        self.finish()

    def finish(self) -> None:
        """Wait until all jobs are done. Raises: what went wrong."""
        self._pool.shutdown()
        for worker in self._workers:
            worker.result()

    def _work(self) -> None:
        while (labels := self._next()) is not None:
            request_id = self._requestor.submit(*labels)
            request = self._requestor.await_state(request_id, "fulfilled", "failed")
            assert request["state"] == "fulfilled", request
            with self._requestor.accepted(request_id) as nodes:
                assert [node["type"] for node in nodes] == [[label] for label in labels]
                self.nodes += nodes

    def _next(self) -> Sequence[str] | None:
        with self._taking:
            return None if self._is_over else next(self._jobs, None)


@pytest.fixture(scope="session", name="nodepool_commands")
def commands_fixture() -> Path:
    try:
        return installed()
    except PeerMissingError as error:
        pytest.skip(f"no Nodepool {VERSION}: {error}")


@pytest.fixture(name="nodepool")
def nodepool_fixture(tmp_path: Path, nodepool_commands: Path) -> Nodepool:
    return Nodepool(nodepool_commands, tmp_path)


@pytest.fixture(name="site")
def site_fixture(zookeeper_server: ZooKeeperServer, zk_chroot: str, nodepool: Nodepool) -> Iterator[Site]:
    made = Site(zookeeper_server, zk_chroot, nodepool)
    yield made
    made.close()


if __name__ == "__main__":
    installed()
