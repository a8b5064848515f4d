"""Keeps one driver process running: starts it on the first call and restarts it when it exits.

The next call after an exit restarts the process, after a back-off with random jitter that grows with consecutive exits.
After several exits in a row the driver is degraded: its calls fail at once until the back-off ends, and the errors say
how the process exited and show its last output. child.py starts and ends a single process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from nodelaunch.driverhost.process.child import Child, Command, start
from nodelaunch.driverhost.process.clusterserver import ClusterServer
from nodelaunch.driverhost.process.rationing import Ration
from nodelaunch.driverhost.process.redaction import NOTHING, Redactor
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.messages import CLUSTER, LOG, PING, PROGRESS, Call, LogNote, ProgressNote, VersionRange
from nodelaunch.driverhost.wire.peer import ConnectionEndedError, Json, RpcError
from nodelaunch.errors import DriverError, ProviderUnavailableError, is_sound_id, legible
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.soundness import json_fault

log: Logger = get_logger(__name__)

NOTES_PER_S: Final = 100
"""Most notifications per second that are logged; the rest is only counted."""
MAX_NOTE: Final = 16 << 10
"""Most bytes of a notification's fields as JSON; larger fields are omitted."""
PATIENCE_S: Final = 2.0
"""A call waits for a back-off that ends sooner than this."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The back-off between the exit of a process and its restart."""

    first_s: float = 0.2
    """Back-off after the first exit; it doubles with each further exit in a row."""
    last_s: float = 60.0
    stable_s: float = 30.0
    """A process that ran longer than this resets the count of exits in a row."""
    degraded_after: int = 3
    """Number of exits in a row after which the driver is degraded."""

    def pause_s(self, ends: int) -> float:
        """Return the back-off after *ends* exits in a row; half of it is random."""
        whole = min(self.last_s, self.first_s * 2.0 ** (min(ends, 30) - 1))
        return whole * (0.5 + random.random() / 2)  # noqa: S311  nothing secret


@dataclass(slots=True)
class Pings:
    """When the supervisor pings an idle process."""

    after_s: float = 30.0
    """Time without a call or a message of the driver."""
    timeout_s: float = 10.0


@dataclass(slots=True)
class _Run:
    """A process and the task that watches it."""

    child: Child
    began: float
    watching: asyncio.Task[None] | None = None
    progress: dict[int, str] = field(default_factory=dict)
    """External ids that progress notifications reported, by the id of the call under way."""


class Supervisor:
    """Runs the processes of one provider's driver, one at a time. Calls *prepare* with each process before any call."""

    def __init__(
        self,
        command: Command,
        provider: str,
        prepare: Callable[[Child], Awaitable[None]],
        *,
        restarts: Restarts | None = None,
        pings: Pings | None = None,
        versions: VersionRange = CONTRACT,
        cluster: Cluster | None = None,
        redact: Redactor = NOTHING,
    ) -> None:
        """*cluster*: for a driver with the capability ``cluster``; *redact*: applied to all texts of the driver."""
        self._command = command
        self._provider = provider
        self._prepare = prepare
        self._restarts = restarts or Restarts()
        self._pings = pings or Pings()
        self._versions = versions
        self._cluster = cluster
        self._redact = redact
        self._run: _Run | None = None
        self._starting = asyncio.Lock()
        self._ends = 0
        """Number of exits in a row."""
        self._not_before = 0.0
        """Earliest time of the next start, by the loop's clock."""
        self._last_end = ""
        self._is_closed = False
        self._log = log.bind(driver=command.name, provider=provider)
        self._notes = Ration(NOTES_PER_S, 1.0, lambda dropped: self._log.warning("driver_notes_dropped", notes=dropped))

    @property
    def child(self) -> Child | None:
        """The running process, if there is one."""
        return self._run.child if self._run is not None and self._run.child.is_alive else None

    @property
    def is_degraded(self) -> bool:
        return self._ends >= self._restarts.degraded_after

    async def running(self) -> Child:
        """Return a process that accepts calls; starts it if necessary. Raises: DriverError if it can't."""
        if (child := self.child) is not None:
            return child
        async with self._starting:
            if (child := self.child) is not None:
                return child
            if self._is_closed:
                raise ProviderUnavailableError("the driver is closed", provider=self._provider)
            await self._finish_last()
            await self._pause()
            return await self._start()

    def progress_of(self, child: Child, number: int) -> str | None:
        """Return and forget the external id that the driver reported during the call *number* to *child*."""
        return self._run.progress.pop(number, None) if self._run is not None and self._run.child is child else None

    async def _finish_last(self) -> None:
        """Wait until the exit of the last process is counted."""
        run = self._run
        if run is not None and run.watching is not None:
            await asyncio.wait([run.watching])

    async def _pause(self) -> None:
        left = self._not_before - asyncio.get_running_loop().time()
        if left > PATIENCE_S:
            raise ProviderUnavailableError(self._why(left), provider=self._provider, retry_after_s=left)
        if left > 0:
            await asyncio.sleep(left)

    def _why(self, left_s: float) -> str:
        state = f"degraded: it exited {self._ends} times in a row" if self.is_degraded else "being restarted"
        return f"driver {self._command.name} is {state}; {self._last_end}; next start in {left_s:.0f} s"

    async def _start(self) -> Child:
        loop = asyncio.get_running_loop()
        runs: list[_Run] = []
        server = ClusterServer(self._provider, self._cluster)
        try:
            child = await start(
                self._command, lambda method, params: self._on_note(runs, method, params), answer=server.answer,
                versions=self._versions, redact=self._redact,
            )  # fmt: skip
        except DriverError as error:
            self._count_end(str(error))
            raise
        if CLUSTER in child.identity.capabilities:
            server.open(child.peer.note)
        run = _Run(child, loop.time())
        runs.append(run)
        try:
            await self._prepare(child)
        except (ConnectionEndedError, TimeoutError) as error:
            how = await child.ended() if isinstance(error, ConnectionEndedError) else "it did not answer in time"
            await child.aclose()
            self._count_end(f"driver.open failed: {how}: {child.last_words()}")
            raise ProviderUnavailableError(self._last_end, provider=self._provider) from None
        except DriverError as error:
            await child.aclose()
            self._count_end(str(error))
            raise
        except BaseException:
            await child.aclose()
            raise
        self._run = run
        run.watching = asyncio.ensure_future(self._watch(run))
        return child

    async def _watch(self, run: _Run) -> None:
        """Ping the process while it is idle, and count its exit."""
        pinging = asyncio.ensure_future(self._keep_pinging(run.child))
        try:
            how = await run.child.ended()
        finally:
            pinging.cancel()
        await run.child.aclose()
        if not self._is_closed:
            if asyncio.get_running_loop().time() - run.began > self._restarts.stable_s:
                self._ends = 0
            words = run.child.last_words()
            self._count_end(how + (f"; its last output: {words}" if words else ""))

    def _count_end(self, how: str) -> None:
        self._ends += 1
        self._last_end = how
        pause = self._restarts.pause_s(self._ends)
        self._not_before = asyncio.get_running_loop().time() + pause
        event = "driver_degraded" if self.is_degraded else "driver_ended"
        self._log.warning(event, detail=how, times=self._ends, retry_in_s=round(pause, 3))

    async def _keep_pinging(self, child: Child) -> None:
        while True:
            heard = child.peer.heard
            await asyncio.sleep(self._pings.after_s)
            if not child.peer.is_idle or child.peer.heard != heard:
                continue
            try:
                params = Call(deadline_s=self._pings.timeout_s).model_dump()
                await child.peer.call(PING.name, params, timeout_s=self._pings.timeout_s)
            except RpcError:
                pass  # an error is an answer, too
            except ConnectionEndedError:
                return
            except TimeoutError:
                child.peer.end(f"it did not answer a ping within {self._pings.timeout_s:g} s")
                return

    # -- notifications ----------------------------------------------------------------------------------------------

    def _on_note(self, runs: list[_Run], method: str, params: Json) -> None:
        """Process a notification; unknown and invalid ones are ignored."""
        if method == LOG and self._notes.allows() and (note := _read(LogNote, params)) is not None:
            self._say(note)
        elif method == PROGRESS and (progress := _read(ProgressNote, params)) is not None:
            external_id = progress.external_id if is_sound_id(progress.external_id) else None
            if runs and external_id is not None and runs[0].child.peer.awaits(progress.call):
                runs[0].progress[progress.call] = external_id
            if self._notes.allows():
                self._log.debug("driver_progress", stage=legible(progress.stage), external_id=external_id)

    def _say(self, note: LogNote) -> None:
        fault = json_fault(note.fields, MAX_NOTE)
        said: dict[str, Any] = {"left_out": fault} if fault is not None else self._redact.entry(note.fields)
        getattr(self._log, note.level)("driver_says", what=legible(self._redact(note.event)), said=said)

    async def aclose(self) -> None:
        """End the process; when the method returns, no process or file of it remains."""
        self._is_closed = True
        self._notes.settle()
        async with self._starting:
            run = self._run
            if run is None:
                return
            await run.child.aclose()
            if run.watching is not None:
                await asyncio.wait([run.watching])


def _read(model: type[Any], params: Json) -> Any:
    with suppress(ValueError):
        return model.model_validate(params)
    return None
