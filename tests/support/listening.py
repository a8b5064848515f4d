"""A driver that listens, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
END_S = 30.0


class Listening:
    """Started; what it says on standard error is kept, line by line."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._news = threading.Condition()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NODELAUNCH_DRIVER")}
        self.process = subprocess.Popen(
            [*command, "--listen", str(path)], stderr=subprocess.PIPE, text=True, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()

    def await_line(self, text: str) -> str:
        """The first line with *text* in it."""
        with self._news:
            found = self._news.wait_for(lambda: [line for line in self.lines if text in line], timeout=START_S)
        assert found, f"no {text!r} in {self.lines}"
        return found[0]

    def say(self, first: bytes) -> bytes:
        """The answer to a connection that begins with *first*, and says no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self.path))
            connection.sendall(first)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(1 << 16):
                answer += chunk
            return answer

    def end(self) -> int:
        """Tell it to; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(END_S)


@contextmanager
def listening(command: Sequence[str], path: Path) -> Iterator[Listening]:
    driver = Listening(command, path)
    try:
        driver.await_line("listening at")
        yield driver
    finally:
        driver.end()
