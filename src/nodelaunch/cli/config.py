"""``nodelaunch config check FILE``: whether a configuration is right, and if not, where."""

from __future__ import annotations

import argparse
from typing import Any

from nodelaunch.cli.common import say
from nodelaunch.config.file import load_config
from nodelaunch.drivers import DriverRegistry
from nodelaunch.errors import ConfigError
from nodelaunch.launcher import check_files


def add_parser(commands: Any) -> None:
    family = commands.add_parser("config", help="look at a configuration")
    verbs = family.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="report everything that is wrong in a configuration")
    check.add_argument("file", metavar="FILE")
    check.add_argument("-s", "--secure", metavar="FILE")
    check.set_defaults(run=run_check, default_log_level="warning")


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
