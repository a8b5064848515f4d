"""Errors carry data, and one readable line."""

from __future__ import annotations

from nodelaunch.errors import (
    ConfigError,
    ConfigProblem,
    InvalidTransitionError,
    LockBusyError,
    ProviderUnavailableError,
    RecordInvalidError,
    RequestFailedError,
    StoreError,
)


def test_errors_read_well() -> None:
    problem = ConfigProblem("a.yaml", 3, 5, "wrong")
    assert str(ConfigError([problem, problem])) == "a.yaml:3:5: wrong\na.yaml:3:5: wrong"
    assert str(StoreError("/a", "why")) == "/a: why"
    assert str(LockBusyError("/a")) == "/a"
    assert str(LockBusyError()) == "LockBusyError"
    assert str(RecordInvalidError("/a", "not JSON")) == "/a: not JSON"
    assert str(InvalidTransitionError("x", ["one", "two"])) == "x\n  one\n  two"
    assert str(RequestFailedError("200-1", [])) == "node request 200-1 failed; declined by: nobody"
    assert RequestFailedError("200-1", ["a", "b"]).declined_by == ("a", "b")


def test_driver_errors_say_what_was_left_behind() -> None:
    error = ProviderUnavailableError("down", provider="cloud", external_id="i-1", retry_after_s=3)
    assert (error.provider, error.external_id, error.retry_after_s) == ("cloud", "i-1", 3)
