"""Decides how a machine is checked before its node is offered: host keys, reachability only, or not at all.

A `HostScanner` fetches the keys; the caller handles failures. Source: Nodepool 11, node scanning. Waiting for keys to
settle, and for a login, were requested by its users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nodelaunch.errors import KeyScanError
from nodelaunch.protocol.driver import HostScanner, LabelTraits, SupportsLoginTrial
from nodelaunch.protocol.hostkeys import SSH_CONNECTION_TYPES, Assurance, mismatch

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 8.0
"""Seconds between two scans for the keys that a machine was given; the pause doubles each time."""


@dataclass(frozen=True, slots=True)
class HostKeys:
    """Host keys for a record: ``<type> <base64>`` each, and their assurance."""

    keys: tuple[str, ...] = ()
    assurance: Assurance | None = None


def given_keys(traits: LabelTraits, expected: Sequence[str] | None) -> tuple[str, ...]:
    """Return the *expected* keys, which a driver gave the machine, if connections to the machine use host keys
    at all."""
    return tuple(expected or ()) if traits.connection_type in SSH_CONNECTION_TYPES else ()


async def scan_node(
    scanner: HostScanner, host: str, port: int, traits: LabelTraits, *, expected: Sequence[str] = (), timeout_s: float
) -> tuple[str, ...]:
    """Wait until the machine can be used as *traits* require. Return its host keys, each ``<type> <base64>``, if it has
    any. *expected*: keys that the machine has to have; only these are returned then.

    Without host key checking the network is not used. Raises: KeyScanError if the machine can't be used within
    *timeout_s*.
    """
    if not traits.host_key_checking:
        return ()
    if traits.connection_type not in SSH_CONNECTION_TYPES:
        await scanner.reach(host, port, timeout_s=timeout_s)
        return ()
    deadline = asyncio.get_running_loop().time() + timeout_s
    if expected:
        keys = await _expected_keys(scanner, host, port, tuple(expected), deadline)
    else:
        keys = await _settled_keys(scanner, host, port, traits.settle_s, deadline)
    if traits.probe_key is not None and traits.username is not None and isinstance(scanner, SupportsLoginTrial):
        await scanner.log_in(
            host, port, username=traits.username, key_file=traits.probe_key, host_keys=keys,
            timeout_s=_left_until(deadline),
        )  # fmt: skip
    return keys


async def _settled_keys(
    scanner: HostScanner, host: str, port: int, settle_s: float, deadline: float
) -> tuple[str, ...]:
    """Return the keys when they have not changed for *settle_s*: the keys in an image are often replaced at boot."""
    keys = await scanner.host_keys(host, port, timeout_s=_left_until(deadline))
    while settle_s > 0:
        if _left_until(deadline) <= settle_s:
            raise KeyScanError(f"{host} port {port}: host keys did not stay the same for {settle_s:g} s in time")
        await asyncio.sleep(settle_s)
        before, keys = keys, await scanner.host_keys(host, port, timeout_s=_left_until(deadline))
        if keys == before:
            break
    return keys


async def _expected_keys(
    scanner: HostScanner, host: str, port: int, expected: tuple[str, ...], deadline: float
) -> tuple[str, ...]:
    """Return *expected* when the machine has them all: before it has installed them, it may have the keys of its
    image."""
    pause = FIRST_PAUSE_S
    while True:
        fault = mismatch(expected, await scanner.host_keys(host, port, timeout_s=_left_until(deadline)))
        if fault is None:
            return expected
        if _left_until(deadline) <= pause:
            raise KeyScanError(f"{host} port {port} does not have the host key that it was given: {fault}")
        await asyncio.sleep(pause)
        pause = min(LAST_PAUSE_S, pause * 2)


def _left_until(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()
