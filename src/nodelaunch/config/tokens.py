"""The file with the tokens that requests and actions over HTTP need: a token a line, ``#`` begins a comment.

What does *not* belong here: who shows a token (web/tokens.py).
"""

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
    """What a file has."""

    good: tuple[str, ...]
    short: tuple[int, ...] = ()
    """Lines, counted from 1, that are no token as they are too short."""

    @property
    def are_right(self) -> bool:
        return bool(self.good) and not self.short


def read_tokens(path: str) -> Tokens:
    """The tokens in the file at *path*. Raises: TokenFileError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(LARGEST_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TokenFileError(f"it can't be read: {reason}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    return Tokens(
        tuple(token for _, token in tokens if len(token) >= SHORTEST),
        tuple(number for number, token in tokens if len(token) < SHORTEST),
    )
