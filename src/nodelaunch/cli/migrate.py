"""``nodelaunch config migrate``: converts a Nodepool configuration to nodelaunch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nodelaunch.cli.common import say
from nodelaunch.cli.session import Given
from nodelaunch.config.migrating import migrate
from nodelaunch.drivers.registry import DriverRegistry
from nodelaunch.errors import NodelaunchError

NEW_NAME = "<migrated>"
"""The file name in warnings when the new text goes to standard output."""


def command(
    file: Annotated[Path | None, Parameter(help="Default: the file of --config.", metavar="FILE")] = None,
    /,
    *,
    output: Annotated[
        Path | None, Parameter(("--output", "-o"), help="Write to FILE instead of standard output.", metavar="FILE")
    ] = None,
    session: Given,
) -> None:
    """Convert a Nodepool configuration to an equivalent one for nodelaunch.

    Keys that nodelaunch does not know are commented out in place and listed on standard error; the rest stays
    unchanged. Exit code: 0 written; 2 the configuration has an error to correct first, and nothing was written.
    """
    name = NEW_NAME if output is None else str(output)
    made = migrate(file or session.config, secure=session.secure, drivers=DriverRegistry(), new_name=name)
    for what, problems in (("left out", made.left_out), ("changed", made.changed), ("warning", made.warnings)):
        for problem in problems:
            print(f"{problem} ({what})", file=sys.stderr)  # noqa: T201
    if output is None:
        say(made.text.removesuffix("\n"))
        return
    try:
        output.write_text(made.text, encoding="utf-8", newline="")
    except OSError as error:
        raise NodelaunchError(f"{output} can't be written: {error.strerror or error}") from None
