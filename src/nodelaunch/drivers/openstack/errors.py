"""Translates errors of the cloud into `DriverError`.

Structured facts decide first: the HTTP status, Neutron's error types, Cinder's ``overLimit``. Nova uses one status
(403) for exhausted quota and for forbidden calls, and describes the fault of a server only in prose. There, words in
the message decide; no other file knows such words. Source: openstacksdk 4, openstack/exceptions.py; Nova, Neutron and
Cinder API references.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InsufficientCapacityError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
    QuotaExceededError,
)

KINDS: Final = {401: ErrorKind.AUTH, 429: ErrorKind.RATE_LIMIT}
"""Error kinds of statuses that mean an unavailable cloud. All other such statuses are transient."""
AUTH_RETRY_S: Final = 30.0
"""Seconds until the next call to a cloud that rejects the credentials. openstacksdk has tried a new token by then."""
CONFIG_RETRY_S: Final = 60.0
"""Seconds until unusable credentials are read again; a change of their file is noticed sooner."""
MAX_RETRY_S: Final = 300.0
"""Longest delay accepted from ``Retry-After``."""
DETAIL_LENGTH: Final = 300
"""Number of characters shown of the cloud's message."""

TELLING: Final = 16
"""Number of characters by which a secret is recognised."""
HIDDEN: Final = "***"

_POOL: Final = re.compile(r": (HTTPS?ConnectionPool)?\(")
"""Start of urllib3's text about a failed connection, which nests the errors as Python objects."""

QUOTA_CODES: Final = frozenset({"OverQuota", "overLimit"})
CAPACITY_CODES: Final = frozenset({"IpAddressGenerationFailure", "ExternalIpAddressExhausted", "NoNetworkAvailable"})
"""A network has no free address."""

NO_ROUTE_CODE: Final = "ExternalGatewayForFloatingIPNotFound"
"""No router connects a network to the network that floating IPs come from."""

QUOTA_WORDS: Final = (
    "quota", "number of ports exceeded", "maximum number of ports", "maximum number of fixed ip",
    "maximum number of floating ip", "maximum number of volumes", "limitexceeded",
)  # fmt: skip
CAPACITY_WORDS: Final = (
    "no valid host", "no more ip addresses", "no more fixed ip", "zero fixed ips", "insufficient",
    "not enough hosts", "no fixed ip addresses available",
)  # fmt: skip
ZONE_WORDS: Final = ("availability zone is not available",)
"""Nova's words for a zone whose hosts are all down, and for a zone that does not exist."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The facts of a failed call. ``status`` None: there was no answer."""

    message: str
    status: int | None = None
    code: str | None = None
    """The service's own name of the error, if it gives one."""
    retry_after_s: float | None = None
    is_misconfigured: bool = False
    """True if ``clouds.yaml`` has unusable settings for the account."""

    @property
    def is_quota(self) -> bool:
        if self.code in QUOTA_CODES or self.status == 413:
            return True
        return self.status in (400, 403, 409, None) and _has_any(self.message, QUOTA_WORDS)

    @property
    def is_capacity(self) -> bool:
        if self.status == 400:
            return _has_any(self.message, ZONE_WORDS)
        return self.code in CAPACITY_CODES or (self.status == 409 and _has_any(self.message, CAPACITY_WORDS))

    @property
    def is_unavailable(self) -> bool:
        """True if the same call may succeed later: no answer, a busy or broken service, or rejected credentials."""
        return self.status is None or self.status in (401, 408, 425, 429) or self.status >= 500


def refusal_of(error: Exception) -> Refusal | None:
    """Return the facts of *error*, or None if it comes neither from the cloud nor from the connection to it."""
    import openstack.exceptions as sdk
    import requests.exceptions as http
    from keystoneauth1 import exceptions as keystone

    text = _brief(error)
    if isinstance(error, (sdk.ConfigException, keystone.MissingRequiredOptions, keystone.NoMatchingPlugin)):
        return Refusal(f"clouds.yaml: {text}", is_misconfigured=True)
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    if isinstance(error, sdk.HttpException) and response is not None:
        code, message = _said(response)
        return Refusal(message or text, status, code, retry_after_s(response.headers))
    if isinstance(error, keystone.HttpError):
        return Refusal(text, status, retry_after_s=getattr(error, "retry_after", None) or None)
    if isinstance(error, (sdk.SDKException, keystone.ClientException, http.RequestException)):
        return Refusal(text, status if isinstance(status, int) else None)
    return None


def _said(response: Any) -> tuple[str | None, str | None]:
    """Return code and message from the body of *response*, in any of the formats of OpenStack's services."""
    try:
        body = response.json()
    except ValueError:
        return None, None
    if not isinstance(body, dict) or len(body) != 1:
        return None, None
    ((key, inner),) = body.items()
    if not isinstance(inner, dict):
        return None, None
    code = inner.get("type") or key  # Neutron names its errors; Nova and Cinder name the kind of status
    message = inner.get("message")
    return str(code), str(message) if message else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or a date, or None if it has no usable value."""
    value = headers.get("Retry-After")
    if not value:
        return None
    try:
        delay = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return min(MAX_RETRY_S, max(0.0, delay))


def translated(
    refusal: Refusal, what: str, *, provider: str, external_id: str | None = None, is_create: bool = False
) -> DriverError:
    """Return the error for *refusal* of the call *what*.

    A bad request to create something is the label's fault, because the names in the label were looked up again before.
    """
    text = f"{what}: {_status(refusal)}{refusal.message}"
    if refusal.is_misconfigured:
        return ProviderUnavailableError(
            text, provider=provider, external_id=external_id, kind=ErrorKind.CONFIG, retry_after_s=CONFIG_RETRY_S
        )
    if refusal.is_quota:
        return QuotaExceededError(text, provider=provider, external_id=external_id)
    if refusal.is_capacity:
        return InsufficientCapacityError(text, provider=provider, external_id=external_id)
    if refusal.is_unavailable:
        delay = refusal.retry_after_s
        if delay is None and refusal.status == 401:
            delay = AUTH_RETRY_S
        return ProviderUnavailableError(
            text, provider=provider, external_id=external_id, retry_after_s=delay,
            kind=KINDS.get(refusal.status or 0, ErrorKind.TRANSIENT),
        )  # fmt: skip
    if is_create and refusal.status == 400:
        return LabelUnusableError(text, provider=provider, external_id=external_id)
    kind = ErrorKind.CONFLICT if refusal.status == 409 else None
    return LaunchFailedError(text, provider=provider, external_id=external_id, kind=kind)


def of_fault(message: str, *, provider: str, external_id: str) -> DriverError:
    """Return the error for a server in ERROR with the fault *message*."""
    text = f"server went to ERROR: {message[:DETAIL_LENGTH] or 'no fault given'}"
    if _has_any(message, QUOTA_WORDS):
        return QuotaExceededError(text, provider=provider, external_id=external_id)
    if _has_any(message, CAPACITY_WORDS):
        return InsufficientCapacityError(text, provider=provider, external_id=external_id)
    return LaunchFailedError(text, provider=provider, external_id=external_id)


def begins(secret: str) -> str:
    """Return the start of *secret*, by which it is recognised even where it is cut off."""
    return secret[:TELLING]


def without(secret: str, message: str) -> str:
    """Return *message* with *secret* replaced. From an incomplete secret on, the rest of the message is left out."""
    before, cut, _ = message.replace(secret, HIDDEN).partition(begins(secret))
    return before + HIDDEN if cut else before


def _status(refusal: Refusal) -> str:
    return "" if refusal.status is None else f"HTTP {refusal.status}: "


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    lower = text.lower()
    return any(word in lower for word in words)


def _brief(error: Exception) -> str:
    """Return the message of *error* in one line. For a failed connection: the destination and the system's error."""
    text = " ".join(str(error).split())
    cause = _system_error(error)
    if cause is not None:
        text = f"{_POOL.split(text)[0]}: {os.strerror(cause.errno or 0)}"
    return text[:DETAIL_LENGTH] or type(error).__name__


def _system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error below the errors of all libraries, or None."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        if isinstance(found, OSError) and found.errno and found.strerror:
            return found
        found = found.__cause__ or found.__context__
    return None
