"""User data that gives a server its SSH host key, in addition to the label's own user data.

cloud-init takes one document, or an archive of several (MIME multi-part). The label's document stays unchanged, and the
document here is the last in the archive: if both have the same key of cloud-config, cloud-init uses the last one.
sshscan.py creates the key, and the engine checks if the server has it. Source: cloud-init 26.2, formats of user data,
merging of cloud-config, module ``ssh``; Nova, API schema of servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_string
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import Final

METADATA_HOST_KEY: Final = "nodelaunch_host_key"
"""Key of a server's metadata: the public key from its user data, as ``<type> <base64>``."""
MOST_CHARACTERS: Final = 65535
"""Largest length of user data in Base64 that Nova accepts."""
MOST_OF_KEY: Final = 600
"""Upper limit for the length of a private or public Ed25519 key."""

_KINDS: Final = (
    "#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template: jinja",
)  # fmt: skip
"""Beginnings of documents for cloud-init, compared without regard to case."""
_MIME_WITHIN: Final = 4096
"""Number of characters within which an archive must have its MIME header."""
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
    """The user data of one server."""

    text: str | None = field(repr=False)
    host_key: str | None = None
    """The public host key in the user data, as ``<type> <base64>``."""

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the server with its host key, for a launcher that resumes the launch."""
        return {} if self.host_key is None else {METADATA_HOST_KEY: self.host_key}


def with_host_key(text: str | None, private: str, public: str) -> str:
    """Return the label's own document *text*, if there is one, with one that sets this host key only."""
    indented = "\n".join("    " + line for line in private.strip().splitlines())
    ours = _CLOUD_CONFIG.format(private=indented, public=public)
    if text is None or not text.strip():
        return ours
    archive = MIMEMultipart()
    # cloud-init finds the kind of a plain part itself.
    archive.attach(message_from_string(text) if _is_mime(text) else _part(text, "plain"))
    archive.attach(_part(ours, "cloud-config"))
    return archive.as_string()


def fault_of(text: str | None) -> str | None:
    """Return the reason why a host key can't be combined with the label's document *text*, or None if it can."""
    if text is not None and text.strip() and not _is_mime(text) and not text.lstrip().lower().startswith(_KINDS):
        return "has no format that cloud-init knows, so no host key can be added to it"
    size = encoded_size(with_host_key(text, "x" * MOST_OF_KEY, "x" * MOST_OF_KEY))
    if size > MOST_CHARACTERS:
        return f"has {size} characters in Base64 together with a host key, and Nova takes {MOST_CHARACTERS}"
    return None


def encoded_size(text: str) -> int:
    """Return the number of characters of *text* in Base64."""
    return -(-len(text.encode()) // 3) * 4


def _is_mime(text: str) -> bool:
    return "mime-version:" in text[:_MIME_WITHIN].lower()


def _part(text: str, subtype: str) -> Message:
    """Return *text* as a part of an archive, in Base64 if it would not survive unchanged otherwise."""
    part = MIMENonMultipart("text", subtype)
    if text.isascii() and "\r" not in text:
        part.set_payload(text)
    else:
        part.set_payload(text, "utf-8")
    return part
