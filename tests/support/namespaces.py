"""A driver of an outside package: its nodes, as those of Kubernetes, are logged in to with credentials, not by ssh.

`install` makes a package of it that is found by entry point. What does *not* belong here: Kubernetes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nodelaunch.drivers import DriverPlugin
from nodelaunch.drivers.test.config import TestProvider
from nodelaunch.drivers.test.driver import TestDriver
from nodelaunch.protocol.driver import ExternalId, Instance, LabelTraits

TESTS = Path(__file__).parents[1]
NAME = "namespaces"


class NamespaceDriver(TestDriver):
    def label_traits(self, pool: str, label: str) -> LabelTraits:
        return replace(super().label_traits(pool, label), connection_type="namespace", connection_port=None)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        return replace(await super().wait_until_active(external_id), connection_port=credentials(external_id))


def credentials(external_id: str) -> dict[str, object]:
    """Return the record's ``connection_port``. Source: Nodepool 11, Kubernetes driver."""
    return {
        "host": "https://192.0.2.1:6443", "namespace": external_id, "user": "zuul-worker", "token": "secret",
        "skiptls": False, "ca_crt": "Y2VydGlmaWNhdGU=",
    }  # fmt: skip


PLUGIN = DriverPlugin(NAME, TestProvider, NamespaceDriver, summary="namespaces of nothing, for tests")


def install(folder: Path) -> str:
    """Put the package's metadata into *folder*; the PYTHONPATH with which it is installed."""
    metadata = folder / f"{NAME}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[nodelaunch.drivers]\n{NAME} = support.namespaces:PLUGIN\n")
    return f"{folder}:{TESTS}"
