"""Admits clients of the HTTP API: a client has to send one of the tokens in a file.

The file has one token per line; it is read for each request, so that a change applies at once. Tokens are compared in
constant time, and appear in no log and no answer. Source of the header and its answers: RFC 6750.
"""

from __future__ import annotations

import asyncio
import hmac
from hashlib import sha256

from nodelaunch.config.tokens import FAULTY, TokenFileError, read_tokens
from nodelaunch.log import Logger, get_logger
from nodelaunch.web.problems import Problem

log: Logger = get_logger(__name__)

REALM = 'Bearer realm="nodelaunch"'


class TokenFile:
    """The tokens in the file *path*; None: no client is admitted."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._trouble: str | None = None

    @property
    def are_given(self) -> bool:
        """Return True if a token file is configured."""
        return self._path is not None

    async def admit(self, authorization: str) -> None:
        """Return if *authorization*, a request's header, has a valid token. Raises: Problem."""
        if self._path is None:
            raise Problem(
                403, "not-enabled", "requests and actions are not enabled",
                "name a file with a token in the launcher's configuration: webapp: {token-file: /etc/nodelaunch/token}",
            )  # fmt: skip
        known = await asyncio.to_thread(self._digests, self._path)
        scheme, _, shown = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            raise Problem(
                401, "token-missing", "a token is needed", "send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": REALM},
            )  # fmt: skip
        asked = _digest(shown.strip())
        if sum(hmac.compare_digest(asked, each) for each in known) == 0:  # all are compared, for constant time
            raise Problem(
                401, "token-wrong", "the token is not one of this launcher's",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            )  # fmt: skip

    def _digests(self, path: str) -> list[bytes]:
        """Return the digests of the tokens. Raises: Problem if the file has no token or can't be read."""
        try:
            tokens = read_tokens(path)
        except TokenFileError as error:
            self._note(str(error))
            raise _unusable() from None
        self._note(None if tokens.are_right else FAULTY)
        if not tokens.good:
            raise _unusable()
        return [_digest(token) for token in tokens.good]

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            log.error("token_file_unusable", path=self._path, detail=trouble)
        self._trouble = trouble


def _unusable() -> Problem:
    return Problem(
        503, "tokens-unknown", "the launcher has no valid tokens", "the launcher's log has the fault of its token-file"
    )


def _digest(text: str) -> bytes:
    """Return a digest: all have one length, so that the comparison reveals nothing about a token's length."""
    return sha256(text.encode("utf-8", "surrogateescape")).digest()
