"""Plugins for drivers in separate processes."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from nodelaunch.config.models import ProviderConfig
from nodelaunch.driverhost.process.child import Command, start
from nodelaunch.driverhost.process.driver import ProcessDriver, class_with
from nodelaunch.driverhost.process.options import provider_model
from nodelaunch.driverhost.process.supervisor import Restarts
from nodelaunch.driverhost.schemas import capabilities_of
from nodelaunch.driverhost.wire.handshake import CONTRACT
from nodelaunch.driverhost.wire.messages import Identity, VersionRange
from nodelaunch.drivers.plugin import DriverNotFoundError, DriverPlugin
from nodelaunch.errors import DriverError, legible
from nodelaunch.protocol.driver import Driver, DriverContext

DESCRIBE_TIMEOUT_S = 20.0
"""Deadline for an executable to start and describe itself."""
PYTHON_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Further environment variables of a driver that runs in this Python interpreter."""


def executable_plugin(command: Command, *, versions: VersionRange = CONTRACT) -> DriverPlugin:
    """Start the driver of *command*, ask for its description, end it and return its plugin. Blocks meanwhile.

    The same description gives the same plugin object, so that an unchanged configuration compares equal when it is
    read again. Raises: DriverNotFoundError.
    """
    identity, contract = _ask(command, versions)
    return _plugin(command, versions, identity.model_dump_json(), (contract.min, contract.max))


@lru_cache(maxsize=64)
def _plugin(command: Command, versions: VersionRange, said: str, contract: tuple[int, int]) -> DriverPlugin:
    """Return the plugin of the driver whose identity is the JSON text *said*."""
    identity = Identity.model_validate_json(said)
    try:
        model = provider_model(identity.schemas)
    except Exception as error:  # an invalid schema can cause any exception
        text = f"driver {command.name}: the schemas of its options can't be used: {type(error).__name__}: {error}"
        raise DriverNotFoundError(legible(text)) from error
    plugin = DriverPlugin(
        name=command.name,
        config_model=model,
        open=partial(_open, class_with(identity.capabilities), command, versions),
        summary=identity.summary,
        version=identity.version,
        maintainer=identity.maintainer,
        licence=identity.licence,
        example=None if identity.example is None else identity.example.provider,
        is_process=True,
        contract=contract,
        capabilities=identity.capabilities,
    )
    model.made_by = plugin
    return plugin


def _open(
    kind: type[ProcessDriver], command: Command, versions: VersionRange, config: Any, context: DriverContext
) -> Driver:
    passed = replace(command, environment=(*command.environment, *config.pass_environment))
    return kind(passed, config, context, versions=versions)


def isolated(plugin: DriverPlugin, *, restarts: Restarts | None = None) -> DriverPlugin:
    """Return *plugin*, which is installed here under its name, with its drivers in separate processes."""
    command = Command(
        plugin.name, (sys.executable, "-m", "nodelaunch.sdk", plugin.name), environment=PYTHON_ENVIRONMENT
    )
    kind = class_with(capabilities_of(plugin))

    def open_(config: ProviderConfig, context: DriverContext) -> Driver:
        passed = replace(command, environment=(*command.environment, *config.pass_environment))
        return kind(passed, config, context, restarts=restarts)

    return replace(plugin, open=open_, is_process=True)


def describe(command: Command, *, versions: VersionRange = CONTRACT) -> Identity:
    """Return the driver's description of itself. Blocks; works with and without a running event loop.

    Raises: DriverNotFoundError.
    """
    return _ask(command, versions)[0]


def _ask(command: Command, versions: VersionRange) -> tuple[Identity, VersionRange]:
    """Return the driver's description and the versions of the contract that it speaks. Raises: DriverNotFoundError."""
    outcome: list[tuple[Identity, VersionRange] | DriverError] = []

    def run() -> None:
        # The thread needs its own loop: the caller has no loop, or this call blocks it.
        with asyncio.Runner() as runner:
            outcome.append(runner.run(_describe(command, versions)))

    thread = threading.Thread(target=run, name=f"describe {command.name}")
    thread.start()
    thread.join()
    if not outcome or isinstance(outcome[0], DriverError):
        raise DriverNotFoundError(str(outcome[0] if outcome else f"driver {command.name} could not be asked"))
    return outcome[0]


async def _describe(command: Command, versions: VersionRange) -> tuple[Identity, VersionRange] | DriverError:
    try:
        child = await start(command, lambda _method, _params: None, versions=versions, timeout_s=DESCRIBE_TIMEOUT_S)
    except DriverError as error:
        return error
    await child.aclose()
    return child.identity, child.contract
