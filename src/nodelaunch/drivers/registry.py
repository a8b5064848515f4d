"""Drivers by name: found by entry point or as an executable, imported or started only when a provider names them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from nodelaunch.config.models import ProviderConfig
from nodelaunch.driverhost.wire import SPOKEN
from nodelaunch.driverhost.wire.versions import Spoken, VersionMismatchError, choose_version
from nodelaunch.drivers.plugin import ENTRY_POINT_GROUP, OWN_PACKAGE, DriverNotFoundError, DriverPlugin
from nodelaunch.protocol.driver import Driver, DriverContext


class DriverRegistry:
    """The installed drivers and the given plugins; a given plugin takes precedence over an installed driver."""

    def __init__(self, plugins: Iterable[DriverPlugin] = ()) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._installed: dict[str, EntryPoint] | None = None

    @property
    def names(self) -> list[str]:
        """All names, sorted; found without an import."""
        return sorted({*self._plugins, *self.entry_points})

    @property
    def entry_points(self) -> Mapping[str, EntryPoint]:
        """Entry points of installed packages by name; found without an import."""
        if self._installed is None:
            self._installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        return self._installed

    def get(self, name: str) -> DriverPlugin:
        """Return the driver called *name*, which may be the path of an executable. Raises: DriverNotFoundError.

        The first call for an executable starts it and asks for its description, which may take a moment.
        """
        if name not in self._plugins:
            self._plugins[name] = self._load(name)
        return self._plugins[name]

    def open(self, config: ProviderConfig, context: DriverContext) -> Driver:
        """Make the driver of one provider, in this process or in a separate one.

        The call is quick, because an executable was asked when the configuration was read.
        Raises: DriverError, DriverNotFoundError.
        """
        asked = getattr(type(config), "made_by", None)
        plugin = asked if isinstance(asked, DriverPlugin) else self.get(config.driver)
        if config.isolation == "process" and not plugin.is_process:
            from nodelaunch.driverhost.process.plugin import isolated

            plugin = isolated(plugin)
        return plugin.open(config, context)

    def unknown(self, name: str) -> DriverNotFoundError:
        """Return the error for an unknown driver *name*."""
        if "/" in name:
            return DriverNotFoundError(f"{_no_executable(name)}; or name an installed driver: {', '.join(self.names)}")
        close = difflib.get_close_matches(name, self.names, n=1, cutoff=0.8)
        hint = f"did you mean {close[0]!r}? " if close else ""
        sought = f"no executable nodelaunch-driver-{name} is on the PATH"
        return DriverNotFoundError(f"unknown driver {name!r}; {hint}installed: {', '.join(self.names)}; {sought}")

    def _load(self, name: str) -> DriverPlugin:
        point = self.entry_points.get(name)
        if point is None:
            if (found := _executable(name)) is not None:
                return found
            raise self.unknown(name)
        plugin = _imported(point)
        _check_contract(plugin)
        return plugin


def _no_executable(name: str) -> str:
    """Return the fault of a driver's path, and what to write instead."""
    path = Path(name).expanduser()
    if not path.is_absolute() and not path.exists():
        here = Path.cwd()
        return f"unknown driver {name!r}: there is no such file in {here}; write the whole path of its executable"
    if not path.exists():
        return f"unknown driver {name!r}: there is no such file; write the path of its executable"
    if path.is_dir():
        return f"unknown driver {name!r}: it is a folder; write the path of its executable"
    return f"unknown driver {name!r}: this user may not execute the file; correct that with chmod +x"


def _imported(point: EntryPoint) -> DriverPlugin:
    """Return the plugin of an entry point. Every failure becomes a DriverNotFoundError: it concerns one driver only."""
    name = point.name
    try:
        plugin = point.load()
    except ImportError as error:
        missing = error.name or str(error)
        remedy = f"try: pip install {_remedy(point, missing)}"
        raise DriverNotFoundError(
            f"driver {name!r} needs a library that is not installed ({missing}); {remedy}"
        ) from None
    except AttributeError:
        raise DriverNotFoundError(f"driver {name!r}: there is no {point.value}") from None
    except Exception as error:  # the driver's code may raise any exception
        raise DriverNotFoundError(f"driver {name!r} can't be imported: {type(error).__name__}: {error}") from error
    if not isinstance(plugin, DriverPlugin):
        raise DriverNotFoundError(f"driver {name!r}: entry point {point.value} is no DriverPlugin")
    if point.dist is None or point.dist.name == OWN_PACKAGE:
        return plugin
    from nodelaunch.driverhost.packaged import completed

    return completed(plugin, point.dist)


def _remedy(point: EntryPoint, missing: str) -> str:
    """Return the package to install for the library *missing*: the extra of the driver's package, if it names one."""
    package = point.dist.name if point.dist is not None else OWN_PACKAGE
    if point.extras or package == OWN_PACKAGE:
        return f"'{package}[{point.extras[0] if point.extras else point.name}]'"
    return missing.partition(".")[0]


def _check_contract(plugin: DriverPlugin) -> None:
    """Raise DriverNotFoundError if the driver supports no version of the contract that nodelaunch supports."""
    try:
        choose_version(Spoken(*SPOKEN), Spoken(*plugin.contract), driver=plugin.name)
    except VersionMismatchError as error:
        raise DriverNotFoundError(str(error)) from None


def _executable(name: str) -> DriverPlugin | None:
    """Return the driver of the executable *name*, or None. Raises: DriverNotFoundError if it is not a driver."""
    from nodelaunch.driverhost.executables import find_executable
    from nodelaunch.driverhost.process.plugin import executable_plugin

    command = find_executable(name)
    return None if command is None else executable_plugin(command)
