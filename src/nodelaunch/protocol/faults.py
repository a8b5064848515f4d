"""A driver's errors as data: what crosses a process border, and the exception it is on either side.

An error has a kind (what is the matter), a scope (what else it concerns), and says what may have been left behind. The
engine acts on classes; each class is what the engine does next. Kind and scope decide the class here, once.
What does *not* belong here: the encoding (driverhost/wire).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    InsufficientCapacityError,
    KeyScanError,
    LabelUnusableError,
    LaunchFailedError,
    LaunchTimeoutError,
    ProviderUnavailableError,
    QuotaExceededError,
    Scope,
    StaleFenceError,
)

_FOR_ONE: Final[Mapping[ErrorKind, type[DriverError]]] = {
    ErrorKind.QUOTA: QuotaExceededError,
    ErrorKind.CAPACITY: InsufficientCapacityError,
    ErrorKind.RATE_LIMIT: ProviderUnavailableError,
    ErrorKind.AUTH: KeyScanError,
    ErrorKind.CONFIG: LabelUnusableError,
    ErrorKind.NOT_FOUND: InstanceNotFoundError,
    ErrorKind.CONFLICT: LaunchFailedError,
    ErrorKind.TRANSIENT: ProviderUnavailableError,
    ErrorKind.PERMANENT: LaunchFailedError,
    ErrorKind.UNSUPPORTED: LabelUnusableError,
    ErrorKind.CANCELLED: LaunchFailedError,
    ErrorKind.DEADLINE: LaunchTimeoutError,
    ErrorKind.STALE: StaleFenceError,
    ErrorKind.INTERNAL: DriverError,
}
"""What an error about one request is."""
_FOR_LABEL: Final[Mapping[ErrorKind, type[DriverError]]] = {
    ErrorKind.AUTH: LabelUnusableError,
    ErrorKind.NOT_FOUND: LabelUnusableError,
    ErrorKind.PERMANENT: LabelUnusableError,
}
_FOR_ALL: Final[Mapping[ErrorKind, type[DriverError]]] = {
    ErrorKind.AUTH: ProviderUnavailableError,
    ErrorKind.CONFIG: ProviderUnavailableError,
    ErrorKind.DEADLINE: ProviderUnavailableError,
    ErrorKind.INTERNAL: ProviderUnavailableError,
    ErrorKind.NOT_FOUND: ProviderUnavailableError,
    ErrorKind.PERMANENT: ProviderUnavailableError,
    ErrorKind.UNSUPPORTED: ProviderUnavailableError,
}
"""What an error is that would meet every other launch as well."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One error as data."""

    kind: ErrorKind
    message: str
    scope: Scope = Scope.REQUEST
    retry_after_s: float | None = None
    external_id: str | None = None
    may_exist: bool = False


def class_of(kind: ErrorKind, scope: Scope) -> type[DriverError]:
    """The exception an error of *kind* that concerns *scope* is."""
    narrower = {Scope.REQUEST: {}, Scope.LABEL: _FOR_LABEL}.get(scope, _FOR_ALL)
    return narrower.get(kind, _FOR_ONE[kind])


def error_of(fault: Fault, *, provider: str | None = None) -> DriverError:
    """*fault* as an exception."""
    return class_of(fault.kind, fault.scope)(
        fault.message,
        provider=provider,
        external_id=fault.external_id,
        kind=fault.kind,
        scope=fault.scope,
        retry_after_s=fault.retry_after_s,
        may_exist=fault.may_exist,
    )


def fault_of(error: DriverError) -> Fault:
    """*error* as data; `error_of` gives an exception of the same class for it."""
    kind, scope = error.kind, error.scope
    if class_of(kind, scope) is not _known(type(error)):  # told apart by its class alone
        kind, scope = error.default_kind, error.default_scope
    return Fault(kind, str(error), scope, error.retry_after_s, error.external_id, error.may_exist)


def _known(kind: type[DriverError]) -> type[DriverError]:
    """The nearest class of the error tree; a driver may have subclasses of its own."""
    tree = {DriverError, *_FOR_ONE.values()}
    return next(each for each in kind.__mro__ if each in tree)
