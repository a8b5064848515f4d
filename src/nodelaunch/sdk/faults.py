"""The capability ``faults`` for a driver in Python: ways to break its cloud, for the conformance kit.

    class MyDriver(FileFaults):
        offers = (FaultOffer("cloud is full", "create_instance", ErrorKind.CAPACITY), FaultOffer(BOOT_HELD))

        def __init__(self, config, context):
            self.fault_folder = config.state_dir / "faults"

        async def create_instance(self, spec):
            self.fail_if_broken("create_instance")
            ...

Each fault that is set is a file, so it affects every process with the same folder, and outlives each process. A
launcher never sets faults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from nodelaunch.errors import DriverError, ErrorKind
from nodelaunch.protocol.driver import FOREIGN_INSTANCE, ExternalId, FaultOffer
from nodelaunch.protocol.faults import Fault, error_of


class FileFaults:
    """A base class of a driver. Name the faults in ``offers``, and set ``fault_folder`` before the first call."""

    offers: ClassVar[Sequence[FaultOffer]] = ()
    fault_folder: Path
    """A folder for faults only, created if missing; the same for all drivers with the same configuration."""

    def is_set(self, name: str) -> bool:
        """Return True if the fault *name* is set."""
        return self._file(name).exists()

    def fail_if_broken(self, call: str, external_id: ExternalId | None = None) -> None:
        """Raise the DriverError of a fault that is set for *call*. The driver calls this where a cloud would fail.

        *external_id* is the id of an instance that the call has made.
        """
        for offer in self.offers:
            if offer.call == call and offer.kind is not None and self.is_set(offer.name):
                raise error_of(
                    Fault(
                        offer.kind, f"{offer.name}, on purpose", external_id=external_id,
                        retry_after_s=offer.retry_after_s, may_exist=external_id is not None,
                    )
                )  # fmt: skip

    async def add_foreign_instance(self) -> ExternalId:
        """Make an instance without metadata, as another user would. Needed if `FOREIGN_INSTANCE` is offered."""
        raise NotImplementedError

    async def cloud_resources(self) -> Mapping[str, str | None]:
        """Return all resources according to the cloud itself, each with the id of its instance."""
        raise NotImplementedError

    # -- the kit's calls --------------------------------------------------------------------------------------------

    async def faults(self) -> Sequence[FaultOffer]:
        return self.offers

    async def set_fault(self, name: str) -> ExternalId | None:
        if name not in {offer.name for offer in self.offers}:
            raise DriverError(f"there is no fault {name!r}", kind=ErrorKind.UNSUPPORTED)
        made = await self.add_foreign_instance() if name == FOREIGN_INSTANCE else None
        self.fault_folder.mkdir(parents=True, exist_ok=True)
        self._file(name).write_text(made or "")
        return made

    async def clear_fault(self, name: str) -> None:
        file = self._file(name)
        if name == FOREIGN_INSTANCE and file.exists():
            await self.delete_instance(ExternalId(file.read_text()))
        file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.fault_folder / f"{name.replace('/', '-')}.fault"

    async def delete_instance(self, external_id: ExternalId) -> None:
        """Delete an instance; the driver's class implements it."""
        raise NotImplementedError
