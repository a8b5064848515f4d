"""Faults for the conformance kit: files in the machines' directory, so that they affect every driver process.

Only a check of the driver sets them (the capability ``faults``). What does *not* belong here: the driver's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodelaunch.errors import ErrorKind, InsufficientCapacityError, LaunchFailedError, ProviderUnavailableError
from nodelaunch.protocol.driver import BOOT_HELD, FOREIGN_INSTANCE, ExternalId, FaultOffer

from nodelaunch_loopback.machine import Site

NO_ROOM, NO_PROCESS = "no room", "no process"
OFFERS = (
    FaultOffer(NO_ROOM, "create_instance", ErrorKind.CAPACITY),
    FaultOffer(NO_PROCESS, "create_instance", ErrorKind.PERMANENT),
    FaultOffer(BOOT_HELD),
    FaultOffer(FOREIGN_INSTANCE),
)
FOREIGN = "foreign"


class Faults:
    """A part of the driver."""

    site: Site

    def fail_if(self, fault: str, external_id: ExternalId | None = None) -> None:
        """Raise the fault's error. Raises: DriverError if *fault* is set."""
        if (self.site.folder / f".fault-{fault}").exists():
            if fault == NO_ROOM:
                raise InsufficientCapacityError("there is no capacity, on purpose")
            raise LaunchFailedError("there is no process, on purpose", external_id=external_id)

    async def faults(self) -> Sequence[FaultOffer]:
        return OFFERS

    async def set_fault(self, name: str) -> ExternalId | None:
        self.site.folder.mkdir(parents=True, exist_ok=True)
        if name == FOREIGN_INSTANCE:
            return ExternalId(self.site.add(FOREIGN, {}, "127.65.0.0/24", 2222, most=1000).name)
        if name == BOOT_HELD:
            (self.site.folder / BOOT_HELD).touch()
        elif name in (NO_ROOM, NO_PROCESS):
            (self.site.folder / f".fault-{name}").touch()
        else:
            raise ProviderUnavailableError(f"there is no fault {name!r}", kind=ErrorKind.UNSUPPORTED)
        return None

    async def clear_fault(self, name: str) -> None:
        file = BOOT_HELD if name == BOOT_HELD else f".fault-{name}"
        (self.site.folder / file).unlink(missing_ok=True)
        for machine in list(self.site.machines()) if name == FOREIGN_INSTANCE else ():
            if machine.name.startswith(f"{FOREIGN}-"):
                await self.site.remove(machine.name)

    async def cloud_resources(self) -> Mapping[str, str | None]:
        """Directories, half-made and half-removed ones included, and the processes that run in them."""
        found: dict[str, str | None] = {}
        for folder in self.site.folder.iterdir() if self.site.folder.exists() else ():
            if folder.is_dir():
                name = folder.name.removeprefix(".new-").removeprefix(".gone-")
                found[folder.name] = name
                machine = self.site.machine(folder.name)
                if machine is not None and machine.pid is not None:
                    found[f"process {machine.pid}"] = name
        return found
