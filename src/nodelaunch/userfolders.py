"""The folders of a user for data and for state, as the XDG base directory specification has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

STATE: Final = ("XDG_STATE_HOME", ".local/state")
DATA: Final = ("XDG_DATA_HOME", ".local/share")


def user_folder(kind: tuple[str, str]) -> Path:
    """Return nodelaunch's folder for `STATE` or `DATA`, which may not exist yet; for a user without a home in /var/lib.

    A relative path in the variable is ignored, as the specification says.
    """
    variable, below_home = kind
    base = Path(os.environ.get(variable, ""))
    if not base.is_absolute():
        try:
            base = Path.home() / below_home
        except RuntimeError:
            base = Path("/var/lib")
    return base / "nodelaunch"
