"""Host keys as records have them: compared without comments, and shown by their fingerprints."""

from __future__ import annotations

from nodelaunch.protocol.hostkeys import fingerprints, mismatch, without_comment

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICGczTVW5c86w/TCKPbsg/2K/PwUqxzxku+10TkUx4Jm"
OTHER = "ssh-rsa AAAA"
FINGERPRINT = "ssh-ed25519 SHA256:uIivxM0xb9psSMBvDvhqoeS4zDPcD4Mqz6ks1QFg17E"


def test_comment_does_not_count() -> None:
    assert without_comment(f"{KEY} root@rack 1") == KEY
    assert mismatch([f"{KEY} ours"], [OTHER, f"{KEY} theirs"]) is None


def test_each_expected_key_has_to_be_there() -> None:
    assert mismatch([], []) is None
    assert mismatch([KEY, OTHER], [OTHER]) == f"expected {fingerprints([KEY])}, found {fingerprints([OTHER])}"
    assert mismatch([KEY], []) == f"expected {fingerprints([KEY])}, found none"


def test_fingerprint_is_that_of_openssh() -> None:
    assert fingerprints([KEY]) == FINGERPRINT


def test_what_is_no_key_stands_as_it_is() -> None:
    assert fingerprints(["ssh-rsa FAKEKEY", "ssh-rsa ü"]) == "ssh-rsa FAKEKEY, ssh-rsa ü"
