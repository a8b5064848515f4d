"""Decides how a machine is looked at before its node is offered: host keys, reachability only, or not at all.

What does *not* belong here: how keys are fetched (a `HostScanner` knows), and what follows from a failure.
Source: Nodepool 11, node scanning.
"""

from __future__ import annotations

from typing import Final

from nodelaunch.protocol.driver import HostScanner

SSH_CONNECTION_TYPES: Final = frozenset({"ssh", "network_cli"})
"""Connection types that speak SSH, so that there are host keys to scan."""


async def scan_node(
    scanner: HostScanner,
    host: str,
    port: int,
    *,
    connection_type: str | None,
    host_key_checking: bool,
    timeout_s: float,
) -> tuple[str, ...]:
    """Wait until the machine can be used; its host keys, each ``<type> <base64>``, where it has any.

    Without *host_key_checking* the network is not touched. Raises: KeyScanError when it can't be within *timeout_s*.
    """
    if not host_key_checking:
        return ()
    if connection_type in SSH_CONNECTION_TYPES:
        return await scanner.host_keys(host, port, timeout_s=timeout_s)
    await scanner.reach(host, port, timeout_s=timeout_s)
    return ()
