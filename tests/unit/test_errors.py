"""Errors carry data, and one readable line."""

from __future__ import annotations

import math

from nodelaunch.errors import (
    TEXT_LIMIT,
    ConfigError,
    ConfigProblem,
    InvalidTransitionError,
    LockBusyError,
    NodesNotThereError,
    ProviderUnavailableError,
    RecordInvalidError,
    RequestFailedError,
    StoreError,
    legible,
)


def test_errors_read_well() -> None:
    problem = ConfigProblem("a.yaml", 3, 5, "wrong")
    assert str(ConfigError([problem, problem])) == "a.yaml:3:5: wrong\na.yaml:3:5: wrong"
    assert str(StoreError("/a", "why")) == "/a: why"
    assert str(LockBusyError("/a")) == "/a"
    assert str(LockBusyError()) == "LockBusyError"
    assert str(RecordInvalidError("/a", "not JSON")) == "/a: not JSON"
    assert str(InvalidTransitionError("x", ["one", "two"])) == "x\n  one\n  two"
    assert str(RequestFailedError("200-1", [])) == "node request 200-1 failed; declined by: no pool"
    assert RequestFailedError("200-1", ["a", "b"]).declined_by == ("a", "b")
    told = RequestFailedError("200-1", ["a"], ["cloud/main: declined: why"])
    assert told.reasons == ("cloud/main: declined: why",)
    assert str(told) == "node request 200-1 failed; declined by: a\n  cloud/main: declined: why"
    late = NodesNotThereError("200-1", ["small", "big"], 0.5, ["cloud/main: deferred: why"])
    assert (late.request_id, late.reasons) == ("200-1", ("cloud/main: deferred: why",))
    assert str(late) == ("node request 200-1 (small, big) was not fulfilled within 0.5 s\n  cloud/main: deferred: why")
    assert str(ConfigProblem("nodepool.yaml", 0, 0, "can't be read")) == "nodepool.yaml: can't be read"


def test_driver_errors_say_what_was_left_behind() -> None:
    error = ProviderUnavailableError("down", provider="cloud", external_id="i-1", retry_after_s=3)
    assert (error.provider, error.external_id, error.retry_after_s) == ("cloud", "i-1", 3)


def test_text_from_outside_is_made_legible() -> None:
    assert legible("für 5 €, 東京 👍") == "für 5 €, 東京 👍"
    assert legible("two\nlines\t\x1b[2J \ud800") == "two lines \N{REPLACEMENT CHARACTER}[2J \N{REPLACEMENT CHARACTER}"
    assert legible("\u202eevil") == "\N{REPLACEMENT CHARACTER}evil"
    assert legible("no\N{NO-BREAK SPACE}break") == "no\N{NO-BREAK SPACE}break"
    cut = legible("a" + "-" * 5000 + "z")
    assert (len(cut) <= TEXT_LIMIT, cut[0], cut[-1]) == (True, "a", "z")
    assert " [...] " in cut


def test_driver_errors_are_legible_and_leave_out_what_can_not_be() -> None:
    error = ProviderUnavailableError("a\x1bb" * 5000, external_id="a\0", retry_after_s=math.nan)
    assert len(str(error)) <= TEXT_LIMIT
    assert "\x1b" not in str(error)
    assert (error.external_id, error.retry_after_s, error.may_exist) == (None, None, True)
    assert ProviderUnavailableError("", retry_after_s=-1).retry_after_s is None
    assert ProviderUnavailableError("", retry_after_s=math.inf).retry_after_s is None
