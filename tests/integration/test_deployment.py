"""Files of deploy/ for containers fit the launcher, the image and docs/deployment.md; tests/container runs them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from nodelaunch.drivers import DriverRegistry
from nodelaunch.engine.events import EventHub
from nodelaunch.launcher import load_config
from nodelaunch.web.app import make_app
from support.commands import parsed
from support.process import run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deployment.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
CONTAINERFILE = (ROOT / "Containerfile").read_text()
WRITTEN = {"/var/lib/nodelaunch", "/tmp"}
"""All folders that the launcher writes to."""
DELETIONS_S = 30
KUBERNETES = ("1.28", "1.31", "1.34")
"""Versions whose schemas the manifest is held against, of those that the package has."""
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl (Debian package openssl)")


def documents(path: Path) -> list[Any]:
    return list(YAML(typ="safe").load_all(path))


def drain_s(arguments: list[Any]) -> float:
    """Return the drain time of ``nodelaunch`` *arguments*, which must serve."""
    command, bound = parsed([str(each) for each in arguments])
    assert command.__name__ == "serve"
    return float(bound.arguments["drain_timeout"])


# -- Kubernetes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def deployment() -> dict[str, Any]:
    return next(each for each in documents(DEPLOY / "kubernetes.yaml") if each["kind"] == "Deployment")


@pytest.fixture
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifest_keeps_the_schema_of_kubernetes(version: str) -> None:
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="no kubernetes-validate, which `nox -s integration` installs"
    )
    for document in documents(DEPLOY / "kubernetes.yaml"):
        schemas.validate(document, version, strict=True)


def test_both_find_the_same_pods(deployment: dict[str, Any]) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for document in documents(DEPLOY / "kubernetes.yaml"):
        assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_probes_ask_for_paths_that_there_are(pod: dict[str, Any]) -> None:
    launcher = SimpleNamespace(events=EventHub())
    paths = {route.path for route in make_app(launcher).routes}  # type: ignore[attr-defined, arg-type]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert f"EXPOSE {ports[asked['port']]}" in CONTAINERFILE
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live", "the other fails while ZooKeeper is away"


def test_pod_has_the_time_to_drain(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert drain_s(container["args"]) + DELETIONS_S < pod["terminationGracePeriodSeconds"]


def test_pod_meets_the_policy_restricted_as_the_user_of_the_image(pod: dict[str, Any]) -> None:
    """Source: Kubernetes, Pod Security Standards."""
    (container,) = pod["containers"]
    inside, outside = container["securityContext"], pod["securityContext"]
    assert inside == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert (outside["runAsNonRoot"], outside["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert f"USER {outside['runAsUser']}:{outside['runAsGroup']}" in CONTAINERFILE
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {"secret", "emptyDir"}


def test_pod_can_write_where_the_launcher_writes(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == WRITTEN
    (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert oct(secret["defaultMode"]) == "0o440", "of the group, which is fsGroup"
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


# -- compose --------------------------------------------------------------------------------------------------------


@pytest.fixture
def services() -> dict[str, Any]:
    (compose,) = documents(DEPLOY / "compose.yaml")
    services: dict[str, Any] = compose["services"]
    return services


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of files that certificates.sh makes, with another name for the server."""
    folder = tmp_path_factory.mktemp("made") / "tls"
    command = ["sh", str(DEPLOY / "certificates.sh"), str(folder), "zk1.example.org"]
    for _ in range(2):  # the second time it leaves what is there
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@needs_openssl
def test_keys_that_no_container_is_given_are_for_their_owner_alone(made: Path) -> None:
    assert {name: (made / name).stat().st_mode & 0o777 for name in ("ca.key", "server.key")} == {
        "ca.key": 0o600,
        "server.key": 0o600,
    }


@needs_openssl
def test_every_file_of_a_container_is_there_or_made(services: dict[str, Any], made: Path) -> None:
    for service in services.values():
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            if source.startswith("./compose/tls/"):
                assert (made / source.rpartition("/")[2]).stat().st_mode & 0o004, "whoever runs there can read it"
                assert made.stat().st_mode & 0o777 == 0o700, "nobody else comes to it"
            elif source.startswith("./"):
                assert (DEPLOY / source).is_file()
            else:
                continue
            assert mode == ["ro"], target


def test_launcher_has_the_time_to_drain_and_where_to_write(services: dict[str, Any]) -> None:
    launcher = services["launcher"]
    assert drain_s(launcher["command"]) + DELETIONS_S < float(launcher["stop_grace_period"].removesuffix("s"))
    mounts = [volume.split(":") for volume in launcher["volumes"]]
    assert {mount[1] for mount in mounts if len(mount) == 2} | set(launcher["tmpfs"]) == WRITTEN
    assert (launcher["read_only"], launcher["cap_drop"]) == (True, ["ALL"])


@needs_openssl
def test_configuration_of_the_launcher_is_good(services: dict[str, Any], made: Path, tmp_path: Path) -> None:
    mounted = {volume.split(":")[1] for volume in services["launcher"]["volumes"]}
    tls = load_config(DEPLOY / "compose" / "nodepool.yaml", drivers=DriverRegistry()).zookeeper_tls
    assert tls is not None
    assert {str(tls.cert), str(tls.key), str(tls.ca)} <= mounted
    assert tls.check_host_name
    path = tmp_path / "nodepool.yaml"
    path.write_text((DEPLOY / "compose" / "nodepool.yaml").read_text().replace("/tls", str(made)))
    done = run("config", "check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning" not in done.stdout


@needs_openssl
def test_certificates_are_of_their_ca_for_their_names_and_nobody_else_reaches_them(made: Path) -> None:
    for who, purpose in (("server", "sslserver"), ("client", "sslclient")):
        subprocess.run(
            ["openssl", "verify", "-purpose", purpose, "-CAfile", str(made / "ca.crt"), str(made / f"{who}.crt")],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    for name in ("zookeeper", "localhost", "zk1.example.org"):
        checked = subprocess.run(
            ["openssl", "x509", "-in", str(made / "server.crt"), "-noout", "-checkhost", name],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "does match certificate" in checked.stdout
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "ca.key").stat().st_mode & 0o777 == 0o600


# -- the page -------------------------------------------------------------------------------------------------------


def test_page_names_files_that_there_are() -> None:
    named = set(re.findall(r"deploy/[a-z-]+\.[a-z]+", PAGE + MONITORING))
    assert named >= {f"deploy/{path.name}" for path in DEPLOY.iterdir() if path.is_file()}
    assert all((ROOT / name).is_file() for name in named)


def test_page_says_the_user_the_port_and_the_folders() -> None:
    assert re.search(r"^USER 10001:10001$", CONTAINERFILE, re.MULTILINE)
    for said in ("user 10001", "port 8005", "`HEALTH_URL`", *(f"`{path}`" for path in WRITTEN)):
        assert said in PAGE
    assert "HEALTH_URL=http://127.0.0.1:8005/health/live" in CONTAINERFILE


def test_health_check_of_the_image_is_a_program(tmp_path: Path) -> None:
    (words,) = re.findall(r"^    CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    program, _, code = YAML(typ="safe").load(words)
    for url, code_wanted in ((tmp_path.as_uri(), 1), ((ROOT / "LICENSE").as_uri(), 0)):
        done = subprocess.run(
            [program, "-c", code], env={**os.environ, "HEALTH_URL": url}, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == code_wanted


def test_nodelaunch_commands_of_the_page_exist() -> None:
    for line in re.findall(r"exec launcher nodelaunch ([^\n`]+)", PAGE):
        parsed(shlex.split(line))
