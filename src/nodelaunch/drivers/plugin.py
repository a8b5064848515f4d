"""What a driver's package offers under its entry point. What does *not* belong here: finding it (registry.py)."""

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
    """No such driver, or it can't be imported; the message says what to do."""

    def __init__(self, message: str, *, key: str = "driver") -> None:
        super().__init__(message)
        self.key = key
        """Of the provider's keys, the one to look at."""


@dataclass(frozen=True, slots=True)
class DriverPlugin:
    """What a driver's package offers under its entry point."""

    name: str
    config_model: type[ProviderConfig]
    open: Callable[[Any, DriverContext], Driver]
    """Makes the driver of one provider from its configuration (an instance of ``config_model``); quick, no I/O.
    Raises: DriverError."""
    summary: str = ""
    version: str = ""
    """The driver's own. This and the next two are those of the driver's package where they are left out."""
    maintainer: str = ""
    licence: str = ""
    example: Mapping[str, Any] | None = None
    """A provider's mapping, without ``name`` and ``driver``, with which it works on any machine, for trying it out and
    for checks; ``{folder}`` in a text stands for a fresh directory. None: it needs what only its user has."""
    is_process: bool = False
    """Whether its drivers are in processes of their own whatever the provider's ``isolation``."""
    contract: tuple[int, int] = (1, 1)
    """First and last version of the driver contract that the driver keeps."""
    capabilities: tuple[str, ...] = ()
    """What it can do beyond what all can, where its class does not tell: ``local_processes``, for one that starts
    instances as processes in sessions of their own, which have to outlive it where it runs in a process itself."""
    needs_cluster: bool = False
    """Whether its drivers work with ``DriverContext.cluster``; in a process of their own that is the capability
    ``cluster``."""
    model_for: Callable[[Mapping[str, Any]], type[ProviderConfig]] | None = None
    """Narrows ``config_model`` to what one provider, given as its mapping, can have; not before it is checked, so its
    values may be anything. The same options make the same class. Raises: DriverNotFoundError."""
