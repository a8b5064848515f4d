"""The folders for a user's data and state, as the XDG Base Directory Specification has them.

platformdirs does not fit: a user without a home needs a folder too, and a relative path in a variable is ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

WITHOUT_HOME: Final = Path("/var/lib")
"""The folder for a user without a home."""


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for data, which may not exist yet."""
    return _folder(_absolute(environment, "XDG_DATA_HOME"), "~/.local/share")


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for state, which may not exist yet."""
    return _folder(_absolute(environment, "XDG_STATE_HOME"), "~/.local/state")


def store_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return `state_folder`, but accept a relative path and ``~`` in the variable: stores exist there."""
    return _folder(environment.get("XDG_STATE_HOME", ""), "~/.local/state")


def _absolute(environment: Mapping[str, str], variable: str) -> str:
    named = environment.get(variable, "")
    return named if Path(named).is_absolute() else ""


def _folder(named: str, default: str) -> Path:
    try:
        return Path(named or default).expanduser() / "nodelaunch"
    except RuntimeError:
        return WITHOUT_HOME / "nodelaunch"
