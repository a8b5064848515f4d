"""Decides when to use a cloud without capacity again, and when to ask a cloud again about doubtful facts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
AWAITED_REFRESH_S = 30.0
"""Seconds after which limits and foreign usage are asked again while requests wait: other users of the account may have
freed capacity."""


class QuotaRefusals:
    """The pause after the cloud refused a launch for lack of quota although there seemed to be capacity.

    The pause doubles with each refusal, from `FIRST_PAUSE_S` to `LAST_PAUSE_S`, until a launch succeeds. Invariant:
    while ``is_active``, a timer runs that ends the pause.
    """

    def __init__(self, on_retry: Callable[[], None]) -> None:
        """*on_retry* is called when the pause ends, except by `close`."""
        self.is_active: bool = False
        """True during a pause."""
        self.pause_s: float = 0.0
        """The length of the last pause; 0 after a successful launch."""
        self._on_retry = on_retry
        self._timer: asyncio.TimerHandle | None = None

    def refused(self) -> None:
        """Start a pause: the cloud has refused."""
        self.close()
        self.pause_s = min(LAST_PAUSE_S, 2 * self.pause_s) or FIRST_PAUSE_S
        self.is_active = True
        self._timer = asyncio.get_running_loop().call_later(self.pause_s, self.retry)

    def granted(self) -> None:
        """End the pause and reset its length: an instance was created, so there is capacity."""
        self.pause_s = 0.0
        self.retry()

    def retry(self) -> None:
        """End the pause, if there is one: its time has passed, or capacity became free."""
        if self.is_active:
            self.close()
            self._on_retry()

    def close(self) -> None:
        """End the pause without a callback."""
        self.is_active = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AwaitedRefresh:
    """Asks the cloud again every `AWAITED_REFRESH_S` while requests wait for capacity that it does not have.

    Invariant: while a request waits, a timer runs.
    """

    def __init__(self, on_due: Callable[[], None]) -> None:
        """*on_due* is called each time the cloud has to be asked."""
        self._on_due = on_due
        self._awaited_by: set[str] = set()
        """Names of pools in which requests wait."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, pool: str, *, is_awaited: bool) -> None:
        """Note whether requests wait for capacity in *pool*."""
        if not is_awaited:
            self._awaited_by.discard(pool)
            return
        self._awaited_by.add(pool)
        if self._timer is None:
            self._start()

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(AWAITED_REFRESH_S, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._awaited_by:
            self._on_due()
            self._start()

    def close(self) -> None:
        """Stop asking."""
        self._awaited_by.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedCall:
    """Calls a function at once, but not again before a pause has passed: then once for all calls meanwhile.

    Invariant: during a pause, a timer runs that ends it.
    """

    def __init__(self, on_call: Callable[[], None], pause_s: float) -> None:
        self._on_call = on_call
        self._pause_s = pause_s
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        if self._timer is not None:
            self._is_due = True
            return
        self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._pause_over)
        self._on_call()

    def _pause_over(self) -> None:
        self._timer = None
        if self._is_due:
            self._is_due = False
            self()

    def close(self) -> None:
        """Make no more calls."""
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
