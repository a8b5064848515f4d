"""Watches the hosts of one provider whose machines exist already: checks them, and withholds failing ones.

Each process has one watch per provider. A host that fails a check, or does not answer when it is handed out, is not
handed out by this process before a good check; `Quarantine` sets the pauses between checks. State is in memory: after a
restart every host is checked once more. engine/supply/inventory.py has the node records, and decisions/quarantine.py
the rules.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from operator import itemgetter
from typing import Any

from nodelaunch.decisions.quarantine import (
    Cause,
    Change,
    Doubted,
    Guard,
    GuardChanged,
    Host,
    Quarantine,
    Quarantined,
    Returned,
)
from nodelaunch.engine.view import ClusterView
from nodelaunch.errors import DriverError, ErrorKind
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.driver import Driver, Inspection, Machine, SupportsInventory
from nodelaunch.protocol.records import Node
from nodelaunch.protocol.soundness import sound_inspection, sound_machine
from nodelaunch.protocol.verdicts import MachineAway, MachinesFailTogether, MoreMachinesAway, Reason

log: Logger = get_logger(__name__)

NOT_ANSWERED = "it did not answer when it was to be handed out"
SLACK_S = 0.001
"""Seconds added to the time of a check: a timer of the loop may be early by the resolution of its clock."""
LEARN_AGAIN_S = 1.0
"""Seconds until the next try after the driver could not list its machines."""
MOST_TOLD = 5
"""Hosts that one answer names at most."""


class HostWatch:
    """Watches the hosts of one provider. `run` it; `renew` it when the configuration has changed.

    Invariants: the view hides the idle nodes of exactly the failing hosts; a host is in ``_looking`` while it is being
    checked.
    """

    def __init__(
        self,
        provider: str,
        view: ClusterView,
        using: Callable[[], AbstractAsyncContextManager[Driver]],
        guard: Guard,
    ) -> None:
        """*using*: keeps the driver from being closed meanwhile. *guard*: counts the hosts of all providers."""
        self.on_found: Callable[[Host, Inspection], None] | None = None
        """Called with each good check."""
        self.on_out: Callable[[Host], None] | None = None
        """Called with each host that goes into quarantine."""
        self.listeners: list[Callable[[str], None]] = []
        """Called with the name of a pool that may have more nodes to hand out."""
        self._provider = provider
        self._view = view
        self._using = using
        self._quarantine = Quarantine(provider, [guard])
        self._machines: dict[Host, list[Machine]] = {}
        """The slots of each host."""
        self._is_guarded = False
        """The last value reported."""
        self._generation = 0
        self._is_stale = True
        """True if ``_machines`` may be those of another configuration."""
        self._looking: set[Host] = set()
        self._wanted: dict[Host, None] = {}
        """Hosts to be checked that have not failed."""
        self._wake = asyncio.Event()
        self._log = log.bind(provider=provider)

    def is_out(self, host: Host) -> bool:
        """Return True if the host is in quarantine."""
        return self._quarantine.is_out(host)

    # -- changes ----------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Handle a new configuration: failed hosts are checked at once, as they are configured now."""
        self._generation += 1
        self._is_stale = True
        self._wake.set()

    def want(self, host: Host) -> None:
        """Check *host*: now, or when it is due if it failed before."""
        if host not in self._quarantine.failing and host not in self._looking:
            self._wanted[host] = None
            self._wake.set()

    def slots_of(self, host: Host) -> Sequence[Machine]:
        return self._machines.get(host, ())

    def handed_out(self, machine: Machine) -> None:
        """Note that the machine answered when it was to be handed out."""
        self._quarantine.handed_out(host_of(machine))

    def not_handed_out(self, machine: Machine, detail: str = NOT_ANSWERED) -> bool:
        """Note that the machine did not answer when it was to be handed out. Return True if it is watched, so that it
        is not offered again."""
        host = host_of(machine)
        self._note(self._quarantine.not_handed_out(host, detail, self._now(), _chance()))
        return host in self._machines

    # -- looking ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Check hosts when they are due, until cancelled."""
        self._view.idle.hide(self._provider, self._is_hidden)
        self.renew()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    if self._is_stale:
                        await self._learn()
                    for host in self._take_due():
                        self._looking.add(host)
                        group.create_task(self._look(host), name=f"look at {host[0]}")
                    await self._sleep()
        finally:
            self._view.idle.hide(self._provider, None)
            failing = list(self._quarantine.failing)
            self._quarantine.expect((), self._now())
            self._looking.clear()
            self._look_at_nodes(failing)

    async def _learn(self) -> None:
        """Read the machines as they are configured now; later if the driver does not know them yet."""
        try:
            async with self._using() as driver:
                if not isinstance(driver, SupportsInventory):
                    raise TypeError(f"provider {self._provider} has no inventory")
                machines = [sound_machine(machine) for machine in driver.machines()]
        except DriverError:
            return
        self._is_stale = False
        self._machines = {}
        for machine in machines:
            self._machines.setdefault(host_of(machine), []).append(machine)
        failing = list(self._quarantine.failing)
        self._note(self._quarantine.expect(self._machines, self._now()))
        self._look_at_nodes(failing)

    def _take_due(self) -> list[Host]:
        """Remove and return the hosts to be checked now, each once. Wanted hosts wait until the configured hosts are
        known."""
        wanted: dict[Host, None] = {}
        if not self._is_stale:
            wanted, self._wanted = self._wanted, {}
        due = dict.fromkeys([*wanted, *self._quarantine.take_due(self._now())])
        return [host for host in due if host in self._machines and host not in self._looking]

    async def _sleep(self) -> None:
        due = self._quarantine.next_look
        times = [] if due is None else [due + SLACK_S]
        if self._is_stale:
            times.append(self._now() + LEARN_AGAIN_S)
        try:
            async with asyncio.timeout_at(min(times, default=None)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _look(self, host: Host) -> None:
        """Check *host*, and again if the configuration changed meanwhile."""
        try:
            generation = -1
            found: Inspection | Exception = Inspection()
            while generation != self._generation and host in self._machines:
                generation = self._generation
                found = await self._inspect(self._machines[host][0])
        finally:
            self._looking.discard(host)
        if isinstance(found, Exception):
            is_wrong_key = isinstance(found, DriverError) and found.kind is ErrorKind.AUTH
            cause = Cause.WRONG_KEY if is_wrong_key else Cause.UNREACHABLE
            detail = str(found) or type(found).__name__
            self._note(self._quarantine.failed(host, cause, detail, self._now(), _chance()))
        elif host in self._machines:
            self._note(self._quarantine.well(host, self._now()))
            if self.on_found is not None:
                self.on_found(host, found)
        self._wake.set()

    async def _inspect(self, machine: Machine) -> Inspection | Exception:
        try:
            async with self._using() as driver:
                if not isinstance(driver, SupportsInventory):
                    raise TypeError(f"provider {self._provider} has no inventory")
                return sound_inspection(await driver.inspect(machine))
        except (DriverError, TimeoutError) as error:
            return error
        except Exception as error:  # noqa: BLE001  the top of a look
            self._log.exception("look_failed", hostname=machine.name)
            return error

    # -- what follows -----------------------------------------------------------------------------------------------

    def _note(self, changes: Sequence[Change]) -> None:
        for change in changes:
            match change:
                case Doubted(host):
                    self._look_at_nodes([host])
                    if not self.is_out(host):
                        self._report("machine_unusable", host)
                case Quarantined(host, is_other_cause):
                    self._report("machine_quarantine_changed" if is_other_cause else "machine_quarantined", host)
                    if self.on_out is not None:
                        self.on_out(host)
                case Returned(host, was_out, after_s):
                    self._look_at_nodes([host])
                    name, username, port = host
                    self._log.info(
                        "machine_returned", hostname=name, username=username, port=port,
                        was_quarantined=was_out, after_s=round(after_s, 1),
                    )  # fmt: skip
                case GuardChanged():
                    pass
        if changes:
            self._report_guard()
            self._wake.set()

    def _report(self, event: str, host: Host) -> None:
        known = self._quarantine.failing[host]
        name, username, port = host
        self._log.warning(
            event, hostname=name, username=username, port=port, cause=known.cause.value, detail=known.detail,
            retry_in_s=round(known.next_look - self._now(), 1),
        )  # fmt: skip

    def _report_guard(self) -> None:
        """Log a change of the guard, once for the guards of this provider and of all providers."""
        guarded = self._quarantine.guarded
        if (guarded is not None) is self._is_guarded:
            return
        self._is_guarded = guarded is not None
        if guarded is not None:
            detail = "the fault is probably at this launcher: registered nodes stay registered"
            figures = {"unreachable": guarded.unreachable, "machines": guarded.hosts}
            self._log.warning("machines_fail_together", detail=detail, **figures)
        else:
            self._log.info("machines_fail_alone", failing=len(self._quarantine.failing))

    def _is_hidden(self, node: Node) -> bool:
        return bool(self._quarantine.failing) and host_of(machine_of(node)) in self._quarantine.failing

    def _look_at_nodes(self, hosts: Iterable[Host]) -> None:
        """Hide the nodes of *hosts*, or show them again."""
        pools = set()
        for host in hosts:
            for node_id in self._view.nodes_with(self._provider, host[0]):
                seen = self._view.nodes[node_id]
                if seen.record.is_idle and self._view.idle.look_again(seen):
                    pools.add(seen.record.pool or "")
        for pool in pools:
            for listener in self.listeners:
                listener(pool)

    # -- explaining -------------------------------------------------------------------------------------------------

    def reasons(self, pool: str, label: str) -> list[Reason]:
        """Return the reasons why machines of *pool* with *label* are not handed out; the machine that is away longest
        is first."""
        failing = self._quarantine.failing.items()
        away = sorted(
            ((known.since, host, known) for host, known in failing if self._has(host, pool, label)),
            key=itemgetter(0, 1),
        )
        if not away:
            return []
        now = self._now()
        found: list[Reason] = [
            MachineAway(
                label=label,
                hostname=host[0],
                username=host[1],
                port=host[2],
                is_quarantined=known.is_out,
                cause=known.cause.value,
                detail=known.detail,
                for_s=round(now - since),
                next_look_s=max(0, round(known.next_look - now)),
            )
            for since, host, known in away[:MOST_TOLD]
        ]
        if len(away) > MOST_TOLD:
            found.append(MoreMachinesAway(label, len(away) - MOST_TOLD))
        if (guarded := self._quarantine.guarded) is not None:
            found.append(MachinesFailTogether(guarded.unreachable, guarded.hosts))
        return found

    def _has(self, host: Host, pool: str, label: str) -> bool:
        machine = self._machines[host][0]
        return machine.pool == pool and label in machine.labels

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _chance() -> float:
    return random.random()  # noqa: S311


def host_of(machine: Machine) -> Host:
    return (machine.name, machine.username, machine.connection_port)


def machine_of(node: Node) -> Machine:
    """Return the machine slot that a static node's record stands for."""
    port: Any = node.connection_port
    return Machine(
        pool=node.pool or "",
        name=node.hostname or node.interface_ip or "",
        labels=node.type,
        slot=node.slot or 0,
        username=node.username,
        connection_port=port if isinstance(port, int) else 22,
        connection_type=node.connection_type or "ssh",
        python_path=node.python_path,
        shell_type=node.shell_type,
    )
