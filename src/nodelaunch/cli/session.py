"""The options that every command has, and the session that a command receives.

The options may stand before or after the command's name. Don't import more here than the command line needs:
``nodelaunch --help`` imports this module.
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
"""The group of a command's own options in its help."""
DEFAULT_CONFIG = Path("/etc/nodepool/nodepool.yaml")
LogLevel = Literal["debug", "info", "warning", "error"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CommonOptions:
    """The common options, from the command line or the environment."""

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
        Parameter(
            ("--secure", "-s"),
            env_var="NODELAUNCH_SECURE",
            help="Second configuration file, for secrets.",
            metavar="FILE",
        ),
    ] = None
    log_level: Annotated[
        LogLevel | None, Parameter(env_var="NODELAUNCH_LOG_LEVEL", help="Lowest level that is logged.")
    ] = None
    log_json: Annotated[bool, Parameter(env_var="NODELAUNCH_LOG_JSON", help="Log one JSON object per line.")] = False


class CliSession:
    """A run of a command, with the configuration that it uses."""

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
        """Return *problem*; if the default file does not exist, with a hint how to name another one."""
        is_absent = problem.file == os.fspath(DEFAULT_CONFIG) and not DEFAULT_CONFIG.exists()
        if self.is_config_given or not is_absent:
            return str(problem)
        return f"{problem}; name another file with -c FILE, or in NODELAUNCH_CONFIG"

    def complain(self, *texts: object) -> None:
        """Print to standard error why the command failed; as JSON if the log is JSON."""
        for text in texts:
            line = json.dumps({"event": "failed", "level": "error", "detail": str(text)})
            print(line if self.options.log_json else text, file=sys.stderr)  # noqa: T201


Given = Annotated[CliSession, Parameter(parse=False)]
"""The type of a command's parameter that receives the session."""
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
