"""User data that gives a server its SSH host key, beside what the label has for it.

cloud-init takes one document, or an archive of several (MIME multi-part). A label's own document stays as it is, and
ours is the last of the archive: where both have a key of cloud-config, cloud-init takes the later one.
What does *not* belong here: making the key (sshscan.py), and looking whether the server has it (the engine).
Source: cloud-init 26.2, formats of user data, merging of cloud-config, module ``ssh``; Nova, API schema of servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_string
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import Final

METADATA_HOST_KEY: Final = "nodelaunch_host_key"
"""Key of a server's metadata: the public key that its user data gives it, as ``<type> <base64>``."""
MOST_CHARACTERS: Final = 65535
"""Of user data in Base64, as Nova takes it."""
MOST_OF_KEY: Final = 600
"""More characters than a private or a public Ed25519 key has."""

_KINDS: Final = (
    "#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template: jinja",
)  # fmt: skip
"""How a document for cloud-init begins, whatever the case of its letters."""
_MIME_WITHIN: Final = 4096
"""Characters within which an archive has to say that it is one."""
_CLOUD_CONFIG: Final = """\
#cloud-config
ssh_deletekeys: true
ssh_keys:
  ed25519_private: |
{private}
  ed25519_public: {public}
"""


@dataclass(frozen=True, slots=True)
class UserData:
    """What a server gets."""

    text: str | None = field(repr=False)
    host_key: str | None = None
    """The public key that it gives the server, as ``<type> <base64>``."""

    @property
    def metadata(self) -> dict[str, str]:
        """What the server's metadata says of it, so that whoever goes on with the launch knows the key."""
        return {} if self.host_key is None else {METADATA_HOST_KEY: self.host_key}


def with_host_key(text: str | None, private: str, public: str) -> str:
    """*text*, a label's own document, if it has one, and what has cloud-init give the server this key and no other."""
    indented = "\n".join("    " + line for line in private.strip().splitlines())
    ours = _CLOUD_CONFIG.format(private=indented, public=public)
    if text is None or not text.strip():
        return ours
    archive = MIMEMultipart()
    archive.attach(message_from_string(text) if _is_mime(text) else _part(text, "plain"))  # of which it finds the kind
    archive.attach(_part(ours, "cloud-config"))
    return archive.as_string()


def fault_of(text: str | None) -> str | None:
    """Why a host key can't be given beside *text*, a label's own document; None: it can."""
    if text is not None and text.strip() and not _is_mime(text) and not text.lstrip().lower().startswith(_KINDS):
        return "is nothing that cloud-init knows, so a host key can't be given beside it"
    size = encoded_size(with_host_key(text, "x" * MOST_OF_KEY, "x" * MOST_OF_KEY))
    if size > MOST_CHARACTERS:
        return f"has {size} characters in Base64 together with a host key, and Nova takes {MOST_CHARACTERS}"
    return None


def encoded_size(text: str) -> int:
    """Characters of *text* in Base64."""
    return -(-len(text.encode()) // 3) * 4


def _is_mime(text: str) -> bool:
    return "mime-version:" in text[:_MIME_WITHIN].lower()


def _part(text: str, subtype: str) -> Message:
    """*text* as part of an archive, in Base64 where it would not come out of it as it is."""
    part = MIMENonMultipart("text", subtype)
    if text.isascii() and "\r" not in text:
        part.set_payload(text)
    else:
        part.set_payload(text, "utf-8")
    return part
