"""The error tree: an error's class says what the caller does next.

Fields are data (``path``, ``provider``, ``external_id``), never prose; ``str(error)`` is one readable line. Errors of
third-party libraries don't belong here: the module that calls a library translates them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

TEXT_LIMIT: Final = 2000
"""The most characters of a driver's text that are shown, half from its beginning and half from its end."""
MAX_ID: Final = 1000
"""The most characters of an ``external_id``."""
_CUT: Final = " [...] "
_SPACES: Final = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, characters that reverse the text direction, and lone surrogates."""


def legible(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return *text* as one line that is safe to show: cut to *limit*, control characters replaced."""
    if len(text) > limit:
        half = (limit - len(_CUT)) // 2
        text = text[:half] + _CUT + text[-half:]
    if text.isprintable():
        return text
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", text))


def has_controls(text: str) -> bool:
    """Return True if *text* has characters that `legible` replaces."""
    return not text.isprintable() and _UNSHOWN.search(text) is not None


def is_sound_id(value: object) -> bool:
    """Return True if *value* can be the ``external_id`` of an instance."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and (value.isprintable() or not has_controls(value))


class NodelaunchError(Exception):
    """Base of every error this package raises on purpose."""


# -- configuration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """A fault in a configuration; *line* and *column* count from 1 (0: the file as a whole)."""

    file: str
    line: int
    column: int
    message: str
    key: str = ""
    """The path of the key, such as ``providers[0].name``, in a configuration that was not read from a file."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{self.key or where}: {self.message}"


class ConfigError(NodelaunchError):
    """The configuration is not usable. At start: print ``problems``, exit 2. On reload: keep the one in force."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems: tuple[ConfigProblem, ...] = tuple(problems)


# -- drivers --------------------------------------------------------------------------------------------------------


class ErrorKind(enum.StrEnum):
    """The kind of error that a driver reports; ``protocol/faults.py`` maps kinds to classes."""

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
    """The scope of an error: other calls in this scope would fail the same way now."""

    REQUEST = "request"
    LABEL = "label"
    POOL = "pool"
    ZONE = "zone"
    PROVIDER = "provider"


class DriverError(NodelaunchError):
    """A driver could not do what it was asked to do; the subclass says what follows.

    The values come from the driver, so the text is made `legible`, and an invalid id or time is left out.
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
        """The id of the instance that the failed call may have left behind, where the cloud returned it."""
        self.kind: ErrorKind = kind or self.default_kind
        self.scope: Scope = scope or self.default_scope
        self.retry_after_s: float | None = (
            retry_after_s if retry_after_s is not None and 0 <= retry_after_s < inf else None
        )
        """Seconds after which a retry may succeed, where the cloud said so."""
        self.may_exist: bool = external_id is not None if may_exist is None else may_exist
        """True if the failed call may have created an instance nevertheless, even if its id is unknown."""


class QuotaExceededError(DriverError):
    """The cloud has no quota left: abort the node, count no retry, read the quota again, let the request wait."""

    default_kind = ErrorKind.QUOTA
    default_scope = Scope.PROVIDER


class InsufficientCapacityError(DriverError):
    """There is quota, but the cloud has no capacity: decline, another launcher may have capacity."""

    default_kind = ErrorKind.CAPACITY
    default_scope = Scope.ZONE


class LaunchFailedError(DriverError):
    """The instance did not become usable: delete it and retry; decline after ``launch-retries`` attempts."""

    default_kind = ErrorKind.PERMANENT


class LaunchTimeoutError(LaunchFailedError):
    """The instance was not active within ``launch-timeout``."""

    default_kind = ErrorKind.DEADLINE


class KeyScanError(LaunchFailedError):
    """The instance runs, but its SSH port did not answer within ``boot-timeout``, or answered with unexpected keys."""

    default_kind = ErrorKind.AUTH


class InstanceNotFoundError(LaunchFailedError):
    """The instance disappeared while the launcher waited for it."""

    default_kind = ErrorKind.NOT_FOUND


class LabelUnusableError(DriverError):
    """The label can't be launched at all: decline; the label is disabled until its configuration or image changes."""

    default_kind = ErrorKind.CONFIG
    default_scope = Scope.LABEL


class ProviderUnavailableError(DriverError):
    """The cloud does not answer, or refuses for now: back off, without counting a retry."""

    default_kind = ErrorKind.TRANSIENT
    default_scope = Scope.PROVIDER


class StaleFenceError(DriverError):
    """Another launcher has taken over the node: work on it ends here, without cleanup."""

    default_kind = ErrorKind.STALE


# -- the store ------------------------------------------------------------------------------------------------------


class StoreError(NodelaunchError):
    """A call to the coordination store did not have its effect."""

    def __init__(self, path: str = "", detail: str = "") -> None:
        super().__init__(": ".join(part for part in (path, detail) if part) or type(self).__name__)
        self.path = path
        self.detail = detail


class RecordGoneError(StoreError):
    """The znode does not exist, or no longer exists: give up, and release its lock."""


class RecordExistsError(StoreError):
    """The znode to be created already exists."""


class NotEmptyError(StoreError):
    """The znode to be deleted has children."""


class VersionConflictError(StoreError):
    """The znode has changed since it was read: read it and decide again."""


class LockBusyError(StoreError):
    """Another client holds the lock or waits for it: skip, and retry when the lock is free."""


class StoreUnavailableError(StoreError):
    """The store could not be reached, or refused the call; nothing was changed."""


class AccessDeniedError(StoreError):
    """The store's access control lists forbid the call; a retry fails until an operator corrects them."""


class OutcomeUnknownError(StoreError):
    """The connection broke during a call, and it is unknown whether the call had its effect."""


class SessionLostError(StoreError):
    """The session ended, and with it its locks and ephemeral znodes. Nothing is written afterwards."""


class LockLostError(SessionLostError):
    """The lock that protects a write is no longer held; nothing was written."""


# -- records and our own bugs ---------------------------------------------------------------------------------------


class RecordInvalidError(NodelaunchError):
    """A znode's body is not a valid record: log its path, don't change the znode."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class InvalidTransitionError(NodelaunchError):
    """The request machine received an event that its state does not allow: a defect. Fail the request and log it.

    ``story`` is the repr of every event so far, the disallowed one last.
    """

    def __init__(self, detail: str, story: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join((detail, *story)))
        self.detail = detail
        self.story: tuple[str, ...] = tuple(story)


# -- the client's side ----------------------------------------------------------------------------------------------


class RequestFailedError(NodelaunchError):
    """A node request ended ``failed``: every registered pool declined it."""

    def __init__(self, request_id: str, declined_by: Sequence[str], reasons: Sequence[str] = ()) -> None:
        who = ", ".join(declined_by) or "no pool"
        super().__init__("\n  ".join((f"node request {request_id} failed; declined by: {who}", *reasons)))
        self.request_id = request_id
        self.declined_by: tuple[str, ...] = tuple(declined_by)
        self.reasons: tuple[str, ...] = tuple(reasons)
        """The launchers' reasons, a line for each pool; empty if no launcher was asked or answered."""


class NodesNotThereError(NodelaunchError):
    """A node request was not fulfilled in time; the client that waited withdraws it."""

    def __init__(self, request_id: str, labels: Sequence[str], timeout_s: float, reasons: Sequence[str] = ()) -> None:
        waited = f"node request {request_id} ({', '.join(labels)}) was not fulfilled within {timeout_s:g} s"
        super().__init__("\n  ".join((waited, *reasons)))
        self.request_id = request_id
        self.reasons: tuple[str, ...] = tuple(reasons)
        """The launchers' reasons, a line for each pool; empty if no launcher was asked or answered."""


class EventsMissedError(NodelaunchError):
    """A reader of events was too slow and missed ``count`` events. Read the current state again, then continue."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} events missed: events arrived faster than they were read")
        self.count = count


class NodesLostError(NodelaunchError):
    """Nodes in use were lost with the session under which they were locked; launchers delete them."""

    def __init__(self, node_ids: Sequence[str]) -> None:
        names = ", ".join(node_ids)
        super().__init__(f"nodes lost while in use: {names}; the store session that locked them ended")
        self.node_ids: tuple[str, ...] = tuple(node_ids)
