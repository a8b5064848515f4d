"""The options that every command has, and what a command is handed of them.

They may stand before or behind the command's name. What does *not* belong here: anything that imports more than the
command line itself: ``nodelaunch --help`` reads this module.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from nodelaunch.errors import ConfigProblem

OPTIONS = Group("Options", sort_key=0)
"""Under which help shows a command's own options."""
DEFAULT_CONFIG = Path("/etc/nodepool/nodepool.yaml")
LogLevel = Literal["debug", "info", "warning", "error"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CommonOptions:
    """As the command line, or the environment, gives them."""

    config: Annotated[
        Path | None,
        Parameter(
            ("--config", "-c"),
            env_var="NODELAUNCH_CONFIG",
            help=f"Configuration file; default: {DEFAULT_CONFIG}.",
            metavar="FILE",
        ),
    ] = None
    secure: Annotated[
        Path | None,
        Parameter(("--secure", "-s"), env_var="NODELAUNCH_SECURE", help="Second file, for secrets.", metavar="FILE"),
    ] = None
    log_level: Annotated[
        LogLevel | None, Parameter(env_var="NODELAUNCH_LOG_LEVEL", help="The least that is logged.")
    ] = None
    log_json: Annotated[bool, Parameter(env_var="NODELAUNCH_LOG_JSON", help="Log one JSON object per line.")] = False


class CliSession:
    """One run of the command: which configuration it is about."""

    def __init__(self, options: CommonOptions) -> None:
        self.options = options

    @property
    def config(self) -> Path:
        return self.options.config or DEFAULT_CONFIG

    @property
    def is_config_given(self) -> bool:
        return self.options.config is not None

    @property
    def secure(self) -> Path | None:
        return self.options.secure

    def hinted(self, problem: ConfigProblem) -> str:
        """*problem*, with what to do where it is that there is no file in the usual place."""
        is_absent = problem.file == os.fspath(DEFAULT_CONFIG) and not DEFAULT_CONFIG.exists()
        if self.is_config_given or not is_absent:
            return str(problem)
        return f"{problem}; name another file with -c FILE, or in NODELAUNCH_CONFIG"

    def complain(self, *texts: object) -> None:
        """Say on standard error why the command can't go on: in the form of the log, where that is for programs."""
        for text in texts:
            line = json.dumps({"event": "failed", "level": "error", "detail": str(text)})
            print(line if self.options.log_json else text, file=sys.stderr)  # noqa: T201


Given = Annotated[CliSession, Parameter(parse=False)]
"""Of a command's parameter that takes the session."""
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
