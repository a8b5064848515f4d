"""Controls of the fake cloud from outside: settings, faults, and the errors that they cause.

The effects are in cloud.py and driver.py, the command line in cli/fakecloud.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

FaultKind = Literal["error", "quota", "capacity", "timeout", "rate-limit", "unavailable", "never"]
RefusalKind = FaultKind | Literal["stale"]
"""Kinds of refusals. ``stale``, which is no fault kind, means that another launcher has taken over the node."""
FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)
CREATE_FAILURES: Final[tuple[FaultKind, ...]] = ("error", "quota", "capacity", "timeout", "rate-limit", "unavailable")

FAULTS: Final[Mapping[str, tuple[FaultKind, ...]]] = {
    "create": CREATE_FAILURES,
    "boot": ("error", "quota", "capacity", "never"),
    "wait": ("unavailable",),
    "delete": ("error", "unavailable", "never"),
    "list": ("unavailable", "rate-limit"),
    "limits": ("unavailable",),
    "images": ("unavailable",),
}
"""Kinds of failure for each call, the usual one first. ``boot`` is decided when the instance is created and takes
effect at the end of its boot time: the instance goes to ERROR, perhaps for lack of quota or capacity, or ``never``
becomes active. ``delete`` with ``never``: the instance stays in deletion until the next delete call."""

RATE_LIMIT_RETRY_S: Final = 2.0
"""Seconds after which a cloud that is called too often asks to be called again."""


class CloudRefusedError(Exception):
    """The cloud refuses a call, as *kind* names. ``instance_id`` is set if the error names an instance that was
    left."""

    def __init__(self, kind: RefusalKind, message: str, instance_id: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.instance_id = instance_id


class CloudBusyError(CloudRefusedError):
    """Another process is changing the file; the call did nothing. Try again in a moment."""


def check_fault(call: str, kind: str | None, times: int, *, leaves: bool) -> FaultKind:
    """Return the kind of a fault to inject, by default the usual one. Raises: ValueError that lists the possible
    kinds."""
    if call not in FAULTS:
        raise ValueError(f"no call {call!r} to fail; there are: {', '.join(FAULTS)}")
    found = next((known for known in FAULTS[call] if kind in (None, known)), None)
    if found is None:
        raise ValueError(f"{call} can't fail as {kind!r}; it can as: {', '.join(FAULTS[call])}")
    if times < 1:
        raise ValueError(f"times is {times}; it must be 1 or more")
    if leaves and call != "create":
        raise ValueError(f"only a failed create leaves an instance, not {call}")
    return found


def _number(value: Any, *, highest: float = math.inf) -> float:
    wanted = "a number, 0 or more" if highest == math.inf else f"a number from 0 to {highest:g}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None
    if isinstance(value, bool) or not (math.isfinite(number) and 0 <= number <= highest):
        raise ValueError(wanted)
    return number


def _count(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("a whole number, 0 or more")
    return int(number)


def _share(value: Any) -> float:
    return _number(value, highest=1)


def _kind(value: Any) -> str:
    if value not in CREATE_FAILURES:
        raise ValueError(f"one of {', '.join(CREATE_FAILURES)}")
    return str(value)


def _flag(value: Any) -> bool:
    known = {"true": True, "false": False, True: True, False: False}
    if not isinstance(value, (str, bool)) or value not in known:
        raise ValueError("true or false")
    return known[value]


def _texts(value: Any) -> list[str]:
    texts = [text.strip() for text in value.split(",")] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("names, separated by commas")
    return list(texts)


SETTINGS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "boot-time": (_number, "seconds until an instance is active"),
    "delete-time": (_number, "seconds until a deleted instance is gone"),
    "create-time": (_number, "seconds until a create is answered; the instance exists from the start"),
    "list-lag": (_number, "seconds until an instance that is made is listed"),
    "failure-rate": (_share, "share of creates that fail, 0 to 1"),
    "failure-kind": (_kind, f"kind of these failures: {', '.join(CREATE_FAILURES)}"),
    "max-servers": (_count, "limit of instances"),
    "max-cores": (_count, "limit of cores"),
    "max-ram": (_count, "limit of memory, MiB"),
    "max-volumes": (_count, "limit of volumes"),
    "max-volume-gb": (_count, "limit of all volumes together, GB"),
    "missing-images": (_texts, "cloud images (name or id) that are missing, separated by commas"),
    "unavailable": (_flag, "true: every call is refused, as if the cloud were down"),
}
"""Check of each setting, which also reads the setting from text, and its meaning. A setting overrides the
configuration."""


def check_setting(name: str, value: Any) -> Any:
    """Return *value* as setting *name* stores it; None stays None. Raises: ValueError that says what is possible."""
    if name not in SETTINGS:
        raise ValueError(f"no setting {name!r}; there are: {', '.join(SETTINGS)}")
    if value is None:
        return None
    check, _ = SETTINGS[name]
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {value!r} is invalid; expected {error}") from None
