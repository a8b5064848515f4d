"""Every configuration that Nodepool's own tests use, checked by ``nodelaunch config check`` and by Nodepool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodelaunch.cli.main import USAGE, main
from support.certificates import Certificates
from support.nodepool import Nodepool, commands_fixture, nodepool_fixture  # noqa: F401  fixtures

pytestmark = pytest.mark.nodepool

ABSENT = {
    "aws": "no such driver here",
    "azure": "no such driver here",
    "gce": "no such driver here",
    "ibmvpc": "no such driver here",
    "kubernetes": "no such driver here",
    "openshift": "no such driver here",
    "openshiftpods": "no such driver here",
    "openstack": "a later driver",
}
"""Nodepool's drivers that may be missing, and with them what a configuration of theirs is judged by."""
WRONG = {
    "aws/bad-config-images.yaml": "",
    "clouds.yaml": "unknown key 'clouds'",
    "config_validate/aws-fleet-allocation-strategy-error.yaml": "",
    "config_validate/aws-fleet-exclusive-error.yaml": "",
    "config_validate/duplicate_diskimage_name.yaml": "diskimage 'trusty' is given twice",
    "config_validate/k8s_spec_duplicate.yaml": "",
    "config_validate/missing_diskimage_provider.yaml": "no diskimage ",
    "config_validate/missing_parent_diskimage.yaml": "no diskimage 'this_does_not_exist'",
    "config_validate/missing_top_label.yaml": "no label ",
    "config_validate/no_diskimage_name.yaml": "the key 'name' is missing",
    "config_validate/schema_error.yaml": "unknown key 'nothandled'",
    "config_validate/static_error.yaml": "unknown key 'cloud'",
    "config_validate/yaml_error.yaml": "broken YAML",
    "gce.yaml": "host: text is expected, found nothing",
    "integration_noocc.yaml": "'cloud'",
}
"""Refused by Nodepool, nearly all of them on purpose; and what we say to it. Nothing: that its driver is absent."""
STRICTER = {
    "config_validate/good.yaml": "no label 'small-node' in the top-level labels",
    "config_validate/metastatic_error.yaml": "max-parallel-jobs: has to be the same",
}
"""Taken by Nodepool's validator and refused by us, as none of its programs loads it: a pool's label that no top-level
label names, and labels of one backing label that contradict each other."""


def filled_in(nodepool: Nodepool, folder: Path, certificates: Certificates) -> dict[str, Path]:
    """All of Nodepool's samples by name, with values for their placeholders, as its tests give them."""
    tls = certificates.client
    values = {
        "images_dir": "/images", "build_log_dir": "/logs", "context_name": "context", "auth_path": "/auth",
        "zookeeper_host": "localhost", "zookeeper_port": "2281", "zookeeper_chroot": "/chroot",
        "zookeeper_ca": tls.ca, "zookeeper_cert": tls.cert, "zookeeper_key": tls.key,
        "instance_profile_arn": "arn", "security_group_id": "group", "subnet_id": "subnet",
    }  # fmt: skip
    made = {}
    for source in sorted(nodepool.fixtures.rglob("*.yaml")):
        name = str(source.relative_to(nodepool.fixtures))
        made[name] = folder / "samples" / name
        made[name].parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        has_placeholders = "{zookeeper_host}" in text
        made[name].write_text(text.format(**values) if has_placeholders else text)
    return made


def complaints(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """Return the errors of the configuration, a line each."""
    code = main(["config", "check", str(path), *more])
    said = capsys.readouterr()
    assert code == (USAGE if said.err else 0), said
    return said.err.splitlines()


def test_nodepools_samples_are_accepted_unless_they_are_wrong_or_lack_their_driver(
    nodepool: Nodepool,
    tmp_path: Path,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NODEPOOL_PORT", "2281")  # one sample takes it from there
    nodepool.environment["NODEPOOL_PORT"] = "2281"
    samples = filled_in(nodepool, tmp_path, certificates)
    refused = nodepool.ask("validate", *samples.values())["refused"]
    assert {name for name, path in samples.items() if str(path) in refused} == set(WRONG)
    accepted = set()
    for name, path in samples.items():
        said = complaints(path, capsys)
        absent = {driver for line in said for driver in re.findall("unknown driver '(.*?)'", line)}
        assert absent <= set(ABSENT), name
        others = [line for line in said if "unknown driver" not in line]
        if name in WRONG:
            assert said, name
            assert absent or WRONG[name] in "\n".join(others), (name, said)
        elif name in STRICTER:
            assert STRICTER[name] in "\n".join(others), name
        else:
            assert others == [], name
        if not said:
            accepted.add(name)
    assert len(accepted) >= 100
    assert {"node.yaml", "static.yaml", "multi_drivers.yaml", "broken_provider_config.yaml"} <= accepted


def test_secure_sample_is_accepted_with_its_main_file(
    nodepool: Nodepool, tmp_path: Path, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = filled_in(nodepool, tmp_path, certificates)
    secure = str(samples["secure_file_secure.yaml"])
    assert complaints(samples["secure_file_config.yaml"], capsys, "--secure", secure) == []
