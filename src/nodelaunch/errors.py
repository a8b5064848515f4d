"""The error tree: an error is named by what the caller does next.

Fields are data (``path``, ``provider``, ``external_id``), never prose; ``str(error)`` is one readable line. What does
*not* belong here: errors of third-party libraries. They are translated at the one edge that calls the library.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

TEXT_LIMIT: Final = 2000
"""Characters of a driver's text that are shown, its beginning and its end."""
MAX_ID: Final = 1000
"""Characters of an ``external_id``."""
_CUT: Final = " [...] "
_SPACES: Final = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, what turns the order of characters around, and what is no Unicode."""


def legible(text: str, limit: int = TEXT_LIMIT) -> str:
    """*text*, whoever it is from, as one line that anybody can be shown: cut, control characters replaced."""
    if len(text) > limit:
        half = (limit - len(_CUT)) // 2
        text = text[:half] + _CUT + text[-half:]
    if text.isprintable():
        return text
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", text))


def has_controls(text: str) -> bool:
    """Whether there is something in *text* that `legible` replaces."""
    return not text.isprintable() and _UNSHOWN.search(text) is not None


def is_sound_id(value: object) -> bool:
    """Whether *value* can be the ``external_id`` of an instance."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and not has_controls(value)


class NodelaunchError(Exception):
    """Base of every error this package raises on purpose."""


# -- configuration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in a configuration; *line* and *column* count from 1 (0: the file as a whole)."""

    file: str
    line: int
    column: int
    message: str
    key: str = ""
    """The path of the key, such as ``providers[0].name``, of a configuration that is in no file."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{self.key or where}: {self.message}"


class ConfigError(NodelaunchError):
    """The configuration is not usable. At start: print ``problems``, exit 2. On reload: keep the running one."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems: tuple[ConfigProblem, ...] = tuple(problems)


# -- drivers --------------------------------------------------------------------------------------------------------


class ErrorKind(enum.StrEnum):
    """What is the matter, in a driver's words; ``protocol/faults.py`` says which class it comes out as."""

    QUOTA = "quota"
    CAPACITY = "capacity"
    RATE_LIMIT = "rate_limit"
    AUTH = "auth"
    CONFIG = "config"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNSUPPORTED = "unsupported"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    STALE = "stale"
    INTERNAL = "internal"


class Scope(enum.StrEnum):
    """How much an error concerns: what else would fail the same way just now."""

    REQUEST = "request"
    LABEL = "label"
    POOL = "pool"
    ZONE = "zone"
    PROVIDER = "provider"


class DriverError(NodelaunchError):
    """A driver could not do what it was asked; the subclass says what follows.

    The text is made `legible`, and an id or a time that can be none is left out: they are the driver's.
    """

    default_kind = ErrorKind.INTERNAL
    default_scope = Scope.REQUEST

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        external_id: str | None = None,
        kind: ErrorKind | None = None,
        scope: Scope | None = None,
        retry_after_s: float | None = None,
        may_exist: bool | None = None,
    ) -> None:
        super().__init__(legible(message))
        self.provider = provider
        self.external_id: str | None = external_id if is_sound_id(external_id) else None
        """The instance the failed call may have left behind, where the cloud named one."""
        self.kind: ErrorKind = kind or self.default_kind
        self.scope: Scope = scope or self.default_scope
        self.retry_after_s: float | None = (
            retry_after_s if retry_after_s is not None and 0 <= retry_after_s < inf else None
        )
        """Seconds after which it may go better, where the cloud said so."""
        self.may_exist: bool = external_id is not None if may_exist is None else may_exist
        """Whether the failed call may have made something all the same, whether or not it has a name."""


class QuotaExceededError(DriverError):
    """The cloud has no quota left: the node is aborted, no retry is spent, quota is read again, the request waits."""

    default_kind = ErrorKind.QUOTA
    default_scope = Scope.PROVIDER


class InsufficientCapacityError(DriverError):
    """The cloud has quota but no room: decline, another launcher may have some."""

    default_kind = ErrorKind.CAPACITY
    default_scope = Scope.ZONE


class LaunchFailedError(DriverError):
    """This instance did not come up: delete it, spend one launch-retry, then decline."""

    default_kind = ErrorKind.PERMANENT


class LaunchTimeoutError(LaunchFailedError):
    """The instance was not active within ``launch-timeout``."""

    default_kind = ErrorKind.DEADLINE


class KeyScanError(LaunchFailedError):
    """The instance runs, but its SSH port did not answer within ``boot-timeout``, or not with the keys it was given."""

    default_kind = ErrorKind.AUTH


class InstanceNotFoundError(LaunchFailedError):
    """The instance vanished while it was waited for."""

    default_kind = ErrorKind.NOT_FOUND


class LabelUnusableError(DriverError):
    """The label can't be launched at all: decline; the label is off until its configuration or image changes."""

    default_kind = ErrorKind.CONFIG
    default_scope = Scope.LABEL


class ProviderUnavailableError(DriverError):
    """The cloud does not answer, or not now: back off, no retry is spent."""

    default_kind = ErrorKind.TRANSIENT
    default_scope = Scope.PROVIDER


class StaleFenceError(DriverError):
    """Another launcher has taken the node over: whatever was going on with it here ends, and nothing is tidied up."""

    default_kind = ErrorKind.STALE


# -- the store ------------------------------------------------------------------------------------------------------


class StoreError(NodelaunchError):
    """A call to the coordination store did not have the asked-for effect."""

    def __init__(self, path: str = "", detail: str = "") -> None:
        super().__init__(": ".join(part for part in (path, detail) if part) or type(self).__name__)
        self.path = path
        self.detail = detail


class RecordGoneError(StoreError):
    """The znode does not exist (any more): abandon and release."""


class RecordExistsError(StoreError):
    """The znode to be created exists already."""


class NotEmptyError(StoreError):
    """The znode to be deleted has children."""


class VersionConflictError(StoreError):
    """The znode changed since it was read: read again, decide again."""


class LockBusyError(StoreError):
    """Somebody else holds, or contends for, the lock: skip, try when it is seen free."""


class StoreUnavailableError(StoreError):
    """The store could not be reached, or refused to serve; nothing was changed."""


class AccessDeniedError(StoreError):
    """The store's access control lists do not allow it; trying again changes nothing until somebody mends them."""


class OutcomeUnknownError(StoreError):
    """The connection broke under a call that may or may not have had its effect, and it could not be found out."""


class SessionLostError(StoreError):
    """The session ended; so did every lock and ephemeral znode made in it. Nothing is written afterwards."""


class LockLostError(SessionLostError):
    """The lock a write was to happen under is not held any more; nothing was written."""


# -- records and our own bugs ---------------------------------------------------------------------------------------


class RecordInvalidError(NodelaunchError):
    """A znode's body is not the record it should be: log it with its path, leave the znode alone."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class InvalidTransitionError(NodelaunchError):
    """An event came that the request machine can't be in a position to receive: our bug. Fail this request loudly.

    ``story`` is the repr of every event so far, the impossible one last.
    """

    def __init__(self, detail: str, story: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join((detail, *story)))
        self.detail = detail
        self.story: tuple[str, ...] = tuple(story)


# -- the client's side ----------------------------------------------------------------------------------------------


class RequestFailedError(NodelaunchError):
    """A node request ended ``failed``: every registered pool declined it."""

    def __init__(self, request_id: str, declined_by: Sequence[str], reasons: Sequence[str] = ()) -> None:
        who = ", ".join(declined_by) or "nobody"
        super().__init__("\n  ".join((f"node request {request_id} failed; declined by: {who}", *reasons)))
        self.request_id = request_id
        self.declined_by: tuple[str, ...] = tuple(declined_by)
        self.reasons: tuple[str, ...] = tuple(reasons)
        """What the launchers say of it, a line for each pool; empty where none was asked, or answered."""


class NodesNotThereError(NodelaunchError):
    """A node request was not fulfilled in time; whoever waited withdraws it."""

    def __init__(self, request_id: str, labels: Sequence[str], timeout_s: float, reasons: Sequence[str] = ()) -> None:
        waited = f"node request {request_id} ({', '.join(labels)}) was not fulfilled within {timeout_s:g} s"
        super().__init__("\n  ".join((waited, *reasons)))
        self.request_id = request_id
        self.reasons: tuple[str, ...] = tuple(reasons)
        """What the launchers say of it, a line for each pool; empty where none was asked, or answered."""


class EventsMissedError(NodelaunchError):
    """A reader of events was too slow: ``count`` of them are lost to it. Read anew what they were about, and go on."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} events missed: they came faster than they were read")
        self.count = count


class NodesLostError(NodelaunchError):
    """Nodes in use were lost with the session under which they were locked; launchers delete them."""

    def __init__(self, node_ids: Sequence[str]) -> None:
        names = ", ".join(node_ids)
        super().__init__(f"nodes lost while in use: {names}; the session with the store, which held them, ended")
        self.node_ids: tuple[str, ...] = tuple(node_ids)
