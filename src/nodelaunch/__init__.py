"""nodelaunch: answers node requests with machines of any provider.

Importing the package starts nothing and configures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodelaunch import errors

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nodelaunch.client.nodes import NodeClient
    from nodelaunch.config.models import Config
    from nodelaunch.launcher import Launcher, config_from, load_config
    from nodelaunch.temporary import temporary_launcher
    from nodelaunch.web.client import HttpNodeClient

__all__ = [
    "Config",
    "HttpNodeClient",
    "Launcher",
    "NodeClient",
    "__version__",
    "config_from",
    "errors",
    "load_config",
    "temporary_launcher",
]

_HOMES = {
    "Config": "nodelaunch.config.models",
    "HttpNodeClient": "nodelaunch.web.client",
    "Launcher": "nodelaunch.launcher",
    "NodeClient": "nodelaunch.client.nodes",
    "config_from": "nodelaunch.launcher",
    "load_config": "nodelaunch.launcher",
    "temporary_launcher": "nodelaunch.temporary",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first asked for: a client needs no driver, an error class no store."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
