"""Keeps one ready node registered for each slot of machines that exist without being launched.

One writer per slot: this coroutine. It registers what is missing, updates free records in place, takes out what is no
longer configured, and registers a slot anew right after its used record was deleted. What does *not* belong here: what
a machine is, and whether it is alive; its driver knows.
Source: Nodepool 11, static driver, on the wire; its order of work is our own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import structlog

from nodelaunch.clock import Clock
from nodelaunch.config.models import PoolConfig
from nodelaunch.engine.holding import discard_node, machine_of, rewrite_node
from nodelaunch.engine.provider import ProviderRuntime
from nodelaunch.engine.view import ClusterView, NodeRemoved, NodeSeen, NodeUnlocked, Note, Seen, ViewWarmed
from nodelaunch.errors import DriverError, LockBusyError, LockLostError, StoreError
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Inspection, Machine, SupportsInventory
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Lock, SessionState, Store

log = structlog.get_logger(__name__)

LAUNCHER = "static driver"
"""What the records say instead of a pool's id. Source: Nodepool 11."""
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0
"""Pause after a machine could not be reached; it doubles each time."""
LOCK_WAIT_S = 600.0
"""How long to wait at a time for another launcher to leave the inventory to us."""
LEAVES_SLOT_FREE = frozenset({NodeState.DELETING, NodeState.DELETED})
"""A record in one of these still stands in the way of a new one, but is not a machine to hand out."""

Identity = tuple[str, str | None, int, int]


class Inventory:
    """One per provider whose driver has machines instead of launching. `run` it."""

    def __init__(self, store: Store, view: ClusterView, clock: Clock, provider: ProviderRuntime) -> None:
        self._store = store
        self._view = view
        self._clock = clock
        self._provider = provider
        self._is_stopped = False
        self._wake = asyncio.Event()
        self._under_way: set[Identity] = set()
        self._failures: dict[Identity, int] = {}
        self._looked_at: set[tuple[NodeId, int]] = set()
        """Versions of records compared with their machine; each is once, so that restarts see changed host keys."""
        self._log = log.bind(provider=provider.name)

    @property
    def _driver(self) -> SupportsInventory:
        driver = self._provider.driver
        if not isinstance(driver, SupportsInventory):
            raise TypeError(f"provider {self._provider.name} has no inventory")
        return driver

    def renew(self) -> None:
        """The configuration changed: compare every record with it."""
        self._is_stopped = False
        self._looked_at.clear()
        self._wake.set()

    def stop(self) -> None:
        """Register nothing more: the provider is not configured any more."""
        self._is_stopped = True

    async def run(self) -> None:
        """Keep the records in step with the machines until cancelled; of several launchers with the same machines one
        does. Raises: LockLostError, to be run again; StoreError."""
        while True:
            try:
                lock = await self._store.lock(
                    f"{paths.INVENTORIES}/{self._provider.name}", timeout_s=LOCK_WAIT_S, parents=True
                )
                break
            except LockBusyError:
                continue
        try:
            await self._keep(lock)
        finally:
            await lock.release()

    async def _keep(self, lock: Lock) -> None:
        unsubscribe = [self._view.subscribe(self._on_note), lock.on_lost(self._wake.set)]
        self._wake.set()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    if not lock.is_held:
                        raise LockLostError(lock.path)
                    is_able = self._view.is_warm and self._store.session.state is SessionState.CONNECTED
                    if is_able and not self._is_stopped:
                        self._compare(group)
        finally:
            for stop in unsubscribe:
                stop()

    def _pool(self, name: str) -> PoolConfig | None:
        return next((pool for pool in self._provider.config.pools if pool.name == name), None)

    def _attributes(self, machine: Machine) -> dict[str, Any] | None:
        pool = self._pool(machine.pool)
        return dict(pool.node_attributes) if pool is not None and pool.node_attributes is not None else None

    def _on_note(self, note: Note) -> None:
        match note:
            case NodeRemoved(_, node) if node.provider == self._provider.name:
                self._wake.set()
            case NodeSeen(node_id, _) | NodeUnlocked(node_id):
                seen = self._view.nodes.get(node_id)
                if seen is not None and seen.record.provider == self._provider.name:
                    self._wake.set()
            case ViewWarmed():
                self._wake.set()
            case _:
                pass

    def _compare(self, group: asyncio.TaskGroup) -> None:
        """Start what is to be done for each slot that is not as configured."""
        wanted = {machine.identity: machine for machine in self._driver.machines()}
        recorded: defaultdict[Identity, list[Seen[Node]]] = defaultdict(list)
        for seen in self._view.nodes_of(self._provider.name):
            recorded[machine_of(seen.record).identity].append(seen)
        for identity, machine in wanted.items():
            if identity not in recorded:
                self._begin(group, identity, self._register(machine))
        for identity, records in recorded.items():
            kept = self._kept(records) if identity in wanted else None
            for seen in records:
                if seen is not kept and self._is_free(seen):
                    self._begin(group, (*identity[:3], -1 - int(seen.record.id)), self._deregister(seen))
                elif seen is kept and self._may_be_outdated(seen):
                    self._looked_at.add((seen.record.id, seen.version))
                    self._begin(group, identity, self._update(seen, wanted[identity]))

    @staticmethod
    def _kept(records: list[Seen[Node]]) -> Seen[Node]:
        """Of several records for one slot the one in use, else the oldest, stays."""
        return min(records, key=lambda seen: (seen.record.is_idle, seen.record.id))

    def _begin(self, group: asyncio.TaskGroup, identity: Identity, work: Any) -> None:
        if identity in self._under_way:
            work.close()
            return
        self._under_way.add(identity)
        group.create_task(self._guarded(identity, work), name=f"slot {identity[0]}")

    async def _guarded(self, identity: Identity, work: Any) -> None:
        try:
            await work
            self._failures.pop(identity, None)
        except (DriverError, TimeoutError) as error:
            delay = self._retry_delay(identity)
            self._log.warning("machine_unusable", hostname=identity[0], detail=str(error), retry_in_s=delay)
            await asyncio.sleep(delay)
        except StoreError as error:
            self._log.info("slot_write_failed", hostname=identity[0], detail=str(error))
        except Exception:  # noqa: BLE001  the top of a slot's task
            self._log.exception("slot_failed", hostname=identity[0])
        finally:
            self._under_way.discard(identity)
            self._wake.set()

    def _retry_delay(self, identity: Identity) -> float:
        failures = self._failures.get(identity, 0)
        self._failures[identity] = failures + 1
        return min(LAST_RETRY_S, FIRST_RETRY_S * float(2**failures))

    # -- registering ------------------------------------------------------------------------------------------------

    async def _register(self, machine: Machine) -> None:
        found = await self._driver.inspect(machine)
        now = self._clock.now()
        blank = Node(
            id=NodeId(""),
            created_time=now,
            provider=self._provider.name,
            pool=machine.pool,
            launcher=LAUNCHER,
            external_id=machine.name,
            hostname=machine.name,
            interface_ip=machine.name,
            slot=machine.slot,
            attributes=self._attributes(machine),
            node_properties={},
        )
        node = _described(blank, machine, found).into(NodeState.READY, now)
        entry = await self._store.create(paths.NEW_NODE, node.to_bytes(), sequence=True)
        self._looked_at.add((paths.node_id_at(entry.path) or NodeId(""), entry.stat.version))
        self._log.info(
            "machine_registered", node_id=paths.node_id_at(entry.path), hostname=machine.name, slot=machine.slot
        )

    async def _deregister(self, seen: Seen[Node]) -> None:
        """Take out a free record of a slot that is not wanted; one in use goes after its use."""
        if await discard_node(self._store, self._view, seen, self._clock):
            self._log.info("machine_deregistered", node_id=seen.record.id, hostname=seen.record.hostname)

    # -- updating in place ------------------------------------------------------------------------------------------

    def _may_be_outdated(self, seen: Seen[Node]) -> bool:
        """Whether this free record was not compared with its machine yet."""
        return (seen.record.id, seen.version) not in self._looked_at and self._is_free(seen)

    def _is_free(self, seen: Seen[Node]) -> bool:
        """Whether nobody has the record; one in use is looked at again when it is not any more."""
        return seen.record.is_idle and not self._view.is_node_locked(seen.record.id)

    async def _update(self, seen: Seen[Node], machine: Machine) -> None:
        found = await self._driver.inspect(machine)
        node = _described(seen.record.changed(pool=machine.pool), machine, found)
        node = node.changed(attributes=self._attributes(machine))
        if node == seen.record or not await rewrite_node(self._store, seen, node):
            return  # nothing to change, or taken just now: then it is registered anew after use
        self._log.info("machine_updated", node_id=node.id, hostname=machine.name, slot=machine.slot)


def _described(node: Node, machine: Machine, found: Inspection) -> Node:
    """*node* as the configuration and a look at the machine have it."""
    return node.changed(
        type=machine.labels,
        username=machine.username,
        connection_type=machine.connection_type,
        python_path=machine.python_path,
        shell_type=machine.shell_type,
        host_keys=found.host_keys,
        public_ipv4=found.public_ipv4,
        public_ipv6=found.public_ipv6,
    ).with_port(machine.connection_port)
