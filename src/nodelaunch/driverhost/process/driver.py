"""Implements the driver port by calls to a driver process.

`ProcessDriver` implements what every driver has. `class_with` adds a mixin for each capability, so that the engine
finds the same methods as in a driver inside the launcher. All state is in the launcher: a new process gets the
provider's configuration before any other call. supervisor.py starts and restarts processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from nodelaunch.config.models import DiskImageLogin, ProviderConfig
from nodelaunch.driverhost.process.child import Child, Command
from nodelaunch.driverhost.process.redaction import content_of, redactor_of
from nodelaunch.driverhost.process.supervisor import Pings, Restarts, Supervisor
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.peer import METHOD_NOT_FOUND, ConnectionEndedError, Outcome, RpcError
from nodelaunch.errors import DriverError, ErrorKind, ProviderUnavailableError, Scope, is_sound_id
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import (
    DriverContext,
    ExternalId,
    Fence,
    Instance,
    InstanceSpec,
    LabelTraits,
    Machine,
)
from nodelaunch.protocol.faults import error_of
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.soundness import json_fault, sound_machine, sound_traits

ParamsT = TypeVar("ParamsT", bound=m.Message)
ResultT = TypeVar("ResultT", bound=m.Message)

log: Logger = get_logger(__name__)

QUESTION_S: Final = 60.0
"""Deadline of calls that read from the cloud, and of `driver.open`."""
DELETE_S: Final = 600.0
FOREVER_S: Final = 1e8
"""Deadline of calls that have no deadline, such as upkeep."""
REMEMBERED: Final = 10_000
"""Most instances whose driver data is kept."""
MAX_PAGES: Final = 10_000
MAX_LISTED: Final = 100_000
"""Most instances of one list."""


class ProcessDriver:
    """The driver of one provider in a separate process. The first call starts the process."""

    def __init__(
        self,
        command: Command,
        config: ProviderConfig,
        context: DriverContext,
        *,
        restarts: Restarts | None = None,
        pings: Pings | None = None,
        versions: m.VersionRange = CONTRACT,
    ) -> None:
        self._redact = redactor_of(config)
        self.supervisor: Supervisor = Supervisor(
            command,
            config.name,
            self._prepare,
            restarts=restarts,
            pings=pings,
            versions=versions,
            cluster=context.cluster,
            redact=self._redact,
        )
        self._command = command
        self._config = config
        self._images = {
            name: m.ImageLogin(username=image.username, python_path=image.python_path, shell_type=image.shell_type)
            for name, image in context.diskimages.items()
            if isinstance(image, DiskImageLogin) or hasattr(image, "username")
        }
        self._launch_s = config.launching.timeout_s
        self._traits: Mapping[tuple[str, str], LabelTraits] = {}
        self._machines: tuple[Machine, ...] | None = None
        self._data: dict[str, Any] = {}
        """The last driver data by external id; a hint that may be lost."""

    # -- calling ----------------------------------------------------------------------------------------------------

    async def _prepare(self, child: Child) -> None:
        """Open the provider in a new process. Raises: DriverError, ConnectionEndedError, TimeoutError."""
        params = m.OpenParams(deadline_s=QUESTION_S, provider=content_of(self._config), diskimages=self._images)
        opened = await self._ask(child, m.OPEN, params, lambda _number: None)
        traits = {(each.pool, each.label): LabelTraits(**m.plain(each.traits)) for each in opened.labels}
        for each in traits.values():
            sound_traits(each, m.OPEN.name)
        self._machines = tuple(sound_machine(Machine(**m.plain(each)), m.OPEN.name) for each in opened.machines)
        self._traits = traits

    async def _call(self, method: m.Method[ParamsT, ResultT], params: ParamsT) -> ResultT:
        """Call *method* in the driver's process, and return the result. Raises: DriverError."""
        child = await self.supervisor.running()
        numbers: list[int] = []
        try:
            return await self._ask(child, method, params, numbers.append)
        except (ConnectionEndedError, TimeoutError) as error:
            external_id = self.supervisor.progress_of(child, numbers[0]) if numbers else None
            raise self._no_answer(method, error, external_id) from None
        finally:
            for number in numbers:
                self.supervisor.progress_of(child, number)

    async def _pass_on(self, method: m.Method[Any, Any], *arguments: Any) -> Any:
        """Call *method* for the port's method that it stands for. Raises: DriverError."""
        deadline_s = {"short": QUESTION_S, "long": DELETE_S, "endless": FOREVER_S}[method.lasts]
        known = {"driver_data": self._data.get(arguments[0])} if method.params is m.InstanceParams else {}
        params = method.params_of(arguments, deadline_s=deadline_s, **known)
        return method.returned_in(await self._call(method, params))

    def _no_answer(self, method: m.Method[Any, Any], error: Exception, external_id: str | None) -> DriverError:
        is_late = isinstance(error, TimeoutError)
        what = "did not answer in time" if is_late else f"disconnected: {error}"
        return ProviderUnavailableError(
            self._redact(f"driver {self._command.name} {what} ({method.name})"),
            provider=self._config.name,
            external_id=external_id,
            kind=ErrorKind.DEADLINE if is_late else ErrorKind.TRANSIENT,
            scope=Scope.PROVIDER,
            may_exist=method.makes,
        )

    async def _ask(
        self, child: Child, method: m.Method[ParamsT, ResultT], params: ParamsT, on_id: Callable[[int], None]
    ) -> ResultT:
        """Make one call. Raises: DriverError, ConnectionEndedError, TimeoutError."""
        timeout_s = getattr(params, "deadline_s", QUESTION_S)
        try:
            raw = await child.peer.call(
                method.name,
                params.model_dump(mode="json"),
                timeout_s=timeout_s,
                on_id=on_id,
                on_given_up=self._given_up(method) if method.makes else None,
            )
            return method.result.model_validate(raw)
        except RpcError as error:
            raise self._error(error) from None
        except ValidationError as error:
            text = f"driver {child.name} answered {method.name} with a result that is invalid at: {m.places_in(error)}"
            raise DriverError(text, provider=self._config.name, may_exist=method.makes) from None

    def _given_up(self, method: m.Method[Any, Any]) -> Callable[[Outcome], None]:
        """Return a function that logs the outcome of a cancelled call; the list shows an instance that it made."""

        def tell(outcome: Outcome) -> None:
            refusal = outcome.data if isinstance(outcome, RpcError) else None
            told = refusal if refusal is not None else outcome if isinstance(outcome, dict) else {}
            external_id = told.get("external_id")
            log.info(
                "call_given_up",
                driver=self._command.name,
                provider=self._config.name,
                method=method.name,
                external_id=external_id if is_sound_id(external_id) else None,
                may_exist=refusal is None or bool(refusal.get("may_exist")),
            )

        return tell

    def _error(self, error: RpcError) -> DriverError:
        """Return the driver's error as an exception of the port."""
        text = self._redact(str(error))
        if "kind" not in error.data:
            kind = ErrorKind.UNSUPPORTED if error.code == METHOD_NOT_FOUND else ErrorKind.INTERNAL
            return error_of(m.fault_from(text, m.FaultInfo(kind=kind)), provider=self._config.name)
        try:
            info = m.FaultInfo.model_validate(error.data)
        except ValidationError:
            info = m.FaultInfo(kind=ErrorKind.INTERNAL)
        return error_of(m.fault_from(text, info), provider=self._config.name)

    def _instance_params(self, external_id: str, deadline_s: float) -> m.InstanceParams:
        return m.InstanceParams(external_id=external_id, driver_data=self._data.get(external_id), deadline_s=deadline_s)

    def _remember(self, external_id: str, data: Any) -> None:
        """Store driver data of an instance. Raises: DriverError if the data is invalid."""
        if data is None:
            return
        if (fault := json_fault(data, m.MAX_DRIVER_DATA)) is not None:
            raise DriverError(
                f"driver {self._command.name} gave invalid driver_data: {fault}",
                provider=self._config.name,
                external_id=external_id,
            )
        self._data.pop(external_id, None)
        self._data[external_id] = data
        if len(self._data) > REMEMBERED:
            del self._data[next(iter(self._data))]

    # -- the port ---------------------------------------------------------------------------------------------------

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        """Return the traits. Until the process has answered, they are defaults, and the provider is unavailable."""
        return self._traits.get((pool, label), LabelTraits())

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        made = await self._call(m.CREATE, m.CreateParams(spec=m.Spec.model_validate(spec), deadline_s=self._launch_s))
        self._remember(made.external_id, made.driver_data)
        return ExternalId(made.external_id)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        found = await self._call(m.WAIT, self._instance_params(external_id, self._launch_s))
        self._remember(external_id, found.instance.driver_data)
        return m.instance_from(found.instance)

    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._delete(external_id, None)

    async def _delete(self, external_id: ExternalId, fence: m.FenceInfo | None) -> None:
        known = self._instance_params(external_id, DELETE_S)
        await self._call(m.DELETE, m.DeleteParams(**m.plain(known), fence=fence))
        self._data.pop(external_id, None)

    async def list_instances(self) -> AsyncIterator[Instance]:
        cursor: str | None = None
        cursors: set[str] = set()
        listed = 0
        while True:
            page = await self._call(m.LIST, m.ListParams(cursor=cursor, deadline_s=QUESTION_S))
            for info in page.instances:
                self._remember(info.external_id, info.driver_data)
                yield m.instance_from(info)
            cursor, listed = page.next_cursor, listed + len(page.instances)
            if cursor is None:
                return
            if cursor in cursors:
                raise self._endless(f"returned the same next_cursor twice: {cursor}")
            cursors.add(cursor)
            if len(cursors) >= MAX_PAGES or listed > MAX_LISTED:
                raise self._endless(f"returned {len(cursors)} pages with {listed} instances, and has more")
            await asyncio.sleep(0)  # a long list must not block other tasks

    def _endless(self, what: str) -> DriverError:
        return DriverError(f"driver {self._command.name} {what} ({m.LIST.name})", provider=self._config.name)

    async def quota_limits(self) -> Limits:
        return Limits(await self._pass_on(m.LIMITS))

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        return Usage(await self._pass_on(m.LABEL_USAGE, pool, label))

    async def label_ready(self, pool: str, label: str) -> bool:
        return bool(await self._pass_on(m.LABEL_READY, pool, label))

    async def aclose(self) -> None:
        await self.supervisor.aclose()


# -- capabilities ---------------------------------------------------------------------------------------------------


class _Fencing(ProcessDriver):
    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await self._delete(external_id, m.fence_to(fence))


class _Inventory(ProcessDriver):
    def machines(self) -> Sequence[Machine]:
        """Return the machines. Raises: ProviderUnavailableError until the process has answered."""
        if self._machines is None:
            raise ProviderUnavailableError("the driver has not reported its machines yet", provider=self._config.name)
        return self._machines


def _calling(method: m.Method[Any, Any]) -> Callable[..., Awaitable[Any]]:
    """Return the method of the port that *method* stands for."""

    async def call(self: ProcessDriver, *arguments: Any) -> Any:
        return await self._pass_on(method, *arguments)

    return call


def _part(capability: str, base: type[ProcessDriver] = ProcessDriver) -> type[ProcessDriver]:
    """Return *base* with the methods of *capability* in the table."""
    asked = (method for method in m.METHODS.values() if method.capability == capability)
    return type(f"With{capability}", (base,), {method.calls: _calling(method) for method in asked if method.calls})


_BY_HAND: Final[Mapping[str, type[ProcessDriver]]] = {"fencing": _Fencing, "inventory": _Inventory}
_PARTS: Final = {name: _part(name, _BY_HAND.get(name, ProcessDriver)) for name in m.CAPABILITIES}


def class_with(capabilities: Collection[str]) -> type[ProcessDriver]:
    """Return `ProcessDriver` with the methods of *capabilities*; unknown names are ignored."""
    return _class_with(frozenset(capabilities).intersection(_PARTS))


@cache
def _class_with(capabilities: frozenset[str]) -> type[ProcessDriver]:
    parts = tuple(_PARTS[name] for name in sorted(capabilities))
    return type("ProcessDriver", parts, {}) if parts else ProcessDriver
