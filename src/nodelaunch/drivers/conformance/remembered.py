"""The outcome of the last check of each driver, so that lists of drivers can show it.

A small file for each, in ``$XDG_STATE_HOME/nodelaunch/driver-reports``. It speaks of one digest: of a driver that has
changed since nothing is known.
What does *not* belong here: reports for people and programs (report.py).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodelaunch.drivers.conformance.levels import Level

FORMAT = 1


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where they are kept; it need not exist."""
    state = environment.get("XDG_STATE_HOME")
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "nodelaunch" / "driver-reports"


def remember(
    name: str, digest: str, level: Level, *, waived: int = 0, details: Mapping[str, Any] | None = None
) -> Path:
    """Keep the outcome of a check of driver *name*, in place of the one before; the file it is in.

    *digest* is that of what was checked, as `nodelaunch driver list` shows it; *waived* the number of failures that
    don't count; *details* whatever else may be of use to people. Raises: OSError.
    """
    content = {
        "format": FORMAT, "driver": name, "digest": digest, "level": level.value, "waived": waived,
        "checked_at": round(time.time(), 3), **(details or {}),
    }  # fmt: skip
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return path


def remembered(name: str, digest: str) -> Level | None:
    """The level that the last check of driver *name* found, if it was of *digest*; None when that is not known."""
    try:
        content = json.loads(_path(name).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or (content["driver"], content["digest"]) != (name, digest):
            return None
        return Level(content["level"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _path(name: str) -> Path:
    """Of one driver's file; a name that is a path, or has what a file's name can't, gets one that is its alone."""
    return (
        folder() / f"{re.sub(r'[^A-Za-z0-9._-]', lambda found: f'%{ord(found[0]):02X}', name).lstrip('.') or '%'}.json"
    )
