"""The ``nodelaunch`` command: puts the subcommands together.

A command's module is imported only where that command is asked for, so that ``nodelaunch serve`` holds nothing in
memory that only others need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

from nodelaunch import __version__, log
from nodelaunch.errors import ConfigError, NodelaunchError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("serve", "answer node requests, in the foreground"),
    "request": ("request", "ask for nodes, print them, give them back"),
    "list": ("lists", "show nodes, or requests"),
    "leaks": ("leaks", "show what is in the clouds but belongs to no node; deletes nothing"),
    "explain": ("explain", "say why a node request is where it is"),
    "config": ("config", "look at a configuration"),
    "driver": ("driver", "look at drivers, check, install and remove them"),
    "demo": ("demo", "show the main job on this machine; needs nothing else"),
    "fake-cloud": ("fakecloud", "look at a fake cloud in a file, change it, break it"),
}
"""Module of this package, and help text, by command."""


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser that knows the arguments of *command*, and of the other commands the names."""
    parser = argparse.ArgumentParser(
        prog="nodelaunch", description="Answers node requests with machines of any provider."
    )
    parser.add_argument("--version", action="version", version=f"nodelaunch {__version__}")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default=None)
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, about) in COMMANDS.items():
        family = commands.add_parser(name, help=about)
        if name == command:
            import_module(f"nodelaunch.cli.{module}").add_arguments(family)
    return parser


def command_in(arguments: Sequence[str]) -> str | None:
    """The command that *arguments* ask for; no value of an option before it is the name of one."""
    return next((argument for argument in arguments if argument in COMMANDS), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    args = make_parser(command_in(given)).parse_args(given)
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
