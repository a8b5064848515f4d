"""``nodelaunch config schema``: prints the schema of configurations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.config.schema import DriverOptions, config_schema
from nodelaunch.driverhost.catalogue import DriverCatalog
from nodelaunch.drivers.plugin import DriverNotFoundError
from nodelaunch.errors import NodelaunchError


def command(
    *,
    driver: Annotated[list[str] | None, Parameter(help="Include only this driver; repeatable.", metavar="NAME")] = None,
    output: Annotated[Path | None, Parameter(help="Write to FILE instead of standard output.", metavar="FILE")] = None,
) -> None:
    """Print the JSON Schema of a configuration, for editors."""
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
