"""Stores the result of the last checks of each driver, so that lists of drivers can show it.

``$XDG_STATE_HOME/nodelaunch/driver-reports`` has a small file for each digest of a driver, with a result for each
isolation. A driver's result is found by its digest, under any name or path; a changed driver has no result.
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

from nodelaunch.conformance.levels import Level
from nodelaunch.userfolders import STATE, user_folder

FORMAT = 2


def folder() -> Path:
    """Return the folder of the results, which may not exist yet."""
    return user_folder(STATE) / "driver-reports"


def remember(name: str, digest: str, isolation: str, level: Level, *, waived: int = 0) -> Path:
    """Store the result of a check of driver *name* with *isolation*, replace the one before, and return its file.

    *digest* is the driver's, as `nodelaunch driver list` shows it; *waived* is the number of waived checks.
    Raises: OSError.
    """
    outcomes = {
        **_outcomes(digest),
        isolation: {"level": level.value, "waived": waived, "checked_at": round(time.time(), 3)},
    }
    content = {"format": FORMAT, "driver": name, "digest": digest, "levels": outcomes}
    path = _path(digest)
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


def remembered(digest: str) -> Mapping[str, Level]:
    """Return the levels of the driver with *digest* by isolation, from its last checks; empty if it has no result."""
    return {isolation: Level(outcome["level"]) for isolation, outcome in _outcomes(digest).items()}


def _outcomes(digest: str) -> dict[str, Any]:
    try:
        content = json.loads(_path(digest).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["digest"] != digest:
            return {}
        return {isolation: each for isolation, each in content["levels"].items() if Level(each["level"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _path(digest: str) -> Path:
    """Return the path of the file for any *digest*."""
    return folder() / f"{re.sub(r'[^A-Za-z0-9]', '-', digest) or '-'}.json"
