"""The outcome of the last checks of each driver, so that lists of drivers can show it.

A small file for each digest, in ``$XDG_STATE_HOME/nodelaunch/driver-reports``, with an outcome for each way in which
the driver was run. By whatever name or path a driver is named, it is found by its digest; of one that has changed
since nothing is known.
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

from nodelaunch.conformance.levels import Level

FORMAT = 2


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where they are kept; it need not exist."""
    state = environment.get("XDG_STATE_HOME")
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "nodelaunch" / "driver-reports"


def remember(name: str, digest: str, isolation: str, level: Level, *, waived: int = 0) -> Path:
    """Keep the outcome of a check of driver *name*, run with *isolation*, in place of the one before; its file.

    *digest* is that of what was checked, as `nodelaunch driver list` shows it; *waived* the number of failures that
    don't count. Raises: OSError.
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
    """The levels that the last checks of the driver with *digest* found, by how it was run; none: it is not known."""
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
    """Of one digest's file, whatever it is."""
    return folder() / f"{re.sub(r'[^A-Za-z0-9]', '-', digest) or '-'}.json"
