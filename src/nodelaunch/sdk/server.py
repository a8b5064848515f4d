"""Answers a launcher's calls with a driver in this process.

wire/peer.py has the connection, program.py the program.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from pydantic import ValidationError

from nodelaunch.config.models import DiskImageLogin
from nodelaunch.driverhost.schemas import capabilities_of, schemas_of
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.driverhost.wire.handshake import is_proof, new_nonce, proof
from nodelaunch.driverhost.wire.peer import DRIVER_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, Json, RpcError
from nodelaunch.drivers.plugin import DriverPlugin
from nodelaunch.errors import DriverError, ErrorKind, LabelUnusableError, Scope
from nodelaunch.log import Logger, get_logger
from nodelaunch.network.sshscan import SshScanner
from nodelaunch.protocol.cluster import Cluster
from nodelaunch.protocol.driver import (
    Driver,
    DriverContext,
    ExternalId,
    LabelTraits,
    SupportsFencing,
    SupportsInventory,
)
from nodelaunch.protocol.faults import fault_of

log: Logger = get_logger(__name__)

PAGE_BYTES: Final = 256 << 10
"""Size of the instances in a page of a list, as JSON, at which the page ends."""
LISTS_KEPT: Final = 16
"""Number of lists whose further pages are kept; the oldest list is forgotten first."""


class DriverServer:
    """Answers to the calls of one connection. ``note`` sends notifications; set it before the first call."""

    def __init__(self, plugin: DriverPlugin, token: str, versions: m.VersionRange) -> None:
        self.note: Callable[[str, Json], None] = lambda _method, _params: None
        self.cluster: Cluster | None = None
        """The launcher's cluster, for a driver that needs it. Set it before the first call."""
        self.is_proved: bool = False
        """True if the launcher has proved that it started this process."""
        self._plugin = plugin
        self._token = token
        self._versions = versions
        self._capabilities = capabilities_of(plugin)
        self._nonces = ("", "")
        self._driver: Driver | None = None
        self._lists: OrderedDict[str, Sequence[m.InstanceInfo]] = OrderedDict()
        self._cursors = itertools.count(1)
        self._answers: Mapping[str, Callable[[Any], Awaitable[m.Message]]] = {
            m.HELLO.name: self._hello,
            m.AUTHENTICATE.name: self._authenticate,
            m.OPEN.name: self._open,
            m.CLOSE.name: self._close,
            m.PING.name: self._ping,
            m.CREATE.name: self._create,
            m.WAIT.name: self._wait,
            m.DELETE.name: self._delete,
            m.LIST.name: self._list,
        }

    async def answer(self, name: str, params: Json, number: int) -> Json:
        """Return the result of a call. Raises: RpcError."""
        method = m.METHODS.get(name)
        if method is None or (method.capability is not None and method.capability not in self._capabilities):
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {name}")
        if not self.is_proved and method not in (m.HELLO, m.AUTHENTICATE):
            raise _refused(ErrorKind.AUTH, "the handshake comes first")
        try:
            result = await self._perform(method, params)
        except RpcError:
            raise
        except ValidationError as error:
            raise RpcError(INVALID_PARAMS, f"{name}: {error.error_count()} parameters are wrong") from None
        except DriverError as error:
            raise _as_rpc(error) from None
        except asyncio.CancelledError:
            raise _refused(ErrorKind.CANCELLED, "cancelled", may_exist=method.makes) from None
        except TimeoutError:
            raise _refused(ErrorKind.DEADLINE, f"{name} did not finish in time", may_exist=method.makes) from None
        except Exception as error:
            log.exception("driver_failed", method=name, call=number)
            text = f"{type(error).__name__}: {error}"
            raise _refused(ErrorKind.INTERNAL, text, may_exist=method.makes) from None
        return result.model_dump(mode="json")

    async def _perform(self, method: m.Method[Any, Any], params: Json) -> m.Message:
        asked = method.params.model_validate(params)
        async with asyncio.timeout(getattr(asked, "deadline_s", None)):
            if method.calls is None:
                return await self._answers[method.name](asked)
            returned = await getattr(self._open_driver, method.calls)(*method.arguments_of(asked))
            result: m.Message = method.result_of(returned)
            return result

    async def aclose(self) -> None:
        """Close the driver."""
        if self._driver is not None:
            driver, self._driver = self._driver, None
            with suppress(DriverError):
                await driver.aclose()

    # -- the handshake ----------------------------------------------------------------------------------------------

    async def _hello(self, params: m.HelloParams) -> m.HelloResult:
        self._nonces = (params.nonce, new_nonce())
        proved = proof(self._token, "driver", *self._nonces)
        return m.HelloResult(protocol=self._versions, nonce=self._nonces[1], proof=proved)

    async def _authenticate(self, params: m.AuthenticateParams) -> m.Identity:
        self.is_proved = all(self._nonces) and is_proof(params.proof, self._token, "launcher", self._nonces)
        if not self.is_proved:
            raise _refused(ErrorKind.AUTH, "the launcher did not prove that it has the token")
        if not self._versions.min <= params.protocol <= self._versions.max:
            self.is_proved = False
            raise _refused(ErrorKind.UNSUPPORTED, f"version {params.protocol} of the contract was not offered")
        plugin = self._plugin
        return m.Identity(
            name=plugin.name,
            version=plugin.version,
            summary=plugin.summary,
            maintainer=plugin.maintainer,
            licence=plugin.licence,
            capabilities=self._capabilities,
            schemas=schemas_of(plugin.config_model),
            example=None if plugin.example is None else m.Example(provider=dict(plugin.example)),
        )

    # -- the driver -------------------------------------------------------------------------------------------------

    @property
    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise _refused(ErrorKind.INTERNAL, "driver.open comes first")
        return self._driver

    async def _open(self, params: m.OpenParams) -> m.OpenResult:
        try:
            config = self._plugin.config_model.model_validate(params.provider, by_alias=True, by_name=False)
        except ValidationError as error:
            raise _refused(ErrorKind.CONFIG, _complaint(error), scope=Scope.PROVIDER) from None
        images = {name: DiskImageLogin(**m.plain(login)) for name, login in params.diskimages.items()}
        cluster = self.cluster if self._plugin.needs_cluster else None
        driver = self._plugin.open(config, DriverContext(scanner=SshScanner(), diskimages=images, cluster=cluster))
        self._driver = driver
        machines = driver.machines() if isinstance(driver, SupportsInventory) else ()
        labels = [
            m.LabelInfo(pool=pool.name, label=label, traits=m.Traits.model_validate(traits))
            for pool in config.pools
            for label in pool.label_names
            if (traits := _traits(driver, pool.name, label)) != LabelTraits()
        ]
        return m.OpenResult.model_validate({"labels": labels, "machines": machines})

    async def _close(self, _params: m.Call) -> m.Empty:
        await self.aclose()
        return m.Empty()

    async def _ping(self, _params: m.Call) -> m.Empty:
        return m.Empty()

    # -- instances --------------------------------------------------------------------------------------------------

    async def _create(self, params: m.CreateParams) -> m.CreateResult:
        return m.CreateResult(external_id=await self._open_driver.create_instance(m.spec_from(params.spec)))

    async def _wait(self, params: m.InstanceParams) -> m.InstanceResult:
        instance = await self._open_driver.wait_until_active(ExternalId(params.external_id))
        return m.InstanceResult(instance=m.InstanceInfo.model_validate(instance))

    async def _delete(self, params: m.DeleteParams) -> m.Empty:
        driver, external_id, fence = self._open_driver, ExternalId(params.external_id), m.fence_from(params.fence)
        if fence is not None and m.FENCE.capability in self._capabilities:
            await cast("SupportsFencing", driver).delete_fenced(external_id, fence)
        else:
            await driver.delete_instance(external_id)
        return m.Empty()

    async def _list(self, params: m.ListParams) -> m.ListResult:
        if params.cursor is None:
            listed = self._open_driver.list_instances()
            rest: Sequence[m.InstanceInfo] = [m.InstanceInfo.model_validate(each) async for each in listed]
        elif params.cursor in self._lists:
            rest = self._lists.pop(params.cursor)
        else:
            raise _refused(ErrorKind.NOT_FOUND, "the list was forgotten; start again", scope=Scope.PROVIDER)
        size, count = 0, 0
        while count < len(rest) and size < PAGE_BYTES:
            size += len(rest[count].model_dump_json())
            count += 1
        return m.ListResult(instances=tuple(rest[:count]), next_cursor=self._keep(rest[count:]))

    def _keep(self, rest: Sequence[m.InstanceInfo]) -> str | None:
        if not rest:
            return None
        cursor = str(next(self._cursors))
        self._lists[cursor] = rest
        if len(self._lists) > LISTS_KEPT:
            self._lists.popitem(last=False)
        return cursor


def _traits(driver: Driver, pool: str, label: str) -> LabelTraits:
    """Return the traits of a label; default traits for an unusable label, whose error comes with the create call."""
    try:
        return driver.label_traits(pool, label)
    except LabelUnusableError:
        return LabelTraits()


def _refused(kind: ErrorKind, message: str, *, scope: Scope = Scope.REQUEST, may_exist: bool = False) -> RpcError:
    data = m.FaultInfo(kind=kind, scope=scope, may_exist=may_exist)
    return RpcError(DRIVER_ERROR, message, data.model_dump(mode="json"))


def _as_rpc(error: DriverError) -> RpcError:
    fault = fault_of(error)
    return RpcError(DRIVER_ERROR, fault.message, m.FaultInfo.model_validate(fault).model_dump(mode="json"))


def _complaint(error: ValidationError) -> str:
    """Return the faults of a configuration without its values, because some are secret."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False)
    )
