"""Answers over HTTP when the store refuses an operation."""

from __future__ import annotations

import pytest

from nodelaunch.errors import (
    AccessDeniedError,
    OutcomeUnknownError,
    SessionLostError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from nodelaunch.web.api import _problem


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailableError("/nodepool/requests", "127.0.0.1 refused"), "/health/ready"),
        (SessionLostError("/nodepool/requests"), "/health/ready"),
        (OutcomeUnknownError("/nodepool/requests"), "check before a retry"),
        (AccessDeniedError("/nodepool/requests"), "access control"),
        (VersionConflictError("/nodepool/requests"), "same time: retry"),
    ],
)
def test_detail_says_what_is_away_and_what_to_do(error: StoreError, said: str) -> None:
    problem = _problem(error)
    assert (problem.status, problem.title) == (503, "the store did not perform the action")
    assert said in problem.detail
    for untold in (type(error).__name__, "127.0.0.1", "/nodepool/"):
        assert untold not in problem.detail
