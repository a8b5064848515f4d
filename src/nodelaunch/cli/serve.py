"""``nodelaunch serve``: runs the launcher in the foreground until a signal ends it.

SIGTERM, SIGINT and SIGUSR1 drain the launcher; a second of them stops it at once. SIGHUP reads the configuration again,
and so does a change of its files. SIGUSR2 logs the stack of each task. Signals and HTTP work from the start, also while
the store can't be reached; the launcher waits for the store without a limit.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from nodelaunch import __version__
from nodelaunch.cli.notify import READY, STOPPING, notify, reloading, status
from nodelaunch.cli.session import Given
from nodelaunch.config.models import Config
from nodelaunch.connecting import check_files
from nodelaunch.errors import ConfigError, NodelaunchError
from nodelaunch.launcher import DRAIN_GRACE_S, Launcher, load_config
from nodelaunch.log import Logger, get_logger
from nodelaunch.monitoring.tracesendpoint import traces_endpoint
from nodelaunch.network.sshscan import FakeHostsScanner, SshScanner
from nodelaunch.reloading import ConfigReloader

if TYPE_CHECKING:
    from nodelaunch.web.api import Api

log: Logger = get_logger(__name__)

COLLECTOR_THRESHOLDS = (50_000, 20, 50)
"""Thresholds of the garbage collector: allocations, then collections of each generation before the next one's."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
FILE_OPENS_S = 2.0
"""The time that HTTP waits for a store in a file: the file opens at once, or another process has it."""
SAME_SIGNAL_S = 1.0
"""Signals within this time after the first count as the first: supervisors signal a process and its group."""


async def serve(
    *,
    drain_timeout: Annotated[
        float,
        Parameter(
            help="Time for running requests to finish after a signal.", metavar="SECONDS", validator=Number(gte=0)
        ),
    ] = DRAIN_GRACE_S,
    no_webapp: Annotated[bool, Parameter(help="Do not serve HTTP.")] = False,
    fake_hosts: Annotated[
        bool, Parameter(help="Skip SSH key scans for host names that contain 'fake'; for tests.")
    ] = False,
    session: Given,
) -> int:
    """Answer node requests, in the foreground.

    After SIGTERM or SIGINT, running requests finish and the launcher ends; a second signal ends it at once. SIGHUP
    reads the configuration again. SIGUSR2 logs the stack of each task. Exit code: 0 ended after a drain, 1 stopped at
    once or failed, 2 the configuration has an error.
    """
    config = load_config(session.config, secure=session.secure)
    if problems := check_files(config, session.config, secure=session.secure):
        raise ConfigError(problems)
    log.info(
        "starting", version=__version__, config=str(session.config), store=_store_in_words(config), pid=os.getpid()
    )
    scanner = FakeHostsScanner(SshScanner()) if fake_hosts else SshScanner()
    launcher = Launcher(config, scanner=scanner, connect_timeout_s=None)
    reloader = ConfigReloader(launcher, session.config, secure=session.secure, grace_s=drain_timeout)
    return await _Service(launcher, reloader, drain_timeout).run(with_http=not no_webapp)


def _store_in_words(config: Config) -> str:
    if not config.zookeeper_servers:
        return str(config.embedded_store.path)
    return f"zookeeper {','.join(f'{each.host}:{each.port}' for each in config.zookeeper_servers)}{config.chroot}"


class _Service:
    """The launcher as a process: with its signal handlers, HTTP and the watch on its files."""

    def __init__(self, launcher: Launcher, reloader: ConfigReloader, grace_s: float) -> None:
        self._launcher = launcher
        self._reloader = reloader
        self._grace_s = grace_s
        self._is_open = False
        self._has_store = asyncio.Event()
        self._first_signal_at: float | None = None
        self._draining: asyncio.Task[None] | None = None
        self._api: Api | None = None
        self._listener: socket.socket | None = None
        """The address of HTTP; None: HTTP is not served."""
        self._cannot_listen: NodelaunchError | None = None

    async def run(self, *, with_http: bool) -> int:
        """Run until the end and return the exit code. Raises: CannotListenError, and the errors of the launcher."""
        if with_http:
            self._listen()
        work = asyncio.ensure_future(self._work())
        beside = [asyncio.ensure_future(self._reloader.run())]
        if self._listener is not None:
            from nodelaunch.web.api import Api

            self._api = Api(self._launcher, token_file=self._launcher.config.webapp.token_file)
            beside.append(asyncio.ensure_future(self._serve_http(self._listener, self._api)))
        with self._watch_signals(work):
            notify(READY, status("waiting for the store"))
            try:
                done, _ = await asyncio.wait({work, *beside}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {work}:
                    await task  # an unexpected failure: raise it and stop
                await work
            except asyncio.CancelledError:
                if self._is_open:
                    log.warning("stopped_at_once")
                    return 1
            finally:
                for task in (work, *beside, *([self._draining] if self._draining else ())):
                    task.cancel()
                    await asyncio.wait([task])
                if self._listener is not None:
                    self._listener.close()
        log.info("stopped", store_operations=dict(self._launcher.store.operations))
        return 0

    def _listen(self) -> None:
        """Listen on the HTTP port before the launcher registers. Raises: CannotListenError.

        If another process has the store's file, that process probably has the port too; so the file is reported first.
        """
        from nodelaunch.web.listening import CannotListenError, listen_for_http

        webapp = self._launcher.config.webapp
        try:
            self._listener = listen_for_http(webapp.listen_address, webapp.port)
        except CannotListenError as error:
            if self._launcher.config.zookeeper_servers:
                raise
            self._cannot_listen = error

    async def _serve_http(self, listener: socket.socket, api: Api) -> None:
        """Serve HTTP from the start; with a store in a file, as soon as this process has opened the file."""
        if not self._launcher.config.zookeeper_servers:
            with suppress(TimeoutError):
                async with asyncio.timeout(FILE_OPENS_S):
                    await self._has_store.wait()
        from nodelaunch.web.app import make_app
        from nodelaunch.web.serving import serve_at

        async with serve_at(listener, make_app(self._launcher, api=api)):
            await asyncio.Event().wait()

    async def _work(self) -> None:
        async with self._launcher as launcher, AsyncExitStack() as beside:
            if self._cannot_listen is not None:
                raise self._cannot_listen
            if os.environ.get("STATSD_HOST") or os.environ.get("STATSD_PORT"):
                from nodelaunch.monitoring.statsd import Statsd

                await beside.enter_async_context(await Statsd.from_environment(launcher))
            if traces_endpoint() is not None:
                try:
                    from nodelaunch.traces import exporting

                    await beside.enter_async_context(exporting(launcher))
                except ImportError as error:
                    remedy = "pip install 'nodelaunch[traces]'"
                    log.warning("traces_unavailable", detail=str(error), remedy=remedy)
            self._is_open = True
            self._has_store.set()
            launcher.reporter.config_path = self._reloader.path
            notify(status("serves"))
            calming = asyncio.ensure_future(_calm_collector(launcher))
            taking: AbstractAsyncContextManager[None] = nullcontext() if self._api is None else self._api.open()
            try:
                async with taking:
                    await launcher.run()
            finally:
                calming.cancel()

    @contextmanager
    def _watch_signals(self, work: asyncio.Future[None]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            number: partial(self._on_ending_signal, number, work) for number in ENDING
        }
        handlers[signal.SIGHUP] = self._on_hangup
        handlers[signal.SIGUSR2] = _log_stacks
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _on_ending_signal(self, number: signal.Signals, work: asyncio.Future[None]) -> None:
        """Drain at the first signal; stop at a later one, or if the launcher has not started yet."""
        now = asyncio.get_running_loop().time()
        if self._first_signal_at is not None and now - self._first_signal_at < SAME_SIGNAL_S:
            log.info("signal_repeated", signal=number.name)
            return
        log.info("signal", signal=number.name, count=1 if self._first_signal_at is None else 2)
        notify(STOPPING)
        if self._first_signal_at is not None or not self._is_open:
            work.cancel()
        else:
            self._draining = asyncio.create_task(self._launcher.drain(self._grace_s))
        self._first_signal_at = now

    def _on_hangup(self) -> None:
        log.info("signal", signal="SIGHUP")
        notify(reloading())
        self._reloader.ask(lambda: notify(READY))


async def _calm_collector(launcher: Launcher) -> None:
    """When the view is in sync, exclude the existing objects from garbage collection, and collect less often.

    A launcher makes few reference cycles; a repeated search for them in all its objects takes a tenth of its CPU time.
    """
    await launcher.view.synced()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def _log_stacks() -> None:
    """Log the stack of each task, innermost frame last, so that an operator sees what each task waits for."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        frames: list[str] = []
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            frames.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            awaited = awaited.cr_await
        log.info("task_stack", task=task.get_name(), frames=frames)
