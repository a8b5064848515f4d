"""Decides how a machine is looked at before its node is offered: host keys, reachability only, or not at all.

What does *not* belong here: how keys are fetched (a `HostScanner` knows), and what follows from a failure.
Source: Nodepool 11, node scanning; waiting for keys to settle, and for a login, are what its users asked for.
"""

from __future__ import annotations

import asyncio
from typing import Final

from nodelaunch.errors import KeyScanError
from nodelaunch.protocol.driver import HostScanner, LabelTraits, TriesLogin

SSH_CONNECTION_TYPES: Final = frozenset({"ssh", "network_cli"})
"""Connection types that speak SSH, so that there are host keys to scan."""


async def scan_node(
    scanner: HostScanner, host: str, port: int, traits: LabelTraits, *, timeout_s: float
) -> tuple[str, ...]:
    """Wait until the machine can be used as *traits* say; its host keys, each ``<type> <base64>``, where it has any.

    Without host key checking the network is not touched. Raises: KeyScanError when it can't be within *timeout_s*.
    """
    if not traits.host_key_checking:
        return ()
    if traits.connection_type not in SSH_CONNECTION_TYPES:
        await scanner.reach(host, port, timeout_s=timeout_s)
        return ()
    deadline = asyncio.get_running_loop().time() + timeout_s
    keys = await _settled_keys(scanner, host, port, traits.settle_s, deadline)
    if traits.probe_key is not None and traits.username is not None and isinstance(scanner, TriesLogin):
        await scanner.log_in(
            host, port, username=traits.username, key_file=traits.probe_key, host_keys=keys,
            timeout_s=_left_until(deadline),
        )  # fmt: skip
    return keys


async def _settled_keys(
    scanner: HostScanner, host: str, port: int, settle_s: float, deadline: float
) -> tuple[str, ...]:
    """The keys, once they have stayed the same for *settle_s*: an image's own ones are often replaced as it boots."""
    keys = await scanner.host_keys(host, port, timeout_s=_left_until(deadline))
    while settle_s > 0:
        if _left_until(deadline) <= settle_s:
            raise KeyScanError(f"{host} port {port}: host keys did not stay the same for {settle_s:g} s in time")
        await asyncio.sleep(settle_s)
        before, keys = keys, await scanner.host_keys(host, port, timeout_s=_left_until(deadline))
        if keys == before:
            break
    return keys


def _left_until(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()
