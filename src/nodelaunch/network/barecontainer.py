"""What libraries take for granted, and a container may not have: a name of our user, a folder for temporary files.

Import this before asyncssh, which looks for libraries with a compiler, where there is one, and asks who we are.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def name_user() -> None:
    """Give our user its number for a name in the environment, and a home, where it has none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


@contextmanager
def no_compiler_without_temporary_files() -> Iterator[None]:
    """Inside the block `ctypes.util.find_library` finds no compiler, if there is nowhere that one could write."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        path = os.environ.pop("PATH", None)
        try:
            os.environ["PATH"] = ""
            yield
        finally:
            del os.environ["PATH"]
            if path is not None:
                os.environ["PATH"] = path
    else:
        yield
