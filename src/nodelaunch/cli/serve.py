"""``nodelaunch serve``: the launcher in the foreground, until a signal.

SIGTERM, SIGINT and SIGUSR1 drain in order; a second one stops at once. SIGHUP reads the configuration again, which also
happens whenever its files change. SIGUSR2 logs what each task is at.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
from collections.abc import Callable
from typing import Any

import structlog

from nodelaunch.cli.common import add_config_arguments, config_of
from nodelaunch.config.models import Config
from nodelaunch.errors import ConfigError, StoreUnavailableError
from nodelaunch.launcher import DRAIN_GRACE_S, Launcher, check_files
from nodelaunch.reloading import ConfigReloader
from nodelaunch.sshscan import FakeHostsScanner, SshScanner

log = structlog.get_logger(__name__)

COLLECTOR_THRESHOLDS = (50_000, 20, 50)
"""Allocations between collections of new objects, and collections of each generation between those of the next."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--fake-hosts", action="store_true", help="let hosts whose name contains 'fake' answer key scans, for tests"
    )
    parser.add_argument(
        "--drain-timeout", type=float, default=DRAIN_GRACE_S, metavar="SECONDS",
        help="how long running requests may go on after a signal (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--no-webapp", action="store_true", help="serve no HTTP")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = config_of(args)
    if problems := check_files(config, args.config, secure=args.secure):
        raise ConfigError(problems)
    return asyncio.run(_serve(config, args))


async def _serve(config: Config, args: argparse.Namespace) -> int:
    scanner = FakeHostsScanner(SshScanner()) if args.fake_hosts else SshScanner()
    async with Launcher(config, scanner=scanner) as launcher:
        running = asyncio.ensure_future(launcher.run())
        reloader = ConfigReloader(launcher, args.config, secure=args.secure, grace_s=args.drain_timeout)
        reloading = asyncio.ensure_future(reloader.run())
        web = asyncio.ensure_future(_serve_http(launcher, config)) if not args.no_webapp else None
        calming = asyncio.ensure_future(_calm_collector(launcher))
        stop_watching = _watch_signals(launcher, running, reloader, args.drain_timeout)
        try:
            ending = {running, reloading, *({web} if web else ())}
            done, _ = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {running}:
                await task  # it could not listen, or failed unforeseen: say so and stop
            await running
        except asyncio.CancelledError:
            log.warning("stopped_at_once")
            return 1
        finally:
            stop_watching()
            tasks = (running, reloading, calming, *([web] if web else ()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        operations = dict(launcher.store.operations)
    log.info("stopped", store_operations=operations)
    return 0


async def _calm_collector(launcher: Launcher) -> None:
    """Once the cluster is known, leave what is there to last out of garbage collections, and collect less often.

    A launcher makes few cycles; looking through all it knows for them again and again is a tenth of its work.
    """
    await launcher.view.warm()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def _serve_http(launcher: Launcher, config: Config) -> None:
    from nodelaunch.web.app import make_app, serve

    host, port = config.webapp.listen_address, config.webapp.port
    try:
        async with serve(make_app(launcher.readiness), host=host, port=port):
            await asyncio.Event().wait()
    except OSError as error:
        raise StoreUnavailableError(f"http://{host}:{port}", f"can't listen: {error.strerror}") from None


def _watch_signals(
    launcher: Launcher, running: asyncio.Future[None], reloader: ConfigReloader, grace_s: float
) -> Callable[[], None]:
    """Drain at the first signal to end, stop at the second; reload when told to. A function that ends the watch."""
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []

    def on_signal(number: signal.Signals) -> None:
        log.info("signal", signal=number.name, count=len(drains) + 1)
        if drains:
            running.cancel()
        else:
            drains.append(asyncio.create_task(launcher.drain(grace_s)))

    def on_hangup() -> None:
        log.info("signal", signal="SIGHUP")
        reloader.ask()

    for number in ENDING:
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    loop.add_signal_handler(signal.SIGUSR2, _log_stacks)

    def stop() -> None:
        for number in (*ENDING, signal.SIGHUP, signal.SIGUSR2):
            loop.remove_signal_handler(number)
        for drain in drains:
            drain.cancel()

    return stop


def _log_stacks() -> None:
    """What each task waits for, the innermost frame last; for an operator who wonders whether something hangs."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        frames: list[str] = []
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            frames.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            awaited = awaited.cr_await
        log.info("task_stack", task=task.get_name(), stack=frames)
