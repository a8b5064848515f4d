"""``nodelaunch config check`` and ``config schema``: whether a configuration is right, and what may stand in one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nodelaunch.cli.common import say
from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverNotFoundError, DriverRegistry
from nodelaunch.errors import ConfigError, NodelaunchError
from nodelaunch.launcher import check_files

if TYPE_CHECKING:
    from nodelaunch.config.schema import DriverOptions


def add_arguments(family: argparse.ArgumentParser) -> None:
    verbs = family.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="report everything that is wrong in a configuration")
    check.add_argument("file", metavar="FILE")
    check.add_argument("-s", "--secure", metavar="FILE")
    check.set_defaults(run=run_check, default_log_level="warning")
    schema = verbs.add_parser("schema", help="print the JSON Schema of a configuration, for editors")
    schema.add_argument(
        "--driver", metavar="NAME", action="append", default=[], help="only of this driver; may be given several times"
    )
    schema.add_argument("--output", metavar="FILE", help="write it there instead")
    schema.set_defaults(run=run_schema, default_log_level="error")


def run_check(args: argparse.Namespace) -> int:
    config, warnings = load_config(args.file, secure=args.secure, drivers=DriverRegistry())
    for warning in warnings:
        say(f"{warning} (warning)")
    problems = check_files(config, args.file, secure=args.secure)
    if problems:
        raise ConfigError(problems)
    pools = sum(len(provider.pools) for provider in config.providers)
    say(f"{args.file}: good; {len(config.labels)} labels, {len(config.providers)} providers, {pools} pools")
    return 0


def run_schema(args: argparse.Namespace) -> int:
    from nodelaunch.config.schema import config_schema

    text = json.dumps(config_schema(_options(args.driver)), indent=2)
    if args.output is None:
        say(text)
        return 0
    try:
        Path(args.output).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise NodelaunchError(f"{args.output} can't be written: {error.strerror or error}") from None
    return 0


def _options(names: list[str]) -> list[DriverOptions]:
    """Of the drivers called *names*, which have to be usable; of all that are, where there is no name.

    Raises: DriverNotFoundError.
    """
    from nodelaunch.drivers.installed import Catalogue

    catalogue = Catalogue()
    found = []
    for facts in catalogue.facts([catalogue.find(name) for name in names] or None):
        if facts.options is not None:
            found.append(facts.options)
        elif names:
            raise DriverNotFoundError(facts.problem)
        else:
            print(f"nodelaunch: left out: {facts.problem}", file=sys.stderr)  # noqa: T201
    return found
