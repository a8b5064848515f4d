"""Classification of an error of the cloud: structured facts first, words last."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import openstack.exceptions as sdk
import pytest
import requests
from keystoneauth1 import exceptions as keystone

from nodelaunch.drivers.openstack.errors import Refusal, of_fault, refusal_of, retry_after_s, translated
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InsufficientCapacityError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from nodelaunch.protocol.faults import error_of, fault_of


def answered(status: int, body: Any = None, **headers: str) -> sdk.HttpException:
    """The SDK's error for an answer of the cloud."""
    response = requests.Response()
    response.status_code = status
    response._content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    response.headers.update({"Content-Type": "application/json", **headers})
    response.request = requests.Request("POST", "http://cloud/servers").prepare()
    response.url = "http://cloud/servers"
    try:
        sdk.raise_from_response(response)
    except sdk.HttpException as error:
        return error
    raise AssertionError(status)


def meant(error: Exception, *, is_create: bool = True) -> DriverError:
    refusal = refusal_of(error)
    assert refusal is not None
    return translated(refusal, "create", provider="lab", is_create=is_create)


NOVA_QUOTA = {"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 4096, but already used 0"}}
NOVA_FORBIDDEN = {"forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api to be performed."}}
NOVA_IMAGE = {"badRequest": {"code": 400, "message": "Can not find requested image"}}
NOVA_PORTS = {"forbidden": {"code": 403, "message": "Maximum number of ports exceeded"}}
NEUTRON_QUOTA = {"NeutronError": {"type": "OverQuota", "message": "limit reached for: ['port'].", "detail": ""}}
NEUTRON_ADDRESSES = {"NeutronError": {"type": "IpAddressGenerationFailure", "message": "No more.", "detail": ""}}
CINDER_QUOTA = {"overLimit": {"code": 413, "message": "VolumeLimitExceeded", "retryAfter": "0"}}


@pytest.mark.parametrize(
    ("status", "body", "follows"),
    [
        (403, NOVA_QUOTA, QuotaExceededError),
        (403, NOVA_PORTS, QuotaExceededError),
        (409, NEUTRON_QUOTA, QuotaExceededError),
        (413, CINDER_QUOTA, QuotaExceededError),
        (409, NEUTRON_ADDRESSES, InsufficientCapacityError),
        (403, NOVA_FORBIDDEN, LaunchFailedError),
        (400, NOVA_IMAGE, LabelUnusableError),
        (401, {"error": {"message": "The request you have made requires authentication."}}, ProviderUnavailableError),
        (429, {}, ProviderUnavailableError),
        (500, {"computeFault": {"code": 500, "message": "Unexpected API Error."}}, ProviderUnavailableError),
        (503, b"maintenance", ProviderUnavailableError),
    ],
)
def test_answer_of_the_cloud(status: int, body: Any, follows: type[Exception]) -> None:
    assert type(meant(answered(status, body))) is follows


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.AUTH),
        (408, ErrorKind.TRANSIENT),
        (429, ErrorKind.RATE_LIMIT),
        (500, ErrorKind.TRANSIENT),
        (503, ErrorKind.TRANSIENT),
    ],
)
def test_cloud_that_does_not_answer_now_says_why(status: int, kind: ErrorKind) -> None:
    error = meant(answered(status, {}))
    assert error.kind is kind
    assert type(error_of(fault_of(error))) is ProviderUnavailableError  # in a process of its own, too


def test_conflict_is_told_apart_from_other_failures() -> None:
    error = meant(answered(409, {"conflictingRequest": {"code": 409, "message": "it is being resized"}}))
    assert (type(error), error.kind) == (LaunchFailedError, ErrorKind.CONFLICT)


def test_bad_request_is_the_labels_fault_only_where_something_is_created() -> None:
    assert type(meant(answered(400, NOVA_IMAGE), is_create=False)) is LaunchFailedError


def test_text_is_one_line_with_status_and_the_services_words() -> None:
    assert str(meant(answered(400, NOVA_IMAGE))) == "create: HTTP 400: Can not find requested image"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on(status: int) -> None:
    error = meant(answered(status, {}, **{"Retry-After": "7"}))
    assert isinstance(error, ProviderUnavailableError)
    assert error.retry_after_s == 7


def test_retry_after_may_be_a_date_is_bounded_and_may_be_nonsense() -> None:
    assert retry_after_s({"Retry-After": formatdate(0)}) == 0.0
    assert retry_after_s({"Retry-After": "86400"}) == 300.0
    assert retry_after_s({"Retry-After": "soon"}) is None
    assert retry_after_s({}) is None


def test_account_that_is_not_let_in_is_asked_again_later() -> None:
    error = meant(keystone.Unauthorized("no"))
    assert isinstance(error, ProviderUnavailableError)
    assert error.retry_after_s == 30


def test_account_that_can_not_be_used_is_told_of() -> None:
    error = meant(sdk.ConfigException("Cloud nothing was not found."))
    assert isinstance(error, ProviderUnavailableError)
    assert str(error) == "create: clouds.yaml: Cloud nothing was not found."
    assert error.kind is ErrorKind.CONFIG


def test_connection_that_failed_is_told_of_in_the_systems_words() -> None:
    text = "Unable to establish connection to http://cloud/v2: HTTPConnectionPool(host='cloud', port=80): Max"
    error = keystone.ConnectFailure(text)
    error.__cause__ = requests.ConnectionError("nested")
    error.__cause__.__context__ = ConnectionRefusedError(111, "Connection refused")
    assert str(meant(error)) == "create: Unable to establish connection to http://cloud/v2: Connection refused"


def test_fault_of_our_own_is_not_the_clouds() -> None:
    assert refusal_of(KeyError("ours")) is None


@pytest.mark.parametrize(
    ("fault", "follows"),
    [
        ("No valid host was found. There are not enough hosts available.", InsufficientCapacityError),
        ("Quota exceeded for instances: Requested 1, but already used 3 of 3 instances", QuotaExceededError),
        ("Build of instance 1 aborted: VolumeSizeExceedsAvailableQuota", QuotaExceededError),
        ("No fixed IP addresses available for network: 1", InsufficientCapacityError),
        ("Build of instance 1 aborted: it broke", LaunchFailedError),
        ("", LaunchFailedError),
    ],
)
def test_fault_of_a_server(fault: str, follows: type[Exception]) -> None:
    error = of_fault(fault, provider="lab", external_id="1")
    assert type(error) is follows
    assert str(error) == f"server went to ERROR: {fault or 'no fault given'}"


def test_what_a_cloud_says_is_cut_where_it_gets_long() -> None:
    assert len(str(of_fault("x" * 5000, provider="lab", external_id="1"))) < 400


def test_words_do_not_overrule_the_status() -> None:
    unavailable = Refusal("quota service is away", status=503)
    assert isinstance(translated(unavailable, "create", provider="lab"), ProviderUnavailableError)
