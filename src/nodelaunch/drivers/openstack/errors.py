"""What an error of the cloud means: each becomes the `DriverError` that says what follows.

Structured facts go first: the HTTP status, Neutron's error types, Cinder's ``overLimit``. Nova says with one status
(403) that quota is used up and that something is forbidden, and tells why a server broke in prose only; there, words
decide, and this is the only file that knows any. What does *not* belong here: calls, and retrying them.
Source: openstacksdk 4, openstack/exceptions.py; Nova, Neutron and Cinder API references.
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
"""Of answers by which a cloud is away; any other such answer is transient."""
AUTH_RETRY_S: Final = 30.0
"""After which a cloud that doesn't let us in is asked again; openstacksdk has tried with a new token by then."""
CONFIG_RETRY_S: Final = 60.0
"""After which credentials that can't be used are looked at again; when their file changes, it is sooner."""
MAX_RETRY_S: Final = 300.0
"""Longest time a cloud can have us wait by ``Retry-After``."""
DETAIL_LENGTH: Final = 300
"""Characters shown of what a cloud says."""

TELLING: Final = 16
"""Characters by which a secret is known."""
HIDDEN: Final = "***"

_POOL: Final = re.compile(r": (HTTPS?ConnectionPool)?\(")
"""Begins what urllib3 says of a connection that failed, in which its errors are nested as they are in Python."""

QUOTA_CODES: Final = frozenset({"OverQuota", "overLimit"})
CAPACITY_CODES: Final = frozenset({"IpAddressGenerationFailure", "ExternalIpAddressExhausted", "NoNetworkAvailable"})
"""No address is left in a network."""

NO_ROUTE_CODE: Final = "ExternalGatewayForFloatingIPNotFound"
"""No router leads from a network to the one floating IPs come from."""

QUOTA_WORDS: Final = (
    "quota", "number of ports exceeded", "maximum number of ports", "maximum number of fixed ip",
    "maximum number of floating ip", "maximum number of volumes", "limitexceeded",
)  # fmt: skip
CAPACITY_WORDS: Final = (
    "no valid host", "no more ip addresses", "no more fixed ip", "zero fixed ips", "insufficient",
    "not enough hosts", "no fixed ip addresses available",
)  # fmt: skip
ZONE_WORDS: Final = ("availability zone is not available",)
"""Nova, of a zone all of whose hosts are away, and of one that does not exist."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known of a call that failed. ``status`` None: there was no answer."""

    message: str
    status: int | None = None
    code: str | None = None
    """The service's own name of the error, where it gives one."""
    retry_after_s: float | None = None
    is_misconfigured: bool = False
    """The account can't be used as ``clouds.yaml`` has it."""

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
        """Later the same call may be granted: no answer, not now, a fault of the service, or we are not let in."""
        return self.status is None or self.status in (401, 408, 425, 429) or self.status >= 500


def refusal_of(error: Exception) -> Refusal | None:
    """What is known of *error*; None where it is none of the cloud's, nor of the way to it."""
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
    """Code and message in the body of *response*, in the shapes OpenStack's services have."""
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
    """Seconds that ``Retry-After`` asks for, as a number or a date; None where it says nothing usable."""
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
    """The error that follows from *refusal* of *what*.

    A bad request to create something is the label's fault: what the label leads to was looked up again before.
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
    """The error that follows from a server in ERROR with the fault *message*."""
    text = f"server went to ERROR: {message[:DETAIL_LENGTH] or 'no fault given'}"
    if _has_any(message, QUOTA_WORDS):
        return QuotaExceededError(text, provider=provider, external_id=external_id)
    if _has_any(message, CAPACITY_WORDS):
        return InsufficientCapacityError(text, provider=provider, external_id=external_id)
    return LaunchFailedError(text, provider=provider, external_id=external_id)


def begins(secret: str) -> str:
    """So much of *secret* as tells that it follows, also where it is cut."""
    return secret[:TELLING]


def without(secret: str, message: str) -> str:
    """*message* with *secret* replaced, or from there on left out where it is not whole."""
    before, cut, _ = message.replace(secret, HIDDEN).partition(begins(secret))
    return before + HIDDEN if cut else before


def _status(refusal: Refusal) -> str:
    return "" if refusal.status is None else f"HTTP {refusal.status}: "


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    lower = text.lower()
    return any(word in lower for word in words)


def _brief(error: Exception) -> str:
    """What *error* says, in one line. Of a connection that failed: where to, and what the system said."""
    text = " ".join(str(error).split())
    cause = _system_error(error)
    if cause is not None:
        text = f"{_POOL.split(text)[0]}: {os.strerror(cause.errno or 0)}"
    return text[:DETAIL_LENGTH] or type(error).__name__


def _system_error(error: BaseException) -> OSError | None:
    """What the operating system said, under the errors of all the libraries above it."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        if isinstance(found, OSError) and found.errno and found.strerror:
            return found
        found = found.__cause__ or found.__context__
    return None
