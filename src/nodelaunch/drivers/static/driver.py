"""The driver of machines that already exist: lists and inspects them, and never creates or deletes one.

An inspection scans a machine's SSH host keys, compares them with the configured keys, and resolves its name. All slots
and users of one host with the same port and settings share one inspection. The engine's inventory keeps the node
records of the machines. Source: Nodepool 11, static driver.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from nodelaunch.drivers.static.config import StaticNode, StaticProvider
from nodelaunch.errors import (
    DriverError,
    InstanceNotFoundError,
    InsufficientCapacityError,
    KeyScanError,
    LabelUnusableError,
    ProviderUnavailableError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.network.resolving import Resolver
from nodelaunch.protocol.driver import (
    DriverContext,
    ExternalId,
    HostScanner,
    Inspection,
    Instance,
    InstanceSpec,
    LabelTraits,
    Machine,
)
from nodelaunch.protocol.hostkeys import mismatch
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits, Usage

log: Logger = get_logger(__name__)

LOOK_UPS = 32
"""Number of host names that are resolved at once."""

Identity = tuple[str, str | None, int]
"""Name, user and connection port: they identify a configured machine. The slot is not part of the identity."""


class StaticDriver:
    """`Driver` and `SupportsInventory` for one provider. Its only state is the inspections in progress."""

    def __init__(self, config: StaticProvider, scanner: HostScanner) -> None:
        self._config = config
        self._scanner = scanner
        self._nodes: dict[Identity, StaticNode] = {node.identity: node for pool in config.pools for node in pool.nodes}
        self._looks: dict[_Look, _Turn] = {}
        self._resolver = Resolver(LOOK_UPS)

    @classmethod
    def open(cls, config: StaticProvider, context: DriverContext) -> StaticDriver:
        return cls(config, context.scanner)

    # -- the inventory ----------------------------------------------------------------------------------------------

    def machines(self) -> Sequence[Machine]:
        """Return one machine for each slot of each configured node."""
        return [
            Machine(
                pool=pool.name,
                name=node.name,
                labels=node.labels,
                slot=slot,
                username=node.username,
                connection_port=node.connection_port,
                connection_type=node.connection_type,
                python_path=node.python_path,
                shell_type=node.shell_type,
            )
            for pool in self._config.pools
            for node in pool.nodes
            for slot in range(node.max_parallel_jobs)
        ]

    async def inspect(self, machine: Machine) -> Inspection:
        """Return addresses and host keys of *machine*; without host key checking, the configured keys unchecked.

        An unknown address is None. Raises: ProviderUnavailableError when the machine doesn't answer within its
        ``timeout``, KeyScanError when it lacks a configured key, InstanceNotFoundError when it is not configured.
        """
        node = self._node_of(machine)
        found = await self._look_at(node)
        if not node.host_key_checking:
            return Inspection(node.host_key if node.is_ssh else (), found.public_ipv4, found.public_ipv6)
        if node.is_ssh:
            self._compare(node, found.host_keys)
        return found

    async def is_alive(self, machine: Machine) -> bool:
        """Return True if a TCP connection succeeds within the machine's ``timeout``, or if host key checking is off.

        Returns False for a machine that is no longer configured. Raises: nothing.
        """
        node = self._nodes.get(_identity(machine))
        if node is None or not node.host_key_checking:
            return node is not None
        try:
            await self._scanner.reach(node.name, node.connection_port, timeout_s=float(node.timeout))
        except KeyScanError as error:
            log.info("machine_not_alive", provider=self._config.name, hostname=node.name, detail=str(error))
            return False
        return True

    def _node_of(self, machine: Machine) -> StaticNode:
        node = self._nodes.get(_identity(machine))
        if node is None:
            raise self._failed(InstanceNotFoundError, f"{machine.name} is not configured")
        return node

    def _failed(self, kind: type[DriverError], message: str) -> DriverError:
        return kind(message, provider=self._config.name)

    # -- looking at a host ------------------------------------------------------------------------------------------

    async def _look_at(self, node: StaticNode) -> Inspection:
        """Return an inspection of the node's host. A caller who asks during one gets its result, even if it fails."""
        look = _Look(node.name, node.connection_port, node.is_ssh, node.host_key_checking, float(node.timeout))
        turn = self._looks.setdefault(look, _Turn())
        finished_before = turn.finished
        async with turn.lock:
            if turn.finished == finished_before:
                turn.outcome = await self._perform(look)
                turn.finished += 1
            outcome = turn.outcome
        if isinstance(outcome, Inspection):
            return outcome
        raise self._failed(ProviderUnavailableError, outcome)

    async def _perform(self, look: _Look) -> Inspection | str:
        """Return the result of an inspection, or the reason why it failed."""
        try:
            keys = await self._scan(look)
        except KeyScanError as error:
            return str(error)
        return Inspection(keys, *await self._addresses(look))

    async def _scan(self, look: _Look) -> tuple[str, ...]:
        if not look.is_checked:
            return ()
        if look.is_ssh:
            return await self._scanner.host_keys(look.host, look.port, timeout_s=look.timeout_s)
        await self._scanner.reach(look.host, look.port, timeout_s=look.timeout_s)
        return ()

    async def _addresses(self, look: _Look) -> tuple[str | None, str | None]:
        """Return the host's first IPv4 and first IPv6 address, for the record only: the scan checks if the host is
        usable."""
        try:
            async with asyncio.timeout(look.timeout_s):
                found = await self._resolver.addresses(look.host, None)
        except (OSError, UnicodeError) as error:
            detail = str(error) or f"no answer within {look.timeout_s:g} s"
            log.info("name_not_resolved", provider=self._config.name, hostname=look.host, detail=detail)
            return None, None
        ipv4, ipv6 = (
            next((str(address[0]) for family, *_, address in found if family == wanted), None)
            for wanted in (socket.AF_INET, socket.AF_INET6)
        )
        return ipv4, ipv6

    def _compare(self, node: StaticNode, found: Iterable[str]) -> None:
        if (fault := mismatch(node.host_key, found)) is not None:
            where = f"{node.name} port {node.connection_port}"
            raise self._failed(KeyScanError, f"{where} does not have the configured host key: {fault}")

    # -- launches, which this driver does not support ---------------------------------------------------------------

    def label_traits(self, pool: str, label: str) -> LabelTraits:
        node = self._offering(pool, label)
        return LabelTraits(
            username=node.username,
            connection_type=node.connection_type,
            connection_port=node.connection_port,
            shell_type=node.shell_type,
            python_path=node.python_path,
            host_key_checking=node.host_key_checking,
        )

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        """Raise InsufficientCapacityError: the provider has the configured machines only."""
        raise self._failed(InsufficientCapacityError, f"no machine can be made for label {spec.label}")

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        """Raise InstanceNotFoundError: this driver creates no instances."""
        raise self._failed(InstanceNotFoundError, f"{external_id} was not created here")

    async def delete_instance(self, external_id: ExternalId) -> None:
        """Do nothing: machines stay."""

    async def list_instances(self) -> AsyncIterator[Instance]:
        """Yield nothing: this driver creates no instances."""
        none: tuple[Instance, ...] = ()
        for instance in none:
            yield instance

    async def quota_limits(self) -> Limits:
        return NO_LIMITS

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        self._offering(pool, label)
        return Usage({INSTANCES: 1})

    async def label_ready(self, pool: str, label: str) -> bool:
        return self._find_offering(pool, label) is not None

    async def aclose(self) -> None:
        """Do nothing: no resource is held."""

    def _offering(self, pool: str, label: str) -> StaticNode:
        node = self._find_offering(pool, label)
        if node is None:
            raise self._failed(LabelUnusableError, f"no machine of pool {pool} has label {label}")
        return node

    def _find_offering(self, pool: str, label: str) -> StaticNode | None:
        """Return the first configured node of *pool* with *label*."""
        nodes = (node for each in self._config.pools if each.name == pool for node in each.nodes)
        return next((node for node in nodes if label in node.labels), None)


@dataclass(frozen=True, slots=True)
class _Look:
    """Parameters of an inspection. Equal inspections are shared."""

    host: str
    port: int
    is_ssh: bool
    is_checked: bool
    timeout_s: float


@dataclass(slots=True)
class _Turn:
    """Turn of a host, which allows one inspection at a time. Callers who asked before its end share the result."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    finished: int = 0
    outcome: Inspection | str = "not looked at"


def _identity(machine: Machine) -> Identity:
    return (machine.name, machine.username, machine.connection_port)
