"""Stands in for a driver that somebody else started and that listens: started as the driver would be. Run as a script.

    socketproxy.py PATH

It takes the token from descriptor 3, connects to the socket PATH and to the launcher's, tells the driver the token in
one line of JSON, and from then on hands on whatever either says. The launcher's end of file is handed on, too; the
driver's own ends the relay. So a launcher, and the kit of checks, need to know nothing of such drivers.

It needs nothing but the standard library. What does *not* belong here: an import of nodelaunch.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import suppress

TOKEN_FD = 3
SOCKET_VARIABLE = "NODELAUNCH_DRIVER_SOCKET"
CHUNK = 1 << 16
"""Bytes that are handed on at once."""


def connected(path: str) -> socket.socket:
    """Raises: OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def hand_on(source: socket.socket, sink: socket.socket) -> tuple[int, bool]:
    """Until either hangs up: how many bytes there were, and whether it was *source*."""
    count = 0
    while chunk := _next(source):
        try:
            sink.sendall(chunk)
        except OSError:  # gone, or closed here as the program ends
            return count, False
        count += len(chunk)
    return count, True


def _next(source: socket.socket) -> bytes:
    try:
        return source.recv(CHUNK)
    except OSError:  # gone, or closed here as the program ends
        return b""


def relay(launcher: socket.socket, driver: socket.socket) -> str | None:
    """Hand on what both say until the driver hangs up. What is wrong with that; None if the launcher did so first."""
    is_over = threading.Event()

    def listen_to_launcher() -> None:
        if hand_on(launcher, driver)[1]:
            is_over.set()
        with suppress(OSError):  # the driver may have hung up meanwhile
            driver.shutdown(socket.SHUT_WR)

    threading.Thread(target=listen_to_launcher, daemon=True).start()
    count, is_hung_up = hand_on(driver, launcher)
    if is_over.is_set() or not is_hung_up:
        return None
    return "hung up" if count else "hung up without a word"


def main() -> int:
    to_launcher = os.environ.get(SOCKET_VARIABLE)
    if len(sys.argv) != 2 or to_launcher is None:
        sys.stderr.write("usage: socketproxy.py PATH; nodelaunch starts it for a driver called unix:PATH\n")
        return 2
    path = sys.argv[1]
    with os.fdopen(TOKEN_FD) as handed_over:
        token = handed_over.read().strip()
    try:
        driver = connected(path)
    except OSError as error:
        sys.stderr.write(f"no driver listens at {path}: {error.strerror or error}\n")
        return 1
    with driver, connected(to_launcher) as launcher:
        with suppress(ConnectionError):  # it hung up, which is found out below
            driver.sendall(json.dumps({"token": token}).encode() + b"\n")
        fault = relay(launcher, driver)
        if fault is not None:
            sys.stderr.write(f"the driver at {path} {fault}\n")  # while there is a launcher to hear of it
            sys.stderr.flush()
    return 0 if fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
