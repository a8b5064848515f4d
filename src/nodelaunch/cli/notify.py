"""Notifies systemd of the service's state, where the service runs as ``Type=notify``. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

READY, STOPPING = "READY=1", "STOPPING=1"


def reloading() -> str:
    """Return the message that the configuration is being read again; READY follows when that is done."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def status(text: str) -> str:
    """Return the message with the text that ``systemctl status`` shows."""
    return f"STATUS={' '.join(text.split())}"


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send *lines* to systemd, if systemd runs this process."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto("\n".join(lines).encode(), address)
