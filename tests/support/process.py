"""The real ``nodelaunch`` command as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 60.0


class Serve:
    """``nodelaunch serve`` on a configuration file; its log is read as JSON lines."""

    def __init__(
        self,
        config: Path,
        *arguments: str,
        python: Sequence[str] = ("-m", "nodelaunch"),
        program: str | None = None,
        as_json: bool = True,
    ) -> None:
        """*python*: what Python is given to become the command; *program*: the command of another installation.
        *as_json*: else the log is text, of which entries have what is text in it and no more."""
        self.log: list[dict[str, Any]] = []
        self.patience_s = START_TIMEOUT_S
        """Time limit for waits for an entry of the log, or for the end."""
        self._news = threading.Condition()
        logging = ["--log-json"] if as_json else []
        first = [program] if program else [sys.executable, *python]
        command = [*first, *logging, "serve", "-c", str(config), *arguments]
        env = {name: value for name, value in os.environ.items() if not program or name != "PYTHONPATH"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                said = re.match(r"\S+ \[\w+ *\] (\w+)", line)
                fields = dict(re.findall(r"(\w+)=(\S+)", line)) if said else {}
                entry = {**fields, "event": said[1] if said else "unstructured", "line": line}
            with self._news:
                self.log.append(entry)
                self._news.notify_all()

    def await_log(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the *count*-th log entry of *event* with these fields."""
        with self._news:
            matches = self._news.wait_for(lambda: self._matching(event, count, fields), timeout=self.patience_s)
            assert matches, f"no {event} {fields} in {self.log[-20:]}"
            return matches[count - 1]

    def await_either(self, *wanted: tuple[str, int]) -> str:
        """Wait until there are so many entries of one of these events; which one."""
        with self._news:
            found: list[str] = []

            def has_come() -> bool:
                found[:] = [event for event, count in wanted if self._matching(event, count, {})]
                return bool(found)

            assert self._news.wait_for(has_come, timeout=START_TIMEOUT_S), f"none of {wanted} in {self.log[-20:]}"
            return found[0]

    def _matching(self, event: str, count: int, fields: dict[str, Any]) -> list[dict[str, Any]]:
        found = [e for e in self.log if e["event"] == event and fields.items() <= e.items()]
        return found if len(found) >= count else []

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP request to it; waits for the listening port."""
        port = self.await_log("http_listening")["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """Kill the process, as in a crash: it does not clean up."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=self.patience_s)
        self._reader.join(timeout=self.patience_s)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    @property
    def complaints(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry.get("level") in ("error", "critical")]


def without_slow_notes(lines: Iterable[str]) -> list[str]:
    """*lines* of a process without asyncio's notes of what took long, which its debug mode makes."""
    return [line for line in lines if "Executing <" not in line]


def run(*arguments: str, timeout_s: float = 60.0, check: bool = False) -> subprocess.CompletedProcess[str]:
    """``nodelaunch`` with *arguments*, to its end."""
    command: Sequence[str] = [sys.executable, "-m", "nodelaunch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=check)
