"""User data that gives a server its host key: what a real cloud-init makes of it, beside all kinds of a label's own."""

from __future__ import annotations

from bisect import bisect
from email import message_from_string
from pathlib import Path

import asyncssh
import pytest

from nodelaunch.drivers.openstack.userdata import MOST_CHARACTERS, UserData, encoded_size, fault_of, with_host_key
from nodelaunch.network.sshscan import new_host_key
from support import firstboot

MIME = """\
From nobody Mon Jan  1 00:00:00 2026
Content-Type: multipart/mixed; boundary="==B=="
MIME-Version: 1.0

--==B==
Content-Type: text/x-shellscript; charset="us-ascii"

#!/bin/sh
From here

--==B==
Content-Type: text/cloud-config

#cloud-config
fqdn: archive.example.org
--==B==--
"""
OWN = {
    "none": None,
    "blank": "\n",
    "cloud-config": "#cloud-config\nfqdn: ${name} ü\n",
    "script": "#!/bin/sh\nFrom x\necho ü\n",
    "crlf": "#cloud-config\r\nfqdn: windows\r\n",
    "jinja": "## template: jinja\n#cloud-config\nfqdn: '{{ v1.cloud_name }}'\n",
    "archive": "#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    fqdn: archived\n",
    "mime": MIME,
    "boothook": "#cloud-boothook\n#!/bin/sh\nexit 0\n",
    "keys": "#cloud-config\nssh_deletekeys: false\nssh_genkeytypes: [rsa]\nssh_keys: {rsa_private: theirs}\n",
    "merging": "#cloud-config\nmerge_how: dict(no_replace)+list(append)\nssh_keys: {rsa_private: theirs}\n",
}
FQDNS = {
    "cloud-config": "${name} ü", "crlf": "windows", "jinja": "lab", "archive": "archived",
    "mime": "archive.example.org",
}  # fmt: skip
SCRIPTS = {"script": ["#!/bin/sh\nFrom x\necho ü\n"], "mime": ["#!/bin/sh\nFrom here\n"]}


@firstboot.needed
async def test_server_has_the_key_alone_and_what_the_label_has_for_it(tmp_path: Path) -> None:
    keys = [await new_host_key() for _ in OWN]
    machines = firstboot.boot([with_host_key(own, *key) for own, key in zip(OWN.values(), keys, strict=True)], tmp_path)
    for kind, (private, public), booted in zip(OWN, keys, machines, strict=True):
        assert booted.host_keys == {"ssh_host_ed25519_key": private, "ssh_host_ed25519_key.pub": public}, kind
        assert booted.config["ssh_keys"] == {"ed25519_private": private, "ed25519_public": public}
        assert booted.config.get("fqdn") == FQDNS.get(kind), kind
        assert booted.scripts == SCRIPTS.get(kind, []), kind
        assert (booted.warnings, booted.faults) == ([], ""), kind


async def test_key_is_one_of_its_own_that_openssh_and_nova_take() -> None:
    private, public = await new_host_key()
    assert asyncssh.import_private_key(private).export_public_key("openssh").decode().split() == public.split()
    assert public.split()[0] == "ssh-ed25519"
    assert len(public) <= 255, "Nova takes no longer value in metadata"
    assert (await new_host_key())[1] != public


def test_without_user_data_of_the_label_it_is_one_document() -> None:
    for text in (None, "", " \n"):
        assert with_host_key(text, "PRIVATE\nKEY\n", "PUBLIC") == (
            "#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n    PRIVATE\n    KEY\n"
            "  ed25519_public: PUBLIC\n"
        )


@pytest.mark.parametrize("kind", ["cloud-config", "script", "crlf", "mime", "jinja"])
def test_document_of_the_label_comes_first_and_stays_as_it_is(kind: str) -> None:
    archive = message_from_string(with_host_key(OWN[kind], "PRIVATE", "PUBLIC"))
    first, *_, last = [part for part in archive.walk() if not part.is_multipart()]
    payload = first.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == ("#!/bin/sh\nFrom here\n" if kind == "mime" else OWN[kind])
    assert last.get_content_type() == "text/cloud-config"


@pytest.mark.parametrize("text", [*OWN.values(), "  #Cloud-Config\n", "#include\nhttp://a\n", "#part-handler\n"])
def test_what_cloud_init_knows_can_have_a_key_beside_it(text: str | None) -> None:
    assert fault_of(text) is None


@pytest.mark.parametrize("text", ["<powershell>\n", "#ps1_sysnative\n", '{"ignition": {}}', "plain: yaml\n"])
def test_what_cloud_init_does_not_know_can_not(text: str) -> None:
    assert fault_of(text) == "has no format that cloud-init knows, so no host key can be added to it"


async def test_user_data_that_nova_would_refuse_together_with_a_key_is_a_fault() -> None:
    script = "#!/bin/sh\n: "
    private, public = await new_host_key()
    most = bisect(range(49000), False, key=lambda size: fault_of(script + "x" * size) is not None) - 1
    assert encoded_size(with_host_key(script + "x" * most, private, public)) <= MOST_CHARACTERS
    assert most > 45000
    for text, times in ((script, 1.0), (script + "ü" * 9000, 1.4)):
        assert encoded_size(with_host_key(text, private, public)) < 1300 + times * encoded_size(text)
    fault = fault_of(script + "x" * 49000)
    assert fault is not None
    assert fault.startswith("has ")
    assert fault.endswith(f" characters in Base64 together with a host key, and Nova takes {MOST_CHARACTERS}")


def test_user_data_is_not_in_its_repr() -> None:
    data = UserData("PRIVATE", "ssh-ed25519 AAAA")
    assert repr(data) == "UserData(host_key='ssh-ed25519 AAAA')"
    assert data.metadata == {"nodelaunch_host_key": "ssh-ed25519 AAAA"}
    assert UserData(None).metadata == {}
