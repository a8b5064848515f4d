"""The driver port, implemented with commands of a GARM provider.

The driver keeps no state between calls: its facts come from the configuration, the provider's list, and external ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from nodelaunch.driverhost.process.redaction import redactor_of
from nodelaunch.drivers.garm import calls, naming
from nodelaunch.drivers.garm import interface as garm
from nodelaunch.drivers.garm.config import GarmLabel, GarmPool, GarmProvider
from nodelaunch.drivers.garm.interface import GarmCommand, Remote
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import DriverContext, ExternalId, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import NO_LIMITS, Limits, Usage

T = TypeVar("T")

log: Logger = get_logger(__name__)

CLEAN_UP_S: Final = 60.0
"""Time limit for the deletion of an instance whose create failed or was cancelled."""


class GarmDriver:
    """The driver of one GARM provider. It reports no host keys: the launcher scans them."""

    def __init__(self, config: GarmProvider, _context: DriverContext) -> None:
        self._config = config
        self._labels: Mapping[tuple[str, str], tuple[GarmPool, GarmLabel]] = {
            (pool.name, label.name): (pool, label) for pool in config.pools for label in pool.labels
        }
        self._pools = {self._pool_id(*names): pair for names, pair in self._labels.items()}
        """Pool and label by GARM pool id: one GARM pool is one label of one pool here."""
        self._redact = redactor_of(config)
        self._processes = asyncio.Semaphore(config.max_processes)
        self._log = log.bind(driver="garm", provider=config.name)

    def _pool_id(self, pool: str, label: str) -> str:
        return naming.pool_id(self._config.controller, pool, label)

    def _label(self, pool: str, label: str) -> tuple[GarmPool, GarmLabel]:
        """Return the pool and the label with these names. Raises: LabelUnusableError."""
        try:
            return self._labels[pool, label]
        except KeyError:
            raise LabelUnusableError(f"pool {pool} has no label {label}", provider=self._config.name) from None

    # -- the port ---------------------------------------------------------------------------------------------------

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        _, own = self._label(pool, label)
        return LabelTraits(
            image_id=own.image, username=own.username, connection_type=own.connection_type,
            connection_port=own.connection_port, shell_type=own.shell_type, python_path=own.python_path,
            host_key_checking=own.host_key_checking,
        )  # fmt: skip

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        """Create an instance and wait until the provider has. A create that fails or is cancelled is undone by a
        deletion."""
        _, label = self._label(spec.pool, spec.label)
        name, pool_id = naming.instance_name(spec), self._pool_id(spec.pool, spec.label)
        if len(name) > naming.MAX_NAME:
            text = f"the instance's name would have more than {naming.MAX_NAME} characters: {name}"
            raise LabelUnusableError(text, provider=self._config.name)
        wanted = garm.WantedInstance(
            name=name, pool_id=pool_id, image=label.image, flavor=label.flavor, os_type=label.os_type,
            arch=label.os_arch, labels=[spec.label], ssh_keys=label.ssh_keys, extra_specs=label.specs(),
        )  # fmt: skip
        try:
            made = await self._create(wanted)
        except asyncio.CancelledError:
            await self._undo(name, pool_id)
            raise
        except DriverError as error:
            left = await self._undo(name, pool_id)
            if left is not None:
                error.external_id, error.may_exist = left, True
            raise
        return naming.external_id(made.provider_id, pool_id)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        has_been_told = False
        while True:
            found = await self._get(external_id)
            if found.is_failed:
                text = f"the provider says of {found.name}: {self._redact(found.fault) or 'error'}"
                raise LaunchFailedError(text, provider=self._config.name, external_id=external_id)
            instance = self._instance(found, external_id)
            if instance.is_active:
                return instance
            if found.status == "running" and not has_been_told:
                self._log.info("no_address_yet", external_id=external_id)
                has_been_told = True
            await asyncio.sleep(self._config.poll_interval)

    async def delete_instance(self, external_id: ExternalId) -> None:
        parts = naming.split(external_id)
        if parts is None:
            return  # not an id of this driver
        try:
            await self._delete(*parts)
        except ProviderUnavailableError:
            if await self._find(*parts) is not None:
                raise
            return  # another client has deleted it
        while True:
            found = await self._find(*parts)
            if found is None or found.status == "deleted":
                return
            await asyncio.sleep(self._config.poll_interval)

    async def list_instances(self) -> AsyncIterator[Instance]:
        lists = await _together([self._list(pool_id) for pool_id in self._pools])
        seen: set[str] = set()
        for pool_id, listed in zip(self._pools, lists, strict=True):
            for found in listed:
                if found.provider_id not in seen:
                    seen.add(found.provider_id)
                    yield self._instance(found, naming.external_id(found.provider_id, pool_id))

    async def quota_limits(self) -> Limits:
        return NO_LIMITS

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        return self._label(pool, label)[1].usage()

    async def label_ready(self, pool: str, label: str) -> bool:
        self._label(pool, label)
        return True

    async def aclose(self) -> None:
        """Do nothing: no resource is held."""

    # -- commands ---------------------------------------------------------------------------------------------------

    async def _create(self, wanted: garm.WantedInstance) -> Remote:
        """Create *wanted*. Raises: DriverError."""
        timeout_s = self._config.launching.timeout_s
        done = await self._run(GarmCommand.CREATE, wanted.pool_id, given=garm.bootstrap(wanted), timeout_s=timeout_s)
        if done.code == garm.EXIT_DUPLICATE:
            return await self._made_before(wanted)
        if done.code != 0:
            raise LaunchFailedError(
                self._in_words(GarmCommand.CREATE, done), provider=self._config.name, may_exist=True
            )
        made = self._read(GarmCommand.CREATE, done, garm.read_instance, LaunchFailedError)
        if made.name != wanted.name:
            text = f"asked for {wanted.name}, the provider created {made.name}, whose name identifies no node"
            await self._undo(made.provider_id, wanted.pool_id)
            raise LaunchFailedError(text, provider=self._config.name)
        if made.is_failed:
            text = f"the provider says of {made.name}: {self._redact(made.fault) or 'error'}"
            raise LaunchFailedError(text, provider=self._config.name)
        return made

    async def _made_before(self, wanted: garm.WantedInstance) -> Remote:
        """Return the instance called like *wanted*, which an earlier call created before its answer was lost.

        Raises: DriverError.
        """
        found = await self._find(wanted.name, wanted.pool_id)
        if found is None or found.is_failed or found.is_going:
            text = f"the provider has an instance {wanted.name} already, in an unusable state"
            raise LaunchFailedError(text, provider=self._config.name, kind=ErrorKind.CONFLICT)
        return found

    async def _get(self, external_id: ExternalId) -> Remote:
        """Return one instance. Raises: InstanceNotFoundError, ProviderUnavailableError."""
        parts = naming.split(external_id)
        gone = InstanceNotFoundError(f"there is no instance {external_id}", provider=self._config.name)
        if parts is None:
            raise gone
        done = await self._run(GarmCommand.GET, parts[1], instance_id=parts[0])
        if done.code == 0:
            found: Remote | None = self._read(GarmCommand.GET, done, garm.read_instance, ProviderUnavailableError)
        elif done.code == garm.EXIT_NOT_FOUND or (found := await self._find(*parts)) is None:
            raise gone  # providers older than that exit code have one code for all errors
        if found is None or found.is_going:
            raise gone
        return found

    async def _find(self, instance_id: str, pool_id: str) -> Remote | None:
        """Return the listed instance with that id or name, or None. Raises: ProviderUnavailableError."""
        listed = await self._list(pool_id)
        return next((each for each in listed if instance_id in (each.provider_id, each.name)), None)

    async def _list(self, pool_id: str) -> list[Remote]:
        """Return the instances of one GARM pool. Raises: ProviderUnavailableError."""
        done = await self._run(GarmCommand.LIST, pool_id)
        if done.code != 0:
            raise ProviderUnavailableError(self._in_words(GarmCommand.LIST, done), provider=self._config.name)
        return self._read(GarmCommand.LIST, done, garm.read_instances, ProviderUnavailableError)

    async def _delete(self, instance_id: str, pool_id: str) -> None:
        """Delete an instance by its id or name. Raises: ProviderUnavailableError."""
        done = await self._run(GarmCommand.DELETE, pool_id, instance_id=instance_id)
        if done.code not in (0, garm.EXIT_NOT_FOUND):
            raise ProviderUnavailableError(self._in_words(GarmCommand.DELETE, done), provider=self._config.name)

    async def _undo(self, name: str, pool_id: str) -> ExternalId | None:
        """Delete by name what a failed create may have left, as GARM does. Return the external id if the deletion
        fails.

        The deletion continues if the task is cancelled, for little more than a minute.
        """
        deleting = asyncio.ensure_future(self._deleted(name, pool_id))
        while not deleting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([deleting])
        if deleting.result():
            return None
        return naming.external_id(name, pool_id)

    async def _deleted(self, name: str, pool_id: str) -> bool:
        try:
            async with asyncio.timeout(CLEAN_UP_S):
                await self._delete(name, pool_id)
        except (DriverError, TimeoutError) as error:
            self._log.warning("launch_not_undone", name=name, detail=str(error))
            return False
        return True

    async def _run(
        self, command: GarmCommand, pool_id: str, *, instance_id: str = "", given: bytes = b"",
        timeout_s: float | None = None,
    ) -> calls.Done:  # fmt: skip
        """Run *command* and return its result. Raises: ProviderUnavailableError if there is no result."""
        config = self._config
        _, label = self._pools.get(pool_id, (None, None))
        told = garm.environment(
            command, config.interface_version, controller_id=config.controller, config_file=str(config.config_file),
            pool_id=pool_id, instance_id=instance_id, extra_specs=label.specs() if label is not None else None,
        )  # fmt: skip
        limit_s = timeout_s or config.call_timeout
        try:
            async with self._processes:
                done = await calls.run(
                    [str(config.executable)], told, name=Path(config.executable).name, passed=config.pass_environment,
                    given=given, timeout_s=limit_s, redact=self._redact,
                )  # fmt: skip
        except TimeoutError:
            raise self._away(f"{command} did not end within {limit_s:g} s", ErrorKind.DEADLINE) from None
        except calls.TooMuchOutputError:
            raise self._away(f"{command} printed more than {calls.MAX_OUTPUT} bytes", ErrorKind.TRANSIENT) from None
        if done.code == garm.EXIT_NOT_RUN:
            raise self._away(self._in_words(command, done), ErrorKind.CONFIG)
        return done

    def _away(self, what: str, kind: ErrorKind) -> ProviderUnavailableError:
        return ProviderUnavailableError(f"{self._config.executable}: {what}", provider=self._config.name, kind=kind)

    def _in_words(self, command: GarmCommand, done: calls.Done) -> str:
        how = f"was killed by signal {done.code - 128}" if done.code > 128 else f"ended with exit code {done.code}"
        return f"{self._config.executable}: {command} {how}" + (f": {done.said}" if done.said else "")

    def _read(self, command: GarmCommand, done: calls.Done, read: Callable[[bytes], T], error: type[DriverError]) -> T:
        """Return the parsed output of a command. Raises: *error*."""
        try:
            return read(done.output)
        except garm.AnswerError as wrong:
            text = self._redact(f"{self._config.executable}: {command} printed {wrong}")
            raise error(text, provider=self._config.name, kind=ErrorKind.PERMANENT) from None

    # -- instances --------------------------------------------------------------------------------------------------

    def _instance(self, found: Remote, external_id: ExternalId) -> Instance:
        pool_id = (naming.split(external_id) or ("", ""))[1]
        pool, label = self._pools.get(pool_id, (None, None))
        public, private, v6 = (
            found.address(4, public=True),
            found.address(4, public=False),
            found.address(6, public=True) or found.address(6, public=False),
        )
        wanted = (private, v6) if pool is not None and pool.use_internal_ip else (public, v6, private)
        interface_ip = next((address for address in wanted if address is not None), None)
        return Instance(
            external_id=external_id,
            metadata=naming.metadata_of(found.name),
            is_active=found.status == "running" and interface_ip is not None,
            interface_ip=interface_ip,
            public_ipv4=public,
            private_ipv4=private,
            public_ipv6=v6,
            hostname=found.name,
            resources=label.usage() if label is not None else None,
        )


async def _together(calls_: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of coroutines that run concurrently. The first error cancels the others."""
    tasks = [asyncio.ensure_future(call) for call in calls_]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
