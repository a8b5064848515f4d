"""GARM's external provider interface as it is published: data for the provider, and fields of its answers.

Source: cloudbase/garm doc/external_provider.md, cloudbase/garm-provider-common.
"""

from __future__ import annotations

import base64
import json

import pytest

from nodelaunch.drivers.garm import interface as garm
from nodelaunch.drivers.garm.interface import AnswerError, GarmCommand, Version

WHOLE = {"provider_id": "i-1", "name": "nl-1", "status": "running"}


def told(command: GarmCommand, version: Version, **more: str) -> dict[str, str]:
    return garm.environment(command, version, controller_id="c", config_file="/etc/p.toml", **more)


def test_every_command_is_told_version_controller_and_configuration() -> None:
    assert told(GarmCommand.LIST, Version.V010, pool_id="p") == {
        "GARM_COMMAND": "ListInstances",
        "GARM_CONTROLLER_ID": "c",
        "GARM_PROVIDER_CONFIG_FILE": "/etc/p.toml",
        "GARM_INTERFACE_VERSION": "v0.1.0",
        "GARM_POOL_ID": "p",
    }


def test_version_011_is_told_the_extra_specs_in_base64() -> None:
    environment = garm.environment(
        GarmCommand.DELETE, Version.V011, controller_id="c", config_file="f", pool_id="p", instance_id="i",
        extra_specs={"size": "ä"},
    )  # fmt: skip
    assert json.loads(base64.b64decode(environment["GARM_POOL_EXTRASPECS"])) == {"size": "ä"}
    assert environment["GARM_INSTANCE_ID"] == "i"
    assert "GARM_POOL_EXTRASPECS" not in told(GarmCommand.DELETE, Version.V010, pool_id="p")


@pytest.mark.parametrize(("os_type", "arch", "tool"), [
    ("linux", "amd64", ("linux", "x64")), ("windows", "amd64", ("win", "x64")), ("linux", "arm64", ("linux", "arm64")),
])  # fmt: skip
def test_bootstrap_has_all_that_providers_refuse_to_be_without(os_type: str, arch: str, tool: tuple[str, str]) -> None:
    wanted = garm.WantedInstance(
        "nl-1", "p", "debian", "tiny", os_type, arch, ["small"], ["ssh-ed25519 AAAA"], {"a": 1}
    )
    content = json.loads(garm.bootstrap(wanted))
    named = {key: content[key] for key in ("name", "pool_id", "image", "flavor", "os_type", "arch", "extra_specs")}
    assert named == {
        "name": "nl-1", "pool_id": "p", "image": "debian", "flavor": "tiny", "os_type": os_type, "arch": arch,
        "extra_specs": {"a": 1},
    }  # fmt: skip
    assert content["ssh-keys"] == ["ssh-ed25519 AAAA"]
    (only,) = content["tools"]
    assert (only["os"], only["architecture"]) == tool
    assert only["filename"]
    assert only["download_url"]
    assert all(content[key] for key in ("repo_url", "callback-url", "metadata-url", "instance-token"))


def test_instance_is_read() -> None:
    addresses = [{"address": "fd00::1", "type": "private"}, {"address": "192.0.2.1", "type": "public"}, {"address": ""}]
    found = garm.read_instance(json.dumps({**WHOLE, "addresses": addresses}).encode())
    assert (found.provider_id, found.name, found.status) == ("i-1", "nl-1", "running")
    assert found.address(4, public=True) == "192.0.2.1"
    assert found.address(6, public=False) == "fd00::1"
    assert found.address(4, public=False) is None


@pytest.mark.parametrize("fault", ["no room", base64.b64encode(b"no room").decode()])
def test_fault_is_read_plain_and_as_go_writes_it(fault: str) -> None:
    found = garm.read_instance(json.dumps({**WHOLE, "status": "error", "provider_fault": fault}).encode())
    assert (found.is_failed, found.fault) == (True, "no room")


def test_null_is_an_empty_list_as_go_writes_it() -> None:
    assert garm.read_instances(b"null") == garm.read_instances(b"[]") == []


@pytest.mark.parametrize("printed", [
    b"", b"hello", b"[" * 100_000, b"[]", b'{"name": "a"}', b'{"provider_id": 1, "name": "a", "status": "running"}',
    b'{"provider_id": "i", "name": "a", "status": "running", "addresses": {"a": 1}}', b"\xff",
])  # fmt: skip
def test_garbage_is_no_instance(printed: bytes) -> None:
    with pytest.raises(AnswerError):
        garm.read_instance(printed)


@pytest.mark.parametrize("printed", [b"", b"{}", b"[1]", b'[{"name": "a"}]'])
def test_garbage_is_no_list(printed: bytes) -> None:
    with pytest.raises(AnswerError):
        garm.read_instances(printed)
