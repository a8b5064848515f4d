"""``nodelaunch config check``, and the places of the other commands below ``nodelaunch config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from nodelaunch.cli.common import say
from nodelaunch.cli.session import OPTIONS, Given
from nodelaunch.cli.tables import counted
from nodelaunch.config.certificates import certificate_warnings
from nodelaunch.config.file import load_config
from nodelaunch.config.localfiles import file_warnings
from nodelaunch.connecting import check_files
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import ConfigError

app: App = App(name="config", group_parameters=OPTIONS, help="Check, compare and migrate configurations.")


@app.command
def check(
    file: Annotated[Path | None, Parameter(help="Default: the file of --config.", metavar="FILE")] = None,
    /,
    *,
    session: Given,
) -> None:
    """Report every error and warning in a configuration.

    Warnings and the result go to standard output, errors to standard error. Exit code: 0 the configuration is valid,
    with or without warnings; 2 it has an error.
    """
    path = file or session.config
    config, warnings = load_config(path, secure=session.secure, drivers=DriverRegistry())
    for warning in warnings:
        say(f"{warning} (warning)")
    if problems := check_files(config, path, secure=session.secure):
        raise ConfigError(problems)
    for warning in certificate_warnings(config, path, secure=session.secure):
        say(f"{warning} (warning)")
    for warning in file_warnings(config, path):
        say(f"{warning} (warning)")
    pools = sum(len(provider.pools) for provider in config.providers)
    counts = ((len(config.labels), "label"), (len(config.providers), "provider"), (pools, "pool"))
    say(f"{path}: good; {', '.join(counted(*each) for each in counts)}")


app.command("nodelaunch.cli.plan:command", name="plan", help="Show what a reload with another configuration would do.")

app.command("nodelaunch.cli.migrate:command", name="migrate", help="Convert a Nodepool configuration to nodelaunch.")


app.command(
    "nodelaunch.cli.configschema:command", name="schema", help="Print the JSON Schema of a configuration, for editors."
)
