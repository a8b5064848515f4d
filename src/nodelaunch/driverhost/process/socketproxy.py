"""Proxies between the launcher and a driver that was started separately and listens at a socket. Run as a script.

socketproxy.py PATH

The launcher starts the proxy in place of the driver. The proxy takes the token from descriptor 3, connects to the
socket PATH and to the launcher's socket, and sends the driver the token in one line of JSON. Then it copies the bytes
in both directions. It also forwards the launcher's end of file; the driver's end of file ends the proxy. So the
launcher and the conformance kit need no code for drivers that listen.

The proxy must not import nodelaunch: it needs only the standard library.
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
"""Most bytes that are copied at once."""


def connected(path: str) -> socket.socket:
    """Connect to the socket at *path*. Raises: OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def hand_on(source: socket.socket, sink: socket.socket) -> tuple[int, bool]:
    """Copy bytes until one end closes. Return the number of bytes, and True if *source* closed."""
    count = 0
    while chunk := _next(source):
        try:
            sink.sendall(chunk)
        except OSError:  # closed by the peer, or by this program at its end
            return count, False
        count += len(chunk)
    return count, True


def _next(source: socket.socket) -> bytes:
    try:
        return source.recv(CHUNK)
    except OSError:  # closed by the peer, or by this program at its end
        return b""


def relay(launcher: socket.socket, driver: socket.socket) -> str | None:
    """Copy bytes in both directions until the driver closes the connection. Return None if the launcher closed first,
    else an error text.
    """
    is_over = threading.Event()

    def listen_to_launcher() -> None:
        if hand_on(launcher, driver)[1]:
            is_over.set()
        with suppress(OSError):  # the driver may have closed the connection meanwhile
            driver.shutdown(socket.SHUT_WR)

    threading.Thread(target=listen_to_launcher, daemon=True).start()
    count, is_hung_up = hand_on(driver, launcher)
    if is_over.is_set() or not is_hung_up:
        return None
    return "closed the connection" if count else "closed the connection without sending anything"


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
        with suppress(ConnectionError):  # the driver closed the connection; `relay` reports it
            driver.sendall(json.dumps({"token": token}).encode() + b"\n")
        fault = relay(launcher, driver)
        if fault is not None:
            sys.stderr.write(f"the driver at {path} {fault}\n")  # while the launcher can still read it
            sys.stderr.flush()
    return 0 if fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
