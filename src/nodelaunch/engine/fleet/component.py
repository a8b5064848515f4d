"""The launcher's own component in Nodepool's registry. The components of its pools are in pool.py."""

from __future__ import annotations

import asyncio

from nodelaunch.protocol import paths
from nodelaunch.protocol.records import LauncherComponent
from nodelaunch.protocol.store import Session, SessionState, Store


async def keep_registered(store: Store, component: LauncherComponent) -> None:
    """Register *component* in each session with the store, until cancelled. Raises: StoreError."""
    path = f"{paths.LAUNCHERS}/{component.hostname}"
    while True:
        epoch = await store.session.connected()
        await store.create(path, component.to_bytes(), ephemeral=True, sequence=True, parents=True)
        await _session_ended(store.session, epoch)


async def _session_ended(session: Session, epoch: int) -> None:
    """Wait until session *epoch* has ended."""
    changed = asyncio.Event()
    unsubscribe = session.subscribe(lambda _state: changed.set())
    try:
        while session.epoch == epoch and session.state is not SessionState.LOST:
            changed.clear()
            await changed.wait()
    finally:
        unsubscribe()
