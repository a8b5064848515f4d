"""Fault injection into the fake cloud for the conformance kit: the `SupportsFaults` of its driver.

The effects of faults are in cloud.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.controls import RATE_LIMIT_RETRY_S
from nodelaunch.errors import ErrorKind, ProviderUnavailableError
from nodelaunch.protocol.driver import BOOT_HELD, FOREIGN_INSTANCE, LIST_LAGS, ExternalId, FaultOffer

T = TypeVar("T")

LONG_S: Final = 3600.0
MANY: Final = 1000
"""Number of calls that fail while a fault is set."""
_CREATE, _WAIT = "create_instance", "wait_until_active"

_FAILURES: Final[Mapping[FaultOffer, Mapping[str, Any]]] = {
    FaultOffer("create fails (error)", _CREATE, ErrorKind.PERMANENT): {"call": "create", "kind": "error"},
    FaultOffer("create fails (quota)", _CREATE, ErrorKind.QUOTA): {"call": "create", "kind": "quota"},
    FaultOffer("create fails (capacity)", _CREATE, ErrorKind.CAPACITY): {"call": "create", "kind": "capacity"},
    FaultOffer("create fails (timeout)", _CREATE, ErrorKind.DEADLINE): {"call": "create", "kind": "timeout"},
    FaultOffer("create is asked too often", _CREATE, ErrorKind.RATE_LIMIT, RATE_LIMIT_RETRY_S): {
        "call": "create", "kind": "rate-limit",
    },
    FaultOffer("list is asked too often", "list_instances", ErrorKind.RATE_LIMIT, RATE_LIMIT_RETRY_S): {
        "call": "list", "kind": "rate-limit",
    },
    FaultOffer("create fails and leaves an instance", _CREATE): {"call": "create", "leave": True},
    FaultOffer("create's answer is lost", _CREATE, ErrorKind.TRANSIENT): {
        "call": "create", "kind": "unavailable", "leave": True, "with_id": False,
    },
    FaultOffer("boot fails", _WAIT, ErrorKind.PERMANENT): {"call": "boot"},
    FaultOffer("wait fails", _WAIT, ErrorKind.TRANSIENT): {"call": "wait"},
    FaultOffer("delete fails", "delete_instance", ErrorKind.PERMANENT): {"call": "delete"},
    FaultOffer("list fails", "list_instances", ErrorKind.TRANSIENT): {"call": "list"},
    FaultOffer("limits fail", "quota_limits", ErrorKind.TRANSIENT): {"call": "limits"},
    FaultOffer("images fail", "label_ready", ErrorKind.TRANSIENT): {"call": "images"},
}  # fmt: skip
"""Arguments of `FakeCloud.fail` for each fault."""
_SETTINGS: Final[Mapping[FaultOffer, Mapping[str, Any]]] = {
    FaultOffer("the cloud is down", "list_instances", ErrorKind.TRANSIENT): {"unavailable": True},
    FaultOffer(LIST_LAGS): {"list-lag": LONG_S},
    FaultOffer(BOOT_HELD): {"boot-time": LONG_S},
}
_OFFERS: Final = (*_FAILURES, *_SETTINGS, FaultOffer(FOREIGN_INSTANCE))
_BY_NAME: Final = {offer.name: offer for offer in _OFFERS}
_FOREIGN_NAME: Final = "somebody else's"


class Faults(ABC):
    """The part of the driver that injects faults. Faults are set in the cloud, so all its drivers meet them."""

    cloud: FakeCloud

    @abstractmethod
    async def _ask(self, call: Callable[[], T], external_id: str | None = None) -> T:
        """Return the cloud's answer to *call*. Raises: DriverError."""

    async def faults(self) -> Sequence[FaultOffer]:
        return _OFFERS

    async def set_fault(self, name: str) -> ExternalId | None:
        if name == FOREIGN_INSTANCE:
            return ExternalId(await self._ask(lambda: self.cloud.add(name=_FOREIGN_NAME)))
        offer = _BY_NAME.get(name)
        if offer is None:
            raise ProviderUnavailableError(f"there is no fault {name!r}", kind=ErrorKind.UNSUPPORTED)
        if offer in _FAILURES:
            await self._ask(lambda: self.cloud.fail(times=MANY, **_FAILURES[offer]))
        else:
            await self._ask(lambda: self.cloud.update(_SETTINGS[offer]))
        return None

    async def clear_fault(self, name: str) -> None:
        for server in await self._ask(self.cloud.servers):
            if name == FOREIGN_INSTANCE and server.name == _FOREIGN_NAME:
                await self._ask(partial(self.cloud.remove, server.id))
            elif name == BOOT_HELD and server.state == "building":
                await self._ask(partial(self.cloud.set_state, server.id, "active"))
        offer = _BY_NAME.get(name)
        if offer is not None and offer in _SETTINGS:
            await self._ask(lambda: self.cloud.update(dict.fromkeys(_SETTINGS[offer])))
        elif offer is not None and offer in _FAILURES:
            await self._ask(self.cloud.clear_faults)

    async def cloud_resources(self) -> Mapping[str, str | None]:
        return {server.id: server.id for server in await self._ask(self.cloud.servers)}
