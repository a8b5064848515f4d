"""Listens on the address and port of HTTP, before serving.py serves there."""

from __future__ import annotations

import errno
import socket

from nodelaunch.errors import NodelaunchError

BACKLOG = 128
_NO_ADDRESS = "listen_address in webapp has to be one of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
_REMEDIES = {
    errno.EADDRINUSE: "another process listens on this port: end that process, or set another port in webapp",
    errno.EADDRNOTAVAIL: _NO_ADDRESS,
    errno.EACCES: "this user may not use this port: set a port above 1023 in webapp",
}


class CannotListenError(NodelaunchError):
    """HTTP can't be served at the address and port that the configuration names."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket for HTTP; *port* 0: any free port. Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def listen_for_http(host: str, port: int) -> socket.socket:
    """Return a listening socket for HTTP. Raises: CannotListenError, with the remedy."""
    try:
        return listen(host, port)
    except OSError as error:
        number = error.errno or 0
        remedy = _NO_ADDRESS if number < 0 else _REMEDIES.get(number)  # below 0: the name was not found
        reason = (error.strerror or str(error)).partition(" (while")[0]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        text = f"{where}: can't listen: {reason}"
        raise CannotListenError(f"{text}; {remedy}" if remedy else text) from None
