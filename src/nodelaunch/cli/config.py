"""``nodelaunch config check`` and ``config schema``: checks a configuration, prints the schema of configurations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from nodelaunch.cli.common import say
from nodelaunch.cli.session import OPTIONS, Given
from nodelaunch.cli.tables import counted
from nodelaunch.config.certificates import certificate_warnings
from nodelaunch.config.file import load_config
from nodelaunch.config.localfiles import file_warnings
from nodelaunch.connecting import check_files
from nodelaunch.drivers.plugin import DriverNotFoundError
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import ConfigError, NodelaunchError

if TYPE_CHECKING:
    from nodelaunch.config.schema import DriverOptions


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


@app.command
def schema(
    *,
    driver: Annotated[list[str] | None, Parameter(help="Include only this driver; repeatable.", metavar="NAME")] = None,
    output: Annotated[Path | None, Parameter(help="Write to FILE instead of standard output.", metavar="FILE")] = None,
) -> None:
    """Print the JSON Schema of a configuration, for editors."""
    from nodelaunch.config.schema import config_schema

    text = json.dumps(config_schema(_options(driver or [])), indent=2)
    if output is None:
        say(text)
        return
    try:
        output.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise NodelaunchError(f"{output} can't be written: {error.strerror or error}") from None


def _options(names: list[str]) -> list[DriverOptions]:
    """Return the options of the drivers called *names*, which have to be usable; without names, of all usable drivers.

    Raises: DriverNotFoundError.
    """
    from nodelaunch.driverhost.catalogue import DriverCatalog

    catalogue = DriverCatalog()
    found = []
    for facts in catalogue.facts([catalogue.find(name) for name in names] or None):
        if facts.options is not None:
            found.append(facts.options)
        elif names:
            raise DriverNotFoundError(facts.problem)
        else:
            print(f"nodelaunch: left out: {facts.problem}", file=sys.stderr)  # noqa: T201
    return found
