"""Makes the package of a new driver: working files for its author to change one by one.

The templates are the files of this folder whose names end in ``.in``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from nodelaunch.errors import NodelaunchError

FILES: Final = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "src/@MODULE@/__init__.py": "plugin.py.in",
    "src/@MODULE@/__main__.py": "main.py.in",
    "src/@MODULE@/config.py": "config.py.in",
    "src/@MODULE@/driver.py": "driver.py.in",
    "src/@MODULE@/cloud.py": "cloud.py.in",
    "tests/test_@MODULE@.py": "tests.py.in",
}
"""Template of each file, by the path in the package."""
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class ScaffoldError(NodelaunchError):
    """The package could not be made; the message says why."""


def check_name(name: str) -> None:
    """Raise ScaffoldError if *name* can't be the name of a driver."""
    if not _NAME.fullmatch(name):
        raise ScaffoldError(f"{name!r} can't be the name of a driver: lower-case letters, digits and single dashes")


def make_package(name: str, folder: Path) -> list[Path]:
    """Write the package of driver *name* into *folder*, which must not exist. Return the files in order of reading.

    Raises: ScaffoldError.
    """
    check_name(name)
    words = {
        "@NAME@": name,
        "@PACKAGE@": f"nodelaunch-driver-{name}",
        "@MODULE@": f"nodelaunch_driver_{name.replace('-', '_')}",
        "@CLASS@": "".join(part.capitalize() for part in name.split("-")),
    }
    made = []
    try:
        folder.mkdir(parents=True)
        for path, template in FILES.items():
            file = folder / _filled(path, words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled((Path(__file__).parent / template).read_text("utf-8"), words), "utf-8")
            made.append(file)
    except FileExistsError:
        raise ScaffoldError(f"{folder} already exists") from None
    except OSError as error:
        raise ScaffoldError(f"{folder} can't be written: {error.strerror or error}") from None
    return made


def _filled(text: str, words: dict[str, str]) -> str:
    for blank, word in words.items():
        text = text.replace(blank, word)
    return text
