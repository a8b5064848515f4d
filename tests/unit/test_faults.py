"""Errors keep their class, and what they say, on the way through data."""

from __future__ import annotations

import pytest

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
)
from nodelaunch.protocol.faults import Fault, class_of, error_of, fault_of

CLASSES = [
    DriverError, InstanceNotFoundError, InsufficientCapacityError, KeyScanError, LabelUnusableError, LaunchFailedError,
    LaunchTimeoutError, ProviderUnavailableError, QuotaExceededError,
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_class_survives(kind: type[DriverError]) -> None:
    error = kind("no", provider="cloud", external_id="i-1", retry_after_s=3.0)
    again = error_of(fault_of(error), provider="cloud")
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "no"


@pytest.mark.parametrize("kind", ErrorKind)
@pytest.mark.parametrize("scope", Scope)
def test_every_kind_and_scope_survives(kind: ErrorKind, scope: Scope) -> None:
    fault = Fault(kind, "no", scope, retry_after_s=1.5, external_id="i-1", may_exist=True)
    assert fault_of(error_of(fault)) == fault


def test_driver_subclass_is_told_by_the_class_it_extends() -> None:
    class TooManyError(QuotaExceededError):
        """A driver's own."""

    assert type(error_of(fault_of(TooManyError("no")))) is QuotaExceededError


def test_class_wins_over_a_kind_that_says_otherwise() -> None:
    error = QuotaExceededError("no", kind=ErrorKind.TRANSIENT)
    assert type(error_of(fault_of(error))) is QuotaExceededError


def test_wide_errors_are_the_providers() -> None:
    assert class_of(ErrorKind.AUTH, Scope.PROVIDER) is ProviderUnavailableError
    assert class_of(ErrorKind.PERMANENT, Scope.LABEL) is LabelUnusableError
    assert class_of(ErrorKind.PERMANENT, Scope.REQUEST) is LaunchFailedError


def test_something_may_exist_where_it_has_a_name_or_the_driver_says_so() -> None:
    assert DriverError("no", external_id="i-1").may_exist
    assert not DriverError("no").may_exist
    assert DriverError("no", may_exist=True).may_exist
