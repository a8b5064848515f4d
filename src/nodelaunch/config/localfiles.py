"""What is wrong, or doubtful, about a launcher's own files on its machine: its store, its tokens.

What does *not* belong here: files that can't be read (file.py), certificates (certificates.py).
"""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nodelaunch.config.file import position_of
from nodelaunch.config.models import Config, Place
from nodelaunch.config.tokens import SHORTEST, TokenFileError, read_tokens
from nodelaunch.errors import ConfigProblem

STORE: Place = ("embedded-store", "path")
TOKENS: Place = ("webapp", "token-file")


def store_problem(config: Config, path: str | os.PathLike[str]) -> ConfigProblem | None:
    """Why the store of *config*, which is in *path*, can be nowhere where it is said to be, whoever starts a launcher;
    None: it can, or it is in ZooKeeper."""
    if config.zookeeper_servers:
        return None
    file = Path(config.embedded_store.path)
    if file.is_dir():
        return _at(path, STORE, f"path: {file} is a folder; name a file, such as {file / 'store.sqlite'}")
    above = _existing(file.parent)
    if above.is_dir():
        return None
    return _at(path, STORE, f"path: {above} is a file, so there can be nothing below it; name a file in a folder")


def file_warnings(config: Config, path: str | os.PathLike[str]) -> Iterator[ConfigProblem]:
    """What is doubtful about the store and the tokens of *config*, which is in *path*."""
    if not config.zookeeper_servers:
        file = Path(config.embedded_store.path)
        where = file if file.exists() else _existing(file.parent)
        if not os.access(where, os.W_OK):
            text = f"path: {_user()} may not write {where}; whoever runs the launcher has to"
            yield _at(path, STORE, text)
    if config.webapp.token_file is not None:
        for text in _doubts(config.webapp.token_file):
            yield _at(path, TOKENS, f"token-file: {text}")


def _doubts(file: str) -> Iterator[str]:
    try:
        mode, tokens = Path(file).stat().st_mode, read_tokens(file)
    except OSError:
        return  # told of by others
    except TokenFileError as error:
        yield f"{error}; nobody gets anything over HTTP that needs a token"
        return
    rule = f"a token is a line of at least {SHORTEST} characters"
    for line in tokens.short:
        yield f"its line {line} is too short to be a token, and does not count; {rule}"
    if not tokens.good:
        yield f"there is no token in it, so nobody gets anything over HTTP that needs one; {rule}"
    if mode & stat.S_IROTH:
        yield f"every user of this machine can read it; chmod o-rwx {file}"


def _existing(folder: Path) -> Path:
    """*folder*, or what there is of it that is nearest."""
    return next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # one without a name, as in containers
        return f"the user with number {os.getuid()}"


def _at(path: str | os.PathLike[str], place: Place, message: str) -> ConfigProblem:
    line, column = position_of(path, place)
    return ConfigProblem(os.fspath(path), line, column, message)
