"""Who may ask for nodes and act on them over HTTP: whoever shows one of the tokens in a file.

The file has a token a line; it is read for each request, so that a new token holds at once and an old one no more.
Tokens are compared in constant time, and are in no log or answer. Source of the header and its answers: RFC 6750.
"""

from __future__ import annotations

import asyncio
import hmac
from hashlib import sha256
from pathlib import Path

from nodelaunch.log import Logger, get_logger
from nodelaunch.web.problems import Problem

log: Logger = get_logger(__name__)

SHORTEST = 16
"""Characters of a token; a shorter one could be guessed."""
LARGEST_FILE = 64 * 1024
REALM = 'Bearer realm="nodelaunch"'


class TokenFile:
    """*path*: where the tokens are; None: nobody may do anything."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._trouble: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether somebody may do something."""
        return self._path is not None

    async def admit(self, authorization: str) -> None:
        """Return if *authorization*, a request's header, shows a token. Raises: Problem."""
        if self._path is None:
            raise Problem(
                403, "not-enabled", "requests and actions are not enabled",
                "name a file with a token in the launcher's configuration: webapp: {token-file: /etc/nodelaunch/token}",
            )  # fmt: skip
        known = await asyncio.to_thread(self._digests, self._path)
        scheme, _, shown = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            raise Problem(
                401, "token-missing", "a token is needed", "send it as: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": REALM},
            )  # fmt: skip
        asked = _digest(shown.strip())
        if sum(hmac.compare_digest(asked, each) for each in known) == 0:  # all are compared, whichever it is
            raise Problem(
                401, "token-wrong", "the token is not one of this launcher's",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            )  # fmt: skip

    def _digests(self, path: str) -> list[bytes]:
        """Of the tokens. Raises: Problem where there is none to compare with."""
        try:
            with Path(path).open("rb") as file:
                text = file.read(LARGEST_FILE).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._note(f"it can't be read: {reason}")
            raise _unusable() from None
        lines = [line.strip() for line in text.splitlines()]
        tokens = [line for line in lines if line and not line.startswith("#")]
        good = [token for token in tokens if len(token) >= SHORTEST]
        self._note(None if tokens and len(good) == len(tokens) else _FAULTY)
        if not good:
            raise _unusable()
        return [_digest(token) for token in good]

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            log.error("token_file_unusable", path=self._path, detail=trouble)
        self._trouble = trouble


_FAULTY = f"each line has to be a token of at least {SHORTEST} characters; shorter ones don't count"


def _unusable() -> Problem:
    return Problem(
        503, "tokens-unknown", "the launcher knows no tokens", "its log says what is wrong with its token-file"
    )


def _digest(text: str) -> bytes:
    """All of one length, so that comparing tells nothing of a token's."""
    return sha256(text.encode("utf-8", "surrogateescape")).digest()
