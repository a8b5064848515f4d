"""What is asked of Nodepool's own classes rather than of its commands; run with Nodepool's Python, prints JSON.

    nodepool_peer.py CONFIG components    what Nodepool's component registry sees

What does *not* belong here: anything of nodelaunch.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from nodepool import config as nodepool_config
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
    """By kind, as Nodepool's processes decide by them."""
    found = {kind: list(COMPONENT_REGISTRY.registry.all(kind)) for kind in ("launcher", "pool", "builder")}
    return {
        "model_api": COMPONENT_REGISTRY.model_api,
        **{kind: [dict(each.content) for each in some] for kind, some in found.items()},
    }


def main() -> None:
    config, _command = sys.argv[1:]
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    client, _store = connect(Path(config))
    try:
        print(json.dumps({"complaints": complaints.texts, **components()}))  # noqa: T201
    finally:
        client.disconnect()


main()
