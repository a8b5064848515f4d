"""A driver's errors as data, which can pass between processes, and as exceptions.

An error has a kind (what is wrong), a scope (what else it concerns), and the instance that may have been left behind.
The engine reacts to the class of an exception; this module derives the class from kind and scope. driverhost/wire
encodes the data.
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
"""Classes of errors that concern one request."""
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
"""Classes of errors that every other launch would get, too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as data."""

    kind: ErrorKind
    message: str
    scope: Scope = Scope.REQUEST
    retry_after_s: float | None = None
    external_id: str | None = None
    may_exist: bool = False


def class_of(kind: ErrorKind, scope: Scope) -> type[DriverError]:
    """Return the exception class for an error of *kind* that concerns *scope*."""
    narrower = {Scope.REQUEST: {}, Scope.LABEL: _FOR_LABEL}.get(scope, _FOR_ALL)
    return narrower.get(kind, _FOR_ONE[kind])


def error_of(fault: Fault, *, provider: str | None = None) -> DriverError:
    """Return *fault* as an exception."""
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
    """Return *error* as data; `error_of` gives an exception of the same class for it."""
    kind, scope = error.kind, error.scope
    if class_of(kind, scope) is not _known(type(error)):  # the class alone distinguishes the error
        kind, scope = error.default_kind, error.default_scope
    return Fault(kind, str(error), scope, error.retry_after_s, error.external_id, error.may_exist)


def _known(kind: type[DriverError]) -> type[DriverError]:
    """Return the nearest class of the error tree; a driver may have subclasses of its own."""
    tree = {DriverError, *_FOR_ONE.values()}
    return next(each for each in kind.__mro__ if each in tree)
