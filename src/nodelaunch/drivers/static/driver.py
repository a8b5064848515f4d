"""The driver of machines that exist already: names them, looks at them, and never makes or deletes one.

Looking at a machine scans its SSH host keys, compares them with the configured ones, and resolves its name. All slots
and users of one host share one look. What does *not* belong here: the node records of the machines (the engine's
inventory keeps them), and how keys are fetched (the `HostScanner` of the `DriverContext`).
Source: Nodepool 11, static driver.
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
"""Names of hosts that are looked up at once."""

Identity = tuple[str, str | None, int]
"""Name, user and connection port: what tells one configured machine from another. A slot is not part of it."""


class StaticDriver:
    """`Driver` and `SupportsInventory` for one provider. Keeps no state but looks under way."""

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
        """One for each slot of each configured node."""
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
        """Addresses and host keys of *machine*; with host key checking off, the configured keys, untested.

        An address that can't be found out is None. Raises: ProviderUnavailableError when it doesn't answer within its
        ``timeout``, KeyScanError when it has not all of the configured keys, InstanceNotFoundError when it is not
        configured.
        """
        node = self._node_of(machine)
        found = await self._look_at(node)
        if not node.host_key_checking:
            return Inspection(node.host_key if node.is_ssh else (), found.public_ipv4, found.public_ipv6)
        if node.is_ssh:
            self._compare(node, found.host_keys)
        return found

    async def is_alive(self, machine: Machine) -> bool:
        """Whether a TCP connection can be made within the machine's ``timeout``; assumed with host key checking off.

        One that is not configured any more is not alive. Raises: nothing.
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
        """A look at the node's host; who asks while one is under way gets that one's outcome, also a failure."""
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
        """What a look gave, or why it failed."""
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
        """First IPv4 and first IPv6 address of the host, for the record only: whether it is usable, the scan said."""
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

    # -- what a cloud's driver does: here there is nothing to launch ------------------------------------------------

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
        """Raises: InsufficientCapacityError, always: there are the machines there are."""
        raise self._failed(InsufficientCapacityError, f"no machine can be made for label {spec.label}")

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        """Raises: InstanceNotFoundError, always: nothing was created."""
        raise self._failed(InstanceNotFoundError, f"{external_id} was not created here")

    async def delete_instance(self, external_id: ExternalId) -> None:
        """Nothing to do: machines stay."""

    async def list_instances(self) -> AsyncIterator[Instance]:
        """None: nothing was created."""
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
        """Nothing is kept open."""

    def _offering(self, pool: str, label: str) -> StaticNode:
        node = self._find_offering(pool, label)
        if node is None:
            raise self._failed(LabelUnusableError, f"no machine of pool {pool} has label {label}")
        return node

    def _find_offering(self, pool: str, label: str) -> StaticNode | None:
        """The first configured node of *pool* with *label*."""
        nodes = (node for each in self._config.pools if each.name == pool for node in each.nodes)
        return next((node for node in nodes if label in node.labels), None)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at a host depends on; equal ones are shared."""

    host: str
    port: int
    is_ssh: bool
    is_checked: bool
    timeout_s: float


@dataclass(slots=True)
class _Turn:
    """One look at a time; its outcome is for all who asked before it finished."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    finished: int = 0
    outcome: Inspection | str = "not looked at"


def _identity(machine: Machine) -> Identity:
    return (machine.name, machine.username, machine.connection_port)
