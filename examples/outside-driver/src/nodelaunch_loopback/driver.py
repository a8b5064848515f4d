"""The driver: implements nodelaunch's calls with machine.py. Rules D1 to D12 are in docs/driver-contract.md."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator, Sequence

from nodelaunch.errors import (
    InstanceNotFoundError,
    KeyScanError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from nodelaunch.protocol.driver import DriverContext, ExternalId, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import INSTANCES, Limits, Usage

from nodelaunch_loopback.config import LoopbackLabel, LoopbackProvider
from nodelaunch_loopback.faults import NO_PROCESS, NO_ROOM, Faults
from nodelaunch_loopback.machine import POLL_S, Machine, NoAddressError, Site


class LoopbackDriver(Faults):
    """Driver of one provider. It keeps no state: all data is in the provider's directory (D8)."""

    def __init__(self, config: LoopbackProvider, _context: DriverContext) -> None:
        self._config = config
        self.site = Site(config.state_dir)

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        username = self._label(pool, label).username or getpass.getuser()
        return LabelTraits(username=username, connection_port=self._config.port, console_log=True)

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self._label(spec.pool, spec.label)
        self.fail_if(NO_ROOM)
        keys = self._config.authorized_keys
        try:
            machine = self.site.add(  # at once, and not in a thread: a create that is cancelled leaves it listed (D3)
                spec.name,
                dict(spec.metadata),  # on the machine from its first moment on (D2)
                self._config.network,
                self._config.port,
                most=self._config.max_machines,
                keys=keys.read_text() if keys is not None else "",
            )
        except NoAddressError as error:
            raise QuotaExceededError(str(error), provider=self._config.name) from None
        except OSError as error:
            raise ProviderUnavailableError(f"no machine could be made: {error}", provider=self._config.name) from None
        external_id = ExternalId(machine.name)
        self.fail_if(NO_PROCESS, external_id)
        try:
            await machine.boot(self._config.sshd)
        except OSError as error:
            text = f"the machine could not be started: {error}"
            raise LaunchFailedError(text, provider=self._config.name, external_id=external_id) from None
        return external_id  # it boots by itself now (D1)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        while True:
            machine = self._machine(external_id)
            if machine.pid is not None and await machine.answers():
                return self._instance(machine, is_active=True)
            if machine.is_broken:
                last = (machine.console().splitlines() or ["it said nothing"])[-1]
                raise LaunchFailedError(f"sshd ended: {last}", provider=self._config.name, external_id=external_id)
            await asyncio.sleep(POLL_S)

    async def delete_instance(self, external_id: ExternalId) -> None:
        machine = self.site.machine(external_id)
        if machine is not None:
            await machine.stop()
        try:
            await self.site.remove(external_id)
        except OSError as error:
            raise ProviderUnavailableError(f"{external_id} can't be removed: {error}") from None

    async def list_instances(self) -> AsyncIterator[Instance]:
        try:
            machines = await asyncio.to_thread(lambda: list(self.site.machines()))
        except OSError as error:
            raise ProviderUnavailableError(f"{self.site.folder} can't be read: {error}") from None
        for machine in machines:
            yield self._instance(machine, is_active=machine.pid is not None)

    async def quota_limits(self) -> Limits:
        return Limits({INSTANCES: self._config.max_machines})

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        self._label(pool, label)
        return Usage({INSTANCES: 1})

    async def label_ready(self, pool: str, label: str) -> bool:
        self._label(pool, label)
        return self._config.sshd.exists()

    async def aclose(self) -> None:
        """Do nothing: there are no connections, and machines stay."""

    # -- optional capabilities --------------------------------------------------------------------------------------

    async def host_keys(self, external_id: ExternalId) -> Sequence[str]:
        """Return the keys from the machine's directory, so that no scan over the network is needed."""
        try:
            return self._machine(external_id).host_keys()
        except OSError as error:
            raise KeyScanError(f"no host keys: {error}", external_id=external_id) from None

    async def console_log(self, external_id: ExternalId) -> str | None:
        try:
            return self._machine(external_id).console()
        except OSError:
            return None

    # -- parts ------------------------------------------------------------------------------------------------------

    def _label(self, pool: str, label: str) -> LoopbackLabel:
        """Return the label's configuration. Raises: LabelUnusableError."""
        for each in self._config.pools:
            for offered in each.labels if each.name == pool else ():
                if offered.name == label:
                    return offered
        raise LabelUnusableError(f"pool {pool} has no label {label}", provider=self._config.name)

    def _machine(self, external_id: ExternalId) -> Machine:
        """Return the machine. Raises: InstanceNotFoundError."""
        machine = self.site.machine(external_id)
        if machine is None:
            raise InstanceNotFoundError("no such machine", provider=self._config.name, external_id=external_id)
        return machine

    def _instance(self, machine: Machine, *, is_active: bool) -> Instance:
        return Instance(
            ExternalId(machine.name),
            machine.metadata,
            is_active=is_active,
            interface_ip=machine.address,
            private_ipv4=machine.address,
            hostname=machine.name,
            connection_port=machine.port,
            resources=Usage({INSTANCES: 1}),
        )
