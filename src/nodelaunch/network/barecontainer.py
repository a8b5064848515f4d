"""Defaults that libraries expect and a container may lack: a user name, a folder for temporary files.

Import this module before asyncssh, which runs a compiler, if there is one, to find libraries, and asks for the user's
name.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def name_user() -> None:
    """Set the user's number as the user name in the environment, and a home folder, if they are missing."""
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
    """Hide compilers from `ctypes.util.find_library` inside the block, if there is no folder for temporary files."""
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
