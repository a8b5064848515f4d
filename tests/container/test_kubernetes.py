"""deploy/kubernetes.yaml, its pod run by podman: the same image, arguments, users, mounts and probes."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.containers import ROOT, Container
from support.peer import Requestor
from support.zookeeper import ZooKeeperServer, free_port

pytestmark = pytest.mark.container
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-tls: {{cert: /etc/nodepool/client.crt, key: /etc/nodepool/client.key, ca: /etc/nodepool/ca.crt}}
webapp: {{port: {http}, listen_address: 127.0.0.1}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    isolation: process
    cloud-file: /var/lib/nodelaunch/cloud.sqlite
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""
EMPTY_MODE = 0o2777
"""Mode of an emptyDir, whose group is fsGroup. Source: Kubernetes."""


@pytest.fixture
def pod() -> dict[str, Any]:
    documents = YAML(typ="safe").load_all(ROOT / "deploy" / "kubernetes.yaml")
    return next(each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment")


@pytest.fixture
def secret(zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path) -> tuple[Path, int]:
    """The folder of what is in the secret, and the port at which the launcher is to answer."""
    folder, http = tmp_path / "secret", free_port()
    folder.mkdir()
    for name in ("client.crt", "client.key", "ca.crt"):
        shutil.copy(zookeeper_server.certificates.folder / name, folder)
    chroot, host, port = f"{zk_chroot}-pod", zookeeper_server.host, zookeeper_server.tls_port
    (folder / "nodepool.yaml").write_text(CONFIG.format(host=host, port=port, chroot=chroot, http=http))
    return folder, http


@pytest.fixture
def requestor(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[Requestor]:
    client = zookeeper_server.kazoo(f"{zk_chroot}-pod")
    client.ensure_path("/")
    yield Requestor(client)
    client.stop()
    client.close()


def as_options(pod: dict[str, Any], secret: Path, folder: Path) -> list[str]:
    """Return podman's options for the pod, as Kubernetes reads it. Files of a secret belong to root and to their
    group.
    """
    (container,) = pod["containers"]
    outside, inside = pod["securityContext"], container["securityContext"]
    group = outside["fsGroup"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    folder.mkdir()
    options = [f"--user={outside['runAsUser']}:{outside['runAsGroup']}", f"--group-add={group}"]
    if inside["readOnlyRootFilesystem"]:
        options += ["--read-only", "--read-only-tmpfs=false"]
    if not inside["allowPrivilegeEscalation"]:
        options.append("--security-opt=no-new-privileges")
    options += [f"--cap-drop={name.lower()}" for name in inside["capabilities"]["drop"]]
    for mount in container["volumeMounts"]:
        source = folder / mount["name"]
        if "secret" in (volume := volumes[mount["name"]]):
            shutil.copytree(secret, source)
            for path in source.iterdir():
                shutil.chown(path, 0, group)
                path.chmod(volume["secret"]["defaultMode"])
        else:
            source.mkdir()
            shutil.chown(source, 0, group)
            source.chmod(EMPTY_MODE)
        options.append(f"--volume={source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
    return options


def test_pod_serves_answers_its_probes_and_ends_in_its_grace(
    run: Callable[..., Container], pod: dict[str, Any], secret: tuple[Path, int], requestor: Requestor, tmp_path: Path
) -> None:
    (container,) = pod["containers"]
    folder, http = secret
    launcher = run(*as_options(pod, folder, tmp_path / "volumes"), arguments=tuple(container["args"]))
    launcher.await_log("pool_registered")
    requestor.run_job("small")
    for probe in ("livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=container[probe]["timeoutSeconds"]) as it:
            assert it.status == 200
    assert launcher.stop(pod["terminationGracePeriodSeconds"]) == 0
