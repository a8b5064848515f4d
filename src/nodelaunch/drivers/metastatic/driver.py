"""The driver of nodes that share a backing node of another provider.

The driver is a client of its own cluster: it requests backing nodes as any client does, and divides them into slots. An
instance is a claim on a slot; its id is the id of its node. All lasting state is in the store, behind the port of
`protocol/cluster.py`, so several launchers may serve one provider, and each may end at any time. slots.py chooses the
slot, supply.py requests backing nodes. Source: Nodepool 11, metastatic driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from nodelaunch.drivers.metastatic.config import MetastaticLabel, MetastaticProvider
from nodelaunch.drivers.metastatic.slots import Fail, Forget, Keep, Release, Slot, fate_of, free_slots
from nodelaunch.drivers.metastatic.supply import Supply
from nodelaunch.errors import (
    DriverError,
    InstanceNotFoundError,
    KeyScanError,
    LabelUnusableError,
    NodelaunchError,
    ProviderUnavailableError,
    StoreError,
)
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.cluster import Backing, Cluster, Leases
from nodelaunch.protocol.driver import (
    METADATA_POOL,
    DriverContext,
    ExternalId,
    HostScanner,
    Instance,
    InstanceSpec,
    LabelTraits,
    Login,
)
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits, Usage
from nodelaunch.protocol.records import Claim, Node

log: Logger = get_logger(__name__)

UPKEEP_S = 60.0
"""Longest pause between two checks of the backing nodes. Source: Nodepool 11, cleanup interval."""
RETRY_S = 1.0
"""Shortest pause if nothing has changed."""
UNKNOWN = "unknown"
"""Placeholder in a building node's record for values of its backing node. Source: Nodepool 11."""
SSH_TYPES = ("ssh", "network_cli")
SLOT_USAGE = Usage({INSTANCES: 1})


class MetastaticDriver:
    """`Driver` and `SupportsUpkeep` for one provider. Its only state in memory is the waiters of this process."""

    def __init__(self, config: MetastaticProvider, cluster: Cluster, scanner: HostScanner) -> None:
        self._config = config
        self._cluster = cluster
        self._scanner = scanner
        self._supply = Supply(config.name)
        self._leases: Leases | None = None
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()
        self._choosing = asyncio.Lock()
        """Held while a slot is chosen, so that each choice sees the one before."""
        self._log = log.bind(provider=config.name)

    @classmethod
    def open(cls, config: MetastaticProvider, context: DriverContext) -> MetastaticDriver:
        if context.cluster is None:
            raise ProviderUnavailableError("there is no cluster to ask for backing nodes", provider=config.name)
        return cls(config, context.cluster, context.scanner)

    # -- answers without the store ----------------------------------------------------------------------------------

    def label_traits(self, pool: str, label: str) -> LabelTraits:  # noqa: ARG002  the backing node decides all
        return LabelTraits(
            image_id="unused",
            username=UNKNOWN,
            connection_type=UNKNOWN,
            connection_port=UNKNOWN,
            shell_type=UNKNOWN,
            python_path=UNKNOWN,
            host_key_checking=False,
        )

    async def quota_limits(self) -> Limits:
        return NO_LIMITS

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        self._label(pool, label)
        return SLOT_USAGE

    async def label_ready(self, pool: str, label: str) -> bool:
        self._label(pool, label)
        return True

    def _label(self, pool: str, name: str) -> MetastaticLabel:
        for each in self._config.pools:
            for label in each.labels:
                if (each.name, label.name) == (pool, name):
                    return label
        raise LabelUnusableError(f"pool {pool} has no label {name}", provider=self._config.name)

    # -- instances --------------------------------------------------------------------------------------------------

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self._label(spec.pool, spec.label)
        with self._as_driver_errors():  # without an id: only the list shows if the claim exists
            leases = await self._ready()
            await leases.enter(Claim(node_id=NodeId(spec.node_id), label=spec.label, metadata=dict(spec.metadata)))
        return ExternalId(spec.node_id)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        with self._as_driver_errors(external_id):
            leases = await self._ready()
            claim = await self._placed(leases, NodeId(external_id))
            backing = next((each for each in leases.backings() if each.id == claim.backing), None)
            if backing is None or backing.node is None:
                raise self._gone(external_id, f"its backing node {claim.backing} is gone")
            keys = await self._scanned(leases, claim, backing, backing.node)
        return _instance(claim, backing.node, keys)

    async def delete_instance(self, external_id: ExternalId) -> None:
        with self._as_driver_errors(external_id):
            leases = await self._ready()
            await leases.free(NodeId(external_id))

    async def list_instances(self) -> AsyncIterator[Instance]:
        with self._as_driver_errors():
            leases = await self._ready()
            nodes = {backing.id: backing.node for backing in leases.backings()}
            claims = leases.claims()
        for claim in claims:
            yield _instance(claim, nodes.get(claim.backing) if claim.backing else None)

    async def aclose(self) -> None:
        """Do nothing: lasting state stays in the store."""

    @contextmanager
    def _as_driver_errors(self, external_id: str | None = None) -> Iterator[None]:
        try:
            yield
        except DriverError:
            raise
        except NodelaunchError as error:
            message = f"the store: {error}"
            raise ProviderUnavailableError(message, provider=self._config.name, external_id=external_id) from error

    def _gone(self, external_id: str, detail: str) -> InstanceNotFoundError:
        return InstanceNotFoundError(detail, provider=self._config.name, external_id=external_id)

    async def _ready(self) -> Leases:
        """Return the leases once they are complete and in sync."""
        while (leases := self._leases) is None:
            await self._opened.wait()
        await leases.warm()
        return leases

    # -- slots ------------------------------------------------------------------------------------------------------

    async def _placed(self, leases: Leases, node_id: NodeId) -> Claim:
        """Return the claim of *node_id* once it has a slot. Raises: InstanceNotFoundError, and the errors of
        `Supply.take_seat`."""
        label = self._label_of(await self._claim(leases, node_id))
        with self._supply.waiter(label) as waiter:
            while True:
                waiter.woken.clear()
                placed = await self._place(leases, node_id, label)
                if placed is not None:
                    return placed
                self._supply.take_seat(waiter)
                await waiter.woken.wait()
                leases = await self._ready()

    async def _claim(self, leases: Leases, node_id: NodeId) -> Claim:
        claim = await leases.find(node_id)
        if claim is None:
            raise self._gone(node_id, "no such node has a claim")
        return claim

    def _label_of(self, claim: Claim) -> MetastaticLabel:
        try:
            return self._label(claim.metadata.get(METADATA_POOL, ""), claim.label)
        except LabelUnusableError as error:
            error.external_id = claim.node_id
            raise

    async def _place(self, leases: Leases, node_id: NodeId, label: MetastaticLabel) -> Claim | None:
        """Return the claim of *node_id*, placed on the best free slot if it had none. Return None if no slot is
        free."""
        refused: set[Slot] = set()
        async with self._choosing:
            while True:
                claim = await self._claim(leases, node_id)
                if claim.is_placed:
                    return claim
                best = next(free_slots(leases.backings(), label, leases.now(), but=refused), None)
                if best is None:
                    return None
                backing, number = best
                placed = await leases.place(claim, backing, number)
                if placed is not None:
                    self._log.info("slot_taken", node_id=node_id, backing=backing.id, slot=number)
                    return placed
                refused.add((backing.id, number))  # another launcher has taken the slot

    async def _scanned(self, leases: Leases, claim: Claim, backing: Backing, node: Node) -> Sequence[str] | None:
        """Return the current host keys if the label checks them; None if it does not, or if the node has none.

        Raises: KeyScanError; the backing node then accepts no more nodes.
        """
        if not self._checks_host_keys(claim) or node.interface_ip is None or not isinstance(node.connection_port, int):
            return None
        limit_s = self._config.launching.boot_timeout_s
        try:
            if node.connection_type in SSH_TYPES:
                return await self._scanner.host_keys(node.interface_ip, node.connection_port, timeout_s=limit_s)
            await self._scanner.reach(node.interface_ip, node.connection_port, timeout_s=limit_s)
        except KeyScanError as error:
            self._log.warning("backing_failed", node_id=backing.id, detail=str(error))
            await leases.fail(backing)
            raise
        return None

    def _checks_host_keys(self, claim: Claim) -> bool:
        label, home = self._label_of(claim), claim.metadata.get(METADATA_POOL)
        return any(pool.checks_host_keys(label) for pool in self._config.pools if pool.name == home)

    # -- upkeep -----------------------------------------------------------------------------------------------------

    async def upkeep(self) -> None:
        async with self._cluster.leases(self._config.name) as leases, asyncio.TaskGroup() as group:
            await leases.warm()
            await leases.adopt()  # before the first slot is assigned
            stop = leases.subscribe(self._changed.set)
            with self._supply.attached(group, leases):
                self._leases = leases
                self._opened.set()
                try:
                    await self._keep_up(leases)
                finally:
                    self._leases = None
                    self._opened.clear()
                    stop()

    async def emptied(self) -> None:
        while True:
            leases = await self._ready()
            changed = asyncio.Event()
            stop = leases.subscribe(changed.set)
            try:
                if not leases.backings():
                    return
                await changed.wait()
            finally:
                stop()

    async def _keep_up(self, leases: Leases) -> None:
        adopt_at = leases.now() + UPKEEP_S
        while True:
            await leases.warm()
            self._changed.clear()
            if leases.now() >= adopt_at:
                await self._adopt(leases)
                adopt_at = leases.now() + UPKEEP_S
            await self._pause(await self._tend(leases))

    async def _adopt(self, leases: Leases) -> None:
        try:
            await leases.adopt()
        except StoreError as error:
            self._log.info("adopting_failed", detail=str(error))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _tend(self, leases: Leases) -> float:
        """Do the work that is due on each backing node. Return the seconds until the next work is due."""
        due = leases.now() + UPKEEP_S
        for backing in leases.backings():
            try:
                due = min(due, await self._tend_one(leases, backing))
            except NodelaunchError as error:
                self._log.info("upkeep_failed", node_id=backing.id, detail=str(error))
        return max(RETRY_S, due - leases.now())

    async def _tend_one(self, leases: Leases, backing: Backing) -> float:
        """Do the work that is due on one backing node. Return the time of its next check, in seconds since 1970."""
        fate = fate_of(backing, self._config.label(backing.lease.label), leases.now())
        log_ = self._log.bind(node_id=backing.id, label=backing.lease.label)
        match fate:
            case Keep(until):
                return until
            case Fail():
                log_.info("backing_too_old", taken=len(backing.taken))
                await leases.fail(backing)
            case Release():
                if await leases.release(backing):
                    log_.info("backing_released")
            case Forget():
                if await leases.forget(backing):
                    log_.warning("backing_lost", taken=list(backing.taken.values()))
        return leases.now() + UPKEEP_S


def _instance(claim: Claim, node: Node | None, keys: Sequence[str] | None = None) -> Instance:
    """Return *claim* as an instance, with the facts of its backing node from the record *node*."""
    external_id = ExternalId(claim.node_id)
    if node is None or not claim.is_placed:
        return Instance(external_id, claim.metadata, resources=SLOT_USAGE)
    return Instance(
        external_id,
        claim.metadata,
        is_active=True,
        interface_ip=node.interface_ip,
        public_ipv4=node.public_ipv4,
        private_ipv4=node.private_ipv4,
        public_ipv6=node.public_ipv6,
        cloud=node.cloud,
        region=node.region,
        zone=node.az,
        resources=SLOT_USAGE,
        login=Login(node.username, node.connection_type, node.connection_port, node.shell_type, node.python_path),
        host_keys=node.host_keys if keys is None else keys,
        attributes=node.attributes or {},
        slot=claim.slot,
        driver_data=claim.driver_data,
    )
