"""Leftovers without an owner: node znodes without data, unread questions, lock directories of requests deleted long
ago, pauses of processes that no longer run."""

from __future__ import annotations

import re

from nodelaunch.engine.cleanup.context import SweepContext
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.pauses import TargetKind

log: Logger = get_logger(__name__)

STALE_LOCK_S = 8 * 3600.0
"""Seconds after which the lock directory of a deleted request is removed. Source: Nodepool 11."""
STALE_QUESTION_S = 600.0
"""Seconds after which a question about a request is removed if its asker left it behind."""
GONE_PROCESS_S = 24 * 3600.0
"""Seconds after which the pause of an absent process is removed: no process returns with its id."""
_PROCESS_ID = re.compile(r"[0-9a-f]{32}")


class Debris:
    """Removes leftovers; the view keeps them apart from znodes in use."""

    def __init__(self, ctx: SweepContext) -> None:
        self._ctx = ctx
        self._empty: set[str] = set()
        """Node znodes without data at the last check."""

    async def remove(self) -> None:
        """Remove leftovers that are old enough. Raises: StoreError."""
        await self._stale_locks()
        await self._empty_nodes()
        await self._old_questions()
        await self._pauses_of_the_gone()

    async def _pauses_of_the_gone(self) -> None:
        """Remove pauses that name a process by its id, if the process is absent for long."""
        view, now = self._ctx.view, self._ctx.clock.now()
        present = {seen.record.id for seen in view.presences.values()}
        for (kind, name), seen in list(view.pauses.items()):
            is_of_process = kind is TargetKind.LAUNCHER and _PROCESS_ID.fullmatch(name) is not None
            if is_of_process and name not in present and now - seen.modified_at > GONE_PROCESS_S:
                log.info("pause_removed", path=seen.path)
                await self._ctx.store.delete_tree(seen.path)

    async def _old_questions(self) -> None:
        """Remove the questions of askers that died."""
        store, now = self._ctx.store, self._ctx.clock.now()
        names = await store.children(paths.QUESTIONS)
        for entry in await store.get_many([f"{paths.QUESTIONS}/{name}" for name in names]):
            if entry is not None and now - entry.stat.created_at > STALE_QUESTION_S:
                await store.delete_tree(entry.path)

    async def _stale_locks(self) -> None:
        now = self._ctx.clock.now()
        for request_id, made_at in list(self._ctx.view.stray_lock_dirs.items()):
            if now - made_at > STALE_LOCK_S:
                await self._ctx.store.delete_tree(paths.request_lock(request_id))

    async def _empty_nodes(self) -> None:
        """Remove node znodes without data that had none at the last check either: taking a lock created them again."""
        view = self._ctx.view
        empty = {
            path
            for path, is_empty in view.unreadable.items()
            if is_empty and (node_id := paths.node_id_at(path)) and not view.is_node_locked(node_id)
        }
        for path in sorted(empty & self._empty):
            log.info("empty_node_removed", path=path)
            await self._ctx.store.delete_tree(path)
        self._empty = empty
