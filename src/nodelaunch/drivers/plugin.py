"""The plugin of a driver: the object that its package offers under the entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nodelaunch.config.models import ProviderConfig
from nodelaunch.errors import NodelaunchError
from nodelaunch.protocol.driver import Driver, DriverContext

ENTRY_POINT_GROUP = "nodelaunch.drivers"
OWN_PACKAGE = "nodelaunch"


class DriverNotFoundError(NodelaunchError):
    """The driver does not exist or can't be imported; the message says what to do."""

    def __init__(self, message: str, *, key: str = "driver") -> None:
        super().__init__(message)
        self.key = key
        """Key of the provider that has the mistake."""


@dataclass(frozen=True, slots=True)
class DriverPlugin:
    """The plugin of a driver, which its package offers under the entry point."""

    name: str
    config_model: type[ProviderConfig]
    open: Callable[[Any, DriverContext], Driver]
    """Makes the driver of one provider from its configuration, an instance of ``config_model``, without I/O.
    Raises: DriverError."""
    summary: str = ""
    version: str = ""
    """The driver's version. The metadata of the package supplies version, maintainer and licence by default."""
    maintainer: str = ""
    licence: str = ""
    example: Mapping[str, Any] | None = None
    """A provider's mapping, without ``name`` and ``driver``, that works on any machine, for trials and checks.
    ``{folder}`` in a text stands for a new directory. None: every configuration needs data of its user."""
    is_process: bool = False
    """True if its drivers always run in separate processes, regardless of the provider's ``isolation``."""
    contract: tuple[int, int] = (1, 1)
    """First and last version of the driver contract that the driver keeps."""
    capabilities: tuple[str, ...] = ()
    """Capabilities that the driver's class does not show: ``local_processes`` is for a driver whose instances are
    processes in their own sessions, which have to outlive a driver process."""
    needs_cluster: bool = False
    """True if its drivers use ``DriverContext.cluster``; in a separate process this is the capability ``cluster``."""
    model_for: Callable[[Mapping[str, Any]], type[ProviderConfig]] | None = None
    """Narrows ``config_model`` to the options of one provider, given as its mapping. The mapping is not validated yet,
    so its values may have any type. The same options give the same class. Raises: DriverNotFoundError."""
