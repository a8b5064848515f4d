"""Answers of Nodepool's own classes, where its commands give none; run with Nodepool's Python.

nodepool_peer.py components CONFIG print what Nodepool's component registry sees, as JSON nodepool_peer.py validate
FILE... print which configurations ``nodepool config-validate`` refuses, as JSON nodepool_peer.py launcher ...
nodepool-launcher, but with a clean-up each second

What does *not* belong here: anything of nodelaunch.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from nodepool import config as nodepool_config
from nodepool import launcher
from nodepool.cmd import launcher as launcher_command
from nodepool.cmd.config_validator import ConfigValidator
from nodepool.zk import ZooKeeperClient
from nodepool.zk.components import COMPONENT_REGISTRY
from nodepool.zk.zookeeper import ZooKeeper


class Complaints(logging.Handler):
    """Errors that Nodepool logs rather than raises."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def connect(path: Path) -> tuple[ZooKeeperClient, ZooKeeper]:
    config = nodepool_config.loadConfig(path)
    client = ZooKeeperClient(
        config.zookeeper_servers,
        tls_cert=config.zookeeper_tls_cert,
        tls_key=config.zookeeper_tls_key,
        tls_ca=config.zookeeper_tls_ca,
        timeout=config.zookeeper_timeout,
    )
    client.connect()
    return client, ZooKeeper(client, enable_cache=False)


def components() -> Any:
    """Return Nodepool's components by kind, as its processes see them."""
    found = {kind: list(COMPONENT_REGISTRY.registry.all(kind)) for kind in ("launcher", "pool", "builder")}
    return {
        "model_api": COMPONENT_REGISTRY.model_api,
        **{kind: [dict(each.content) for each in some] for kind, some in found.items()},
    }


def print_components(config: Path) -> None:
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    client, _store = connect(config)
    try:
        print(json.dumps({"complaints": complaints.texts, **components()}))  # noqa: T201
    finally:
        client.disconnect()


def is_refused(config: Path) -> bool:
    """Nodepool's validator says so by its result or by an exception."""
    try:
        return bool(ConfigValidator(config).validate())
    except Exception:
        return True


def print_refused(configs: list[Path]) -> None:
    logging.disable(logging.CRITICAL)
    print(json.dumps({"refused": [str(config) for config in configs if is_refused(config)]}))  # noqa: T201


class QuickNodePool(launcher.NodePool):
    """Nodepool's class with the interval that Nodepool's own tests shorten in the same way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cleanup_interval = 1.0


def run_quick_launcher() -> None:
    launcher.NodePool = QuickNodePool
    launcher_command.main()


if __name__ == "__main__":
    question, *rest = sys.argv[1:]
    match question:
        case "components":
            print_components(Path(rest[0]))
        case "validate":
            print_refused([Path(name) for name in rest])
        case "launcher":
            sys.argv[1:] = rest
            run_quick_launcher()
