"""Keeps one ready node registered for each slot of machines that exist without being launched.

Each slot has one writer: this coroutine. It registers missing nodes, updates free records in place, deregisters slots
that are not configured any more, in quarantine or being drained, and registers a slot again right after its used record
was deleted. engine/provider/hostwatch.py checks the machines. Source: Nodepool 11, static driver, for the records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nodelaunch.backoff import Backoff
from nodelaunch.clock import Clock
from nodelaunch.decisions.quarantine import Host
from nodelaunch.engine.nodelocks import discard_node, rewrite_node
from nodelaunch.engine.provider.hostwatch import HostWatch, machine_of
from nodelaunch.engine.provider.runtime import ProviderRuntime
from nodelaunch.engine.supply.standby import turn_at
from nodelaunch.engine.view import (
    ClusterView,
    NodeRemoved,
    NodeSeen,
    NodeUnlocked,
    PausesChanged,
    PoolsChanged,
    Versioned,
    ViewEvent,
    ViewSynced,
)
from nodelaunch.errors import LockLostError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.driver import Inspection, Machine, SupportsInventory
from nodelaunch.protocol.paths import NodeId
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.soundness import sound_machine
from nodelaunch.protocol.states import NodeState
from nodelaunch.protocol.store import Lock, SessionState, Store

log: Logger = get_logger(__name__)

LAUNCHER = "static driver"
"""The launcher in the records, in place of a pool's id. Source: Nodepool 11."""
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0
"""Seconds of pause after a record could not be written; the pause doubles each time."""

Identity = tuple[str, str | None, int, int]


class Withheld:
    """The machines of a provider that must not be registered."""

    def __init__(self, view: ClusterView, provider: ProviderRuntime) -> None:
        self.is_all = False
        """True if no machine may be registered, because the provider is not configured any more."""
        self.pools: frozenset[str] = frozenset()
        """Pools that an operator drains, as of the last `look`."""
        self._view = view
        self._provider = provider

    def look(self) -> bool:
        """Read which pools are drained now. Return True if that changed."""
        name, before = self._provider.name, self.pools
        pools = (pool.name for pool in self._provider.config.pools)
        self.pools = frozenset(pool for pool in pools if self._view.is_draining(name, pool))
        return self.pools != before


class Inventory:
    """The inventory of one provider whose driver has machines instead of launching. `run` it.

    Invariants, while it keeps the records: ``_recorded`` has each node of the provider under the slot its record names,
    and no slot without any; a slot is in ``_doubtful`` from when it changes until it is compared, and so are all slots
    of a host that was checked.
    """

    def __init__(
        self, store: Store, view: ClusterView, clock: Clock, provider: ProviderRuntime, hosts: HostWatch
    ) -> None:
        self._store = store
        self._view = view
        self._clock = clock
        self._provider = provider
        self._hosts = hosts
        self._withheld = Withheld(view, provider)
        self._wake = asyncio.Event()
        self._machines: dict[Identity, Machine] | None = None
        """The machines as configured; None: they have to be read, and all slots compared."""
        self._found: dict[Host, Inspection] = {}
        """Results of good checks that are not used yet."""
        self._recorded: dict[Identity, set[NodeId]] = {}
        self._doubtful: dict[Identity, None] = {}
        """Slots to be compared, in order."""
        self._under_way: set[tuple[Identity, NodeId | None]] = set()
        """Slots that are being registered or updated, and records of slots that are being deregistered."""
        self._backoff: Backoff[tuple[Identity, NodeId | None]] = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        self._looked_at: dict[NodeId, int] = {}
        """Versions of records that were compared with their machine; each is compared once, so that restarts detect
        changed host keys."""
        self._log = log.bind(provider=provider.name)

    @property
    def _driver(self) -> SupportsInventory:
        driver = self._provider.driver
        if not isinstance(driver, SupportsInventory):
            raise TypeError(f"provider {self._provider.name} has no inventory")
        return driver

    def renew(self) -> None:
        """Compare every record with a new configuration."""
        self._withheld.is_all = False
        self._looked_at.clear()
        self._look_at_all()
        self._hosts.renew()

    def stop(self) -> None:
        """Stop registering: the provider is not configured any more."""
        self._withheld.is_all = True

    async def run(self) -> None:
        """Keep the records in sync with the machines until cancelled. Of several launchers with the same machines, only
        one does this. Raises: LockLostError, to be run again; StoreError."""
        try:
            lock = await turn_at(self._store, self._view, self._clock, self._provider.name, self._hosts)
            self._hosts.on_found, self._hosts.on_out = self._on_found, self._on_out
            try:
                await self._keep(lock)
            finally:
                await lock.release()
        finally:
            self._hosts.on_found = self._hosts.on_out = None

    async def _keep(self, lock: Lock) -> None:
        def on_rare_event(event: ViewEvent) -> None:
            if self._withheld.look() or isinstance(event, ViewSynced):
                self._look_at_all()

        stops = [
            self._view.subscribe_to_provider(self._provider.name, self._on_node),
            self._view.subscribe(on_rare_event, ViewSynced, PausesChanged, PoolsChanged),
            lock.on_lost(self._wake.set),
        ]
        self._withheld.look()
        self._look_at_all()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    if not lock.is_held:
                        raise LockLostError(lock.path)
                    is_able = self._view.is_synced and self._store.session.state is SessionState.CONNECTED
                    if is_able and not self._withheld.is_all:
                        self._compare(group)
        finally:
            for stop in stops:
                stop()

    # -- knowing ----------------------------------------------------------------------------------------------------

    def _attributes(self, machine: Machine) -> dict[str, Any] | None:
        pool = next((pool for pool in self._provider.config.pools if pool.name == machine.pool), None)
        return dict(pool.node_attributes) if pool is not None and pool.node_attributes is not None else None

    def _look_at_all(self) -> None:
        """Compare every slot: machines or records may have changed without an event."""
        self._machines = None
        self._found.clear()
        self._wake.set()

    def _on_node(self, event: NodeSeen | NodeRemoved | NodeUnlocked) -> None:
        if self._machines is None:
            return  # all are compared anyway
        if isinstance(event, NodeRemoved):
            self._looked_at.pop(event.id, None)
            self._unlist(event.id, event.node)
        elif isinstance(event, NodeSeen):
            if event.old is not None and event.old.provider == self._provider.name:
                self._unlist(event.id, event.old)
            self._list(event.id)
        else:
            self._doubt(identity_of(self._view.nodes[event.id].record))

    def _on_found(self, host: Host, found: Inspection) -> None:
        self._found[host] = found
        self._on_out(host)

    def _on_out(self, host: Host) -> None:
        for machine in self._hosts.slots_of(host):
            self._doubt(machine.identity)

    def _list(self, node_id: NodeId) -> None:
        node = self._view.nodes[node_id].record
        if node.provider == self._provider.name:
            identity = identity_of(node)
            self._recorded.setdefault(identity, set()).add(node_id)
            self._doubt(identity)

    def _unlist(self, node_id: NodeId, old: Node) -> None:
        identity = identity_of(old)
        known = self._recorded.get(identity)
        if known is not None:
            known.discard(node_id)
            if not known:
                del self._recorded[identity]
        self._doubt(identity)

    def _doubt(self, identity: Identity) -> None:
        self._doubtful[identity] = None
        self._wake.set()

    def _learn(self) -> dict[Identity, Machine]:
        """Return the machines; if they have to be read again, all slots become doubtful. Raises: DriverError."""
        if self._machines is None:
            self._machines = {each.identity: each for each in map(sound_machine, self._driver.machines())}
            self._recorded.clear()
            nodes = self._view.nodes_of(self._provider.name)
            self._looked_at = {s.record.id: s.version for s in nodes if self._was_looked_at(s)}
            self._doubtful = dict.fromkeys(self._machines)
            for seen in nodes:
                self._list(seen.record.id)
        return self._machines

    # -- comparing --------------------------------------------------------------------------------------------------

    def _compare(self, group: asyncio.TaskGroup) -> None:
        """Start the work for each doubtful slot that is not as configured."""
        machines = self._learn()
        doubtful, self._doubtful = self._doubtful, {}
        found, self._found = self._found, {}
        for identity in doubtful:
            machine = machines.get(identity)
            if machine is not None and machine.pool in self._withheld.pools:
                machine = None
            self._compare_slot(group, identity, machine, found.get(identity[:3]))

    def _compare_slot(
        self, group: asyncio.TaskGroup, identity: Identity, machine: Machine | None, found: Inspection | None
    ) -> None:
        """*found*: the result of the host's check, if it was just checked; otherwise the host is checked if that
        matters."""
        records = [self._view.nodes[node_id] for node_id in sorted(self._recorded.get(identity, ()))]
        is_offered = machine is not None and not self._hosts.is_out(identity[:3])
        kept = self._kept(records) if records and is_offered else None
        is_new = not records and machine is not None
        is_doubtful = kept is not None and self._is_free(kept) and not self._was_looked_at(kept)
        if (identity, None) in self._under_way:
            pass  # compared again when that is done
        elif found is None and (is_new or is_doubtful):
            self._hosts.want(identity[:3])
        elif found is not None and machine is not None and is_new:
            self._begin(group, (identity, None), self._register, machine, found)
        elif found is not None and machine is not None and is_doubtful and kept is not None:
            self._looked_at[kept.record.id] = kept.version
            self._begin(group, (identity, None), self._update, kept, machine, found)
        for seen in records:
            if seen is not kept and self._is_free(seen):  # a record in use is compared again when it is free
                self._begin(group, (identity, seen.record.id), self._deregister, seen)

    @staticmethod
    def _kept(records: list[Versioned[Node]]) -> Versioned[Node]:
        """Return the record to keep if one slot has several: the one in use, else the oldest."""
        return min(records, key=lambda seen: (seen.record.is_idle, seen.record.id))

    def _begin(
        self,
        group: asyncio.TaskGroup,
        key: tuple[Identity, NodeId | None],
        work: Callable[..., Awaitable[None]],
        *args: Any,
    ) -> None:
        if key not in self._under_way:
            self._under_way.add(key)
            group.create_task(self._guarded(key, work, *args), name=f"slot {key[0][0]}")

    async def _guarded(
        self, key: tuple[Identity, NodeId | None], work: Callable[..., Awaitable[None]], *args: Any
    ) -> None:
        identity = key[0]
        try:
            await work(*args)
            self._backoff.succeeded(key)
        except StoreError as error:
            delay = self._backoff.failed(key, asyncio.get_running_loop().time())
            self._log.info("slot_write_failed", hostname=identity[0], detail=str(error), retry_in_s=delay)
            await asyncio.sleep(delay)
        except Exception:  # noqa: BLE001  the top of a slot's task
            self._log.exception("slot_failed", hostname=identity[0])
        finally:
            self._under_way.discard(key)
            self._doubt(identity)

    # -- registering ------------------------------------------------------------------------------------------------

    async def _register(self, machine: Machine, found: Inspection) -> None:
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
        self._looked_at[paths.node_id_at(entry.path) or NodeId("")] = entry.stat.version
        self._log.info(
            "machine_registered", node_id=paths.node_id_at(entry.path), hostname=machine.name, slot=machine.slot
        )

    async def _deregister(self, seen: Versioned[Node]) -> None:
        """Delete a free record of an unwanted slot; a record in use is deleted after its use."""
        if await discard_node(self._store, self._view, seen, self._clock):
            self._log.info("machine_deregistered", node_id=seen.record.id, hostname=seen.record.hostname)

    # -- updating in place ------------------------------------------------------------------------------------------

    def _was_looked_at(self, seen: Versioned[Node]) -> bool:
        """Return True if this version of the record was compared with its machine."""
        return self._looked_at.get(seen.record.id) == seen.version

    def _is_free(self, seen: Versioned[Node]) -> bool:
        """Return True if the record is unlocked and unallocated; one in use is compared again when it is free."""
        return seen.record.is_idle and not self._view.is_node_locked(seen.record.id)

    async def _update(self, seen: Versioned[Node], machine: Machine, found: Inspection) -> None:
        node = _described(seen.record.changed(pool=machine.pool), machine, found)
        node = node.changed(attributes=self._attributes(machine))
        if node == seen.record or not await rewrite_node(self._store, seen, node):
            return  # nothing to change, or taken just now: then it is registered again after use
        self._log.info("machine_updated", node_id=node.id, hostname=machine.name, slot=machine.slot)


def identity_of(node: Node) -> Identity:
    """Return the slot that a static node's record stands for."""
    return machine_of(node).identity


def _described(node: Node, machine: Machine, found: Inspection) -> Node:
    """Return *node* as the configuration and a check of the machine describe it."""
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
