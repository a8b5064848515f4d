"""The ``nodelaunch`` command: puts the subcommands together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nodelaunch import __version__, log
from nodelaunch.cli import config, demo, driver, explain, fakecloud, leaks, lists, request, serve
from nodelaunch.errors import ConfigError, NodelaunchError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nodelaunch", description="Answers node requests with machines of any provider."
    )
    parser.add_argument("--version", action="version", version=f"nodelaunch {__version__}")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default=None)
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for family in (serve, request, lists, leaks, explain, config, driver, demo, fakecloud):
        family.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = make_parser().parse_args(arguments)
    log.configure(level=args.log_level or getattr(args, "default_log_level", "info"), as_json=args.log_json)
    try:
        code: int = args.run(args)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201
        return USAGE
    except NodelaunchError as error:
        print(f"nodelaunch: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
