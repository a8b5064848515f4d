"""Reads the file with the tokens for requests and actions over HTTP: one token per line, ``#`` begins a comment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHORTEST = 16
"""Characters of a token; a shorter one could be guessed."""
LARGEST_FILE = 64 * 1024
FAULTY = f"each line has to be a token of at least {SHORTEST} characters; shorter ones don't count"


class TokenFileError(Exception):
    """The file can't be read."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The content of a token file."""

    good: tuple[str, ...]
    short: tuple[int, ...] = ()
    """The numbers of the lines that are too short for a token, counted from 1."""

    @property
    def are_right(self) -> bool:
        return bool(self.good) and not self.short


def read_tokens(path: str) -> Tokens:
    """Return the tokens in the file at *path*. Raises: TokenFileError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(LARGEST_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TokenFileError(f"the file can't be read: {reason}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    return Tokens(
        tuple(token for _, token in tokens if len(token) >= SHORTEST),
        tuple(number for number, token in tokens if len(token) < SHORTEST),
    )
