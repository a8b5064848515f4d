"""Requestors at constant work: those that speak the protocol through kazoo, and unmodified Zuul.

They are on the healthy side: their connections lead to the servers themselves, and what fails there is tried again.
What does *not* belong here: whether what they got was right (checker.py).
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, NoNodeError, SessionExpiredError

from drills.checker import Use
from support.certificates import Certificates
from support.peer import Requestor
from support.upstream import ZUUL_VERSIONS, PeerError, ZuulPeer

LABELS = ("small", "big")
ENDS_WITHIN_S = 300.0
"""A request, faults and all."""
CLIENT_SESSION_S = 60.0
ZUUL_SESSION_S = 40.0
ZUUL_REPLY_S, ZUUL_WITHIN_S = 120.0, 600.0
"""Time limits for one answer of Zuul, and for its start, failures included."""
MOST_REQUESTS = 2000
"""Limit for the requests of one requestor."""
HOLD_S = (0.05, 1.0)
SILENT = logging.getLogger("drill.kazoo")
SILENT.setLevel(logging.CRITICAL)
"""Connections that are lost are what a drill is about."""


Hold = Callable[[list[str]], None]


class Patient(KazooClient):
    """Tries again what fails with the connection."""

    def __init__(self, hosts: str, chroot: str) -> None:
        patience = {"max_tries": -1, "delay": 0.1, "max_delay": 1.0}
        super().__init__(
            f"{hosts}{chroot}", CLIENT_SESSION_S, connection_retry=patience, command_retry=patience, logger=SILENT
        )

    def get(self, *args: Any, **more: Any) -> Any:
        return self.retry(super().get, *args, **more)

    def set(self, *args: Any, **more: Any) -> Any:
        return self.retry(super().set, *args, **more)

    def exists(self, *args: Any, **more: Any) -> Any:
        return self.retry(super().exists, *args, **more)

    def get_children(self, *args: Any, **more: Any) -> Any:
        return self.retry(super().get_children, *args, **more)

    def delete(self, *args: Any, **more: Any) -> Any:
        """Delete a record; a record that is missing at a second try was deleted at the first, whose reply was lost."""
        tries = itertools.count()

        def attempt() -> None:
            is_first = next(tries) == 0
            try:
                super(Patient, self).delete(*args, **more)
            except NoNodeError:
                if is_first:
                    raise

        self.retry(attempt)


class Asks(Protocol):
    """A requestor."""

    def job(self, labels: list[str], hold: Hold) -> str:
        """Ask for nodes, call *hold* with their ids while they are in use, give them back; ``fulfilled``, or how it
        failed."""

    def close(self) -> None: ...


class Kazoo:
    """Takes the steps Zuul takes."""

    def __init__(self, hosts: str, chroot: str) -> None:
        self.client = Patient(hosts, chroot)
        self.client.start(timeout=60)
        self.requestor = Requestor(self.client, deadline_s=ENDS_WITHIN_S)

    def job(self, labels: list[str], hold: Hold) -> str:
        request_id = self._submit(labels)
        try:
            state = str(self.requestor.await_state(request_id, "fulfilled", "failed")["state"])
            if state == "fulfilled":
                with self.requestor.accepted(request_id) as nodes:
                    hold([node["id"] for node in nodes])
            return state
        finally:
            if self.requestor.exists(f"/nodepool/requests/{request_id}"):
                self.requestor.delete_request(request_id)

    def _submit(self, labels: list[str]) -> str:
        """Once, also where the reply is lost."""
        mark = uuid.uuid4().hex
        while True:
            try:
                return self.requestor.submit(*labels, event_id=mark)
            except (ConnectionLoss, SessionExpiredError):
                if (found := self._find(mark)) is not None:
                    return found

    def _find(self, mark: str) -> str | None:
        self.client.retry(self.client.sync, "/nodepool/requests")  # this server may know less than the one before
        for name in self.requestor.children("/nodepool/requests"):
            try:
                if self.requestor.request(name)["event_id"] == mark:
                    return name
            except NoNodeError:
                continue
        return None

    def close(self) -> None:
        self.client.stop()
        self.client.close()


class Zuul:
    """The newest Zuul release in its own process, which is restarted if its connection fails in the middle of a job."""

    def __init__(self, hosts: str, chroot: str, certificates: Certificates, log: Path, looks: Requestor) -> None:
        """*looks*: to see what Zuul does not."""
        self._hosts, self._certificates, self._log = f"{hosts}{chroot}", certificates, log
        self._looks = looks
        self.restarts: list[str] = []
        self.missed = 0
        """Answers that Zuul did not notice: its own events get lost where its connection breaks at the wrong moment."""
        self._peer = self._started()

    def _started(self) -> ZuulPeer:
        """Start Zuul, and restart it until it succeeds: it may wait for ever if its connection breaks during the
        start. Raises: PeerError, Empty.
        """
        deadline = time.monotonic() + ZUUL_WITHIN_S
        while True:
            tls = self._certificates.client
            peer = ZuulPeer(ZUUL_VERSIONS[-1], self._log, reply_timeout_s=ZUUL_REPLY_S)
            try:
                peer("open", hosts=self._hosts, cert=tls.cert, key=tls.key, ca=tls.ca, timeout_s=ZUUL_SESSION_S)
                return peer
            except (PeerError, Empty):
                peer.kill()
                if time.monotonic() > deadline:
                    raise
            except BaseException:
                peer.kill()
                raise

    def job(self, labels: list[str], hold: Hold) -> str:
        request_id = None
        try:
            request_id = self._peer.ask(*labels)
            state = self._answered(request_id)
            if state == "fulfilled":
                self._peer("accept", request_id=request_id)
                nodes = self._peer("use", request_id=request_id)
                hold([node["id"] for node in nodes])
                self._peer("give_back", request_id=request_id)
            else:
                self._peer("delete_failed", request_id=request_id)
            return state
        except PeerError as error:
            if "not within" in str(error):
                raise TimeoutError(f"request {request_id} does not end") from error
            self.restarts.append(str(error).strip().rpartition("\n")[2])
            self._peer.kill()
            if request_id is not None and self._looks.exists(f"/nodepool/requests/{request_id}"):
                self._looks.delete_request(request_id)  # as a scheduler that starts again does
            self._peer = self._started()
            return "zuul restarted"

    def _answered(self, request_id: str) -> str:
        """Return the state that Zuul has received, or, after a long time without news, the state in ZooKeeper.
        Raises: PeerError.
        """
        deadline = time.monotonic() + ENDS_WITHIN_S
        while True:
            try:
                return str(self._peer.answer(request_id)["state"])
            except PeerError as error:
                if "not within" not in str(error):
                    raise
                state = str(self._looks.request(request_id)["state"])
                if state in ("fulfilled", "failed"):
                    self.missed += 1
                    return state
                if time.monotonic() > deadline:
                    raise

    def close(self) -> None:
        self._peer.kill()


class Worker:
    """A requestor that does one job after the other in a thread, until it is stopped."""

    def __init__(self, name: str, asks: Asks, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.uses: list[Use] = []
        self.asks = asks
        self._rng = random.Random(f"{name} {seed}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.is_set() and sum(self.outcomes.values()) < MOST_REQUESTS:
                labels = self._rng.choices(LABELS, k=self._rng.choice([1, 1, 2]))
                while self._job(labels) != "fulfilled":
                    pass  # asked for again
        except Exception:
            self.wrong.append(f"{self._thread.name}: {traceback.format_exc()}")

    def _job(self, labels: list[str]) -> str:
        outcome = self.asks.job(labels, self._hold)
        self.outcomes[outcome] += 1
        return outcome

    def _hold(self, nodes: list[str]) -> None:
        began = time.time()
        self._stop.wait(self._rng.uniform(*HOLD_S))
        self.uses += [Use(node, self._thread.name, began, time.time()) for node in nodes]

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        """Wait for the end of its last job."""
        self._thread.join(ENDS_WITHIN_S + ZUUL_WITHIN_S + ENDS_WITHIN_S)
        if self._thread.is_alive():
            self.wrong.append(f"{self._thread.name} does not end")
