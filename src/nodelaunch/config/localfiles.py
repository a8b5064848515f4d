"""Problems and warnings about a launcher's own files on its machine: the embedded store and the token file."""

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
    """Return a problem if the path of the embedded store of *config*, read from *path*, can't work for any user; None
    if it can, or if the store is ZooKeeper."""
    if config.zookeeper_servers:
        return None
    file = Path(config.embedded_store.path)
    if file.is_dir():
        return _at(path, STORE, f"path: {file} is a folder; name a file, such as {file / 'store.sqlite'}")
    above = _existing(file.parent)
    if above.is_dir():
        return None
    return _at(path, STORE, f"path: {above} is a file, not a folder; name a file in a folder")


def file_warnings(config: Config, path: str | os.PathLike[str]) -> Iterator[ConfigProblem]:
    """Yield warnings about the embedded store and the token file of *config*, read from *path*."""
    if not config.zookeeper_servers:
        file = Path(config.embedded_store.path)
        where = file if file.exists() else _existing(file.parent)
        if not os.access(where, os.W_OK):
            text = f"path: {_user()} can't write {where}; the launcher's user needs write access"
            yield _at(path, STORE, text)
    if config.webapp.token_file is not None:
        for text in _doubts(config.webapp.token_file):
            yield _at(path, TOKENS, f"token-file: {text}")


def _doubts(file: str) -> Iterator[str]:
    try:
        mode, tokens = Path(file).stat().st_mode, read_tokens(file)
    except OSError:
        return  # reported elsewhere
    except TokenFileError as error:
        yield f"{error}; HTTP requests that need a token fail"
        return
    rule = f"a token is a line of at least {SHORTEST} characters"
    for line in tokens.short:
        yield f"line {line} is too short for a token, and is ignored; {rule}"
    if not tokens.good:
        yield f"the file has no token, so HTTP requests that need a token fail; {rule}"
    if mode & stat.S_IROTH:
        yield f"every user of this machine can read the file; run chmod o-rwx {file}"


def _existing(folder: Path) -> Path:
    """Return *folder*, or its nearest parent that exists."""
    return next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"the user with number {os.getuid()}"


def _at(path: str | os.PathLike[str], place: Place, message: str) -> ConfigProblem:
    line, column = position_of(path, place)
    return ConfigProblem(os.fspath(path), line, column, message)
