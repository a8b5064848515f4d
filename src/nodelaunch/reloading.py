"""Reloads a running launcher's configuration when its files change, and on request.

    async with Launcher(load_config(path)) as launcher:
        reloader = ConfigReloader(launcher, path)
        ...  # run launcher.run() and reloader.run() as tasks

A configuration with an error is logged and refused; the one in force stays. launcher.py applies changes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from nodelaunch.config.watch import FileWatch
from nodelaunch.connecting import check_files
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import ConfigError, ConfigProblem
from nodelaunch.launcher import DRAIN_GRACE_S, Launcher, load_config
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import ConfigurationRead

log: Logger = get_logger(__name__)

REMIND_S = 600.0
"""Interval of the reminders that the files have an error and an older configuration is in force."""


class ConfigReloader:
    """Reloads one launcher while `run` runs."""

    def __init__(
        self,
        launcher: Launcher,
        path: str | os.PathLike[str],
        *,
        secure: str | os.PathLike[str] | None = None,
        drivers: DriverRegistry | None = None,
        grace_s: float = DRAIN_GRACE_S,
    ) -> None:
        self.problems: Sequence[ConfigProblem] = ()
        """Reasons why the present files are not in force; empty if they are."""
        self._launcher = launcher
        self.path: str = os.fspath(path)
        self._secure = os.fspath(secure) if secure is not None else None
        self._drivers = drivers
        self._grace_s = grace_s
        self._asked = asyncio.Event()
        self._awaited: list[Callable[[], None]] = []
        self._watch = FileWatch(self._files)

    def _files(self) -> Iterable[Path]:
        yield Path(self.path)
        if self._secure is not None:
            yield Path(self._secure)
        for provider in self._launcher.config.providers:
            yield from provider.files

    def ask(self, done: Callable[[], None] | None = None) -> None:
        """Request a read of the files, changed or not; *done* is called afterwards."""
        if done is not None:
            self._awaited.append(done)
        self._asked.set()

    async def run(self) -> None:
        """Reload after each change and each request, until cancelled."""
        watching = asyncio.ensure_future(self._watch.changed())
        try:
            while True:
                asked = asyncio.ensure_future(self._asked.wait())
                try:
                    timeout_s = REMIND_S if self.problems else None
                    done, _ = await asyncio.wait(
                        {watching, asked}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    asked.cancel()
                if not done:
                    self._complain()
                    continue
                self._asked.clear()
                touched = await asyncio.to_thread(self._watch.look)
                if watching in done:
                    touched |= watching.result()
                    watching = asyncio.ensure_future(self._watch.changed())
                await self.reload(touched)
                while self._awaited:
                    self._awaited.pop()()
        finally:
            watching.cancel()

    async def reload(self, touched: Collection[Path] = ()) -> bool:
        """Read and apply the files; return True if they are in force now. *touched*: changed files that providers
        include."""
        try:
            config = await asyncio.to_thread(load_config, self.path, secure=self._secure, drivers=self._drivers)
            if problems := await asyncio.to_thread(check_files, config, self.path, secure=self._secure):
                raise ConfigError(problems)
        except ConfigError as error:
            self.problems = error.problems
            self._complain()
            self._notify()
            return False
        self.problems = ()
        self._notify()
        await self._launcher.reload(config, touched=touched, grace_s=self._grace_s)
        return True

    def _notify(self) -> None:
        events, problems = self._launcher.events, tuple(map(str, self.problems))
        self._launcher.config_standing.read(self.problems, events.now())
        events.emit(ConfigurationRead(events.now(), not problems, problems))

    def _complain(self) -> None:
        log.error("config_refused", detail="the configuration in force stays", problems=len(self.problems))
        for problem in self.problems:
            log.error("config_problem", detail=str(problem))
